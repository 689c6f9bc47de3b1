"""The commit protocol: a section is visible whole or not at all.

Points are staged under a new revision, which no reader asks for; they are counted and flushed;
one compare-and-swap of the manifest makes the revision live and the old one dead; then the old
points are deleted. Killed at any moment, the atlas shows the section as it was or as it shall be.
What a killed writer staged is resumed by the next one with the same revision, and deleted by any
other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bleepdb.atlas.entries import Copy, LogEntry, now
from bleepdb.atlas.manifest import NONE_YET, Manifest
from bleepdb.atlas.staging import PublishedMeanwhileError, Stage, announce
from bleepdb.atlas.sweeping import (
    STAGING,
    delete_revisions,
    sole_writer,
    swap,
    vacuum,
)
from bleepdb.errors import (
    AtlasError,
    EmptyAtlasError,
    SpaceMismatchError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bleepdb.atlas.entries import LiveSection
    from bleepdb.atlas.protocol import Atlas, CollectionSpec, Points

ADDED, REPLACED, UNCHANGED, RETRACTED = "added", "replaced", "unchanged", "retracted"


@dataclass(frozen=True)
class Outcome:
    """What a commit did.

    Attributes
    ----------
    status
        ``"added"``, ``"replaced"``, ``"unchanged"`` or ``"retracted"``.
    written
        Points written by this call.
    resumed
        Points that an interrupted call had staged already.
    removed
        Points deleted: the old revision, and orphans swept on the way.
    generation
        Of the manifest in which this holds.
    """

    status: str
    written: int
    resumed: int
    removed: int
    generation: int


def _place(atlas: Atlas, collection: str) -> str:
    return f"{atlas.location}/{collection}"


def prepare_collection(
    atlas: Atlas, spec: CollectionSpec, manifest: Manifest, *, actor: str
) -> Manifest:
    """Make a collection ready for sections, or check that the present one is for this model.

    Fields that the present one cannot filter yet are added. A tissue without alias gets one that
    points here; one that points elsewhere is left as it is, since to switch is a step of its own.

    Parameters
    ----------
    spec
        What the collection is made with.
    manifest
        Its first manifest: generation 0, nothing live.
    actor
        Who does it, for the log.

    Returns
    -------
    Manifest
        As it stands.

    Raises
    ------
    SpaceMismatchError
        If the collection was made by another model.
    """
    atlas.ensure(spec)
    if spec.alias not in atlas.aliases():
        atlas.set_alias(spec.alias, spec.name)
    try:
        atlas.read_manifest(spec.name)
    except EmptyAtlasError:
        # Where another writer was faster, its manifest is read and compared below.
        atlas.swap_manifest(spec.name, NONE_YET, manifest)

    def with_new_fields(present: Manifest) -> Manifest | None:
        _check_same_space(atlas, present, manifest)
        new = [f for f in spec.keyword_fields if f not in present.keyword_fields]
        entry = LogEntry.now(actor, f"fields {', '.join(new)} can be filtered")
        return present.with_fields(new, entry) if new else None

    return swap(atlas, spec.name, with_new_fields)[1]


def _check_same_space(atlas: Atlas, present: Manifest, asked: Manifest) -> None:
    for what in ("space_id", "model_digest", "key", "tissue", "species", "codec"):
        old, new = getattr(present, what), getattr(asked, what)
        if old != new:
            raise SpaceMismatchError(
                f"the collection has {what} {old!r:.80}, not {new!r:.80}",
                where=_place(atlas, present.collection),
                hint="index with the model that made it, or into another atlas",
            )


def publish_section(
    atlas: Atlas,
    collection: str,
    live: LiveSection,
    batches: Iterable[Points],
    *,
    actor: str,
    grace: float = 0.0,
) -> Outcome:
    """Make a section visible, whole, in place of its earlier revision if it has one.

    Where its revision is live already nothing is touched and `batches` is not read. Points that
    an interrupted call staged are not written again.

    Parameters
    ----------
    collection
        Prepared by `prepare_collection`, with the section's panel stored by `put_panel`.
    live
        What shall be live.
    batches
        All its points; their payloads carry its section, revision and donor.
    actor
        Who does it, for the log.
    grace
        Seconds between the swap and the deletion of the old revision, for readers elsewhere that
        have pinned the earlier manifest. An embedded atlas has none.

    Raises
    ------
    AtlasError
        If a point does not belong to the section or is not valid. Nothing became visible.
    AtlasCorruptError
        If the points staged are not as many as stated. Nothing became visible.
    """
    shared = not sole_writer(atlas)
    with STAGING.of(collection, live.revision):
        manifest = atlas.read_manifest(collection)
        if live.revision in manifest.revisions:
            return Outcome(UNCHANGED, 0, 0, 0, manifest.generation)
        removed = vacuum(atlas, collection, actor=actor)
        token = announce(atlas, collection, live, actor) if shared else None
        staging = Stage(atlas, manifest, live, token=token)
        complete = True
        try:
            for points in batches:
                staging.write(points)
            whole = replace(live, points_digest=staging.settle())
        except PublishedMeanwhileError:
            whole, complete = live, False  # what the other has published stands

        def successor(present: Manifest) -> Manifest | None:
            if live.revision in present.revisions:
                return None if token is None else present.without_staging(token)
            gone = token is not None and all(s.token != token for s in present.staging)
            if gone or not complete:  # the latter: published by another, and retracted since
                what = f"what was staged of section {live.section}"
                raise AtlasError(
                    f"{what} was vacuumed or retracted meanwhile",
                    where=_place(atlas, collection),
                    hint="run again; nothing became visible",
                )
            verb = "added" if present.find(live.section) is None else "replaced"
            what = f"{verb} section {live.section}: {live.spots} spots"
            entry = LogEntry.now(actor, f"{what}, revision {live.revision[:16]}")
            return present.with_section(
                whole, entry, panels=staging.panels, token=token, condemn=shared
            )

        before, after = swap(atlas, collection, successor)
    old = before.find(live.section)
    status = ADDED if old is None else REPLACED
    if live.revision in before.revisions:  # another writer published it meanwhile
        status = UNCHANGED
    elif old is not None:
        removed += _remove(atlas, collection, [old.revision], grace)
    return Outcome(status, staging.written, staging.resumed, removed, after.generation)


def retract_section(
    atlas: Atlas, collection: str, section: str, *, actor: str, grace: float = 0.0
) -> Outcome:
    """Take a section out: first out of sight, then its points. Parameters as `publish_section`.

    What others stage of it on a shared server goes too, and they are told. Where it is not live
    the outcome is ``"unchanged"``; remains of an interrupted retraction go.
    """
    shared = not sole_writer(atlas)
    removed = vacuum(atlas, collection, actor=actor)

    def successor(present: Manifest) -> Manifest | None:
        old = present.find(section)
        if old is None:
            return None
        what = f"retracted section {section}: {old.spots} spots"
        entry = LogEntry.now(actor, f"{what}, revision {old.revision[:16]}")
        return present.without_section(section, entry, condemn=shared)

    before, after = swap(atlas, collection, successor)
    old = before.find(section)
    if old is None:
        return Outcome(UNCHANGED, 0, 0, removed, after.generation)
    gone = before.revisions_of(section) if shared else (old.revision,)
    removed += _remove(atlas, collection, gone, grace)
    return Outcome(RETRACTED, 0, 0, removed, after.generation)


def _remove(atlas: Atlas, collection: str, revisions: Sequence[str], grace: float) -> int:
    if grace > 0:
        time.sleep(grace)
    return delete_revisions(atlas, collection, revisions)


def note_copy(atlas: Atlas, collection: str, kind: str, where: str, *, actor: str) -> None:
    """Note in the manifest that points went elsewhere, so that a retraction can list the place.

    Parameters
    ----------
    kind
        ``"snapshot"``, ``"export"`` or ``"copy"`` (`bleepdb.atlas.manifest`).
    where
        The place, without secrets.
    """

    def successor(present: Manifest) -> Manifest:
        entry = LogEntry.now(actor, f"{kind} made: {where}")
        return present.with_copy(Copy(kind, where[:1000], actor[:200] or "unknown", now()), entry)

    swap(atlas, collection, successor)
