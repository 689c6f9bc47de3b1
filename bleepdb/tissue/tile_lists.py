"""Tiles that another tool chose: TRIDENT's and CLAM's HDF5, and the shapes of a WSIData store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bleepdb.errors import InputError, SectionError
from bleepdb.tissue.grid import MOST_PLACES
from bleepdb.tissue.polygons import Polygon, read_wkb
from bleepdb.tissue.readers.elements import read_attrs
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.ngff import apply, to_systems
from bleepdb.tissue.readers.store import SHAPES, store_of
from bleepdb.tissue.readers.zarr_check import check_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

COORDS: Final = "coords"
EDGE_LEVEL_0: Final = "patch_size_level0"
EDGE, DOWNSAMPLE = "patch_size", "downsample"
TISSUES, TILES = "tissues", "tiles"
GLOBAL: Final = "global"
GEOMETRY: Final = "geometry"
MOST_SHAPE_BYTES: Final = 2**30
HDF5_SUFFIXES: Final = (".h5", ".hdf5")
TAKEN: Final = (
    "give a .geojson, a TRIDENT or CLAM .h5 with `coords`, or a WSIData .zarr with shapes"
)


@dataclass(frozen=True)
class TileList:
    """Square tiles of one slide.

    Attributes
    ----------
    xy_px
        (n, 2) float64 centres in level-0 pixels, in the file's order.
    edge_px
        Their edge in level-0 pixels.
    size_px
        (width, height) of the slide that they were cut from, where the file says.
    """

    xy_px: NDArray[np.float64]
    edge_px: float
    size_px: tuple[float, float] | None = None


def is_tile_list(path: Path) -> bool:
    """Tell whether a path may hold tiles or shapes, as far as its name and layout tell."""
    if path.is_dir():
        return store_of(path) is not None
    return path.suffix.lower() in HDF5_SUFFIXES and path.is_file()


def read_tile_list(path: Path) -> TileList:
    """Read the tiles of TRIDENT's or CLAM's ``coords``, or of a WSIData store's ``tiles``.

    TRIDENT's and CLAM's corners become centres; CLAM's edge is that of its level and is scaled by
    that level's downsampling.

    Raises
    ------
    InputError
        If there are no tiles, or their size is not said.
    SectionError
        If the file or store is damaged, or points outside itself.
    """
    if path.is_dir():
        polygons = read_store_shapes(path, (TILES,))
        low = np.array([p.rings[0].min(axis=0) for p in polygons])
        high = np.array([p.rings[0].max(axis=0) for p in polygons])
        return TileList((low + high) / 2, float(np.median(high - low)))
    with open_hdf5(path, "a list of tiles") as handle:
        if COORDS not in handle:
            raise InputError(f"no dataset {COORDS}", where=path, hint=TAKEN)
        stored = handle[COORDS]
        shape: tuple[int, ...] = getattr(stored, "shape", ())
        if len(shape) != 2 or shape[1] != 2 or not 0 < shape[0] <= MOST_PLACES:
            raise InputError(f"{COORDS} has the shape {shape}", where=path, hint=TAKEN)
        if stored.dtype.kind not in "iuf":
            raise InputError(f"{COORDS} does not hold numbers", where=path, hint=TAKEN)
        corners = np.asarray(stored[:], dtype=np.float64)
        edge, size = _edge(stored.attrs, path), _slide_size(stored.attrs)
    if not np.isfinite(corners).all():
        raise InputError(f"{COORDS} holds places that are not finite", where=path, hint=TAKEN)
    return TileList(corners + edge / 2, edge, size)


def _numbers(attrs: Mapping[str, Any] | h5py.AttributeManager, key: str) -> list[float] | None:
    """Numbers of an attribute, or None where it is not there or holds something else."""
    try:
        values = np.asarray(attrs[key], dtype=np.float64).ravel()
    except (KeyError, ValueError, TypeError):
        return None
    good = 0 < len(values) <= 2 and np.isfinite(values).all() and (values > 0).all()
    return values.tolist() if good else None


def _edge(attrs: h5py.AttributeManager, path: Path) -> float:
    whole = _numbers(attrs, EDGE_LEVEL_0)
    if whole is not None:
        return whole[0]
    edge, factor = _numbers(attrs, EDGE), _numbers(attrs, DOWNSAMPLE)
    if edge is None or factor is None:
        raise InputError(
            f"does not say how large its tiles are ({EDGE_LEVEL_0}, or {EDGE} and {DOWNSAMPLE})",
            where=path,
            hint="give the file that TRIDENT or CLAM wrote, with its attributes",
        )
    return edge[0] * factor[0]


def _slide_size(attrs: h5py.AttributeManager) -> tuple[float, float] | None:
    width, height = _numbers(attrs, "level0_width"), _numbers(attrs, "level0_height")
    if width is not None and height is not None:
        return width[0], height[0]
    level, factor = _numbers(attrs, "level_dim"), _numbers(attrs, DOWNSAMPLE)
    if level is not None and factor is not None and len(level) == 2:
        return level[0] * factor[0], level[1] * factor[-1]
    return None


def read_store_shapes(path: Path, wanted: tuple[str, ...] = (TISSUES, TILES)) -> list[Polygon]:
    """Read polygons of a SpatialData or WSIData store, in level-0 pixels.

    Parameters
    ----------
    path
        The store, or ``STORE.zarr/shapes/NAME`` in it.
    wanted
        Which shapes of a store to take, the first that is there.

    Raises
    ------
    InputError
        If there are none, or they are no polygons.
    SectionError
        If the store is damaged, or holds links.
    """
    store = store_of(path)
    if store is None or store.part not in (None, SHAPES):
        raise InputError("is no store with shapes", where=path, hint=TAKEN)
    held = store.root / SHAPES
    names = sorted(p.name for p in held.iterdir() if p.is_dir()) if held.is_dir() else []
    named = [store.name] if store.name is not None else [w for w in wanted if w in names]
    if not named or named[0] not in names:
        raise InputError(
            f"no shapes {' or '.join(wanted)} (there are {', '.join(names[:12]) or 'none'})",
            where=path,
            hint="name one: STORE.zarr/shapes/NAME",
        )
    folder = held / named[0]
    check_zarr(store.root, f"{SHAPES}/{named[0]}")
    systems = to_systems(read_attrs(folder).get("coordinateTransformations"), folder)
    table = folder / f"{SHAPES}.parquet"
    try:
        file = pq.ParquetFile(table)
        rows = file.metadata.num_rows
        declared = sum(
            file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)
        )
        if rows > MOST_PLACES or declared > MOST_SHAPE_BYTES:
            raise InputError(
                f"{rows:,} shapes of {declared / 2**20:,.0f} MiB are more than a mask needs",
                where=table,
                hint="give the outlines of the tissue alone, without cells",
            )
        cells = file.read(columns=[GEOMETRY]).column(GEOMETRY).to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:120]
        raise SectionError(
            f"not a readable table of shapes ({said})", where=table, hint=TAKEN
        ) from error
    polygons = read_wkb([c for c in cells if isinstance(c, bytes)], table)
    if not polygons:
        raise InputError("holds no polygon", where=table, hint=TAKEN)
    matrix = systems.get(GLOBAL, next(iter(systems.values()), np.eye(3)))
    return [Polygon(tuple(apply(matrix, ring) for ring in p.rings), p.cut) for p in polygons]
