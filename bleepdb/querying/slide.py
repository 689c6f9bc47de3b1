"""A slide against an atlas: places, embeddings, neighbours, weights, values.

The neighbours come first, ids and scores alone; then each distinct payload is fetched and decoded
once; then everything is linear in the weights W.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from bleepdb.atlas import fetch_profiles, get_panel, pin
from bleepdb.errors import AtlasError, SpaceMismatchError
from bleepdb.imputation import Aggregator, smooth
from bleepdb.places import adjacency
from bleepdb.profiles import low_rank_of, reference_groups
from bleepdb.querying.filters import conditions_of, refuse_unknown
from bleepdb.querying.genes import choose_genes, refuse_genes
from bleepdb.querying.output import CAUTION, FORMAT_VERSION, Imputed
from bleepdb.querying.places import see
from bleepdb.querying.search import refuse_damaged, search, vectors_of, weigh
from bleepdb.querying.settings import LOCAL, QuerySettings
from bleepdb.querying.tables import gene_table, reference_table, spatial_entry, tile_table
from bleepdb.run_card import make_run_card

if TYPE_CHECKING:
    from collections.abc import Callable

    from bleepdb.atlas import Atlas, Pinned
    from bleepdb.encoders import Model
    from bleepdb.querying.places import Places
    from bleepdb.querying.settings import Query

log = logging.getLogger(__name__)


def query_slide(
    query: Query,
    model: Model,
    atlas: Atlas,
    collection: str,
    *,
    settings: QuerySettings | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
) -> Imputed:
    """Impute gene expression on a slide.

    Parameters
    ----------
    query
        The slide and where to impute.
    model
        Of the collection's space.
    atlas, collection
        Where the references are.
    settings
        How; by default as the model's card says.
    progress
        Called with the name of each step; gives what is then called with (done, total).

    Returns
    -------
    Imputed
        W and all that is needed to make values of the chosen genes.

    Raises
    ------
    SpaceMismatchError
        If the model is not the collection's.
    EmptyAtlasError
        If nothing is live, or nothing is left after exclusions.
    GeneError
        If the genes asked for are not known.
    InputError
        If a donor or section to exclude is not there.
    SlideError
        If the slide cannot be used.
    """
    chosen = settings or QuerySettings()
    step = progress or (lambda _: lambda _done, _total: None)
    pinned = pin(atlas, collection)
    check_space(model, pinned, atlas)
    place = f"{atlas.location}/{collection}"
    panels = [get_panel(atlas, collection, digest) for digest in pinned.manifest.panels]
    refuse_genes(chosen.genes, model, panels, where=place)
    refuse_unknown(atlas, pinned, conditions_of(chosen))
    chosen, warnings = _exclusions(query, chosen, model)
    places = see(query, model, chosen, progress=step("encoding tiles"))
    warnings += [*places.warnings, *_own_slide(places, pinned, chosen)]
    positions_um = places.xy_px * places.slide_mpp
    vectors = model.embed_images(places.features, positions_um)
    card = model.retrieval
    method = chosen.method or str(card["method"])
    k = min(chosen.k or int(card["k"]), pinned.manifest.spots)
    found = search(
        atlas, pinned, vectors, key=model.key, k=k, settings=chosen, progress=step("searching")
    )
    profiles = fetch_profiles(
        atlas, collection, found.ids, progress=step("fetching reference profiles")
    )
    keys = None
    if method == LOCAL:
        keys = vectors_of(atlas, collection, found.ids, model.key)
    else:
        refuse_damaged(atlas, collection, found.ids, model.key)
    temperature = float(chosen.temperature or card["temperature"])
    W = weigh(found, vectors, keys, method=method, temperature=temperature, ridge=chosen.ridge)
    near = card["smoothing"]
    share = float(near["weight"]) if chosen.smoothing is None else chosen.smoothing
    if share > 0:
        ring = adjacency(positions_um, inner_um=near["inner_um"], outer_um=near["outer_um"])
        W = smooth(W, ring, share)
    genes = choose_genes(chosen.genes, model, profiles)
    low_rank = low_rank_of(model) if chosen.denoise else None
    aggregator = Aggregator(reference_groups(profiles, model.panel), genes, low_rank)
    used = asdict(chosen) | {
        "method": method, "k": k, "temperature": temperature, "smoothing": share,
        "max_upsampling": chosen.max_upsampling if math.isfinite(chosen.max_upsampling) else None,
        "denoise": low_rank is not None, "genes": len(genes), "exact_search": found.exact,
        "recall": found.recall, "least_recall": found.least_recall,
        "where": [str(condition) for condition in chosen.where],
    }  # fmt: skip
    facts: dict[str, Any] = {
        "atlas": atlas.location,
        "collection": collection,
        "generation": pinned.manifest.generation,
        "live_sections": {s.section: s.revision for s in pinned.manifest.live},
        "space_id": model.space_id,
        "recipe": model.recipe,
        "slide": query.slide_path.name,
        "slide_digest": places.slide_digest,
        "slide_mpp": places.slide_mpp,
        "library_id": query.library,
        "settings": used,
        "search": found.said,
        "in_training_donor": query.donor is not None and query.donor in model.training_donors,
        "warnings": warnings,
    }
    for text in warnings:
        log.warning("%s", text)
    return Imputed(
        weights=W,
        references=reference_table(profiles),
        aggregator=aggregator,
        obs=tile_table(query, places, found, W, profiles),
        var=gene_table(genes, model, aggregator, W),
        xy_px=places.xy_px,
        spatial=spatial_entry(query, places),
        about={
            "format_version": FORMAT_VERSION,
            "run_card": json.dumps(make_run_card(**facts), allow_nan=False),
            "caution": CAUTION,
            "denoised": low_rank is not None,
        },
        neighbour_sd=chosen.neighbour_sd,
    )


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
    AtlasError
        If a section that answers was replaced or retracted meanwhile.
    """
    facts = imputed.facts
    live = atlas.read_manifest(facts["collection"]).revisions
    gone = sorted(set(imputed.references["rev"]) - live)
    if gone:
        sections = imputed.references.loc[imputed.references["rev"].isin(gone), "section"].unique()
        raise AtlasError(
            f"section {', '.join(sections)} was replaced or retracted during the query",
            where=f"{atlas.location}/{facts['collection']}",
            hint="run the query again",
        )


def _exclusions(
    query: Query, settings: QuerySettings, model: Model
) -> tuple[QuerySettings, list[str]]:
    if query.donor is None:
        return settings, []
    donors = tuple(dict.fromkeys([*settings.exclude_donors, query.donor]))
    said = []
    if query.donor in model.training_donors:
        said.append(
            f"donor {query.donor} was in the model's training: its spots are not searched, but "
            "the encoders know it (stamped in_training_donor)"
        )
    return replace(settings, exclude_donors=donors), said


def _own_slide(places: Places, pinned: Pinned, settings: QuerySettings) -> list[str]:
    """Warn where the slide itself is among the references that answer."""
    own = [
        s
        for s in pinned.manifest.live
        if s.provenance.get("slide_digest") == places.slide_digest
        and s.donor not in settings.exclude_donors
        and s.section not in settings.exclude_sections
    ]
    return [
        f"this slide is in the atlas as section {s.section} and answers for itself; pass "
        f"--exclude-section {s.section} or --exclude-donor {s.donor} for an honest result"
        for s in own
    ]
