"""Many slides: a sheet with one row a slide, or paths; and which of them one job takes."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bleepdb.errors import InputError, SheetError
from bleepdb.names import DONOR, LIBRARY_ID, SPECIES_KNOWN
from bleepdb.tissue.geometry import mpp_fault
from bleepdb.tissue.mask import METHODS
from bleepdb.tissue.readers.store import is_zarr
from bleepdb.tissue.sheet_frame import Fault, read_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SLIDE: Final = "slide"
MPP: Final = "mpp"
SPOTS: Final = "spots"
MASK: Final = "mask"
KNOWN: Final = (SLIDE, MPP, DONOR, LIBRARY_ID, SPOTS, MASK)
ALIASES: Final = {
    "image": SLIDE,
    "patient": DONOR,
    "section": LIBRARY_ID,
    "sample": LIBRARY_ID,
    "sample_id": LIBRARY_ID,
}
COMPARED: Final = frozenset({"species", "tissue", "assay"})  # reserved, and fields of a slide too
LONGEST_NAME: Final = 120
SHARD: Final = re.compile(r"(?P<index>[0-9]{1,6})/(?P<of>[0-9]{1,6})")
AUTO_SHARD: Final = "auto"


@dataclass(frozen=True)
class SlideRow:
    """One slide of many; nothing of it is read yet.

    Parameters
    ----------
    slide
        The image.
    name
        Of the slide and its output: letters, digits and ``. _ -``, no two alike in a run.
    mpp, mpp_source
        Microns per level-0 pixel as the sheet or an option says, or None; and which of them.
    donor
        Whose slide it is, or None.
    spots
        A table of places, or None for a grid.
    mask
        How its tissue is found, or None.
    fields
        Further columns that are not empty.
    line
        Line in the sheet, from 1; 0 where there is no sheet.
    """

    slide: Path
    name: str
    mpp: float | None = None
    donor: str | None = None
    spots: Path | None = None
    mask: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    line: int = 0
    mpp_source: str = "sheet"


def read_slide_sheet(path: Path, *, masks: Sequence[str] = METHODS) -> list[SlideRow]:
    """Read a sheet of slides (CSV or TSV) and check all of it before a slide is opened.

    Columns: ``slide`` (or ``image``) is required; ``mpp``, ``donor`` (or ``patient``),
    ``library_id`` (or ``section``, ``sample``, ``sample_id``), ``spots`` and ``mask`` are
    optional; any further column is a field of the slide. Relative paths start at the sheet's
    folder.

    Parameters
    ----------
    path
        The sheet.
    masks
        What ``mask`` may be beside a file.

    Raises
    ------
    SheetError
        With all faults, each with its line and column.
    """
    path = Path(path)
    frame = read_frame(path, required=(SLIDE,), known={*KNOWN, *COMPARED}, aliases=ALIASES)
    faults = list(frame.faults)
    rows: list[SlideRow] = []
    named: dict[str, int] = {}
    for line, cells in frame.rows:
        row, broken = _row(cells, path.parent, line, masks)
        faults += [f"line {line}, column {column}: {text}" for column, text in broken]
        if row is None:
            continue
        if row.name:
            earlier = named.setdefault(row.name.casefold(), line)
            if earlier != line:
                faults.append(
                    f"line {line}, column {LIBRARY_ID}: {row.name} stands in line {earlier} too"
                )
        rows.append(row)
    if faults:
        raise SheetError(path, faults)
    return with_names(rows)


def rows_of_paths(paths: Sequence[Path]) -> list[SlideRow]:
    """Return the rows of slides that are given by their paths, each with a name of its own.

    Raises
    ------
    InputError
        If a path is a folder, or stands twice.
    """
    for path in paths:
        if path.is_dir() and not is_zarr(path):
            raise InputError(
                "is a folder", where=path, hint=f"name its slides, such as {path}/*.svs"
            )
    return with_names([SlideRow(Path(p), "") for p in paths])


def with_names(rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Name the slides that have no name: as their files, and where those are alike, with folders.

    Raises
    ------
    InputError
        If a slide stands twice under no name of its own.
    """
    given = {r.name.casefold() for r in rows if r.name}
    unnamed = [i for i, r in enumerate(rows) if not r.name]
    whole = {i: Path(os.path.abspath(rows[i].slide)) for i in unnamed}  # noqa: PTH100 - links are not followed
    twins = Counter(path.with_suffix("") for path in set(whole.values()))  # a.svs beside a.tif
    parts = {
        i: (path if twins[path.with_suffix("")] > 1 else path.with_suffix("")).parts
        for i, path in whole.items()
    }
    depth = dict.fromkeys(unnamed, 1)
    while True:
        made = {i: safe_name("_".join(parts[i][-depth[i] :])) for i in unnamed}
        count = Counter(name.casefold() for name in made.values())
        alike = [i for i in unnamed if count[made[i].casefold()] > 1 or made[i].casefold() in given]
        if not alike:
            return [replace(r, name=made[i]) if i in made else r for i, r in enumerate(rows)]
        longer = [i for i in alike if depth[i] < len(parts[i])]
        if not longer:
            first = rows[alike[0]]
            raise InputError(
                "stands twice, or has the name of another slide",
                where=first.slide,
                hint="leave one out, or give names in a sheet's library_id column",
            )
        for i in longer:
            depth[i] += 1


def safe_name(text: str) -> str:
    """Return a name that can be a file's on any system and a key in an AnnData."""
    made = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in text)
    made = made[-LONGEST_NAME:]
    return made if made[:1].isalnum() else f"_{made[1:]}"


def parse_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Read ``i/n``, or take it from the Slurm array that this job is one of.

    Parameters
    ----------
    text
        ``i/n`` with 1 <= i <= n, or ``auto``.
    environment
        Where ``SLURM_ARRAY_TASK_ID``, ``_MIN``, ``_STEP`` and ``_COUNT`` may stand.

    Raises
    ------
    InputError
        If it is neither, or this is no job of an array whose ids rise by even steps.
    """
    if text == AUTO_SHARD:
        return _slurm_shard(environment)
    found = SHARD.fullmatch(text.strip())
    index, of = (int(found["index"]), int(found["of"])) if found else (0, 0)
    if not 1 <= index <= of:
        raise InputError(
            f"{text!r:.40} is no shard", hint="write --shard 2/8 for the second of eight, or auto"
        )
    return index, of


def _slurm_shard(environment: Mapping[str, str]) -> tuple[int, int]:
    prefix, hint = "SLURM_ARRAY_TASK_", "write --shard i/n"
    told = {k: environment.get(prefix + k, "") for k in ("ID", "MIN", "MAX", "COUNT")}
    if not all(v.isdecimal() for v in told.values()):
        raise InputError(f"this is no job of a Slurm array ({prefix}ID is not set)", hint=hint)
    number, first, last, count = (int(told[k]) for k in ("ID", "MIN", "MAX", "COUNT"))
    step, rest = divmod(last - first, max(count - 1, 1))
    place, beside = divmod(number - first, max(step, 1))
    if count < 1 or rest or beside or not 0 <= place < count:
        raise InputError("the ids of this Slurm array do not rise by even steps", hint=hint)
    return place + 1, count


def shard_of(rows: Sequence[SlideRow], index: int, of: int) -> list[SlideRow]:
    """Return the rows of one shard, from 1: each row is in one shard, whatever the order is."""
    ranked = sorted(range(len(rows)), key=lambda i: rows[i].name)
    mine = {i for rank, i in enumerate(ranked) if rank % of == index - 1}
    return [row for i, row in enumerate(rows) if i in mine]


def _row(
    cells: Mapping[str, str], base: Path, line: int, masks: Sequence[str]
) -> tuple[SlideRow | None, list[Fault]]:
    """Check one row; a column that the header lacks is no fault of the row."""
    unprintable = sorted(c for c, cell in cells.items() if not cell.isprintable())
    faults: list[Fault] = [(column, "holds control characters") for column in unprintable]
    if SLIDE in cells and not cells[SLIDE]:
        faults.append((SLIDE, "empty"))
    cells = {c: v for c, v in cells.items() if v and c not in unprintable}
    faults += [
        (column, f"{base / cells[column]} is no file")
        for column in (SLIDE, SPOTS)
        if column in cells
        and not _is_file(base / cells[column])
        and not (column == SLIDE and is_zarr(base / cells[column]))
    ]
    name = cells.get(LIBRARY_ID, "")
    if name and (safe_name(name) != name or len(name) > LONGEST_NAME):
        faults.append(
            (
                LIBRARY_ID,
                f"{name!r:.60}: use letters, digits and . _ -, at most {LONGEST_NAME}, no blanks",
            )
        )
    mpp = None
    if MPP in cells:
        try:
            mpp = float(cells[MPP])
        except ValueError:
            faults.append((MPP, f"{cells[MPP]!r:.40} is not a number"))
        else:
            fault = mpp_fault(mpp)
            if fault is not None:
                faults.append((MPP, fault))
    species = cells.get("species", SPECIES_KNOWN[0]).lower()
    if species not in SPECIES_KNOWN:
        faults.append(("species", f"{species!r:.40} is not known; use {', '.join(SPECIES_KNOWN)}"))
    mask = cells.get(MASK)
    if mask is not None and mask.lower() not in masks:
        if not _is_there(base / mask):  # a store is a folder
            named = f" (and is none of {', '.join(masks)})" if masks else ""
            faults.append((MASK, f"{base / mask} does not exist{named}"))
        mask = str(base / mask)
    elif mask is not None:
        mask = mask.lower()
    if faults or SLIDE not in cells:
        return None, faults
    return SlideRow(
        slide=base / cells[SLIDE],
        name=name,
        mpp=mpp,
        donor=cells.get(DONOR),
        spots=base / cells[SPOTS] if SPOTS in cells else None,
        mask=mask,
        fields={c: v for c, v in cells.items() if c not in KNOWN},
        line=line,
    ), []


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False
