"""`verify`: read everything of a collection again and compare it with what it should be."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.atlas.checks import NORM_TOLERANCE, payload_fault, vector_crc
from bleepdb.atlas.digests import point_digest, section_digest
from bleepdb.atlas.panels import FOLDER as PANELS
from bleepdb.atlas.panels import get_panel, panel_blob
from bleepdb.atlas.payload import decode_fields
from bleepdb.atlas.protocol import Where
from bleepdb.atlas.reporting import Findings, Report, SectionReport
from bleepdb.atlas.snapshot import SnapshotAtlas
from bleepdb.atlas.staging import point_id
from bleepdb.errors import AtlasCorruptError, AtlasError, PayloadError
from bleepdb.files import canonical_json, digest
from bleepdb.names import (
    BARCODE,
    DONOR,
    MODEL_CARD_FILE,
    PANEL,
    RESERVED_FIELDS,
    REV,
    SECTION,
    SPECIES,
    TISSUE,
    VCRC,
    WEIGHTS_FILE,
    alias_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from bleepdb.atlas.entries import LiveSection
    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas, Record

POINTS_AT_ONCE = 500
MODEL_FOLDER = "model"


def verify(
    atlas: Atlas,
    collection: str,
    sections: Collection[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Read a collection again, whole, and collect all that is wrong with it.

    Compared are each live section's points with their number, their ids, the point schema, the
    checksums of their vectors, their panel, their own sums, the manifest's entry and the
    section's digest; panels and model with their digests; aliases and indexes with the manifest.
    No fault stops the rest, and nothing is changed.

    Parameters
    ----------
    atlas
        Any kind.
    collection
        Full name.
    sections
        Read the points of these sections alone; of all where None.
    progress
        Called with (points done, points).

    Raises
    ------
    EmptyAtlasError
        If there is no such collection, or nothing was ever indexed into it.
    """
    found = Findings()
    try:
        manifest = atlas.read_manifest(collection)
    except AtlasCorruptError as error:
        found.error("manifest", error)
        return Report(collection, None, (), tuple(found.faults), (), 0)
    if isinstance(atlas, SnapshotAtlas):
        for what in atlas.check_files(collection):
            found.fault("files", what)
    panels = _check_panels(atlas, manifest, found)
    _check_model(atlas, manifest, found)
    _check_aliases(atlas, manifest, found)
    chosen = [s for s in manifest.live if sections is None or s.section in sections]
    reports: list[SectionReport] = []
    if _check_revisions(atlas, manifest, found):
        _check_indexes(atlas, manifest, found)
        done = 0
        total = sum(live.spots for live in chosen)
        for live in chosen:

            def move(n: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + n, total)

            reports.append(_Section(atlas, manifest, live, panels, found).report(move))
            done += live.spots
    return Report(
        collection,
        manifest.generation,
        tuple(reports),
        tuple(found.faults),
        tuple(found.notes),
        found.number - len(found.faults),
    )


def _check_panels(atlas: Atlas, manifest: Manifest, found: Findings) -> dict[str, int | None]:
    """Return the size of each panel that the manifest names; None where it cannot be read."""
    sizes: dict[str, int | None] = {}
    for named in manifest.panels:
        try:
            sizes[named] = len(get_panel(atlas, manifest.collection, named))
        except AtlasError as error:
            sizes[named] = None
            found.fault(f"panel {named[:12]}", error.what)
    stored = [b for b in atlas.list_blobs(manifest.collection) if b.startswith(f"{PANELS}/")]
    unused = set(stored) - {panel_blob(p) for p in manifest.panels}
    if unused:
        found.notes.append(f"{len(unused)} stored panels are of no live section")
    return sizes


def _check_model(atlas: Atlas, manifest: Manifest, found: Findings) -> None:
    """Compare the model that travels with the collection with the manifest and its own card."""
    parts: dict[str, bytes | None] = {}
    for name in (MODEL_CARD_FILE, WEIGHTS_FILE):
        try:
            parts[name] = atlas.get_blob(manifest.collection, f"{MODEL_FOLDER}/{name}")
        except AtlasError as error:
            found.error(f"{MODEL_FOLDER}/{name}", error)
            return
    card, weights = parts[MODEL_CARD_FILE], parts[WEIGHTS_FILE]
    if card is None and weights is None:
        found.notes.append("no model is stored beside this collection")
        return
    where = MODEL_FOLDER
    if card is None or weights is None:
        found.fault(where, f"{MODEL_CARD_FILE if card is None else WEIGHTS_FILE} is missing")
        return
    weights_digest = hashlib.sha256(weights).hexdigest()
    if weights_digest != manifest.model_digest:
        found.fault(f"{where}/{WEIGHTS_FILE}", "is not the model that the manifest names")
    try:
        document = json.loads(card)
        rest = {k: v for k, v in document.items() if k != "checksum"}
        fits = document["checksum"] == digest("model", canonical_json(rest))
        named = document["weights_sha256"], document["space_id"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found.fault(f"{where}/{MODEL_CARD_FILE}", f"cannot be read ({error!r:.100})")
        return
    if not fits:
        found.fault(f"{where}/{MODEL_CARD_FILE}", "its checksum is wrong")
    elif named != (weights_digest, manifest.space_id):
        found.fault(f"{where}/{MODEL_CARD_FILE}", "is of another model than the collection")


def _check_aliases(atlas: Atlas, manifest: Manifest, found: Findings) -> None:
    try:
        aliases, there = atlas.aliases(), atlas.collections()
    except AtlasError as error:
        found.error("aliases", error)
        return
    for alias, target in aliases.items():
        if target not in there:
            found.fault(f"alias {alias}", f"points at {target}, which is not there")
    own = alias_name(manifest.tissue)
    if aliases.get(own) != manifest.collection:
        points_at = f"points at {aliases[own]}" if own in aliases else "is not there"
        found.notes.append(f"the alias {own} {points_at}")
    for alias, target in aliases.items():
        if target == manifest.collection and alias != own:
            found.fault(f"alias {alias}", f"points at a collection of {manifest.tissue}")


def _check_revisions(atlas: Atlas, manifest: Manifest, found: Findings) -> bool:
    """Note what is stored and not live; tell whether points can be read at all."""
    try:
        revisions = atlas.facet(manifest.collection, REV)
    except AtlasError as error:
        found.error("points", error)
        return False
    staged = {s.revision for s in manifest.staging}
    condemned = {c.revision for c in manifest.condemned}
    for name, wanted in (
        ("staged by a writer", staged),
        ("condemned and not deleted yet", condemned - staged),
        ("orphans of interrupted writers", None),
    ):
        dead = {
            r: n
            for r, n in revisions.items()
            if r not in manifest.revisions
            and (r in wanted if wanted is not None else r not in staged | condemned)
        }
        if dead:
            found.notes.append(
                f"{sum(dead.values())} points of {len(dead)} revisions are {name} "
                "(see `bleepdb atlas vacuum`)"
            )
    return True


def _check_indexes(atlas: Atlas, manifest: Manifest, found: Findings) -> None:
    for name in manifest.keyword_fields:
        try:
            atlas.count(manifest.collection, Where(must={name: ["-"]}))
        except AtlasError as error:
            found.fault(f"field {name}", f"cannot be filtered ({error.what})")


class _Section:
    """Reads the points of one live section and judges each."""

    def __init__(
        self,
        atlas: Atlas,
        manifest: Manifest,
        live: LiveSection,
        panels: dict[str, int | None],
        found: Findings,
    ) -> None:
        self.atlas, self.manifest, self.live = atlas, manifest, live
        self.panels, self.found = panels, found
        self.where = f"section {live.section}"
        self.digests: dict[str, bytes] = {}
        self.unreadable: Counter[str] = Counter()  # points a panel that is not there
        self.fields: set[str] = set()  # columns of the sample sheet in its points
        self.whole = True  # whether each point could be digested

    def report(self, move: Callable[[int], None]) -> SectionReport:
        earlier, number = self.found.number, 0
        collection, live = self.manifest.collection, self.live
        mine = Where(must={REV: [live.revision]})
        try:
            counted = self.atlas.count(collection, mine)
            if counted != live.spots:
                self._fault(f"{counted} of its {live.spots} points are there")
            ids = self.atlas.scroll(collection, where=mine, fields=[], batch=POINTS_AT_ONCE)
            for batch in ids:
                self._read([r.id for r in batch])
                number += len(batch)
                move(number)
            if number != counted:
                self._fault(f"{number} points can be listed and {counted} are counted")
        except AtlasError as error:
            self.whole = False
            self.found.error(self.where, error)
        for panel, points in self.unreadable.items():
            self.whole = False
            self._fault(f"the counts of {points} points need panel {panel[:12]}")
        lacking = sorted(self.fields - set(self.manifest.keyword_fields))
        if lacking:
            self.found.notes.append(f"{self.where}: {', '.join(lacking)} cannot be filtered")
        return SectionReport(
            live.section,
            live.revision,
            live.spots,
            number,
            self._compared(number),
            self.found.number - earlier,
        )

    def _fault(self, what: str) -> None:
        self.found.fault(self.where, what)

    def _compared(self, number: int) -> str:
        if not self.whole or number != self.live.spots:
            return "not computed"
        if self.live.points_digest is None:
            self.found.notes.append(
                f"{self.where}: the manifest of its time kept no digest of its points"
            )
            return "not recorded"
        if section_digest(self.digests) == self.live.points_digest:
            return "equal"
        self._fault("its points are not those that were published: their digest differs")
        return "different"

    def _read(self, ids: Sequence[str]) -> None:
        """Judge these points; where they cannot be read together, in ever smaller parts."""
        try:
            records = self.atlas.retrieve(self.manifest.collection, ids, with_vectors=True)
        except AtlasError as error:
            if len(ids) > 1 and isinstance(error, AtlasCorruptError):
                half = len(ids) // 2
                self._read(ids[:half])
                self._read(ids[half:])
                return
            self.whole = False
            self._fault(error.what)
            return
        for record in records:
            fault = self._judge(record)
            if fault is not None:
                self.whole = False
                self._fault(f"point {record.id}: {fault}")

    def _judge(self, record: Record) -> str | None:
        """Say what is wrong with a point; None, and its digest is kept, where nothing is."""
        payload, vectors = record.payload, record.vectors or {}
        fault = payload_fault(payload)
        if fault is not None:
            return fault
        self.fields |= payload.keys() - RESERVED_FIELDS
        expected = {
            SECTION: self.live.section,
            DONOR: self.live.donor,
            TISSUE: self.manifest.tissue,
            SPECIES: self.manifest.species,
        }
        for name, value in expected.items():
            if payload[name] != value:
                return f"its {name} is {payload[name]!r:.80}, not {value!r:.80}"
        if record.id != point_id(self.live.section, self.live.revision, payload[BARCODE]):
            return f"its id is not that of spot {payload[BARCODE]!r:.80}"
        if {n: len(v) for n, v in vectors.items()} != dict(self.manifest.vectors):
            return "it has other vectors than the collection"
        for name, vector in vectors.items():
            norm = float(np.linalg.norm(vector.astype(np.float64)))
            if not abs(norm - 1) <= NORM_TOLERANCE:
                return f"its {name} vector has norm {norm:.4g}, not 1"
        if payload[VCRC] != vector_crc(vectors):
            return "its vectors are not what was written"
        if payload[PANEL] not in self.panels:
            return f"its panel {payload[PANEL][:12]} is not one of the manifest's"
        size = self.panels[payload[PANEL]]
        if size is None:  # said of the panel, and once of the section
            self.unreadable[payload[PANEL]] += 1
            return None
        try:
            genes, counts = decode_fields(payload, n_genes=size)
        except PayloadError as error:
            return error.what
        self.digests[record.id] = point_digest(record.id, payload, vectors, genes, counts)
        return None
