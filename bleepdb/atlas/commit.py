"""The commit protocol: a section is visible whole or not at all.

Points are staged under a new revision, which no reader asks for; they are counted and flushed;
one compare-and-swap of the manifest makes the revision live and the old one dead; then the old
points are deleted. Killed at any moment, the atlas shows the section as it was or as it shall be.
What a killed writer staged is resumed by the next one with the same revision, and deleted by any
other.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bleepdb.atlas.checks import payload_fault
from bleepdb.atlas.digests import point_digest, section_digest
from bleepdb.atlas.manifest import NONE_YET, Copy, LogEntry, Manifest, Staging, age_s, now
from bleepdb.atlas.panels import get_panel
from bleepdb.atlas.payload import decode_fields
from bleepdb.atlas.protocol import Points, Where
from bleepdb.atlas.sweeping import (
    CONDEMNED_S,
    STAGING,
    delete_revisions,
    sole_writer,
    swap,
    sweep,
)
from bleepdb.errors import (
    AtlasCorruptError,
    AtlasError,
    EmptyAtlasError,
    PayloadError,
    SpaceMismatchError,
)
from bleepdb.names import BARCODE, DONOR, PANEL, REV, SECTION, SPECIES, TISSUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import LiveSection
    from bleepdb.atlas.protocol import Atlas, CollectionSpec

POINT_NAMESPACE = uuid.UUID("6f3b8a52-6d0e-5c5b-9a1e-b1ee9d8a0001")
WAIT_CONDEMNED_S = 30.0  # how long a writer waits for another to delete what it wants to stage
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


def point_id(section: str, revision: str, barcode: str) -> str:
    """Return the id of a spot's point: uuid5 of section, revision and barcode, NUL-separated.

    A retry writes the same points again, and a new revision never overwrites the live one.

    Raises
    ------
    AtlasError
        If a part holds a NUL, so that two spots could get one id.
    """
    parts = (section, revision, barcode)
    if any("\0" in part for part in parts):
        raise AtlasError(f"a NUL character in the spot {barcode!r:.60} of {section!r:.60}")
    return str(uuid.uuid5(POINT_NAMESPACE, "\0".join(parts)))


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


class _Staging:
    """Writes the points of one revision that are not there yet, and digests all of them.

    What an interrupted call staged is kept where it is the same to the bit; a point that is not
    (a network may compute otherwise in its last digits the second time) is written again.
    """

    def __init__(self, atlas: Atlas, manifest: Manifest, live: LiveSection) -> None:
        self.atlas, self.manifest, self.live = atlas, manifest, live
        self.collection = manifest.collection
        self.where = _place(atlas, self.collection)
        self.seen: dict[str, bytes] = {}
        self.panels: dict[str, int] = {}
        self.written = self.resumed = 0
        self.there = self._staged_already()

    def _staged_already(self) -> dict[str, bytes]:
        """Digests of the points that are there; empty where a point must be written again."""
        mine = Where(must={REV: [self.live.revision]})
        made: dict[str, bytes] = {}
        try:
            for batch in self.atlas.scroll(self.collection, where=mine, with_vectors=True):
                for record in batch:
                    vectors = record.vectors or {}
                    made[record.id] = self._digest(record.id, record.payload, vectors)
        except AtlasError:  # damaged, or its panel is not there: nothing is taken over
            return {}
        return made

    def _digest(
        self, identity: str, payload: Mapping[str, Any], vectors: Mapping[str, NDArray[np.float32]]
    ) -> bytes:
        digest = str(payload.get(PANEL))
        if digest not in self.panels:
            try:
                self.panels[digest] = len(get_panel(self.atlas, self.collection, digest))
            except AtlasCorruptError as error:
                raise AtlasError(f"panel {digest:.12} was not stored", where=self.where) from error
        try:
            genes, counts = decode_fields(payload, n_genes=self.panels[digest])
        except PayloadError as error:
            raise PayloadError(
                f"spot {payload.get(BARCODE)!r:.80}: {error.what}",
                where=self.where,
                hint=error.hint,
            ) from error
        return point_digest(identity, payload, vectors, genes, counts)

    def write(self, points: Points) -> None:
        """Check that these points belong to the section; write those that are missing."""
        expected = {
            REV: self.live.revision,
            SECTION: self.live.section,
            DONOR: self.live.donor,
            TISSUE: self.manifest.tissue,
            SPECIES: self.manifest.species,
        }
        rows = []
        for row, (identity, payload) in enumerate(zip(points.ids, points.payloads, strict=True)):
            for name, value in expected.items():
                if payload.get(name) != value:
                    raise AtlasError(
                        f"a spot of section {self.live.section} has {name} "
                        f"{payload.get(name)!r:.80}, not {value!r:.80}",
                        where=self.where,
                    )
            barcode = str(payload.get(BARCODE))
            if identity != point_id(self.live.section, self.live.revision, barcode):
                raise AtlasError(f"spot {barcode!r:.80} has the wrong id", where=self.where)
            if identity in self.seen:
                raise AtlasError(f"spot {barcode!r:.80} stands twice", where=self.where)
            fault = payload_fault(payload)
            if fault is not None:
                raise AtlasError(f"spot {barcode!r:.80}: {fault}", where=self.where)
            found = self._digest(identity, payload, {n: a[row] for n, a in points.vectors.items()})
            self.seen[identity] = found
            if self.there.get(identity) == found:
                self.resumed += 1
            else:
                rows.append(row)
        if rows:
            self.atlas.upsert(self.collection, _rows(points, rows))
            self.written += len(rows)

    def settle(self) -> str:
        """Require that exactly the section's spots are there; return their digest.

        When it returns they are on disk.
        """
        number = self.atlas.count(self.collection, Where(must={REV: [self.live.revision]}))
        if not number == len(self.seen) == self.live.spots:
            raise AtlasCorruptError(
                f"section {self.live.section} staged {number} points of {len(self.seen)} given, "
                f"{self.live.spots} stated",
                where=self.where,
                hint="run again; nothing became visible",
            )
        digest = section_digest(self.seen)
        if self.live.points_digest not in {None, digest}:
            raise AtlasCorruptError(
                f"section {self.live.section}: its points are not those that its digest stands for",
                where=self.where,
                hint="verify where they come from; nothing became visible",
            )
        self.atlas.flush(self.collection)
        return digest


def _rows(points: Points, rows: list[int]) -> Points:
    if len(rows) == len(points):
        return points
    return Points(
        [points.ids[i] for i in rows],
        {name: array[rows] for name, array in points.vectors.items()},
        [points.payloads[i] for i in rows],
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
        if shared:
            removed = 0
            _announce(atlas, collection, live, actor)
        else:
            removed = sweep(atlas, collection)
        staging = _Staging(atlas, manifest, live)
        for points in batches:
            staging.write(points)
        whole = replace(live, points_digest=staging.settle())

        def successor(present: Manifest) -> Manifest | None:
            if live.revision in present.revisions:
                return None
            if shared and not present.stages(live.revision):
                raise AtlasError(
                    f"what was staged of section {live.section} was vacuumed meanwhile",
                    where=_place(atlas, collection),
                    hint="run again; nothing became visible",
                )
            verb = "added" if present.find(live.section) is None else "replaced"
            what = f"{verb} section {live.section}: {live.spots} spots"
            entry = LogEntry.now(actor, f"{what}, revision {live.revision[:16]}")
            return present.with_section(whole, entry, panels=staging.panels, condemn=shared)

        before, after = swap(atlas, collection, successor)
    old = before.find(live.section)
    status = ADDED if old is None else REPLACED
    if before is after:  # another writer published the same revision meanwhile
        status = UNCHANGED
    elif old is not None:
        removed += _remove(atlas, collection, old.revision, grace)
    return Outcome(status, staging.written, staging.resumed, removed, after.generation)


def _announce(atlas: Atlas, collection: str, live: LiveSection, actor: str) -> None:
    """Say in the manifest that this revision is being staged, when nobody is deleting it."""
    deadline = time.monotonic() + WAIT_CONDEMNED_S

    def successor(present: Manifest) -> Manifest | None:
        if live.revision in present.revisions:
            return None
        for condemned in present.condemned:
            if condemned.revision == live.revision:
                raise _BeingDeletedError(age_s(condemned.since))
        return present.with_staging(Staging(live.revision, live.section, actor[:200], now()))

    while True:
        try:
            swap(atlas, collection, successor)
        except _BeingDeletedError as error:
            if error.age_s > CONDEMNED_S:  # who condemned it was killed
                delete_revisions(atlas, collection, [live.revision])
            elif time.monotonic() > deadline:
                raise AtlasError(
                    f"an earlier deletion of this revision of section {live.section} is under way",
                    where=_place(atlas, collection),
                    hint=f"run again in {CONDEMNED_S - error.age_s:.0f} s",
                ) from None
            else:
                time.sleep(0.2)
        else:
            return


class _BeingDeletedError(Exception):
    """The revision to stage is condemned; since how many seconds."""

    def __init__(self, age_s: float) -> None:
        super().__init__(age_s)
        self.age_s = age_s


def retract_section(
    atlas: Atlas, collection: str, section: str, *, actor: str, grace: float = 0.0
) -> Outcome:
    """Take a section out: first out of sight, then its points. Parameters as `publish_section`.

    Where it is not live the outcome is ``"unchanged"``; remains of an interrupted retraction go.
    """
    shared = not sole_writer(atlas)
    removed = 0 if shared else sweep(atlas, collection)

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
    removed += _remove(atlas, collection, old.revision, grace)
    return Outcome(RETRACTED, 0, 0, removed, after.generation)


def _remove(atlas: Atlas, collection: str, revision: str, grace: float) -> int:
    if grace > 0:
        time.sleep(grace)
    return delete_revisions(atlas, collection, [revision])


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
