"""Sample sheets and sheets of slides: each row's state in short, and all faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bleepdb import names
from bleepdb.errors import BleepdbError, SectionError, SheetError
from bleepdb.inspecting.findings import Entry, Findings, quoted
from bleepdb.tissue.geometry import mpp_fault
from bleepdb.tissue.readers.layout import kind_of
from bleepdb.tissue.readers.tables import read_rows
from bleepdb.tissue.sheet import ALIASES, EXPRESSION, read_sheet
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection
    from bleepdb.tissue.sheet import SheetRow

SLIDE_COLUMNS: Final = ("slide", "image")
MPP: Final = "mpp"
MOST_OPENED: Final = 100
"""Rows whose images are opened."""
MOST_SHEET: Final = 2**26


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
        found.fact("faults", error.faults, str(len(error.faults)))
        told = tuple(Entry(f"fault {n}", "fault", f) for n, f in enumerate(error.faults, 1))
        found.lacks(
            f"a sheet without faults (it has {len(error.faults)})",
            needed_for="train and index",
            remedy="correct the sheet, then inspect it again",
        )
        return found.made("sample sheet", "a sample sheet with faults", entries=told)
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
    """Tell what each row of a sheet of slides names, and what is wrong with it."""
    found = Findings(path)
    try:
        (_, head), *body = read_rows(path)
    except (SectionError, ValueError) as error:
        said = error.what if isinstance(error, SectionError) else "no rows"
        found.lacks("a table that can be read", needed_for="query", remedy=said)
        return found.made("slide sheet", "a sheet of slides that cannot be read")
    columns = [c.lower() for c in head]
    at = next(columns.index(c) for c in SLIDE_COLUMNS if c in columns)
    entries, bad = [], 0
    for number, (line, cells) in enumerate(body):
        if len(cells) != len(columns):
            state, good = f"{len(cells)} cells where the header has {len(columns)}", False
            name = f"line {line}"
        else:
            name = cells[at] or f"line {line}"
            stated = cells[columns.index(MPP)] if MPP in columns else ""
            state, good = _slide_state(path.parent / cells[at], stated, opened=number < MOST_OPENED)
        bad += not good
        entries.append(Entry(f"{line}: {name}", "slide", state))
    found.fact("slides", len(body))
    found.fact("columns", columns)
    if bad:
        found.lacks(
            f"{bad} of {len(body)} slides in a state that can be queried",
            needed_for="query",
            remedy="see each row; correct the sheet",
        )
    then = f"bleepdb query {quoted(path)} --atlas ATLAS --tissue TISSUE --out FOLDER"
    return found.made(
        "slide sheet", "a sheet of slides", entries=tuple(entries), then=None if bad else then
    )


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
    state, good = _slide_state(row.image, "" if row.mpp is None else str(row.mpp), opened=True)
    return f"{about}; {row.image.name} {state}", good or state.startswith("mpp")


def _slide_state(path: Path, stated: str, *, opened: bool) -> tuple[str, bool]:
    """State of a slide that a sheet names: its size and mpp, or what is wrong."""
    if not opened:
        return "not opened", True
    mpp = None
    if stated:
        try:
            mpp = float(stated)
        except ValueError:
            return f"mpp {stated[:20]!r} is not a number", False
        fault = mpp_fault(mpp)
        if fault is not None:
            return f"mpp {fault}", False
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
