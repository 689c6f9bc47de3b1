"""Staging: the points of a revision that nobody sees yet."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import TYPE_CHECKING, Any

from bleepdb.atlas.checks import payload_fault
from bleepdb.atlas.digests import point_digest, section_digest
from bleepdb.atlas.entries import Staging, age_s, now
from bleepdb.atlas.panels import get_panel
from bleepdb.atlas.payload import decode_fields
from bleepdb.atlas.protocol import Points, Where
from bleepdb.atlas.sweeping import CONDEMNED_S, delete_revisions, swap
from bleepdb.errors import AtlasCorruptError, AtlasError, PayloadError
from bleepdb.names import BARCODE, DONOR, PANEL, REV, SECTION, SPECIES, TISSUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.atlas.entries import LiveSection
    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas

POINT_NAMESPACE = uuid.UUID("6f3b8a52-6d0e-5c5b-9a1e-b1ee9d8a0001")
WAIT_CONDEMNED_S = 30.0  # how long a writer waits for another to delete what it wants to stage


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


def announce(atlas: Atlas, collection: str, live: LiveSection, actor: str) -> str:
    """Say in the manifest that this revision is being staged, when nobody is deleting it.

    Returns
    -------
    str
        The token by which the manifest knows this writer.

    Raises
    ------
    AtlasError
        If an earlier deletion of the same revision does not come to its end.
    """
    deadline = time.monotonic() + WAIT_CONDEMNED_S
    token = secrets.token_hex(8)

    def successor(present: Manifest) -> Manifest:
        for condemned in present.condemned:
            if condemned.revision == live.revision:
                raise _BeingDeletedError(age_s(condemned.since))
        who = actor[:200] or "unknown"
        return present.with_staging(Staging(live.revision, live.section, who, now(), token))

    while True:
        try:
            swap(atlas, collection, successor)
        except _BeingDeletedError as error:
            if error.age_s > CONDEMNED_S:  # who condemned it was killed
                delete_revisions(atlas, collection, [live.revision])
            elif time.monotonic() > deadline:
                raise AtlasError(
                    f"an earlier deletion of this revision of section {live.section} is under way",
                    where=f"{atlas.location}/{collection}",
                    hint=f"run again in {CONDEMNED_S - error.age_s:.0f} s",
                ) from None
            else:
                time.sleep(0.2)
        else:
            return token


class _BeingDeletedError(Exception):
    """The revision to stage is condemned; since how many seconds."""

    def __init__(self, age_s: float) -> None:
        super().__init__(age_s)
        self.age_s = age_s


class PublishedMeanwhileError(Exception):
    """Another writer has published the very revision that is being staged."""


class Stage:
    """Writes the points of one revision that are not there yet, and digests all of them.

    What an interrupted call staged is kept where it is the same to the bit; a point that is not
    (a network may compute otherwise in its last digits the second time) is written again. Where
    another writer stages the same revision, its points may be in the place of these: then the
    digest is made of what is there, and once that writer has published, nothing more is written.

    Parameters
    ----------
    atlas, manifest, live
        Where, and what shall be live.
    token
        Of `announce`, on an atlas that several processes write to.
    """

    def __init__(
        self, atlas: Atlas, manifest: Manifest, live: LiveSection, *, token: str | None = None
    ) -> None:
        self.atlas, self.manifest, self.live, self.token = atlas, manifest, live, token
        self.collection = manifest.collection
        self.where = f"{atlas.location}/{self.collection}"
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
                    if payload_fault(record.payload) is not None:
                        return {}
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
            if self.token is not None and self.live.revision in self._present().revisions:
                raise PublishedMeanwhileError
            self.atlas.upsert(self.collection, _rows(points, rows))
            self.written += len(rows)

    def _present(self) -> Manifest:
        return self.atlas.read_manifest(self.collection)

    def _alone(self) -> bool:
        """Tell whether nobody else has said that he stages this revision."""
        return self.token is None or not any(
            s.revision == self.live.revision and s.token != self.token
            for s in self._present().staging
        )

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
        stored = self.seen if self._alone() else self._staged_already()
        if len(stored) != number:
            raise AtlasCorruptError(
                f"points of section {self.live.section} are not what two writers gave",
                where=self.where,
                hint="run again; nothing became visible",
            )
        digest = section_digest(stored)
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
