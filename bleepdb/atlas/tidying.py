"""What a collection need not keep: dead points, panels of no live section, the engine's remains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bleepdb.atlas.embedded import EmbeddedAtlas
from bleepdb.atlas.entries import LogEntry
from bleepdb.atlas.manifest import live_where
from bleepdb.atlas.panels import FOLDER as PANELS
from bleepdb.atlas.panels import panel_blob
from bleepdb.atlas.snapshot import SnapshotAtlas
from bleepdb.atlas.sweeping import ABANDONED_S, STAGING, swap, vacuum
from bleepdb.errors import AtlasError
from bleepdb.names import PANEL, REV

if TYPE_CHECKING:
    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas


@dataclass(frozen=True)
class Tidied:
    """What went.

    Attributes
    ----------
    points
        Dead points that were deleted.
    panels
        Stored panels that no live point names.
    bytes
        What the collection takes less on disk; None where that is not known (a server).
    kept
        Dead points that stay for now: a writer that has not finished holds them, or somebody
        began to delete them less than `CONDEMNED_S` ago and may have been killed since.
    """

    points: int
    panels: int
    bytes: int | None
    kept: int = 0


def tidy(
    atlas: Atlas, collection: str, *, actor: str, abandoned_after_s: float = ABANDONED_S
) -> Tidied:
    """Remove from a collection all that no reader can see.

    Parameters
    ----------
    atlas
        One that can be written.
    collection
        Full name.
    actor
        Who does it, for the log.
    abandoned_after_s
        On a server: seconds after which a writer that has not finished is taken for dead.

    Returns
    -------
    Tidied
        An embedded collection is rewritten, so that no deleted byte is left in its files; a
        server rewrites its segments when its optimiser finds it worth while.

    Raises
    ------
    AtlasError
        If the atlas cannot be written, or a disk has no room for the new files.
    """
    if atlas.kind == "snapshot":
        raise AtlasError(
            "a snapshot is read-only, and holds nothing that no reader sees",
            where=atlas.location,
            hint="tidy the atlas that it was made from",
        )
    before = disk_bytes(atlas, collection)
    points = vacuum(atlas, collection, abandoned_after_s=abandoned_after_s, actor=actor)
    panels = drop_unused_panels(atlas, collection, actor=actor)
    atlas.flush(collection)
    if isinstance(atlas, EmbeddedAtlas):
        atlas.compact(collection)
    after = disk_bytes(atlas, collection)
    freed = None if before is None or after is None else before - after
    live = atlas.read_manifest(collection).revisions
    kept = sum(n for rev, n in atlas.facet(collection, REV).items() if rev not in live)
    return Tidied(points, panels, freed, kept)


def drop_unused_panels(atlas: Atlas, collection: str, *, actor: str) -> int:
    """Remove the panels that no live point names; return how many.

    While others are staging nothing is removed: they may have stored a panel, or count on one.
    """
    with STAGING.held():  # no thread of this process begins to, meanwhile
        return 0 if STAGING.now(collection) else _drop_unused_panels(atlas, collection, actor)


def _drop_unused_panels(atlas: Atlas, collection: str, actor: str) -> int:
    removed = 0
    stored = {b for b in atlas.list_blobs(collection) if b.startswith(f"{PANELS}/")}

    def successor(present: Manifest) -> Manifest | None:
        used = set(atlas.facet(collection, PANEL, live_where(present)))
        unused = set(present.panels) - used
        if present.staging or not unused:
            return None
        entry = LogEntry.now(actor, f"removed {len(unused)} panels of no live section")
        return present.without_panels(unused, entry)

    present = swap(atlas, collection, successor)[1]
    if present.staging:
        return 0
    for name in sorted(stored - {panel_blob(p) for p in present.panels}):
        data = atlas.get_blob(collection, name)
        atlas.drop_blob(collection, name)
        removed += 1
        now = atlas.read_manifest(collection)
        if data is not None and (now.staging or name in {panel_blob(p) for p in now.panels}):
            # Somebody began to stage meanwhile and may have seen it there.
            atlas.put_blob(collection, name, data)
            removed -= 1
    return removed


def disk_bytes(atlas: Atlas, collection: str) -> int | None:
    """Bytes that a collection takes on disk, its holes left out; None where that is not known."""
    if isinstance(atlas, EmbeddedAtlas | SnapshotAtlas):
        return atlas.disk_bytes(collection)
    return None
