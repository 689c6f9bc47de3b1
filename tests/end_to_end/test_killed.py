"""SIGKILL at random moments of `bleepdb index` loses no live section and half-shows none."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bleepdb.atlas import Where, open_atlas, resolve, sweep
from bleepdb.errors import EmptyAtlasError


def visible(atlas_folder: Path) -> dict[str, int]:
    """Points of each live section as a reader counts them, and as the manifest states them."""
    with open_atlas(atlas_folder) as atlas:
        try:
            name = resolve(atlas, "breast")
        except EmptyAtlasError:
            return {}
        manifest = atlas.read_manifest(name)
        found = {}
        for live in manifest.live:
            number = atlas.count(name, Where(must={"rev": [live.revision]}))
            assert number == live.spots, live.section
            found[live.section] = number
        sweep(atlas, name)
        assert atlas.count(name) == sum(found.values())
        return found


@pytest.mark.slow
def test_indexing_killed_twenty_times(lab, sections, tmp_path):
    """Each round indexes the three sections with another field listed, so that all are replaced."""
    atlas = tmp_path / "atlas"
    rng = random.Random(20)
    console = Path(sys.executable).parent / "bleepdb"
    acknowledged: set[str] = set()
    killed_at_work = 0
    for number in range(20):
        sheet = tmp_path / f"samples-{number}.csv"
        _absolute(sheet, sections.parent)
        words = [str(console), "index", str(sheet), "--model"]
        words += [str(lab.model), "--atlas", str(atlas), "--field", "batch", "--json"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        # A whole run takes about as long as the interpreter's start and the model's check;
        # moments are drawn over the part in which the atlas is written.
        time.sleep(rng.uniform(3.0, 12.0))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        before = set(acknowledged)
        if out.strip():
            acknowledged |= {entry["section"] for entry in json.loads(out)}
        else:
            killed_at_work += 1
        if atlas.exists():
            there = visible(atlas)
            assert before <= set(there)
            acknowledged |= set(there)
    assert acknowledged == {"donor-a-1", "donor-b-1", "donor-c-1"}
    assert killed_at_work > 3


def _absolute(sheet: Path, folder: Path) -> None:
    """Write the sheet anew with absolute paths."""
    with (folder / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    batch = sheet.stem.rpartition("-")[2]
    with sheet.open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], "batch"])
        table.writeheader()
        for row in rows:
            row["expression"] = str(folder / row["expression"])
            row["image"] = str(folder / row["image"])
            table.writerow({**row, "batch": batch})
