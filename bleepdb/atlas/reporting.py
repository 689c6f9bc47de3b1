"""What `verify` reports: faults, notes, and what was found of each section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bleepdb.errors import AtlasError

MOST_FAULTS = 200  # kept; further ones are counted


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it should be."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class SectionReport:
    """What was found of one live section.

    Attributes
    ----------
    section, revision, spots
        As the manifest says.
    found
        Points that were there.
    digest
        ``"equal"``, ``"different"``, ``"not recorded"`` (manifests of version 1) or
        ``"not computed"`` (a point could not be read).
    faults
        How many of its points or counts were at fault.
    """

    section: str
    revision: str
    spots: int
    found: int
    digest: str
    faults: int


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes
    ----------
    collection
        Its name.
    generation
        Of the manifest that was compared with; None where it could not be read.
    sections
        One entry a live section.
    faults
        What is wrong, the first `MOST_FAULTS`.
    notes
        What is no fault, but good to know.
    further
        Faults beyond those listed.
    """

    collection: str
    generation: int | None
    sections: tuple[SectionReport, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    further: int

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON value."""
        return {
            "collection": self.collection,
            "generation": self.generation,
            "sound": self.sound,
            "sections": [vars(s) for s in self.sections],
            "faults": [vars(f) for f in self.faults],
            "further_faults": self.further,
            "notes": list(self.notes),
        }


@dataclass
class Findings:
    """What is found while it is looked for; faults beyond `MOST_FAULTS` are counted alone."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    number: int = 0

    def fault(self, where: str, what: str) -> None:
        """Add a fault."""
        self.number += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(Fault(where, what))

    def error(self, where: str, error: AtlasError) -> None:
        """Add an error of the atlas as a fault."""
        place = f"{error.where}: " if error.where and error.where != where else ""
        self.fault(where, f"{place}{error.what}")
