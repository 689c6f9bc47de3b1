"""The process that the kill tests kill: it changes an atlas in all ways, and says so.

    python tests/atlas/killed.py LOCATION COPY SEED FIRST_VERSION

One line of JSON before each change and one after it; what stands between is what a kill hit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import random
import sys
from pathlib import Path

from bleepdb.atlas import (
    Connection,
    copy_collection,
    open_atlas,
    publish_section,
    retract_section,
    vacuum,
)
from bleepdb.errors import EmptyAtlasError

SECTIONS = ("S0", "S1", "S2")
SPOTS = 400
CHANGES = ("publish", "publish", "publish", "publish", "retract", "retract", "vacuum", "optimise",
           "compact", "copy")  # fmt: skip
QUICK = Connection(deadline_s=30.0, timeout_s=10.0)


def load_lab():
    path = Path(__file__).with_name("lab.py")
    found = importlib.util.spec_from_file_location("bleepdb_tests_atlas_lab", path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def say(phase, change, **more):
    print(json.dumps({"phase": phase, "change": change, **more}), flush=True)  # noqa: T201 - read by the parent


def work(location, other, seed, first):
    lab = load_lab()
    rng = random.Random(seed)
    with open_atlas(location, create=True, connection=QUICK) as atlas:
        lab.prepare(atlas)
        for version in itertools.count(first):
            change = rng.choice(CHANGES)
            about = {"section": rng.choice(SECTIONS), "version": version}
            if change == "compact" and atlas.kind != "embedded":
                change = "vacuum"
            say("begin", change, **about)
            if change == "publish":
                made = lab.section(about["section"], version, spots=SPOTS, batch=100)
                publish_section(atlas, lab.COLLECTION, *made, actor="child")
            elif change == "retract":
                retract_section(atlas, lab.COLLECTION, about["section"], actor="child")
            elif change == "vacuum":
                vacuum(atlas, lab.COLLECTION, abandoned_after_s=0.0, actor="child")
            elif change == "optimise":
                atlas.optimize(lab.COLLECTION)
            elif change == "compact":
                atlas.compact(lab.COLLECTION)
            else:
                copied(atlas, other, lab)
            say("done", change, **about)


def copied(atlas, other, lab):
    with (
        contextlib.suppress(EmptyAtlasError),  # nothing is live
        open_atlas(other, create=True, connection=QUICK) as target,
    ):
        copy_collection(atlas, target, lab.COLLECTION, actor="child")


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
