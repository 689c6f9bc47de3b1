"""Sections of legacy Spatial Transcriptomics: a table of counts and a table of spots beside it."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.assemble import as_counts, assemble, join_barcodes, panel_of
from bleepdb.tissue.readers.tables import Table, refuse_duplicates, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

AGAIN: Final = "correct the table and run again"
ASSAY: Final = "st"
PIXEL_COLUMNS: Final = ("pixel_x", "pixel_y")
SELECTED: Final = "selected"
NAMED_COLUMNS: Final = (PIXEL_COLUMNS, ("X", "Y"))
"""Pixel columns of a table whose first column holds the spots' names."""
SPOT: Final = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)")
HEAD_BYTES: Final = 2**22
IMAGE_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def read_legacy_st(
    row: SheetRow, *, slide_mpp: float | None = None, allow_loss: bool = False
) -> Section:
    """Read ``{stem}.tsv`` (rows are spots ``{x}x{y}``, columns genes) and its spot table.

    The spot table is ``{stem}_selection.tsv`` beside it, or ``spots_{stem}.csv`` with the spots'
    names and their pixels X and Y; the image, where the row names none, ``{stem}.jpg``
    (``.png``, ``.tif``) or ``HE_{stem}.jpg``. Tables may be CSV or TSV, packed (``.gz``) or not,
    and the counts may have spots as columns.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel that the user states.

    Raises
    ------
    SectionError
        If a table is missing or damaged, or the two do not belong together.
    """
    path = row.expression
    stem = stem_of(path)
    barcodes, genes, values = _counts(path)
    spots = read_selection(find_spot_table(path.parent, stem))
    counted, placed, notes = join_barcodes(barcodes, spots.names, path, allow_loss=allow_loss)
    pitch_mpp = scales.mpp_of_array(
        scales.ST_PITCH_UM * spots.array_xy, spots.xy_px, scales.ST_PITCH_UM
    )
    return assemble(
        row,
        assay=ASSAY,
        counts=as_counts(values[counted], path, "the table"),
        panel=panel_of(genes, [], row.species, path),
        barcodes=[barcodes[i] for i in counted],
        xy_px=spots.xy_px[placed],
        scale=scales.choose_mpp(
            [("--slide-mpp", slide_mpp), ("sheet", row.mpp), ("array pitch", pitch_mpp)], path
        ),
        slide_path=row.image or find_image(path.parent, stem),
        pitch_um=scales.ST_PITCH_UM,
        spot_diameter_um=scales.ST_SPOT_UM,
        notes=notes,
    )


def is_counts(path: Path) -> bool:
    """Tell a table of counts from a sample sheet: its rows or its columns are named ``{x}x{y}``.

    Only the beginning of the file is read.

    Raises
    ------
    SectionError
        If it cannot be read.
    """
    lines = unpacked(path, first=HEAD_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    if len(lines) < 2:
        return False
    sep = "\t" if "\t" in lines[0] else ","
    header, first = ([c.strip(' "') for c in line.split(sep)] for line in lines[:2])
    if len(header) < 3 or set(PIXEL_COLUMNS) <= set(header):
        return False
    return SPOT.fullmatch(first[0]) is not None or all(SPOT.fullmatch(c) for c in header[1:])


def stem_of(path: Path) -> str:
    """Return what the names of a section's counts, spot table and image have in common."""
    stem = path.name.removesuffix(".gz").removesuffix(".tsv").removesuffix(".csv")
    return stem.removesuffix("_stdata")


class Selection:
    """Spots under tissue of a legacy array.

    Attributes
    ----------
    names
        ``{x}x{y}`` with both rounded: the names that the counts use.
    array_xy
        (spots, 2) float64, place on the array in steps of its pitch.
    xy_px
        (spots, 2) float64, centres in pixels.
    """

    def __init__(self, table: Table) -> None:
        if table.has(SELECTED):
            table = table.take(table.numbers(SELECTED) == 1)
            if not table.rows:
                raise SectionError("no spot is selected", where=table.path, hint=AGAIN)
        columns = PIXEL_COLUMNS
        if table.has("x", "y"):
            array = np.column_stack([table.numbers("x"), table.numbers("y")])
        else:
            array = _array_of(table)
            columns = next((c for c in NAMED_COLUMNS if table.has(*c)), PIXEL_COLUMNS)
        self.array_xy: NDArray[np.float64] = np.rint(array)
        self.names = [f"{x:.0f}x{y:.0f}" for x, y in self.array_xy]
        self.xy_px: NDArray[np.float64] = np.column_stack([table.numbers(c) for c in columns])
        refuse_duplicates(self.names, "spots", table.path)


def _array_of(table: Table) -> NDArray[np.float64]:
    """(spots, 2) places on the array, from the names in the first column."""
    found = [SPOT.fullmatch(row[0]) for row in table.rows]
    wrong = next((n for n, m in zip(table.lines, found, strict=True) if m is None), None)
    if wrong is not None:
        raise SectionError(
            f"no columns x and y, and line {wrong} does not name a spot such as 10x12",
            where=table.path,
            hint=AGAIN,
        )
    return np.array([[float(m[1]), float(m[2])] for m in found if m is not None])


def read_selection(path: Path) -> Selection:
    """Read a spot table: x, y, pixel_x, pixel_y and perhaps selected; or names, X and Y.

    Raises
    ------
    SectionError
        If columns are missing, cells are no numbers, or spots stand twice.
    """
    return Selection(Table.read(path))


def find_spot_table(folder: Path, stem: str) -> Path:
    """Return the spot table that lies beside counts.

    Raises
    ------
    SectionError
        If there is none.
    """
    tried = [
        f"{stem}_selection.tsv",
        f"spot_data-selection-{stem}.tsv",
        f"{stem}_spot_data-selection.tsv",
        f"spots_{stem}.csv",
        f"{stem}_selection.csv",
        f"{stem}.spots.csv",
    ]
    tried = [name for plain in tried for name in (plain, f"{plain}.gz")]
    for name in tried:
        if (folder / name).is_file():
            return folder / name
    raise SectionError(
        f"no spot table for {stem}", where=folder, hint=f"put {tried[0]} beside the counts"
    )


def find_image(folder: Path, stem: str) -> Path | None:
    """Return the image that lies beside counts, or None."""
    names = (stem, f"HE_{stem}", f"{stem}_HE")
    candidates = (folder / f"{name}{ending}" for name in names for ending in IMAGE_ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _counts(path: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Spot names, gene names and the (spots, genes) values of a counts table."""
    text = unpacked(path)
    if not text.strip():
        raise SectionError("the file is empty", where=path, hint="fetch or write the file again")
    head = text[: text.find(b"\n") + 1] or text
    sep = "\t" if b"\t" in head else ","
    plain = _plain_table(text, sep)
    columns, rows, values = _quoted_table(text, sep, path) if plain is None else plain
    if len(columns) == values.shape[1] + 1:
        columns = columns[1:]
    if len(columns) != values.shape[1]:
        raise SectionError(
            f"{len(columns)} gene names for {values.shape[1]} columns", where=path, hint=AGAIN
        )
    if all(SPOT.fullmatch(c) for c in columns) and not any(SPOT.fullmatch(r) for r in rows):
        return columns, rows, values.T
    return rows, columns, values


def _plain_table(text: bytes, sep: str) -> tuple[list[str], list[str], NDArray[np.float64]] | None:
    """Header, row names and numbers of a table without quotes or gaps; None of any other.

    The tables have tens of thousands of columns, for which pandas takes ten times as long.
    """
    try:
        head, *lines = [line for line in text.decode("utf-8-sig").splitlines() if line.strip()]
    except ValueError:
        return None
    named = [line.split(sep, 1) for line in lines]
    if not lines or '"' in head or any(len(n) != 2 or '"' in n[0] for n in named):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns where it stops before the end
            numbers = [np.fromstring(cells, dtype=np.float64, sep=sep) for _, cells in named]
    except (DeprecationWarning, ValueError):
        return None
    if len({len(n) for n in numbers} | {cells.count(sep) + 1 for _, cells in named}) > 1:
        return None
    columns = [cell.strip() for cell in head.split(sep)]
    return columns, [name.strip() for name, _ in named], np.stack(numbers)


def _quoted_table(
    text: bytes, sep: str, path: Path
) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Header, row names and numbers of any other table; what is wrong in it is told."""
    try:
        # The header is read as a row, since pandas would rename genes that stand twice.
        head = pd.read_csv(
            io.BytesIO(text), sep=sep, header=None, nrows=1, dtype=str, keep_default_na=False
        )
        body = pd.read_csv(
            io.BytesIO(text), sep=sep, header=None, skiprows=1, index_col=0, dtype={0: str}
        )
    except (OSError, EOFError, ValueError) as error:
        raise SectionError(
            f"not a readable table of counts ({' '.join(str(error).split())[:160]})",
            where=path,
            hint="fetch or write the file again",
        ) from error
    columns = [str(cell).strip() for cell in head.iloc[0]]
    text_at = np.flatnonzero([not is_numeric_dtype(kind) for kind in body.dtypes])
    if len(text_at):
        named = columns[len(columns) - body.shape[1] :]
        raise SectionError(
            f"column {named[text_at[0]]} does not hold numbers", where=path, hint=AGAIN
        )
    return columns, [str(b).strip() for b in body.index], body.to_numpy(np.float64)
