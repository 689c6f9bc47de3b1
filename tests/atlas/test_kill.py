"""SIGKILL at random moments of every change: nothing acknowledged is lost, nothing half there.

The changes are publish, replace, retract, vacuum, building the index, compaction and copy; into a
folder and over the wire, where now and then it is the server that is killed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bleepdb.atlas import Connection, live_where, open_atlas, vacuum
from bleepdb.errors import EmptyAtlasError

CHILD = Path(__file__).with_name("killed.py")
SPOTS = 400
# Seconds within which a kill falls after the child has begun such a change.
LASTS = {"start": 1.5, "publish": 0.3, "retract": 0.03, "copy": 0.4, "vacuum": 0.02,
         "optimise": 0.05, "compact": 0.2}  # fmt: skip
QUICK = Connection(deadline_s=30.0, timeout_s=10.0)


class Bench:
    """An atlas and a copy of it, a child that changes them, and what must be true of them now.

    Attributes
    ----------
    now
        Section -> version that is live, as far as it was acknowledged or seen.
    """

    def __init__(self, lab, location, copy, seed, face=None):
        self.lab, self.location, self.copy, self.face = lab, str(location), str(copy), face
        self.rng = random.Random(seed)
        self.seed = seed
        self.now: dict[str, int] = {}
        self.ever: set[tuple[str, int]] = set()
        self.prepared = False
        self.turn = 0
        self.hit: Counter[str] = Counter()
        self.orphans = 0

    def kill_one(self):
        """Start a child, kill it (or the server) at a random moment, judge what is left."""
        words = [sys.executable, str(CHILD), self.location, self.copy]
        words += [str(self.seed + self.turn), str(self.turn * 1000)]
        kinds = [k for k in LASTS if k != "compact" or self.face is None]
        wanted = kinds[self.turn % len(kinds)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines = []
        if wanted == "start":
            time.sleep(self.rng.uniform(0.3, LASTS[wanted]))
        for line in child.stdout if wanted != "start" else ():
            lines.append(line)
            one = json.loads(line)
            if (one["phase"], one["change"]) == ("begin", wanted):
                time.sleep(self.rng.uniform(0.0, LASTS[wanted]))
                break
        if self.face is not None and self.turn % 4 == 3:
            self.face.kill()
            self.hit["the server"] += 1
            self.face.start()
            time.sleep(self.rng.uniform(0.2, 1.0))
        child.kill()
        out, errors = child.communicate()
        assert "Error" not in errors, errors
        self.turn += 1
        if self.face is not None:
            self.face.settle()  # the server goes on with what the killed child had sent
        lines += [line for line in out.splitlines() if line.endswith("}")]
        self.judge([json.loads(line) for line in lines])

    def judge(self, said):
        begun = None
        for line in said:
            self.prepared = True
            if line["phase"] == "begin":
                begun = line
                if line["change"] == "publish":
                    self.ever.add((line["section"], line["version"]))
                continue
            begun = None
            if line["change"] == "publish":
                self.now[line["section"]] = line["version"]
            elif line["change"] == "retract":
                self.now.pop(line["section"], None)
        # What was begun and not acknowledged may stand or not.
        allowed = {name: {self.now.get(name)} for name in ("S0", "S1", "S2")}
        self.hit["nothing" if begun is None else begun["change"]] += 1
        if begun is not None and begun["change"] == "publish":
            allowed[begun["section"]].add(begun["version"])
        if begun is not None and begun["change"] == "retract":
            allowed[begun["section"]].add(None)
        found = self.look(self.location)
        if found is None:
            assert not self.prepared
            return
        for name, versions in allowed.items():
            assert found.get(name) in versions, (name, versions, found)
        self.now = found
        copied = self.look(self.copy)
        for name, version in (copied or {}).items():
            assert (name, version) in self.ever
        if said and begun is None and said[-1]["change"] == "copy":
            assert self.now.items() <= (copied or {}).items()

    def look(self, location):
        """What is live, judged to be whole and the only thing there; None before the first."""
        lab = self.lab
        with open_atlas(location, create=True, connection=QUICK) as atlas:
            if lab.COLLECTION not in atlas.collections():
                return None
            try:
                manifest = atlas.read_manifest(lab.COLLECTION)
            except EmptyAtlasError:
                return None
            found = {}
            for live in manifest.live:
                versions = [v for n, v in self.ever if n == live.section]
                (version,) = [v for v in versions if lab.revision(live.section, v) == live.revision]
                found[live.section] = version
                # Not only the number: every vector and payload that is visible is what was given.
                truth = lab.joined(lab.section(live.section, version, spots=SPOTS, batch=100)[1])
                records = atlas.retrieve(lab.COLLECTION, truth.ids, with_vectors=True)
                image = np.stack([r.vectors["image"] for r in records])
                np.testing.assert_array_equal(image, truth.vectors["image"])
                assert [r.payload for r in records] == list(truth.payloads)
            facet = atlas.facet(lab.COLLECTION, "section", live_where(manifest))
            assert facet == dict.fromkeys(sorted(found), SPOTS)
            self.orphans += vacuum(atlas, lab.COLLECTION, abandoned_after_s=-1.0, actor="t") > 0
            assert vacuum(atlas, lab.COLLECTION, abandoned_after_s=-1.0, actor="t") == 0
            assert atlas.count(lab.COLLECTION) == SPOTS * len(found), "an orphan is left"
            after = atlas.read_manifest(lab.COLLECTION)
            assert (after.staging, after.condemned, after.live) == ((), (), manifest.live)
        return found

    def said(self, kills):
        where = "through the wire" if self.face is not None else "embedded"
        hits = ", ".join(f"{n} in {what}" for what, n in sorted(self.hit.items()))
        return f"{kills} kills {where} ({hits}), {self.orphans} left orphans, 0 violations"


def kill_many(bench, kills):
    for _ in range(kills):
        bench.kill_one()
    return bench.said(kills)


@pytest.fixture
def wired(tmp_path, lab, running):
    with running.Face(tmp_path / "face") as face:
        yield lambda seed: Bench(lab, f"{face.url}/t0", f"{face.url}/t1", seed, face)


def test_a_few_kills(tmp_path, lab):
    bench = Bench(lab, tmp_path / "atlas", tmp_path / "copy", seed=11)
    kill_many(bench, 5)
    assert bench.ever


def test_a_few_kills_through_the_wire(wired):
    bench = wired(13)
    kill_many(bench, 5)
    assert bench.ever


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills(tmp_path, lab, capsys):
    bench = Bench(lab, tmp_path / "atlas", tmp_path / "copy", seed=100)
    said = kill_many(bench, 100)
    with capsys.disabled():
        sys.stdout.write(said + "\n")
    assert {"publish", "retract", "copy", "compact"} <= set(bench.hit)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_through_the_wire(wired, capsys):
    bench = wired(200)
    said = kill_many(bench, 100)
    with capsys.disabled():
        sys.stdout.write(said + "\n")
    assert {"publish", "retract", "copy", "the server"} <= set(bench.hit)
