"""What stands in a manifest: live sections, writers at work, copies, the log; and its clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SNAPSHOT, EXPORT, COPY = "snapshot", "export", "copy"  # kinds of copies


@dataclass(frozen=True)
class LiveSection:
    """One section that is visible.

    Parameters
    ----------
    section
        Its ``library_id``.
    revision
        What its points carry as ``rev``: 16 to 64 hex digits, other content, other revision.
    spots
        How many points it has, exactly.
    donor
        Whose tissue it is.
    digest
        Digest of the section as it was read (``Section.digest``), 64 hex digits.
    provenance
        Where it came from: any small JSON object.
    points_digest
        Digest over all its points (`bleepdb.atlas.digests.section_digest`), which `publish_section`
        fills in and `verify` compares; None where version 1 of the manifest did not keep one.
    """

    section: str
    revision: str
    spots: int
    donor: str
    digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    points_digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this section."""
        return {
            "section": self.section,
            "revision": self.revision,
            "spots": self.spots,
            "donor": self.donor,
            "digest": self.digest,
            "provenance": dict(self.provenance),
            "points_digest": self.points_digest,
        }


@dataclass(frozen=True)
class Staging:
    """A revision whose points a writer on a shared server is writing; none else deletes them.

    Several may write the same one: the token tells them apart.
    """

    revision: str
    section: str
    who: str
    since: str
    token: str


@dataclass(frozen=True)
class Condemned:
    """A dead revision whose points are being deleted; nobody stages it until they are gone."""

    revision: str
    section: str
    since: str


@dataclass(frozen=True)
class Copy:
    """Where points of this collection went, so that a retraction can say what it cannot reach.

    `kind` is ``"snapshot"``, ``"export"`` or ``"copy"``.
    """

    kind: str
    where: str
    who: str
    when: str


@dataclass(frozen=True)
class LogEntry:
    """Who changed what, and when (ISO 8601, UTC)."""

    who: str
    when: str
    what: str

    @classmethod
    def now(cls, who: str, what: str) -> LogEntry:
        """Return an entry of this moment; long texts are cut at 200 and 500 characters."""
        return cls(who[:200] or "unknown", now(), what[:500])


def now() -> str:
    """Return this moment, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat("T", "seconds")


def age_s(since: str) -> float:
    """Return how many seconds ago a moment was that `now` wrote; clocks may differ a little."""
    return (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
