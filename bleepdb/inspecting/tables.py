"""Tables of text and Parquet: counts, spots, sheets, features, gene lists, and what is none."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException

from bleepdb.errors import BleepdbError, InputError, SectionError
from bleepdb.inspecting.findings import Findings, quoted, size_text
from bleepdb.inspecting.looking import line_count, text_head
from bleepdb.inspecting.matrices import (
    BARCODE_FILES,
    FEATURE_FILES,
    MATRIX_FILES,
    inspect_matrix_part,
)
from bleepdb.inspecting.placing import inspect_positions, spots_next
from bleepdb.inspecting.sections import indexing_next, mpp_facts, needs_image
from bleepdb.inspecting.sheets import inspect_sheet, inspect_slide_sheet, is_sheet, is_slide_sheet
from bleepdb.names import X_PX, Y_PX
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.legacy_st import (
    NAMED_COLUMNS,
    PIXEL_COLUMNS,
    find_image,
    find_spot_table,
    read_selection,
    stem_of,
)
from bleepdb.tissue.readers.legacy_st import SPOT as SPOT_NAME
from bleepdb.tissue.readers.positions import is_positions
from bleepdb.tissue.readers.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection

BARCODE: Final = re.compile(r"[ACGT]{14,}(-\d+)?|s_\d{3}um_\d{5}_\d{5}(-\d+)?")
GENE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]{1,24}")
MOST_TABLE: Final = 2**28
WIDE: Final = 2**21
"""Characters of a table that are looked at: a header of all genes has 200,000."""
MOST_SPOTS: Final = 2**25
LONGEST_LINE: Final = 2**24
TABLES: Final = (".csv", ".tsv", ".txt", ".tab", ".csv.gz", ".tsv.gz", ".txt.gz")


def inspect_text(path: Path) -> Inspection:
    """Tell what a text is: one of the tables that bleepdb reads, another table, or just text.

    Raises
    ------
    InputError
        If it is no text.
    """
    head = text_head(path, WIDE)
    if head is None:
        raise InputError("is no text", where=path)
    name = path.name
    if name in MATRIX_FILES or (
        name in (*FEATURE_FILES, *BARCODE_FILES)
        and any((path.parent / m).is_file() for m in MATRIX_FILES)
    ):
        return inspect_matrix_part(path)
    rows = _rows(head)
    told = _known(path, rows) if rows else None
    return told if told is not None else _other(path, rows, head)


def _known(path: Path, rows: Sequence[Sequence[str]]) -> Inspection | None:
    """Tell a table that bleepdb reads; None where it is none of them."""
    header = list(rows[0])
    lower = [c.lower() for c in header]
    if is_positions(header):
        return inspect_positions(path)
    if {"x", "y", *PIXEL_COLUMNS} <= set(header):
        return _selection(path)
    if is_sheet(lower):
        return inspect_sheet(path)
    if {"x_px", "y_px"} <= set(lower):
        return _spots(path, header)
    if is_slide_sheet(lower):
        return inspect_slide_sheet(path)
    body = [r for r in rows[1:6] if r]
    spots = bool(body) and all(SPOT_NAME.fullmatch(r[0]) for r in body)
    if spots and any(set(c) <= set(header) for c in NAMED_COLUMNS):
        return _selection(path)
    if body and len(header) > 2 and (spots or _spots_are_columns(header)):
        return _counts(path, header)
    if len(header) == 1 and path.name.lower().endswith(TABLES):
        cells = [r[0] for r in rows if r]
        if all(BARCODE.fullmatch(c) for c in cells):
            return _listed(path, "barcodes", "a list of barcodes")
        if all(GENE.fullmatch(c) for c in cells):
            return _listed(path, "gene list", "a list of genes")
    return None


def _counts(path: Path, header: Sequence[str]) -> Inspection:
    """Tell legacy ST counts: spots, genes, the spot table and the image beside."""
    found = Findings(path)
    names, width, whole = _first_cells(path)
    genes = [c for c in header if c][-width:]
    if _spots_are_columns(header):
        names, genes = [c for c in header if c], names
    found.fact("spots", len(names))
    found.fact("genes", len(genes))
    stem = stem_of(path)
    if not whole:
        found.lacks(
            "raw counts: values that are not whole numbers stand in it",
            needed_for="train and index",
            remedy="give the raw counts",
        )
    twice = len(genes) - len(set(genes))
    if twice:
        found.lacks(
            f"unique gene names ({twice:,} stand twice)",
            needed_for="train and index",
            remedy="make the names unique",
        )
    try:
        joined = _joined(found, find_spot_table(path.parent, stem), names)
    except SectionError as error:
        found.lacks("the spot table", needed_for="places", remedy=error.hint or "put it beside")
        joined = False
    image = find_image(path.parent, stem)
    found.fact("image", None if image is None else image.name, None if image else "none beside it")
    if image is None:
        needs_image(found)
    whole = whole and not twice
    then = indexing_next(path, image=image is None) if joined and whole else None
    return found.made("legacy st", "a table of counts of legacy Spatial Transcriptomics", then=then)


def _spots_are_columns(header: Sequence[str]) -> bool:
    """Tell counts whose columns are spots and whose rows are genes."""
    named = [c for c in header if c]
    return len(named) > 1 and all(SPOT_NAME.fullmatch(c) for c in named[1:])


def _joined(found: Findings, table: Path, names: Sequence[str]) -> bool:
    try:
        spots = read_selection(table)
    except BleepdbError as error:
        found.lacks(
            f"a spot table that can be read ({table.name}: {error.what})",
            needed_for="places",
            remedy=error.hint or "write it again",
        )
        return False
    both = len(set(names) & set(spots.names))
    found.fact("spot table", table.name)
    found.fact(
        "join",
        {"counted": len(names), "placed": both},
        f"{both} of {len(names)} spots with counts have a place ({len(spots.names)} places)",
    )
    if 2 * both < len(names):
        found.lacks(
            f"places of more than half of the spots ({both} of {len(names)})",
            needed_for="train and index",
            remedy="give the counts and the spot table of the same section",
        )
        return False
    made = scales.ST_PITCH_UM * spots.array_xy
    mpp_facts(found, {"array pitch": scales.mpp_of_array(made, spots.xy_px, scales.ST_PITCH_UM)})
    return True


def _first_cells(path: Path) -> tuple[list[str], int, bool]:
    """Names of the rows, columns of values, and whether the first values are whole numbers."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    names: list[str] = []
    width, whole, seen = 0, True, 0
    try:
        with opened(path, "rb") as handle:
            handle.readline(LONGEST_LINE)
            while (line := handle.readline(LONGEST_LINE)) and seen < MOST_TABLE:
                seen += len(line)
                cells = line.split(b"\t") if b"\t" in line else line.split(b",")
                if not cells[0].strip():
                    continue
                names.append(cells[0].strip().strip(b'"').decode("utf-8", "replace"))
                width = max(width, len(cells) - 1)
                if len(names) <= 20:
                    whole = whole and all(_is_whole(c) for c in cells[1:])
    except (OSError, EOFError, zlib.error):
        return names, width, False
    return names, width, whole


def _is_whole(cell: bytes) -> bool:
    try:
        return float(cell) == int(float(cell)) >= 0
    except (ValueError, OverflowError):
        return False


def _selection(path: Path) -> Inspection:
    found = Findings(path)
    spots = read_selection(path)
    found.fact("spots", len(spots.names))
    stem = path.name.removesuffix(".gz").removesuffix("_selection.tsv")
    beside = [p for p in (path.with_name(f"{stem}.tsv.gz"), path.with_name(f"{stem}.tsv"))
              if p.is_file()]  # fmt: skip
    found.fact("counts", beside[0].name if beside else None, None if beside else "none beside it")
    then = spots_next(path)
    if beside:
        then = f"bleepdb inspect {quoted(beside[0])}"
    return found.made("spots", "a spot table of legacy Spatial Transcriptomics", then=then)


def _spots(path: Path, header: Sequence[str]) -> Inspection:
    found = Findings(path)
    title = "a table of places (x_px, y_px)"
    lines = line_count(path)
    found.fact("spots", None if lines is None else lines - 1)
    found.fact("columns", list(header[:20]))
    if path.stat().st_size <= MOST_SPOTS:
        try:
            table = Table.read(path)
            places = np.column_stack([table.numbers(c) for c in (X_PX, Y_PX)])
        except SectionError as error:
            found.lacks(f"places that can be read: {error.what}", needed_for="query --spots",
                        remedy=error.hint or "correct the table")  # fmt: skip
            return found.made("spots", title)
        (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0)
        found.fact("bounds px", [float(v) for v in (left, right, top, bottom)],
                   f"x {left:,.0f} to {right:,.0f}, y {top:,.0f} to {bottom:,.0f}")  # fmt: skip
        if min(left, top) < 0:
            found.lacks("places inside an image (some are negative)", needed_for="query --spots",
                        remedy="write places in level-0 pixels of the slide")  # fmt: skip
            return found.made("spots", title)
    return found.made("spots", title, then=spots_next(path))


def _listed(path: Path, kind: str, title: str) -> Inspection:
    found = Findings(path)
    found.fact("lines", line_count(path))
    then = None
    if kind == "gene list":
        then = (
            "bleepdb query SLIDE --atlas ATLAS --tissue TISSUE --out OUT.h5ad "
            f"--genes {quoted(path)}"
        )
    return found.made(kind, title, then=then)


def _other(path: Path, rows: Sequence[Sequence[str]], head: str) -> Inspection:
    found = Findings(path)
    found.fact("file", path.stat().st_size, size_text(path.stat().st_size))
    lines = line_count(path)
    if path.name.lower().endswith(TABLES) and rows and len(rows[0]) > 1:
        found.fact("rows", lines)
        found.fact("columns", [c[:40] for c in rows[0][:20]])
        found.lacks(
            "columns that bleepdb knows",
            needed_for="a sheet (section, donor, tissue, expression), a sheet of slides (slide), "
            "or places (x_px, y_px)",
            remedy="rename its columns, if it is one of these",
        )
        return found.made("table", "a table that is none of those that bleepdb reads")
    found.fact("lines", lines)
    first = next((line.strip() for line in head.splitlines() if line.strip()), "")
    found.fact("first line", first[:120])
    return found.made("text", "a text; bleepdb takes nothing from it")


def inspect_parquet(path: Path) -> Inspection:
    """Tell what a Parquet file is, by its footer.

    Raises
    ------
    InputError
        If it is damaged.
    """
    found = Findings(path)
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            rows, columns = file.metadata.num_rows, list(file.schema_arrow.names)
            keys = {k.decode("utf-8", "replace") for k in (file.schema_arrow.metadata or {})}
    except (OSError, ValueError, ArrowException) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(
            f"a Parquet file that cannot be read ({said})", where=path, hint="fetch it again"
        ) from error
    if is_positions(columns):
        return inspect_positions(path)
    found.fact("rows", rows)
    found.fact("columns", columns[:20], ", ".join(columns[:20]) + (" ..." if columns[20:] else ""))
    if "geo" in keys:
        return found.made("table", "a GeoParquet table of shapes")
    if {"rev", "section", "barcode"} <= set(columns):
        return found.made("part", "one section of an export of `bleepdb atlas export`",
                          then=f"bleepdb inspect {quoted(path.parent.parent)}")  # fmt: skip
    if {"slide", "gene", "mean"} <= set(columns):
        return found.made("cohort table", "a cohort table of `bleepdb query`: slides by genes")
    return found.made("table", "a Parquet table that is none of those that bleepdb reads")


def _rows(head: str) -> list[list[str]]:
    """First rows of a table, blank ones left out; what is no table gives one cell a line."""
    lines = [line for line in head.splitlines() if line.strip()][:40]
    if not lines:
        return []
    first = lines[0]
    delimiter = max("\t;,", key=first.count)
    if not first.count(delimiter):
        return [[line.strip()] for line in lines]
    try:
        return [[c.strip() for c in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        return [[line.strip()] for line in lines]
