"""Model folders and files of features, told by the card and the header; no network is loaded."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from bleepdb.contracts import faults
from bleepdb.errors import InputError
from bleepdb.files import canonical_json, digest, file_digest
from bleepdb.inspecting.findings import Findings, quoted, size_text
from bleepdb.inspecting.looking import json_object
from bleepdb.names import BACKBONE_FILE, MODEL_CARD_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection

MOST_HEADER: Final = 2**24
MOST_DIGESTED: Final = 2**29
"""Bytes of weights that are compared with the digest that the card names."""
MEND: Final = "copy the model again, or train it again"


def inspect_model(path: Path) -> Inspection:
    """Tell what a model folder holds: recipe, backbone, training sections, scores."""
    found = Findings(path)
    card = json_object(path / MODEL_CARD_FILE)
    broken = faults("model_card", card)
    if broken:
        found.lacks(
            f"a card that can be used ({broken[0]})", needed_for="any use of it", remedy=MEND
        )
        return found.made("model", "a model folder with a damaged card")
    rest = {k: v for k, v in card.items() if k != "checksum"}
    sound = digest("model", canonical_json(rest)) == card["checksum"]
    if not sound:
        found.lacks(
            "a card as it was written (its checksum is wrong)",
            needed_for="any use of it",
            remedy=MEND,
        )
    features, training = card["features"], card["training"]
    geometry = features["geometry"]
    found.fact("recipe", card["recipe"])
    found.fact("backbone", features["backbone"], f"{features['backbone']}, {features['levels']}")
    found.fact("licence", card["licence"])
    scales = ", ".join(f"{um:g}" for um in geometry["scales_um"])
    found.fact(
        "tiles", geometry, f"{scales} µm at {geometry['tile_px']} px, {geometry['resampling']}"
    )
    found.fact("dimension", card["dimension"])
    found.fact("queries compare with", card["key"])
    genes = len(card["expression"]["panel"]["symbols"])
    found.fact("genes", genes)
    trained = training["sections"]
    donors = sorted({s["donor"] for s in trained})
    found.fact(
        "trained on",
        {"sections": [s["section"] for s in trained], "donors": donors},
        f"{len(trained)} sections ({', '.join(s['section'] for s in trained[:8])}"
        f"{', ...' if trained[8:] else ''}) of {len(donors)} donors",
    )
    found.fact("spots", sum(s["spots"] for s in trained))
    found.fact("pitch", training["pitch_um"], f"{training['pitch_um']:g} µm")
    _scores(found, card["scores"])
    found.fact("space", card["space_id"][:12])
    whole = _weights(found, path / WEIGHTS_FILE, card["weights_sha256"])
    if features["weights"].startswith("trained:"):
        whole &= _backbone(found, path / BACKBONE_FILE)
    then = f"bleepdb index SHEET.csv --model {quoted(path)} --atlas ATLAS"
    return found.made("model", "a model folder", then=then if sound and whole else None)


def _scores(found: Findings, scores: dict[str, Any]) -> None:
    sets = scores.get("sets", {})
    if not sets and not scores.get("genes"):
        found.fact("scores", {}, "none")
        found.lacks(
            "held-out scores",
            needed_for="which genes are predictable (the default of query --genes)",
            remedy="run `bleepdb evaluate` with --card",
        )
        return
    found.fact("scores", sets)
    predictable = scores.get("genes", {}).get("predictable", [])
    found.fact("predictable genes", sum(bool(p) for p in predictable))


def _backbone(found: Findings, path: Path) -> bool:
    if not path.is_file():
        found.lacks(
            f"{BACKBONE_FILE}, the backbone that was trained with it",
            needed_for="any use of it",
            remedy=MEND,
        )
        return False
    size = path.stat().st_size
    found.fact("trained backbone", size, f"{size_text(size)}, compared with the card when loaded")
    return True


def _weights(found: Findings, path: Path, wanted: str) -> bool:
    if not path.is_file():
        found.lacks(WEIGHTS_FILE, needed_for="any use of it", remedy=MEND)
        return False
    size = path.stat().st_size
    if size > MOST_DIGESTED:
        found.fact("weights", size, f"{size_text(size)} (not compared with the card)")
        return True
    same = file_digest(path) == wanted
    found.fact("weights", size, f"{size_text(size)}, {'as' if same else 'not as'} the card says")
    if not same:
        found.lacks("the weights that the card names", needed_for="any use of it", remedy=MEND)
    return same


def inspect_safetensors(path: Path) -> Inspection:
    """Tell what a safetensors file is, by its header.

    Raises
    ------
    InputError
        If it is damaged.
    """
    found = Findings(path)
    header = read_header(path)
    if header is None:
        raise InputError("is no whole safetensors file", where=path, hint="make or fetch it again")
    about = header.pop("__metadata__", None)
    tensors = {k: v for k, v in header.items() if isinstance(v, dict)}
    if path.name == WEIGHTS_FILE and (path.parent / MODEL_CARD_FILE).is_file():
        found.fact("tensors", len(tensors))
        then = f"bleepdb inspect {quoted(path.parent)}"
        return found.made("part", "the weights of a model folder", then=then)
    if isinstance(about, dict) and "slide" in about and "features" in tensors:
        shape = tensors["features"].get("shape")
        if isinstance(shape, list) and len(shape) == 2:
            found.fact("places", shape[0])
            found.fact("features", shape[1])
        found.fact("slide digest", str(about["slide"])[:64])
        found.fact("file", path.stat().st_size, size_text(path.stat().st_size))
        found.note("a cache: it can be removed, and is computed again")
        return found.made("features", "cached features of a slide's places")
    shown = {k: f"{v.get('dtype')} {v.get('shape')}" for k, v in list(tensors.items())[:8]}
    found.fact("tensors", len(tensors))
    found.fact("first", shown)
    then = f"bleepdb train SHEET.csv --weights {quoted(path)} --out MODEL"
    return found.made("weights", "a safetensors file, such as weights of a backbone", then=then)


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a safetensors file; None where it is none, or breaks off."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            return None
        text = handle.read(length)
    if not text.startswith(b"{"):
        return None
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict):
        return None
    ends = [
        t["data_offsets"][1] for k, t in header.items() if k != "__metadata__" and _is_tensor(t)
    ]
    return header if not ends or max(ends) <= size - 8 - length else None


def _is_tensor(about: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(about, dict):
        return False
    offsets = about.get("data_offsets")
    return (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(isinstance(o, int) and math.isfinite(o) for o in offsets)
    )
