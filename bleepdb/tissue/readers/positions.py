"""Space Ranger's table of spot positions, in its three shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.tables import Table, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

AGAIN: Final = "fetch the folder again as Space Ranger wrote it"
BARCODE: Final = "barcode"
IN_TISSUE: Final = "in_tissue"
ROW: Final = "array_row"
COL: Final = "array_col"
Y: Final = "pxl_row_in_fullres"
X: Final = "pxl_col_in_fullres"
COLUMNS: Final = (BARCODE, IN_TISSUE, ROW, COL, Y, X)
FILES: Final = ("tissue_positions.csv", "tissue_positions.parquet", "tissue_positions_list.csv")


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


def find_positions(spatial: Path) -> Path:
    """Return the positions file of a ``spatial/`` folder.

    Raises
    ------
    SectionError
        If there is none.
    """
    for name in FILES:
        if (spatial / name).is_file():
            return spatial / name
    raise SectionError(f"no spot positions ({', '.join(FILES)})", where=spatial, hint=AGAIN)


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
    table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    inside = table.numbers(IN_TISSUE)
    if not np.isin(inside, (0, 1)).all():
        raise SectionError(
            f"column {IN_TISSUE} holds other values than 0 and 1", where=path, hint=AGAIN
        )
    return Positions(
        barcodes=table.text(BARCODE),
        in_tissue=inside == 1,
        array_row=table.numbers(ROW),
        array_col=table.numbers(COL),
        xy_px=np.column_stack([table.numbers(X), table.numbers(Y)]),
    )


def _csv(path: Path) -> Table:
    rows = read_rows(path)
    if not rows:
        raise SectionError("an empty table", where=path, hint=AGAIN)
    if BARCODE in rows[0][1]:
        return Table.made(path, rows[0][1], rows[1:])
    return Table.made(path, COLUMNS, rows)


def _parquet(path: Path) -> Table:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SectionError(
            f"not a readable parquet table ({error})", where=path, hint=AGAIN
        ) from error
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise SectionError(f"no column {', '.join(missing)}", where=path, hint=AGAIN)
    rows = frame[list(COLUMNS)].astype(str).to_numpy().tolist()
    return Table.made(path, COLUMNS, list(enumerate(rows, start=1)))
