"""A slide against an atlas: places, embeddings, neighbours, weights, values.

The neighbours come first, ids and scores alone; then each distinct payload is fetched and decoded
once; then everything is linear in the weights W.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bleepdb import names
from bleepdb.atlas import get_panel, pin
from bleepdb.querying.filters import admits, conditions_of, nothing_left, refuse_unknown
from bleepdb.querying.genes import refuse_genes
from bleepdb.querying.places import embed, locate
from bleepdb.querying.run import Run, check_space
from bleepdb.querying.settings import QuerySettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bleepdb.atlas import Atlas, Pinned
    from bleepdb.encoders import Model
    from bleepdb.querying.output import Imputed
    from bleepdb.querying.places import Places
    from bleepdb.querying.settings import Query


def query_slide(
    query: Query,
    model: Model,
    atlas: Atlas,
    collection: str,
    *,
    settings: QuerySettings | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
    overlay: Path | None = None,
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
    overlay
        Where the slide with its tissue and its places is drawn (PNG), or None.

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
    check_query(model, atlas, collection, chosen)
    with locate(query, model, chosen, overlay=overlay).begin(model) as pending:
        places = pending.finish(step("encoding tiles"))
    return answer(query, places, model, atlas, collection, settings=chosen, progress=progress)


def check_query(model: Model, atlas: Atlas, collection: str, settings: QuerySettings) -> Pinned:
    """Refuse what can be refused before a slide is encoded.

    Returns
    -------
    Pinned
        The manifest as it stands.

    Raises
    ------
    SpaceMismatchError, EmptyAtlasError, GeneError, InputError
        As `query_slide`.
    """
    pinned = pin(atlas, collection)
    check_space(model, pinned, atlas)
    place = f"{atlas.location}/{collection}"
    panels = [get_panel(atlas, collection, digest) for digest in pinned.manifest.panels]
    refuse_genes(settings.genes, model, panels, where=place)
    refuse_unknown(atlas, pinned, conditions_of(settings))
    return pinned


def refuse_nobody(
    query: Query, settings: QuerySettings, model: Model, pinned: Pinned, *, location: str
) -> None:
    """Refuse a slide that no live section may answer, as far as donors and sections tell.

    Raises
    ------
    EmptyAtlasError
        It repeats the conditions.
    """
    asked = conditions_of(_exclusions(query, settings, model)[0])
    live = ({names.SECTION: s.section, names.DONOR: s.donor} for s in pinned.manifest.live)
    if asked and not any(admits(asked, spot) for spot in live):
        raise nothing_left(asked, f"{location}/{pinned.collection}")


def answer(
    query: Query,
    places: Places,
    model: Model,
    atlas: Atlas,
    collection: str,
    *,
    settings: QuerySettings,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
    says: bool = True,
) -> Imputed:
    """Impute places of a slide whose features are there; else as `query_slide`.

    With `says` false its warnings are not logged, and stand in the run card alone.
    """
    step = progress or (lambda _: lambda _done, _total: None)
    chosen, warnings = _exclusions(query, settings, model)
    vectors = embed(places, model)
    warnings += places.warnings
    said = tuple(warnings)
    run = Run(query, model, atlas, collection, chosen, places, vectors, said, step, says)
    return run.answer()


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
