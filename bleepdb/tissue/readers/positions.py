"""Space Ranger's table of spot positions, in its three shapes, packed or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.outs import POSITIONS
from bleepdb.tissue.readers.tables import Table, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.readers.outs import Outs

AGAIN: Final = "fetch the folder again as Space Ranger wrote it"
BARCODE: Final = "barcode"
IN_TISSUE: Final = "in_tissue"
ROW: Final = "array_row"
COL: Final = "array_col"
Y: Final = "pxl_row_in_fullres"
X: Final = "pxl_col_in_fullres"
COLUMNS: Final = (BARCODE, IN_TISSUE, ROW, COL, Y, X)
FILES: Final = ("tissue_positions.csv", "tissue_positions.parquet", "tissue_positions_list.csv")
MOST_ROWS: Final = 2**24
"""Visium HD has 3,350 x 3,350 bins of 2 µm, which is less."""
MOST_BYTES: Final = 2**30
"""All names of a table."""


@dataclass(frozen=True)
class Positions:
    """Places of an array's spots.

    Attributes
    ----------
    barcodes
        Names of the spots.
    in_tissue
        (spots,) bool.
    array_row, array_col
        (spots,) float64, place on the array.
    xy_px
        (spots, 2) float64, centres (x, y) in pixels of the full-resolution image.
    """

    barcodes: list[str]
    in_tissue: NDArray[np.bool_]
    array_row: NDArray[np.float64]
    array_col: NDArray[np.float64]
    xy_px: NDArray[np.float64]


def find_positions(outs: Outs) -> Path:
    """Return the positions file of a section.

    Raises
    ------
    SectionError
        If there is none.
    """
    if outs.positions is None:
        raise SectionError(
            f"no spot positions ({', '.join(FILES)})", where=outs.spatial, hint=AGAIN
        )
    return outs.positions


def is_positions(header: list[str]) -> bool:
    """Tell a positions table from its first row, which is a header or already a spot."""
    return set(COLUMNS) <= set(header) or (len(header) == len(COLUMNS) and header[1] in {"0", "1"})


def read_positions(path: Path) -> Positions:
    """Read spot positions: CSV with or without header, or parquet.

    Raises
    ------
    SectionError
        If the file is missing, lacks columns or rows, or holds what is not a number; with line
        and column.
    """
    if path.suffix == ".parquet":
        table = read_parquet(path, COLUMNS)
        names = [str(b) for b in table[BARCODE].to_pylist()]
        inside, row, col, y, x = (numbers(table, c, path) for c in COLUMNS[1:])
    else:
        text = _csv(path)
        names = text.text(BARCODE)
        inside, row, col, y, x = (text.numbers(c) for c in COLUMNS[1:])
    return Positions(names, under_tissue(inside, path), row, col, np.column_stack([x, y]))


def under_tissue(inside: NDArray[np.float64], path: Path) -> NDArray[np.bool_]:
    """Turn the column ``in_tissue`` into bool.

    Raises
    ------
    SectionError
        If it holds other values than 0 and 1.
    """
    if not np.isin(inside, (0, 1)).all():
        raise SectionError(
            f"column {IN_TISSUE} holds other values than 0 and 1", where=path, hint=AGAIN
        )
    return np.asarray(inside == 1)


def _csv(path: Path) -> Table:
    rows = read_rows(path)
    if not rows:
        raise SectionError("an empty table", where=path, hint=AGAIN)
    if BARCODE in rows[0][1]:
        return Table.made(path, rows[0][1], rows[1:])
    return Table.made(path, COLUMNS, rows)


def read_parquet(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> pa.Table:
    """Read columns of a parquet table; sizes are checked before anything is unpacked.

    Names stay dictionaries where they are stored so, and none may be missing.

    Raises
    ------
    SectionError
        If the file cannot be read, lacks one of `columns`, has no rows, or far too many.
    """
    try:
        with pq.ParquetFile(path, read_dictionary=[BARCODE]) as file:
            known = file.schema_arrow.names
            missing = [c for c in columns if c not in known]
            if missing:
                raise SectionError(f"no column {', '.join(missing)}", where=path, hint=AGAIN)
            rows = file.metadata.num_rows
            if not 0 < rows <= MOST_ROWS:
                raise SectionError(
                    f"a table of {rows:,} rows, and no array has more than {MOST_ROWS:,}"
                    if rows
                    else "a table without rows",
                    where=path,
                    hint=AGAIN,
                )
            table = file.read(columns=[*columns, *(c for c in optional if c in known)])
    except (OSError, ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:160]
        raise SectionError(
            f"not a readable parquet table ({said})", where=path, hint=AGAIN
        ) from error
    table = table.combine_chunks()
    names = table[BARCODE]
    if not pa.types.is_dictionary(names.type) and not pa.types.is_string(names.type):
        raise SectionError(f"column {BARCODE} is not text", where=path, hint=AGAIN)
    if names.null_count:
        raise SectionError(f"column {BARCODE} has empty cells", where=path, hint=AGAIN)
    if _text_bytes(names) > MOST_BYTES:
        raise SectionError("names of more than 1 GiB", where=path, hint=AGAIN)
    return table.set_column(table.column_names.index(BARCODE), BARCODE, names.cast(pa.string()))


def _text_bytes(names: pa.ChunkedArray) -> int:
    """Bytes of all names, by the lengths of a dictionary's own names where they are in one."""
    total = 0
    for chunk in names.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            lengths = pc.binary_length(chunk.dictionary).to_numpy(zero_copy_only=False)
            total += int(lengths[chunk.indices.to_numpy(zero_copy_only=False)].sum())
        else:
            total += int(pc.sum(pc.binary_length(chunk)).as_py() or 0)
    return total


def numbers(table: pa.Table, name: str, path: Path) -> NDArray[np.float64]:
    """Return a column as finite numbers, float64.

    Raises
    ------
    SectionError
        If a cell is no finite number; it names the row.
    """
    try:
        column: Any = table[name].cast(pa.float64())
    except pa.ArrowException as error:
        raise SectionError(f"column {name} is not a number", where=path, hint=AGAIN) from error
    values = np.asarray(column.to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise SectionError(
            f"column {name} is not a number in {len(bad)} rows, the first is row {bad[0] + 1}",
            where=path,
            hint=AGAIN,
        )
    return values


__all__ = [
    "COL", "COLUMNS", "FILES", "IN_TISSUE", "POSITIONS", "ROW", "Positions", "find_positions",
    "is_positions", "numbers", "read_parquet", "read_positions", "under_tissue",
]  # fmt: skip
