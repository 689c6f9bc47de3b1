"""The manifest: what is live in a collection, and who made it so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bleepdb.atlas.entries import Condemned, Copy, LiveSection, LogEntry, Staging, now
from bleepdb.atlas.payload import BDB1
from bleepdb.atlas.protocol import Where
from bleepdb.contracts import check, sealed, unsealed
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.names import KEYWORD_FIELDS, REV

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

FORMAT = "bleepdb-manifest"
VERSION = 2  # version 1 had no digests of points, staging, condemned or copies
MOST_LOG = 1000  # entries kept, the newest; older ones are dropped
MOST_COPIES = 1000  # likewise
NONE_YET = -1  # the generation of a manifest that is not there yet
_MEND = "restore the atlas from a copy, or remove the collection and run `bleepdb index` again"


@dataclass(frozen=True)
class Manifest:
    """What is live in one collection. It is never edited, only replaced by its successor.

    Parameters
    ----------
    collection
        Full name, ``bleepdb_{tissue}_{space8}``.
    tissue, species
        What the collection holds; one of each.
    space_id
        The space of its vectors.
    model_digest
        Digest of the model that made them.
    key
        The vector that queries are compared with.
    vectors
        Vector name -> dimension.
    keyword_fields
        Fields that can be filtered.
    panels
        Digests of the panels that live points name.
    live
        Visible sections, in order of their names.
    generation
        Rises by one with every change.
    log
        The newest `MOST_LOG` changes, oldest first.
    codec
        The family of the payload codecs.
    staging
        Revisions that writers on a shared server are staging.
    condemned
        Dead revisions whose points are being deleted there.
    copies
        The newest `MOST_COPIES` snapshots, exports and copies that were made of it.
    """

    collection: str
    tissue: str
    species: str
    space_id: str
    model_digest: str
    key: str
    vectors: Mapping[str, int]
    keyword_fields: tuple[str, ...] = KEYWORD_FIELDS
    panels: tuple[str, ...] = ()
    live: tuple[LiveSection, ...] = ()
    generation: int = 0
    log: tuple[LogEntry, ...] = ()
    codec: str = BDB1
    staging: tuple[Staging, ...] = ()
    condemned: tuple[Condemned, ...] = ()
    copies: tuple[Copy, ...] = ()

    @property
    def spots(self) -> int:
        """How many points are visible."""
        return sum(s.spots for s in self.live)

    @property
    def revisions(self) -> frozenset[str]:
        """The live revisions."""
        return frozenset(s.revision for s in self.live)

    def find(self, section: str) -> LiveSection | None:
        """Return the live section of this name, or None."""
        return next((s for s in self.live if s.section == section), None)

    def stages(self, revision: str) -> bool:
        """Tell whether any writer has said that it stages this revision."""
        return any(s.revision == revision for s in self.staging)

    def condemns(self, revision: str) -> bool:
        """Tell whether the points of this revision are being deleted."""
        return any(c.revision == revision for c in self.condemned)

    def _next(self, entry: LogEntry | None = None, **changes: Any) -> Manifest:  # noqa: ANN401 - any field
        log = self.log if entry is None else (*self.log, entry)[-MOST_LOG:]
        return replace(self, generation=self.generation + 1, log=log, **changes)

    def with_section(
        self,
        new: LiveSection,
        entry: LogEntry,
        *,
        panels: Iterable[str] = (),
        token: str | None = None,
        condemn: bool = False,
    ) -> Manifest:
        """Return the successor in which `new` is live, in place of its earlier revision.

        The writer with this token stages it no longer. With `condemn` the earlier revision is
        condemned, unless somebody stages it again.
        """
        others = [s for s in self.live if s.section != new.section]
        old = self.find(new.section)
        condemn = condemn and old is not None and not self.stages(old.revision)
        return self._next(
            entry,
            live=tuple(sorted([*others, new], key=lambda s: s.section)),
            panels=tuple(sorted({*self.panels, *panels})),
            staging=tuple(s for s in self.staging if s.token != token),
            condemned=self._condemning(new.section) if condemn else self.condemned,
        )

    def without_section(self, section: str, entry: LogEntry, *, condemn: bool = False) -> Manifest:
        """Return the successor in which `section` is not live.

        With `condemn` its revision is condemned, and all that writers stage of the section with
        it: a retraction stands above a writer, who is told when it wants to publish.
        """
        gone = self.revisions_of(section) if condemn else ()
        known = {c.revision for c in self.condemned}
        return self._next(
            entry,
            live=tuple(s for s in self.live if s.section != section),
            staging=tuple(s for s in self.staging if s.revision not in gone),
            condemned=(
                *self.condemned,
                *(Condemned(rev, section, now()) for rev in gone if rev not in known),
            ),
        )

    def revisions_of(self, section: str) -> tuple[str, ...]:
        """Return the live revision of a section, and those that writers stage."""
        live = [s.revision for s in self.live if s.section == section]
        staged = [s.revision for s in self.staging if s.section == section]
        return tuple(dict.fromkeys([*live, *staged]))

    def _condemning(self, section: str) -> tuple[Condemned, ...]:
        old = self.find(section)
        if old is None:
            return self.condemned
        return (*self.condemned, Condemned(old.revision, section, now()))

    def with_staging(self, new: Staging) -> Manifest:
        """Return the successor that says who stages a revision."""
        others = (s for s in self.staging if s.token != new.token)
        return self._next(staging=(*others, new))

    def without_staging(self, token: str) -> Manifest:
        """Return the successor in which the writer with this token stages nothing."""
        return self._next(staging=tuple(s for s in self.staging if s.token != token))

    def with_condemned(
        self, new: Iterable[Condemned], *, abandoned: Collection[str] = ()
    ) -> Manifest:
        """Return the successor in which these revisions are condemned, and not staged.

        Neither do the writers with the tokens `abandoned` stage anything.
        """
        added = tuple(new)
        gone = {c.revision for c in added}
        return self._next(
            staging=tuple(
                s for s in self.staging if s.revision not in gone and s.token not in abandoned
            ),
            condemned=(*(c for c in self.condemned if c.revision not in gone), *added),
        )

    def without_condemned(self, revisions: Collection[str]) -> Manifest:
        """Return the successor in which these revisions are forgotten: their points are gone."""
        return self._next(condemned=tuple(c for c in self.condemned if c.revision not in revisions))

    def with_copy(self, new: Copy, entry: LogEntry) -> Manifest:
        """Return the successor that knows of a snapshot, an export or a copy."""
        same = (new.kind, new.where)
        others = (c for c in self.copies if (c.kind, c.where) != same)
        return self._next(entry, copies=(*others, new)[-MOST_COPIES:])

    def with_entry(self, entry: LogEntry) -> Manifest:
        """Return the successor that differs by an entry in the log alone."""
        return self._next(entry)

    def without_panels(self, digests: Collection[str], entry: LogEntry) -> Manifest:
        """Return the successor that names these panels no more: no live point was measured on."""
        return self._next(entry, panels=tuple(p for p in self.panels if p not in digests))

    def with_fields(self, fields: Iterable[str], entry: LogEntry) -> Manifest:
        """Return the successor in which these fields, too, can be filtered."""
        return self._next(
            entry, keyword_fields=tuple(dict.fromkeys([*self.keyword_fields, *fields]))
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, with its checksum.

        Raises
        ------
        AtlasError
            If the manifest breaks schemas/manifest.schema.json.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            "collection": self.collection,
            "tissue": self.tissue,
            "species": self.species,
            "codec": self.codec,
            "space_id": self.space_id,
            "model_digest": self.model_digest,
            "key": self.key,
            "vectors": dict(self.vectors),
            "keyword_fields": list(self.keyword_fields),
            "panels": list(self.panels),
            "live": [s.to_json() for s in self.live],
            "generation": self.generation,
            "log": [{"who": e.who, "when": e.when, "what": e.what} for e in self.log],
            "staging": [asdict(s) for s in self.staging],
            "condemned": [asdict(c) for c in self.condemned],
            "copies": [asdict(c) for c in self.copies],
        }
        try:
            made = sealed("manifest", document)
        except (TypeError, ValueError) as error:  # what is no JSON, in a provenance
            raise AtlasError(
                f"a manifest cannot hold this ({error})", where=self.collection
            ) from error
        check("manifest", made, where=self.collection, error=AtlasError)
        return made

    @classmethod
    def from_json(cls, document: object, *, where: str | Path | None = None) -> Manifest:
        """Read what `to_json` wrote.

        Parameters
        ----------
        document
            The JSON object.
        where
            Where it was read, for the message.

        Raises
        ------
        AtlasCorruptError
            If it breaks the schema, was changed since it was written, or contradicts itself.
        AtlasError
            If a newer bleepdb wrote it.
        """
        found = unsealed(
            "manifest", document, newest=VERSION, where=where, hint=_MEND,
            error=AtlasError, damaged=AtlasCorruptError,
        )  # fmt: skip
        return cls._of(found, where)

    @classmethod
    def _of(cls, document: dict[str, Any], where: str | Path | None) -> Manifest:
        live = tuple(LiveSection(**s) for s in document["live"])
        names, revisions = {s.section for s in live}, {s.revision for s in live}
        if len(names) != len(live) or len(revisions) != len(live):
            raise AtlasCorruptError("the manifest names a section twice", where=where, hint=_MEND)
        if document["key"] not in document["vectors"]:
            raise AtlasCorruptError("the manifest's key is no vector", where=where, hint=_MEND)
        return cls(
            collection=document["collection"],
            tissue=document["tissue"],
            species=document["species"],
            space_id=document["space_id"],
            model_digest=document["model_digest"],
            key=document["key"],
            vectors=document["vectors"],
            keyword_fields=tuple(document["keyword_fields"]),
            panels=tuple(document["panels"]),
            live=live,
            generation=document["generation"],
            log=tuple(LogEntry(**e) for e in document["log"]),
            codec=document["codec"],
            # Version 1 had none of these.
            staging=tuple(Staging(**s) for s in document.get("staging", ())),
            condemned=tuple(Condemned(**c) for c in document.get("condemned", ())),
            copies=tuple(Copy(**c) for c in document.get("copies", ())),
        )

    def to_bytes(self) -> bytes:
        """Return the JSON text as stored in a file."""
        return (json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str | Path | None = None) -> Manifest:
        """Read what `to_bytes` wrote; errors as `from_json`."""
        return cls.from_json(data, where=where)


def live_where(manifest: Manifest) -> Where:
    """Return the filter that every reader sets: points of live revisions, and no others."""
    return Where(must={REV: sorted(manifest.revisions)})
