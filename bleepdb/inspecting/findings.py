"""What an inspection found, as a value: facts, what is missing, notes, the next command."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = "bleepdb-inspection"
VERSION: Final = 1
MOST_TEXT: Final = 2000
"""Longer texts from files are cut."""
MOST_ENTRIES: Final = 200
"""Of a folder or a sheet; further ones are counted."""


@dataclass(frozen=True)
class Fact:
    """One finding.

    Parameters
    ----------
    name
        Short, lower case; unique in an inspection.
    value
        Any JSON value.
    text
        How it is shown; None: as the value is.
    """

    name: str
    value: Any
    text: str | None = None

    @property
    def shown(self) -> str:
        """The value in words."""
        return worded(self.value) if self.text is None else self.text


@dataclass(frozen=True)
class Missing:
    """Something that is not there.

    Parameters
    ----------
    what
        What it is.
    needed_for
        What cannot be done without it.
    remedy
        The option, column or command that helps.
    """

    what: str
    needed_for: str
    remedy: str


@dataclass(frozen=True)
class Entry:
    """One of several things: an entry of a folder, a row of a sheet."""

    name: str
    kind: str
    state: str


@dataclass(frozen=True)
class Inspection:
    """What a path is.

    Parameters
    ----------
    path
        As it was given.
    kind
        One word or two, of a fixed list (schemas/inspection.schema.json).
    title
        What it is, as a clause.
    facts, missing, notes
        What was found, what was not, and what is doubtful.
    entries
        Of a folder or a sheet, the first of them.
    further
        How many more there are.
    next
        A command that takes this path as it is, words in capitals to be filled in; None where
        nothing takes it.
    """

    path: Path
    kind: str
    title: str
    facts: tuple[Fact, ...] = ()
    missing: tuple[Missing, ...] = ()
    notes: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    further: int = 0
    next: str | None = None

    def value(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value of a fact; None where there is none of this name."""
        return next((f.value for f in self.facts if f.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object (schemas/inspection.schema.json)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "path": text_of(self.path),
            "kind": self.kind,
            "title": text_of(self.title),
            "facts": {f.name: _jsonable(f.value) for f in self.facts},
            "missing": [
                {
                    "what": text_of(m.what),
                    "needed_for": text_of(m.needed_for),
                    "remedy": text_of(m.remedy),
                }
                for m in self.missing
            ],
            "notes": [text_of(n) for n in self.notes],
            "entries": [
                {"name": text_of(e.name), "kind": e.kind, "state": text_of(e.state)}
                for e in self.entries
            ],
            "further": self.further,
            "next": None if self.next is None else text_of(self.next),
        }


@dataclass
class Findings:
    """What is collected while a path is looked at."""

    path: Path
    facts: list[Fact] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fact(self, name: str, value: Any, text: str | None = None) -> None:  # noqa: ANN401 - any JSON value
        """Add a finding."""
        self.facts.append(Fact(name, value, text))

    def lacks(self, what: str, *, needed_for: str, remedy: str) -> None:
        """Add what is missing."""
        self.missing.append(Missing(what, needed_for, remedy))

    def note(self, text: str) -> None:
        """Add a doubt."""
        self.notes.append(" ".join(text.split()))

    def value(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return the value of a fact; None where there is none of this name."""
        return next((f.value for f in self.facts if f.name == name), None)

    def made(
        self,
        kind: str,
        title: str,
        *,
        then: str | None = None,
        entries: tuple[Entry, ...] = (),
        further: int = 0,
    ) -> Inspection:
        """Return the inspection."""
        return Inspection(
            self.path,
            kind,
            title,
            tuple(self.facts),
            tuple(self.missing),
            tuple(self.notes),
            entries[:MOST_ENTRIES],
            further + max(0, len(entries) - MOST_ENTRIES),
            then,
        )


def worded(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Word a JSON value on one line."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(worded, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k} {worded(v)}" for k, v in value.items()) or "none"
    return str(value)


def text_of(value: object) -> str:
    """Return text that can be written as UTF-8, whatever bytes a name holds; long ones are cut."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    return shlex.quote(text_of(path))


def size_text(size: int) -> str:
    """Word a number of bytes."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _jsonable(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value that JSON holds: no NaN, no broken text, no NumPy numbers."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {text_of(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return text_of(value)
