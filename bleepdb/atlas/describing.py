"""What one collection is, in one JSON value."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bleepdb.atlas.manifest import live_where
from bleepdb.atlas.panels import get_panel
from bleepdb.atlas.tidying import disk_bytes
from bleepdb.atlas.verifying import MODEL_FOLDER
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.names import MODEL_CARD_FILE, PANEL, PREDICTABLE, SECTION

if TYPE_CHECKING:
    from bleepdb.atlas.protocol import Atlas

LOG_SHOWN = 5


def model_card(atlas: Atlas, collection: str) -> dict[str, Any] | None:
    """Read the card of the model that travels with a collection; None where there is none.

    It is not judged here: `verify` compares it with its checksum, and `bleepdb.encoders` with its
    schema when the model is used.

    Raises
    ------
    AtlasCorruptError
        If it is no JSON object.
    """
    data = atlas.get_blob(collection, f"{MODEL_FOLDER}/{MODEL_CARD_FILE}")
    if data is None:
        return None
    where = f"{atlas.location}/{collection}/{MODEL_FOLDER}/{MODEL_CARD_FILE}"
    try:
        card = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AtlasCorruptError(f"is no JSON ({error})", where=where) from error
    if not isinstance(card, dict):
        raise AtlasCorruptError("is no model card", where=where)
    return card


def training_of(card: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (section, donor) of each section that trained a model, as far as its card says."""
    training = card.get("training")
    sections = training.get("sections", []) if isinstance(training, dict) else []
    return [
        (str(s.get("section")), str(s.get("donor")))
        for s in (sections if isinstance(sections, list) else [])
        if isinstance(s, dict)
    ]


def scores_of(card: dict[str, Any]) -> dict[str, Any] | None:
    """Return held-out scores of a card: per gene set, and of how many genes; None before any."""
    scores = card.get("scores")
    if not isinstance(scores, dict) or not scores:
        return None
    genes, sets, about = (scores.get(k) for k in ("genes", "sets", "about"))
    flags = genes.get(PREDICTABLE) if isinstance(genes, dict) else None
    return {
        "held_out": about.get("held_out") if isinstance(about, dict) else None,
        "sets": sets if isinstance(sets, dict) else {},
        "predictable": sum(bool(f) for f in flags) if isinstance(flags, list) else None,
        "genes": len(flags) if isinstance(flags, list) else None,
    }


def describe(atlas: Atlas, collection: str) -> dict[str, Any]:
    """Return what a collection holds.

    Parameters
    ----------
    atlas
        Any kind.
    collection
        Full name.

    Returns
    -------
    dict
        JSON values: names, ``sections``, ``donors``, ``panels`` with the sections on each,
        ``fields``, ``vectors``, ``model``, the last entries of the ``log``, ``copies``, and
        ``bytes`` on disk where they are known.
    """
    manifest = atlas.read_manifest(collection)
    donors: dict[str, dict[str, int]] = {}
    for section in manifest.live:
        donor = donors.setdefault(section.donor, {"sections": 0, "spots": 0})
        donor["sections"] += 1
        donor["spots"] += section.spots
    size = disk_bytes(atlas, collection)
    return {
        "atlas": atlas.location,
        "kind": atlas.kind,
        "collection": collection,
        "aliases": sorted(a for a, target in atlas.aliases().items() if target == collection),
        "tissue": manifest.tissue,
        "species": manifest.species,
        "generation": manifest.generation,
        "spots": manifest.spots,
        "bytes": size,
        "bytes_a_spot": None if size is None or not manifest.spots else size / manifest.spots,
        "sections": [s.to_json() for s in manifest.live],
        "donors": donors,
        "panels": _panels(atlas, collection),
        "fields": list(manifest.keyword_fields),
        "vectors": dict(manifest.vectors),
        "key": manifest.key,
        "space_id": manifest.space_id,
        "model": _model(atlas, collection),
        "staging": [asdict(s) for s in manifest.staging],
        "condemned": [asdict(c) for c in manifest.condemned],
        "copies": [asdict(c) for c in manifest.copies],
        "log": [asdict(entry) for entry in manifest.log[-LOG_SHOWN:]],
    }


def _panels(atlas: Atlas, collection: str) -> list[dict[str, Any]]:
    manifest = atlas.read_manifest(collection)
    made = []
    for named in manifest.panels:
        try:
            genes = len(get_panel(atlas, collection, named))
        except AtlasError:
            genes = None  # `verify` says what is wrong with it
        where = live_where(manifest).also(must={PANEL: [named]})
        sections = Counter(atlas.facet(collection, SECTION, where))
        made.append({"digest": named, "genes": genes, "sections": dict(sorted(sections.items()))})
    return made


def _model(atlas: Atlas, collection: str) -> dict[str, Any] | None:
    card = model_card(atlas, collection)
    if card is None:
        return None
    features = card.get("features")
    trained = training_of(card)
    return {
        "recipe": card.get("recipe"),
        "encoder": features.get("backbone") if isinstance(features, dict) else None,
        "licence": card.get("licence"),
        "dimension": card.get("dimension"),
        "key": card.get("key"),
        "training_sections": [section for section, _ in trained],
        "training_donors": list(dict.fromkeys(donor for _, donor in trained)),
        "scores": scores_of(card),
    }
