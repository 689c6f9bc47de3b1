"""From the embeddings of a slide to its result, again where the atlas moved in between.

A search pins one manifest. A section that is replaced or retracted before its profiles are fetched,
or before the output is written, makes what was found void: then the search, the fetch and the
weights run again on the manifest as it stands, and the tiles are not encoded again.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bleepdb import names
from bleepdb.atlas import fetch_profiles, pin
from bleepdb.errors import AtlasCorruptError, AtlasMovedError, SpaceMismatchError
from bleepdb.imputation import Aggregator, depth_weights
from bleepdb.names import DEPTH_POWER
from bleepdb.places import adjacency
from bleepdb.profiles import low_rank_of, reference_groups
from bleepdb.querying.familiar import familiar
from bleepdb.querying.filters import admits, conditions_of
from bleepdb.querying.genes import choose_genes
from bleepdb.querying.output import CAUTION, FORMAT_VERSION, Imputed
from bleepdb.querying.resuming import request_of
from bleepdb.querying.rows import WeightRows, survey
from bleepdb.querying.search import refuse_damaged, search, vectors_of
from bleepdb.querying.settings import LOCAL
from bleepdb.querying.tables import gene_table, reference_table, spatial_entry, tile_table
from bleepdb.run_card import make_run_card

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.atlas import Atlas, Pinned
    from bleepdb.encoders import Model
    from bleepdb.querying.familiar import Familiar
    from bleepdb.querying.places import Places
    from bleepdb.querying.settings import Query, QuerySettings

log = logging.getLogger(__name__)

TRIES: Final = 3
MOST_NAMED: Final = 5
UNCOMPARED: Final = frozenset({names.REV, names.SECTION, names.DONOR, names.PANEL})


@dataclass(frozen=True)
class Run:
    """A slide that was encoded, and what is asked of it.

    Attributes
    ----------
    query, model, atlas, collection, settings
        As `bleepdb.querying.query_slide`; the settings with the query's own exclusions.
    places
        Where is imputed.
    vectors
        (n, d) float32 unit vectors of the places, in memory or mapped.
    warnings
        Sentences to show.
    step
        Called with the name of each step; gives what is then called with (done, total).
    says
        Whether warnings are logged; else they stand in the run card alone.
    """

    query: Query
    model: Model
    atlas: Atlas
    collection: str
    settings: QuerySettings
    places: Places
    vectors: NDArray[Any]
    warnings: tuple[str, ...]
    step: Callable[[str], Callable[[int, int], None]]
    says: bool = True

    def answer(self) -> Imputed:
        """Search, fetch and weigh on the atlas as it stands; again where it moved meanwhile.

        Raises
        ------
        AtlasMovedError
            If it moved each of `TRIES` times.
        EmptyAtlasError
            If nothing is live, or nothing is left after exclusions.
        """
        for left in reversed(range(TRIES)):
            pinned = pin(self.atlas, self.collection)
            check_space(self.model, pinned, self.atlas)
            try:
                made = self._answer(pinned)
                check_unchanged(self.atlas, made)
            except AtlasMovedError:
                if not left:
                    raise
            except AtlasCorruptError:
                live = self.atlas.read_manifest(self.collection).revisions
                if not left or pinned.manifest.revisions <= live:
                    raise  # it did not move: what is stored is damaged
            else:
                for text in made.facts["warnings"] if self.says else ():
                    log.warning("%s", text)
                return made
            log.warning("a section was replaced or retracted during the query: searching again")
        raise AssertionError  # pragma: no cover - the last turn returns or raises

    def _answer(self, pinned: Pinned) -> Imputed:
        model, chosen, places = self.model, self.settings, self.places
        card = model.retrieval
        method = chosen.method or str(card["method"])
        k = min(chosen.k or int(card["k"]), pinned.manifest.spots)
        found = search(
            self.atlas, pinned, self.vectors,
            key=model.key, k=k, settings=chosen, progress=self.step("searching"),
        )  # fmt: skip
        profiles = fetch_profiles(
            self.atlas, self.collection, found.ids,
            cache=True, progress=self.step("fetching reference profiles"),
        )  # fmt: skip
        keys = None
        if method == LOCAL:
            keys = vectors_of(self.atlas, self.collection, found.ids, model.key)
        else:
            refuse_damaged(self.atlas, self.collection, found.ids, model.key)
        temperature = float(chosen.temperature or card["temperature"])
        depth_power = float(card.get(DEPTH_POWER, 0.0)) if method == "softmax" else 0.0
        near = card["smoothing"]
        share = float(near["weight"]) if chosen.smoothing is None else chosen.smoothing
        ring = None
        if share > 0:
            positions_um = places.xy_px * places.slide_mpp
            ring = adjacency(positions_um, inner_um=near["inner_um"], outer_um=near["outer_um"])
        rows = WeightRows.of(
            found, self.vectors, keys,
            method=method, temperature=temperature, ridge=chosen.ridge,
            adjacency=ring, smoothing=share,
            reference_weights=depth_weights(profiles.library_total, depth_power),
        )  # fmt: skip
        genes = choose_genes(chosen.genes, model, profiles)
        low_rank = low_rank_of(model) if chosen.denoise else None
        aggregator = Aggregator(reference_groups(profiles, model.panel), genes, low_rank)
        seen = survey(rows, profiles.donor.tolist(), aggregator)
        usual = familiar(self.atlas, pinned, chosen, key=model.key)
        used = asdict(chosen) | {
            "method": method, "k": k, "temperature": temperature, "smoothing": share,
            DEPTH_POWER: depth_power,
            "max_upsampling": (
                chosen.max_upsampling if math.isfinite(chosen.max_upsampling) else None
            ),
            "denoise": low_rank is not None, "genes": len(genes), "exact_search": found.exact,
            "recall": found.recall, "least_recall": found.least_recall,
            "where": [str(condition) for condition in chosen.where],
        }  # fmt: skip
        return Imputed(
            rows=rows,
            longest=seen.longest,
            references=reference_table(profiles),
            aggregator=aggregator,
            obs=tile_table(self.query, places, seen, usual),
            var=gene_table(genes, model, seen.coverage),
            xy_px=places.xy_px,
            spatial=spatial_entry(self.query, places),
            about={
                "format_version": FORMAT_VERSION,
                "run_card": json.dumps(
                    make_run_card(**self._facts(pinned, used, found.said, usual)), allow_nan=False
                ),
                "caution": CAUTION,
                "denoised": low_rank is not None,
            },
            neighbour_sd=chosen.neighbour_sd,
            renew=self.answer,
        )

    def _facts(
        self, pinned: Pinned, used: dict[str, Any], said: str, usual: Familiar
    ) -> dict[str, Any]:
        """Return what the run card says of the run."""
        query, model = self.query, self.model
        return {
            "atlas": self.atlas.location,
            "collection": self.collection,
            "generation": pinned.manifest.generation,
            "live_sections": {s.section: s.revision for s in pinned.manifest.live},
            "space_id": model.space_id,
            "recipe": model.recipe,
            "slide": query.slide_path.name,
            "slide_digest": self.places.slide_digest,
            "slide_mpp": self.places.slide_mpp,
            "mpp_source": self.places.mpp_source,
            "places": len(self.places.names),
            "library_id": query.library,
            "donor": query.donor,
            "request": request_of(query, self.settings, model),
            "settings": used,
            "search": said,
            "ood": {
                "spots": len(usual.similarity), "without_own": usual.left_out,
                "unknown": usual.said,
            },
            "in_training_donor": query.donor is not None and query.donor in model.training_donors,
            "warnings": [
                *self.warnings,
                *self._own_slide(pinned),
                *self._outgrown(pinned),
                *self._differs(pinned),
            ],
        }  # fmt: skip

    def _outgrown(self, pinned: Pinned) -> list[str]:
        """Warn where most of what answers came after the model, whose low-rank map stays behind."""
        trained = {str(s["section"]) for s in self.model.training["sections"]}
        later = sum(s.spots for s in pinned.manifest.live if s.section not in trained)
        if 2 * later <= pinned.manifest.spots or not self.settings.denoise:
            return []
        if low_rank_of(self.model) is None:
            return []
        text = (
            f"{later} of {pinned.manifest.spots} live spots came after the model was trained, and "
            "its low-rank map does not know what they have in common: compare with --no-denoise, "
            "or train again (`bleepdb evaluate SHEET --growth` tells what that would bring)"
        )
        return [text]

    def _differs(self, pinned: Pinned) -> Iterable[str]:
        """Warn where the slide is what no spot of the atlas is, as far as both sides know it."""
        asked = {
            name: text
            for name, text in self.query.fields.items()
            if name in pinned.manifest.keyword_fields and name not in UNCOMPARED
        }
        for name, text in asked.items():
            known = self.atlas.facet(pinned.collection, name, pinned.where)
            if known and text.casefold() not in {value.casefold() for value in known}:
                there = ", ".join(list(known)[:MOST_NAMED])
                yield (
                    f"this slide is of {name} {text!r:.60}, the spots that answer of {there}: "
                    "values may differ for that alone"
                )

    def _own_slide(self, pinned: Pinned) -> Iterable[str]:
        """Warn where the slide itself is among the references that answer."""
        return [
            f"this slide is in the atlas as section {s.section} and answers for itself; pass "
            f"--exclude-section {s.section} or --exclude-donor {s.donor} for an honest result"
            for s in pinned.manifest.live
            if s.provenance.get("slide_digest") == self.places.slide_digest
            and admits(
                conditions_of(self.settings), {names.SECTION: s.section, names.DONOR: s.donor}
            )
        ]


def check_space(model: Model, pinned: Pinned, atlas: Atlas) -> None:
    """Require that a model defines the space of a collection.

    Raises
    ------
    SpaceMismatchError
        If it does not.
    """
    if pinned.manifest.space_id != model.space_id:
        raise SpaceMismatchError(
            f"the model's space is {model.space_id[:8]}, the collection's "
            f"{pinned.manifest.space_id[:8]}",
            where=f"{atlas.location}/{pinned.collection}",
            hint="leave --model out to use the model stored with the collection, or index with "
            "this model",
        )


def check_unchanged(atlas: Atlas, imputed: Imputed) -> None:
    """Require that what a result rests on is still live; meant for just before it is written.

    Raises
    ------
    AtlasMovedError
        If a section that answers was replaced or retracted meanwhile.
    """
    facts = imputed.facts
    live = atlas.read_manifest(facts["collection"]).revisions
    gone = sorted(set(imputed.references["rev"]) - live)
    if gone:
        sections = imputed.references.loc[imputed.references["rev"].isin(gone), "section"].unique()
        raise AtlasMovedError(
            f"section {', '.join(sections)} was replaced or retracted during the query",
            where=f"{atlas.location}/{facts['collection']}",
            hint="run the query again",
        )


def write_current(
    imputed: Imputed,
    atlas: Atlas,
    path: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Imputed:
    """Write a result that still holds; where it does not, search again first.

    Parameters
    ----------
    imputed
        From `query_slide`.
    atlas
        The one that was searched.
    path, progress
        As `Imputed.write`.

    Returns
    -------
    Imputed
        What was written.

    Raises
    ------
    AtlasMovedError
        If the atlas moved each of `TRIES` times; nothing is written then.
    """
    for left in reversed(range(TRIES)):
        try:
            imputed.write(
                path, progress=progress, still_valid=partial(check_unchanged, atlas, imputed)
            )
        except AtlasMovedError:
            if not left or imputed.renew is None:
                raise
            log.warning("a section was replaced or retracted during the query: searching again")
            imputed = imputed.renew()
        else:
            break
    return imputed
