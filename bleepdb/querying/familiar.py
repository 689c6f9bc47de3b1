"""How familiar a place is: its similarity to the atlas beside that of the atlas's own spots.

A tile that no reference resembles gets neighbours all the same. What is usual is told by the spots
of the atlas themselves: a sample of them is searched as a slide would be, each without its own
donor (without its own section, where there is one donor), and a tile is held against them. In the
words of statistics the score is an empirical tail probability.

It sees what the encoders see. They were trained on tissue, and map other pictures onto directions
of tissue too: a low score says that a tile is unfamiliar, a high one not that it is tissue.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb import names
from bleepdb.files import cache_dir, canonical_json, digest, write_json
from bleepdb.querying.filters import conditions_of, where_of
from bleepdb.querying.settings import AUTO, EXACT, EXACT_PRODUCTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.atlas import Atlas, Pinned, Record
    from bleepdb.querying.settings import QuerySettings

log = logging.getLogger(__name__)

SAMPLE: Final = 1000
LEAST_SAMPLE: Final = 30
MOST_GROUPS: Final = 100  # donors of the sample, each a search of its own
UNFAMILIAR: Final = 0.01
FOLDER: Final = "familiar"
IN_MEMORY: Final = "exact"
MOST_KEPT: Final = 100  # sets of conditions a collection


@dataclass(frozen=True)
class Familiar:
    """What is usual among the atlas's own spots.

    Attributes
    ----------
    similarity
        (m,) float32, rising: top similarity of each sampled spot; empty where it cannot be known.
    left_out
        ``"donor"`` or ``"section"``: what a spot was searched without; empty where it cannot be
        known.
    said
        Why it cannot be known, as a clause; empty where it can.
    """

    similarity: NDArray[np.float32]
    left_out: str = ""
    said: str = ""

    def score(self, top_similarity: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of the atlas's own spots that are as far or farther.

        Parameters
        ----------
        top_similarity
            (n,) of the places; NaN where one has no neighbour.

        Returns
        -------
        numpy.ndarray
            (n,) float32 from 0 (unfamiliar) to 1; NaN where it cannot be known.
        """
        made = np.full(len(top_similarity), np.nan, np.float32)
        known = np.isfinite(top_similarity)
        if len(self.similarity):
            below = np.searchsorted(self.similarity, top_similarity[known], side="right")
            made[known] = below / len(self.similarity)
        return made


def flagged(score: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,) bool: which scores are below 1%; one that is not known is not flagged."""
    return np.nan_to_num(score, nan=1.0) < UNFAMILIAR


def familiar(
    atlas: Atlas, pinned: Pinned, settings: QuerySettings, *, key: str, cache: bool = True
) -> Familiar:
    """Ask an atlas for its own spots, each without its own donor.

    Parameters
    ----------
    atlas, pinned
        What is searched.
    settings
        Of the query: the sample is drawn from the spots that it allows, and searched among them.
    key
        The vector that queries are compared with.
    cache
        Whether the result is kept on this machine until the collection's next generation.
    """
    kept = _file(atlas, pinned.collection) if cache and atlas.kind != IN_MEMORY else None
    about = {
        "generation": pinned.manifest.generation,
        "space": pinned.manifest.space_id,
        "revisions": sorted(pinned.manifest.revisions),
        "key": key,
    }
    name = digest(FOLDER, canonical_json([str(c) for c in conditions_of(settings)]))[:32]
    generation = digest(FOLDER, canonical_json(about))
    entries = _read(kept, generation)
    if name not in entries:
        entries[name] = _to_json(_ask(atlas, pinned, settings, key))
        if kept is not None:
            _write(kept, generation, entries)
    return _of_json(entries[name])


def _ask(atlas: Atlas, pinned: Pinned, settings: QuerySettings, key: str) -> Familiar:
    """Draw the sample and search it."""
    where = where_of(pinned, settings)
    # Ids are digests: the first ones in their order are drawn as by lot, and always the same ones.
    sample = next(
        iter(
            atlas.scroll(
                pinned.collection,
                where=where,
                fields=[names.DONOR, names.SECTION],
                with_vectors=True,
                batch=SAMPLE,
            )
        ),
        [],
    )[:SAMPLE]
    if len(sample) < LEAST_SAMPLE:
        return Familiar(
            np.zeros(0, np.float32), said=f"fewer than {LEAST_SAMPLE} spots can be searched"
        )
    field = names.DONOR
    if len(atlas.facet(pinned.collection, field, where)) < 2:
        field = names.SECTION
        if len(atlas.facet(pinned.collection, field, where)) < 2:
            return Familiar(np.zeros(0, np.float32), said="one section alone can be searched")
    groups: dict[str, list[Record]] = {}
    for record in sample:
        value = str(record.payload[field])
        if value in groups or len(groups) < MOST_GROUPS:
            groups.setdefault(value, []).append(record)
    exact = settings.search == EXACT or (
        settings.search == AUTO and len(sample) * float(pinned.manifest.spots) <= EXACT_PRODUCTS
    )
    found: list[float] = []
    for value, records in groups.items():
        vectors = np.stack([r.vectors[names.IMAGE] for r in records if r.vectors is not None])
        hits = atlas.query_batch(
            pinned.collection,
            vectors,
            using=key,
            limit=1,
            where=where.also(must_not={field: [value]}),
            exact=exact,
        )
        found += [float(scores[0]) for scores in hits.scores if len(scores)]
    return Familiar(np.sort(np.array(found, np.float32)), left_out=field)


def _file(atlas: Atlas, collection: str) -> Path:
    where = atlas.location if "://" in atlas.location else str(Path(atlas.location).resolve())
    return cache_dir() / FOLDER / f"{digest(FOLDER, where, collection)[:32]}.json"


def _read(path: Path | None, generation: str) -> dict[str, Any]:
    """Return what is kept of this generation; nothing where it is another, or damaged."""
    try:
        document = json.loads(path.read_bytes()) if path is not None else {}
        entries = document["entries"] if document.get("generation") == generation else {}
        for entry in entries.values():
            _of_json(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return dict(entries)


def _write(path: Path, generation: str, entries: dict[str, Any]) -> None:
    newest = dict(list(entries.items())[-MOST_KEPT:])
    try:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_json(path, {"generation": generation, "entries": newest})
    except OSError as error:
        log.warning("what is usual in this atlas is not kept: %s", error)


def _to_json(found: Familiar) -> dict[str, Any]:
    return {
        "similarity": [float(v) for v in found.similarity],
        "left_out": found.left_out,
        "said": found.said,
    }


def _of_json(entry: dict[str, Any]) -> Familiar:
    similarity = np.array(entry["similarity"], np.float32)
    if similarity.ndim != 1 or not np.isfinite(similarity).all():
        message = "no list of similarities"
        raise ValueError(message)
    return Familiar(np.sort(similarity), str(entry["left_out"]), str(entry["said"]))
