"""Elements of a SpatialData store that have places: circles, polygons, points; and its pictures."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bleepdb.errors import MissingExtraError, SectionError
from bleepdb.tissue.readers.ngff import to_systems
from bleepdb.tissue.readers.positions import MOST_ROWS
from bleepdb.tissue.readers.reference import MOST_PIXELS, picture_of
from bleepdb.tissue.readers.zarr_check import check_zarr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

AGAIN: Final = "read and write the store with a current spatialdata"
MOST_ATTRS: Final = 2**24
POINT_BYTES: Final = 21
"""A point as well-known binary: byte order, kind, x, y."""
COLOURS: Final = (3, 4)


@dataclass(frozen=True)
class Region:
    """Places of the instances of an element.

    Attributes
    ----------
    index
        (instances,) their ids.
    xy
        (instances, 2) float64 centres in the element's own frame.
    systems
        Coordinate system to 3 x 3 matrix.
    circles
        Whether they are circles of one radius.
    """

    index: pd.Index[Any]
    xy: NDArray[np.float64]
    systems: dict[str, NDArray[np.float64]]
    circles: bool


@dataclass(frozen=True)
class Picture:
    """An image of a store.

    Attributes
    ----------
    name
        Its name.
    root
        The store.
    levels
        (path in the store, (width, height)) of each level, the largest first.
    channels
        How many.
    systems
        Coordinate system to 3 x 3 matrix, from the pixels of the largest level.
    """

    name: str
    root: Path
    levels: tuple[tuple[str, tuple[int, int]], ...]
    channels: int
    systems: dict[str, NDArray[np.float64]]

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the largest level."""
        return self.levels[0][1]


def read_attrs(folder: Path) -> dict[str, Any]:
    """Read the attributes of a Zarr group, version 2 or 3.

    Raises
    ------
    SectionError
        If they are not a JSON object.
    """
    path = next((folder / n for n in ("zarr.json", ".zattrs") if (folder / n).is_file()), None)
    if path is None:
        return {}
    if path.stat().st_size > MOST_ATTRS:
        raise SectionError("is too large for metadata", where=path, hint=AGAIN)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        attrs = document["attributes"] if path.name == "zarr.json" else document
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SectionError(f"not readable JSON ({error})", where=path, hint=AGAIN) from error
    if not isinstance(attrs, dict):
        raise SectionError("not a JSON object", where=path, hint=AGAIN)
    return attrs


def read_region(root: Path, part: str, name: str) -> Region:
    """Read the places of an element of ``shapes/`` or ``points/``.

    Raises
    ------
    SectionError
        If it is damaged, or written by a spatialdata that kept shapes as arrays.
    MissingExtraError
        If it holds polygons and shapely is not there.
    """
    folder = root / part / name
    check_zarr(root, f"{part}/{name}")
    systems = to_systems(read_attrs(folder).get("coordinateTransformations"), folder)
    table = folder / f"{part}.parquet"
    if not table.exists():
        raise SectionError(
            f"no {table.name}: shapes of an older spatialdata are not read",
            where=folder,
            hint=AGAIN,
        )
    files = sorted(table.glob("*.parquet")) if table.is_dir() else [table]
    frame = _frame(files, table)
    if part == "points":
        missing = {"x", "y"} - set(frame)
        if missing:
            raise SectionError(f"no column {', '.join(sorted(missing))}", where=table, hint=AGAIN)
        return Region(frame.index, frame[["x", "y"]].to_numpy(np.float64), systems, circles=False)
    if "geometry" not in frame:
        raise SectionError("no column geometry", where=table, hint=AGAIN)
    xy, points = _centres(frame["geometry"].tolist(), table)
    return Region(frame.index, xy, systems, circles=points)


def _frame(files: Sequence[Path], where: Path) -> pd.DataFrame:
    try:
        rows = sum(pq.ParquetFile(f).metadata.num_rows for f in files)
        if not 0 < rows <= MOST_ROWS:
            raise SectionError(f"a table of {rows:,} rows", where=where, hint=AGAIN)
        parts = []
        for file in files:
            known = pq.ParquetFile(file).schema_arrow
            kept = [c for c in known.names if c in {"geometry", "x", "y"} | _index_of(known)]
            parts.append(pq.ParquetFile(file).read(columns=kept))
        frame: pd.DataFrame = pa.concat_tables(parts).to_pandas(ignore_metadata=False)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        said = " ".join(str(error).split())[:160]
        raise SectionError(
            f"not a readable parquet table ({said})", where=where, hint=AGAIN
        ) from error
    return frame


def _index_of(schema: pa.Schema) -> set[str]:
    """Columns that hold the table's index, as pandas noted it."""
    noted = schema.pandas_metadata or {}
    return {c for c in noted.get("index_columns", []) if isinstance(c, str)}


def _centres(geometries: Sequence[Any], where: Path) -> tuple[NDArray[np.float64], bool]:
    """(n, 2) centres of geometries in well-known binary, and whether all are points."""
    if not all(isinstance(g, bytes) for g in geometries):
        raise SectionError("geometries that are not well-known binary", where=where, hint=AGAIN)
    head = struct.pack("<BI", 1, 1)
    if all(len(g) == POINT_BYTES and g[:5] == head for g in geometries):
        numbers = np.frombuffer(b"".join(g[5:] for g in geometries), dtype="<f8")
        return numbers.reshape(-1, 2).astype(np.float64), True
    if find_spec("shapely") is None:
        raise MissingExtraError(
            "polygons need the package shapely",
            where=where,
            hint="pip install 'bleepdb[spatialdata]'",
        )
    import shapely  # noqa: PLC0415 - of the extra; circles and points do without

    try:
        shapes = shapely.from_wkb(np.asarray(geometries, dtype=object))
    except shapely.errors.GEOSException as error:
        raise SectionError(
            f"geometries that cannot be read ({error})", where=where, hint=AGAIN
        ) from error
    return np.asarray(shapely.get_coordinates(shapely.centroid(shapes)), dtype=np.float64), False


def read_pictures(root: Path) -> list[Picture]:
    """Find the images of a store, the largest first; only their metadata are read.

    Raises
    ------
    SectionError
        If metadata are damaged.
    """
    folder = root / "images"
    found = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        if place.is_symlink() or not place.is_dir():
            continue
        attrs = read_attrs(place)
        scales = (attrs.get("ome") or attrs).get("multiscales")
        if not isinstance(scales, list) or not scales:
            continue
        try:
            first = scales[0]
            axes = [str(a["name"]) for a in first["axes"]]
            systems = to_systems(first.get("coordinateTransformations"), place)
            levels = []
            channels = 1
            for dataset in first["datasets"]:
                name = str(dataset["path"])
                if "/" in name or name.startswith("."):
                    continue
                shape = _shape(place / name)
                sizes = dict(zip(axes, shape, strict=True))
                levels.append((f"images/{place.name}/{name}", (sizes["x"], sizes["y"])))
                channels = sizes.get("c", 1)
        except (KeyError, TypeError, ValueError) as error:
            raise SectionError(
                f"its metadata are not those of an image ({error})", where=place, hint=AGAIN
            ) from error
        if levels:
            found.append(Picture(place.name, root, tuple(levels), channels, systems))
    return sorted(found, key=lambda p: -p.size_px[0] * p.size_px[1])


def _shape(folder: Path) -> list[int]:
    path = next(folder / n for n in ("zarr.json", ".zarray") if (folder / n).is_file())
    shape = json.loads(path.read_text(encoding="utf-8"))["shape"]
    return [int(n) for n in shape]


def read_pixels(picture: Picture, level: str) -> NDArray[np.uint8]:
    """Read a level of a picture: (height, width, 3) RGB.

    Raises
    ------
    SectionError
        If it is too large, damaged, or no picture.
    """
    import zarr  # noqa: PLC0415 - heavy, and only stores need it

    where = picture.root / level
    size = dict(picture.levels)[level]
    if size[0] * size[1] > MOST_PIXELS:
        raise SectionError(f"{size[0]} x {size[1]} px is no small picture", where=where, hint=AGAIN)
    check_zarr(picture.root, level)
    try:
        stored = np.asarray(zarr.open_array(where, mode="r")[:])
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        raise SectionError(
            f"its pixels cannot be read ({error})", where=where, hint=AGAIN
        ) from error
    pixels = picture_of(np.moveaxis(stored, 0, -1) if stored.ndim == 3 else stored)
    if pixels is None:
        raise SectionError("is no 8-bit picture", where=where, hint="leave it out")
    return pixels
