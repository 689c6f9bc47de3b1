"""`copy`: a collection from one atlas into another, of whatever kinds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb.atlas.checks import points_of
from bleepdb.atlas.copies import local_place, note_where_possible
from bleepdb.atlas.entries import COPY
from bleepdb.atlas.panels import FOLDER as PANELS
from bleepdb.atlas.panels import get_panel
from bleepdb.atlas.protocol import Where
from bleepdb.atlas.receiving import Arrival, receive, spec_of
from bleepdb.atlas.tables import check_record
from bleepdb.errors import AtlasError
from bleepdb.names import REV

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bleepdb.atlas.entries import LiveSection
    from bleepdb.atlas.protocol import Atlas, Points
    from bleepdb.atlas.receiving import Received

POINTS_AT_ONCE = 500


def copy_collection(
    source: Atlas,
    target: Atlas,
    collection: str,
    *,
    actor: str,
    progress: Callable[[int, int], None] | None = None,
) -> Received:
    """Copy a collection as it stands, with model and panels; run again, it goes on.

    Each section becomes visible whole, with the digest that it has in the source, and is read
    again from the target in the end. The alias of the tissue is set where there is none. The
    copy is noted in the source, so that a retraction there names the target.

    Parameters
    ----------
    source, target
        Any two; the target must be one that can be written.
    collection
        Full name.
    actor
        Who does it, for both logs.
    progress
        Called with (points done, points).

    Raises
    ------
    AtlasError
        If source and target are one, or the target cannot be written.
    EmptyAtlasError, AtlasCorruptError, SpaceMismatchError
        As `receive`.
    """
    if source is target or (source.location == target.location and source.kind != "exact"):
        raise AtlasError(
            "source and target are the same atlas",
            where=source.location,
            hint="name another target",
        )
    if target.kind == "snapshot":
        raise AtlasError(
            "a snapshot is read-only",
            where=target.location,
            hint="write a new one with `bleepdb atlas snapshot`",
        )
    manifest = source.read_manifest(collection)
    documents = {
        name: data
        for name in source.list_blobs(collection)
        if not name.startswith(f"{PANELS}/")
        if (data := source.get_blob(collection, name)) is not None
    }
    panels = [get_panel(source, collection, digest) for digest in manifest.panels]
    spec, where = spec_of(manifest), f"{source.location}/{collection}"

    def points(live: LiveSection) -> Iterator[Points]:
        mine = Where(must={REV: [live.revision]})
        for records in source.scroll(
            collection, where=mine, with_vectors=True, batch=POINTS_AT_ONCE
        ):
            for record in records:
                check_record(record, manifest.vectors, where=where)
            yield points_of(records, spec)

    place = local_place(Path(target.location)) if target.kind == "embedded" else target.location
    note_where_possible(source, collection, COPY, place, actor=actor)
    return receive(
        target,
        Arrival(manifest, panels, documents, points),
        came_from=source.location,
        actor=actor,
        progress=progress,
    )
