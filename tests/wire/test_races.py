"""Writers in processes of their own, against one server: nobody's change is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bleepdb.atlas import ServerAtlas

pytestmark = pytest.mark.wire
SWAPS = 100
WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("lab", sys.argv[1])
lab = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lab)
from bleepdb.atlas import LogEntry, open_atlas
with open_atlas(sys.argv[2]) as atlas:
    lost = 0
    for turn in range(int(sys.argv[4])):
        while True:
            present = atlas.read_manifest(lab.COLLECTION)
            new = present.with_fields([], LogEntry.now(sys.argv[3], f"swap {turn}"))
            if atlas.swap_manifest(lab.COLLECTION, present.generation, new):
                break
            lost += 1
print(lost)
"""


def test_two_processes_swap_a_hundred_times_each(face, server, lab):
    lab.prepare(server)
    # Every seventh answer is lost on the way, so that tokens and retries are met as well.
    face.set(faults=[{"kind": "drop", "after": 7 * i, "on": "PUT .*/points"} for i in range(1, 12)])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, lab.__file__, face.url, name, str(SWAPS)],
            stdout=subprocess.PIPE, text=True,
        )
        for name in "ab"
    ]  # fmt: skip
    lost = [int(w.communicate(timeout=240)[0]) for w in writers]
    assert [w.returncode for w in writers] == [0, 0]
    with ServerAtlas(face.url) as atlas:
        end = atlas.read_manifest(lab.COLLECTION)
    assert end.generation == 2 * SWAPS
    done = sorted((e.who, e.what) for e in end.log)
    assert done == sorted((w, f"swap {i}") for w in "ab" for i in range(SWAPS))
    assert sum(lost) > 0  # they did meet
