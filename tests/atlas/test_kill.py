"""SIGKILL at random moments of publishing: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bleepdb.atlas import live_where, open_atlas, sweep

LAB = Path(__file__).with_name("lab.py")


def killed(folder, start, rng, *, at_once):
    """Start a writer, kill it at a random moment; return what it had said."""
    child = subprocess.Popen(
        [sys.executable, str(LAB), str(folder), str(start)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = "" if at_once else child.stdout.readline()
    # From the start of the process, so that the creation is hit too; or among commits.
    time.sleep(rng.uniform(0.3, 1.0) if at_once else rng.uniform(0.0, 0.6))
    child.kill()
    out, errors = child.communicate()
    assert "Error" not in errors, errors
    return [line.split() for line in (first + out).splitlines()]


def judge(folder, lab, said, before):
    """Open afresh, compare what is visible with what was said; return what is live now."""
    begun = {(w[1], int(w[2])) for w in said if w[0] == "begin"}
    expected = {**before, **{w[1]: int(w[2]) for w in said if w[0] == "done"}}
    # A commit that was begun and not acknowledged may stand or not.
    allowed = {
        name: {
            expected.get(name),
            *(v for n, v in begun if n == name and v > expected.get(name, -1)),
        }
        for name in {*expected, *(n for n, _ in begun)}
    }
    with open_atlas(folder, create=True) as atlas:
        if not before and not begun:
            return {}, 0  # killed while the collection was made, or before
        manifest = atlas.read_manifest(lab.COLLECTION)
        where = live_where(manifest)
        now = {}
        for name, versions in allowed.items():
            live = manifest.find(name)
            matching = [
                v
                for v in versions
                if v is not None and live and live.revision == lab.revision(name, v)
            ]
            assert matching or (None in versions and live is None), (name, versions, live)
            if matching:
                now[name] = matching[0]
        assert {s.section for s in manifest.live} == set(now)
        facet = atlas.facet(lab.COLLECTION, "section", where)
        assert facet == dict.fromkeys(sorted(now), lab.KILL_SPOTS)
        # Not only the number: every vector and payload of what is visible is what was given.
        for name, version in now.items():
            truth = lab.joined(lab.section(name, version, spots=lab.KILL_SPOTS, batch=100)[1])
            found = atlas.retrieve(lab.COLLECTION, truth.ids, with_vectors=True)
            for i, record in enumerate(found):
                assert record.payload == truth.payloads[i]
                np.testing.assert_array_equal(record.vectors["image"], truth.vectors["image"][i])
        orphans = sweep(atlas, lab.COLLECTION)
        assert sweep(atlas, lab.COLLECTION) == 0
        assert atlas.count(lab.COLLECTION) == sum(s.spots for s in manifest.live)
    return now, orphans


def kill_many(folder, lab, kills, seed):
    rng = random.Random(seed)
    live, orphans, commits = {}, 0, 0
    for turn in range(kills):
        said = killed(folder, turn * 100, rng, at_once=turn % 4 == 0)
        commits += sum(w[0] == "done" for w in said)
        live, left = judge(folder, lab, said, live)
        orphans += left > 0
    return commits, orphans


def test_four_kills(tmp_path, lab):
    commits, _ = kill_many(tmp_path / "atlas", lab, kills=4, seed=11)
    assert commits > 0


@pytest.mark.slow
def test_twenty_kills(tmp_path, lab, capsys):
    commits, interrupted = kill_many(tmp_path / "atlas", lab, kills=20, seed=12)
    with capsys.disabled():
        sys.stdout.write(f"20 kills, {commits} commits, {interrupted} left orphans, 0 violations\n")
    assert commits > 20
    assert interrupted > 0, "no kill fell into a commit"
