"""Imputed slides: what `bleepdb query` made them with, and its warnings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from bleepdb import names
from bleepdb.inspecting.columns import MOST_NAMES, index_length, index_of, text, texts
from bleepdb.inspecting.findings import Findings, quoted

if TYPE_CHECKING:
    from bleepdb.inspecting.findings import Inspection


def inspect_imputed(path: Path, handle: h5py.File) -> Inspection:
    """Tell a file of `bleepdb query`: what it was made with, and its warnings."""
    found = Findings(path)
    own = handle[f"uns/{names.UNS_KEY}"]
    try:
        card = json.loads(text(own["run_card"]))
        facts = card["facts"]
        atlas, collection = str(facts["atlas"]), str(facts["collection"])
    except (KeyError, TypeError, ValueError, RecursionError):
        found.lacks(
            "a run card that can be read", needed_for="explain", remedy="run `bleepdb query` again"
        )
        return found.made("imputed", "an imputed slide whose run card is damaged")
    found.fact("places", index_length(handle["obs"]))
    found.fact("genes", index_length(handle["var"]))
    predictable = handle["var"].get(names.PREDICTABLE)
    if isinstance(predictable, h5py.Dataset) and predictable.ndim == 1:
        found.fact("predictable genes", int(np.count_nonzero(predictable[()])))
    found.fact("slide", facts.get("slide"))
    found.fact("slide mpp", facts.get("slide_mpp"))
    found.fact("atlas", atlas)
    found.fact("collection", collection)
    found.fact("generation", facts.get("generation"))
    sections = facts.get("live_sections")
    if isinstance(sections, dict):
        found.fact("sections searched", len(sections))
    references = own.get(names.REFERENCES_KEY)
    if isinstance(references, h5py.Group):
        found.fact("reference spots", index_length(references))
        donors = sorted(set(texts(references.get(names.DONOR), MOST_NAMES)))
        found.fact("donors", donors, f"{len(donors)}: {', '.join(donors[:8])}")
    found.fact("model", {k: facts[k] for k in ("recipe", "space_id") if k in facts},
               f"{facts.get('recipe')}, space {str(facts.get('space_id'))[:12]}")  # fmt: skip
    settings = facts.get("settings")
    if isinstance(settings, dict):
        short = {k: settings[k] for k in ("method", "k", "smoothing", "denoise") if k in settings}
        found.fact("settings", short)
    found.fact("made", card.get("created"))
    versions = card.get("versions")
    if isinstance(versions, dict):
        found.fact("by", f"bleepdb {versions.get('bleepdb')}")
    if names.NEIGHBOUR_SD_LAYER in handle.get("layers", {}):
        found.fact("layers", [names.NEIGHBOUR_SD_LAYER])
    for warning in facts.get("warnings") or ():
        found.note(str(warning))
    wanted = (f"obsm/{names.NEIGHBOURS_KEY}", f"obsm/{names.WEIGHTS_KEY}", f"obsm/{names.SPATIAL}")
    lacking = [w for w in wanted if w not in handle]
    if lacking or references is None:
        found.lacks(
            f"its evidence ({', '.join(lacking) or 'the reference spots'})",
            needed_for="explain",
            remedy="run `bleepdb query` again",
        )
        return found.made("imputed", "an imputed slide without evidence")
    gene = next(iter(texts(index_of(handle["var"]), 1)), "GENE")
    there = "://" in atlas or Path(atlas).exists()
    if not there:
        found.lacks(f"its atlas ({atlas} is not there)", needed_for="explain",
                    remedy="pass --atlas")  # fmt: skip
    named = "" if there else " --atlas ATLAS"
    then = f"bleepdb explain {quoted(path)} --at X,Y --gene {shlex.quote(gene)}{named}"
    return found.made("imputed", "a slide imputed by `bleepdb query`", then=then)
