"""Places that a person gives: spots to impute at, from the tables that other tools write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.names import X_PX, Y_PX
from bleepdb.tissue.readers.h5ad import read_places
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.legacy_st import PIXEL_COLUMNS, Selection
from bleepdb.tissue.readers.positions import is_positions, read_positions
from bleepdb.tissue.readers.tables import Table, read_rows, refuse_duplicates
from bleepdb.tissue.tile_lists import is_tile_list, read_tile_list

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NAME_COLUMNS: Final = ("barcode", "name", "spot", "tile_id")
HINT: Final = (
    "give a CSV or TSV with the columns x_px and y_px, a legacy spot table, Space Ranger's "
    "tissue_positions, an .h5ad, or the tiles of TRIDENT, CLAM (.h5) or WSIData (.zarr)"
)


class Spots(NamedTuple):
    """Named places.

    Attributes
    ----------
    names
        (n,) str, unique.
    xy_px
        (n, 2) float64, (x, y) in level-0 pixels.
    """

    names: NDArray[np.str_]
    xy_px: NDArray[np.float64]


def read_spots(path: Path) -> Spots:
    """Read places from a file.

    Taken are: a CSV or TSV with ``x_px`` and ``y_px`` (and perhaps ``barcode`` or ``name``); a
    legacy spot table with ``pixel_x`` and ``pixel_y`` (named ``{x}x{y}`` as its counts are);
    Space Ranger's ``tissue_positions`` as CSV with or without header or as parquet (spots under
    tissue); an ``.h5ad`` with ``obsm["spatial"]``; a tile list of TRIDENT or CLAM (``.h5``) or
    WSIData (``.zarr``), whose tiles' centres are named ``tile-0``, ``tile-1``, ...

    Raises
    ------
    InputError
        If a tile list holds no tiles, or does not say their size.
    SectionError
        If the file is missing or damaged, lacks columns, holds no spots, names a spot twice, or
        a cell is not a number; with line and column.
    """
    if is_tile_list(path):
        tiles = read_tile_list(path)
        return _checked([f"tile-{i}" for i in range(len(tiles.xy_px))], tiles.xy_px, path)
    if not path.is_file():
        raise SectionError("no such file", where=path, hint=HINT)
    suffix = path.suffix.lower()
    if suffix == ".h5ad":
        with open_hdf5(path, "AnnData") as handle:
            places = read_places(handle, path)
        under = places.under_tissue
        return _checked(np.array(places.barcodes)[under], places.xy_px[under], path)
    if suffix == ".parquet":
        return _positions(path)
    rows = read_rows(path)
    if not rows:
        raise SectionError("an empty table", where=path, hint=HINT)
    header = rows[0][1]
    if is_positions(header):
        return _positions(path)
    table = Table.made(path, header, rows[1:])
    if table.has(*PIXEL_COLUMNS, "x", "y"):
        selected = Selection(table)
        return _checked(selected.names, selected.xy_px, path)
    columns = next((c for c in ((X_PX, Y_PX), PIXEL_COLUMNS) if table.has(*c)), None)
    if columns is None:
        raise SectionError(
            f"no columns {X_PX} and {Y_PX} (there are {', '.join(header[:12])})",
            where=path,
            hint=HINT,
        )
    named = next((c for c in NAME_COLUMNS if table.has(c)), None)
    spots = (
        [f"spot-{i}" for i in range(1, len(table.rows) + 1)] if named is None else table.text(named)
    )
    return _checked(spots, np.column_stack([table.numbers(c) for c in columns]), path)


def _positions(path: Path) -> Spots:
    positions = read_positions(path)
    under = positions.in_tissue
    return _checked(np.array(positions.barcodes)[under], positions.xy_px[under], path)


def _checked(spots: list[str] | NDArray[np.str_], xy_px: NDArray[np.float64], path: Path) -> Spots:
    if not len(spots):
        raise SectionError("holds no spot under tissue", where=path, hint=HINT)
    refuse_duplicates(list(spots), "spots", path)
    if not np.isfinite(xy_px).all():
        raise SectionError("holds places that are not finite", where=path, hint=HINT)
    return Spots(np.asarray(spots, dtype=np.str_), np.ascontiguousarray(xy_px))
