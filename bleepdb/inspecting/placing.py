"""Space Ranger's tables of positions, read as far as memory allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowException

from bleepdb.errors import SectionError
from bleepdb.inspecting.findings import Findings, quoted
from bleepdb.tissue.readers.positions import COLUMNS, read_positions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.inspecting.findings import Inspection

MOST_JOINED: Final = 3_000_000
FETCH: Final = "fetch the folder again as Space Ranger wrote it"


@dataclass
class PlacesLook:
    """What a positions file holds; arrays are None where it is too large to be read."""

    spots: int
    under: NDArray[np.bool_] | None = None
    barcodes: NDArray[np.bytes_] | None = None
    array: NDArray[np.float64] | None = None
    xy_px: NDArray[np.float64] | None = None


def inspect_positions(path: Path) -> Inspection:
    """Tell what a table of positions holds.

    Raises
    ------
    SectionError
        If it cannot be read.
    """
    found = Findings(path)
    places = look_at_positions(path)
    under = None if places.under is None else int(places.under.sum())
    found.fact("spots", places.spots)
    found.fact("under tissue", under)
    then = spots_next(path)
    return found.made(
        "spots", "Space Ranger's table of spot positions", then=then if under else None
    )


def spots_next(path: Path) -> str:
    """Return the command that takes a table of places."""
    return (
        f"bleepdb query SLIDE --spots {quoted(path)} --atlas ATLAS --tissue TISSUE --out OUT.h5ad"
    )


def look_at_positions(path: Path) -> PlacesLook:
    """Read a table of positions as far as memory allows.

    Raises
    ------
    SectionError
        If it is damaged.
    """
    if path.suffix == ".parquet":
        return _parquet(path)
    read = read_positions(path)
    return PlacesLook(
        len(read.barcodes),
        read.in_tissue,
        np.array([b.encode() for b in read.barcodes], "S"),
        np.column_stack([read.array_row, read.array_col]),
        read.xy_px,
    )


def _parquet(path: Path) -> PlacesLook:
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            rows = file.metadata.num_rows
            lacking = [c for c in COLUMNS if c not in file.schema_arrow.names]
            if lacking:
                raise SectionError(f"no column {', '.join(lacking)}", where=path, hint=FETCH)
            if rows > MOST_JOINED:
                return PlacesLook(rows)
            table = file.read(columns=list(COLUMNS))
    except (OSError, ValueError, ArrowException) as error:
        said = " ".join(str(error).split())[:160]
        raise SectionError(
            f"not a readable parquet table ({said})", where=path, hint=FETCH
        ) from error
    barcode, inside, *numbers = (table.column(c) for c in COLUMNS)
    row, col, y, x = (np.asarray(n.to_numpy(), np.float64) for n in numbers)
    return PlacesLook(
        rows,
        np.asarray(inside.to_numpy(), np.float64) == 1,
        np.array([str(b).encode() for b in barcode.to_pylist()], "S"),
        np.column_stack([row, col]),
        np.column_stack([x, y]),
    )
