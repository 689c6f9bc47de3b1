"""Sample sheets and sheets of slides: each row's state in short, and all faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bleepdb import names
from bleepdb.errors import BleepdbError, InputError, SectionError, SheetError
from bleepdb.inspecting.findings import Entry, Findings, quoted
from bleepdb.tissue.readers.layout import kind_of
from bleepdb.tissue.sheet import ALIASES, EXPRESSION, read_sheet
from bleepdb.tissue.slide_sheet import read_slide_sheet
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection
    from bleepdb.tissue.sheet import SheetRow

SLIDE_COLUMNS: Final = ("slide", "image")
MOST_OPENED: Final = 100
"""Rows whose images are opened."""


def is_sheet(columns: Sequence[str]) -> bool:
    """Tell a sample sheet by the names of its columns, though some are missing."""
    canonical = {ALIASES.get(c, c) for c in columns}
    required = {names.SECTION, names.DONOR, names.TISSUE, EXPRESSION}
    return EXPRESSION in canonical and len(required & canonical) >= 2


def is_slide_sheet(columns: Sequence[str]) -> bool:
    """Tell a sheet of slides by the names of its columns."""
    return any(c in columns for c in SLIDE_COLUMNS)


def inspect_sheet(path: Path) -> Inspection:
    """Tell what each row of a sample sheet names, and all faults."""
    found = Findings(path)
    try:
        rows = read_sheet(path)
    except SheetError as error:
        return _faulty(
            found, error, "sample sheet", "a sample sheet with faults", "train and index"
        )
    donors = {r.donor for r in rows}
    tissues = sorted({r.tissue for r in rows})
    found.fact("sections", len(rows))
    found.fact("donors", len(donors))
    found.fact("tissues", tissues)
    fields = sorted({f for r in rows for f in r.fields})
    found.fact("fields", fields)
    entries, bad = [], 0
    for number, row in enumerate(rows):
        state, good = _section_state(row, opened=number < MOST_OPENED)
        bad += not good
        entries.append(Entry(row.section, "section", state))
    if bad:
        found.lacks(
            f"{bad} of {len(rows)} sections in a state that can be used",
            needed_for="train and index",
            remedy="see each row; correct the sheet, or pass --exclude-section",
        )
    if len(donors) == 1:
        found.note("one donor: a model is tuned and judged within it, by leaving sections out")
    then = f"bleepdb train {quoted(path)} --out MODEL" if not bad else None
    return found.made("sample sheet", "a sample sheet", entries=tuple(entries), then=then)


def inspect_slide_sheet(path: Path) -> Inspection:
    """Tell what each row of a sheet of slides names, and all faults."""
    found = Findings(path)
    try:
        rows = read_slide_sheet(path)
    except SheetError as error:
        return _faulty(found, error, "slide sheet", "a sheet of slides with faults", "query")
    except InputError as error:
        found.lacks(
            f"slides of one name each: {error}",
            needed_for="query",
            remedy=error.hint or "rename one",
        )
        return found.made("slide sheet", "a sheet of slides with faults")
    entries, bad = [], 0
    for number, row in enumerate(rows):
        state, good = _slide_state(row.slide, row.mpp, opened=number < MOST_OPENED)
        bad += not good
        entries.append(Entry(row.name, "slide", state))
    found.fact("slides", len(rows))
    found.fact("fields", sorted({f for r in rows for f in r.fields}))
    if bad:
        found.lacks(
            f"{bad} of {len(rows)} slides in a state that can be queried",
            needed_for="query",
            remedy="see each row; correct the sheet",
        )
    then = f"bleepdb query {quoted(path)} --atlas ATLAS --tissue TISSUE --out FOLDER"
    return found.made(
        "slide sheet", "a sheet of slides", entries=tuple(entries), then=None if bad else then
    )


def _faulty(
    found: Findings, error: SheetError, kind: str, title: str, needed_for: str
) -> Inspection:
    """Tell all faults of a sheet."""
    found.fact("faults", error.faults, str(len(error.faults)))
    told = tuple(Entry(f"fault {n}", "fault", f) for n, f in enumerate(error.faults, 1))
    found.lacks(
        f"a sheet without faults (it has {len(error.faults)})",
        needed_for=needed_for,
        remedy="correct the sheet, then inspect it again",
    )
    return found.made(kind, title, entries=told)


def _section_state(row: SheetRow, *, opened: bool) -> tuple[str, bool]:
    """One row in short, and whether it can be used as far as was looked."""
    try:
        kind: str = kind_of(row.expression)
    except SectionError as error:
        return f"line {row.line}: {row.expression.name}: {error.what}", False
    about = f"{row.donor}, {row.tissue}, {row.species}: {kind}"
    if row.image is None:
        return f"{about}; no image named", True
    if not opened:
        return f"{about}; {row.image.name}", True
    state, good = _slide_state(row.image, row.mpp, opened=True)
    return f"{about}; {row.image.name} {state}", good or state.startswith("mpp")


def _slide_state(path: Path, mpp: float | None, *, opened: bool) -> tuple[str, bool]:
    """State of a slide that a sheet names: its size and mpp, or what is wrong."""
    if not opened:
        return "not opened", True
    try:
        with open_slide(path, mpp=mpp) as slide:
            width, height = slide.size_px
            size = f"{width:,} x {height:,} px"
            if slide.mpp is None:
                return f"mpp not stated ({size}): fill in the mpp column", False
            return f"{size}, {slide.mpp:.4g} µm/px", True
    except (BleepdbError, OSError, ValueError) as error:
        said = error.what if isinstance(error, BleepdbError) else str(error)
        return said[:200], False
