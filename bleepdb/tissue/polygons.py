"""Polygons that other tools draw: GeoJSON and well-known binary, parsed within limits."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from bleepdb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MOST_BYTES: Final = 2**27
MOST_RINGS: Final = 5_000_000
MOST_POINTS: Final = 50_000_000
LEAST_CORNERS: Final = 3
AGAIN: Final = "export the annotations again as GeoJSON polygons in level-0 pixels"
OBJECT: Final = "objectType"
REGIONS: Final = frozenset({"annotation", "tile", "tma_core", "root"})
"""QuPath's kinds of objects that are regions; detections and cells are what lies in them."""
IGNORED: Final = "ignore*"
"""QuPath's class of what is not to be looked at; it is cut out."""


class Polygon(NamedTuple):
    """An outline and its holes.

    Attributes
    ----------
    rings
        (corners, 2) float64 (x, y) each; the outline first.
    cut
        Whether it is taken away from the others.
    """

    rings: tuple[NDArray[np.float64], ...]
    cut: bool = False


def read_geojson(path: Path) -> list[Polygon]:
    """Read the polygons of a GeoJSON file, as QuPath and TRIDENT write it.

    A FeatureCollection, a bare list of features, one feature, or a geometry. Where QuPath's
    annotations stand beside detections, only the annotations count; what is classed ``Ignore*``
    is cut out. Lines and points are passed over.

    Raises
    ------
    InputError
        If the file is too large, is no GeoJSON, or holds no polygon.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise InputError(
                f"{size / 2**20:,.0f} MiB are more than a mask needs",
                where=path,
                hint="export the annotations alone, without cells",
            )
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"not readable GeoJSON ({said})", where=path, hint=AGAIN) from error
    features = [_feature(item, path) for item in _features(document, path)]
    regions = [f for f in features if f[0].get(OBJECT) in REGIONS]
    budget = _Budget(path)
    found = []
    for properties, geometry in regions or features:
        named = properties.get("classification")
        name = named.get("name") if isinstance(named, dict) else named
        cut = isinstance(name, str) and name.strip().lower() == IGNORED
        found += [Polygon(rings, cut) for rings in _rings(geometry, budget)]
    if not any(not polygon.cut for polygon in found):
        raise InputError("holds no polygon", where=path, hint=AGAIN)
    return found


def _features(document: Any, path: Path) -> list[Any]:  # noqa: ANN401 - any JSON value
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        features = document.get("features")
        if isinstance(features, list):
            return features
        if "type" in document:
            return [document]
    raise InputError("not GeoJSON: neither features nor a geometry", where=path, hint=AGAIN)


def _feature(item: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401 - any JSON value
    """Properties and geometry of a feature, or of a bare geometry."""
    if not isinstance(item, dict):
        raise InputError("a feature that is no object", where=path, hint=AGAIN)
    properties = item.get("properties")
    geometry = item.get("geometry") if "geometry" in item else item
    return (
        properties if isinstance(properties, dict) else {},
        geometry if isinstance(geometry, dict) else {},
    )


class _Budget:
    """Counts rings and corners against their limits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rings = 0
        self.points = 0

    def ring(self, corners: Any) -> NDArray[np.float64]:  # noqa: ANN401 - any JSON value
        """Return a ring as an array, or refuse it."""
        self.rings += 1
        try:
            array = np.asarray(corners, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            array = np.empty(0)
        if array.ndim != 2 or array.shape[1] < 2 or not np.isfinite(array).all():
            raise InputError(
                f"outline number {self.rings} is not a list of x and y", where=self.path, hint=AGAIN
            )
        self.points += len(array)
        if self.rings > MOST_RINGS or self.points > MOST_POINTS:
            raise InputError(
                f"more than {MOST_RINGS:,} outlines or {MOST_POINTS:,} corners",
                where=self.path,
                hint="export the annotations alone, without cells",
            )
        return array[:, :2]


def _rings(geometry: dict[str, Any], budget: _Budget) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Rings of each polygon of a geometry."""
    waiting = [geometry]
    while waiting:
        item = waiting.pop()
        kind = item.get("type")
        parts = item.get("geometries" if kind == "GeometryCollection" else "coordinates")
        if kind not in {"Polygon", "MultiPolygon", "GeometryCollection"}:
            continue
        if not isinstance(parts, list):
            raise InputError(f"a {kind} without coordinates", where=budget.path, hint=AGAIN)
        if kind == "GeometryCollection":
            waiting += [part for part in parts if isinstance(part, dict)]
            continue
        for polygon in parts if kind == "MultiPolygon" else [parts]:
            if not isinstance(polygon, list):
                raise InputError(f"a {kind} without coordinates", where=budget.path, hint=AGAIN)
            rings = tuple(budget.ring(ring) for ring in polygon)
            if rings and len(rings[0]) >= LEAST_CORNERS:
                yield rings


# --- well-known binary -----------------------------------------------------------------------

_POLYGON, _MULTIPOLYGON = 3, 6
_Z, _M, _SRID = 0x80000000, 0x40000000, 0x20000000


def read_wkb(geometries: Sequence[bytes], where: Path) -> list[Polygon]:
    """Read polygons in well-known binary, one a geometry; several of a multi-polygon.

    Raises
    ------
    InputError
        If one breaks off or is no polygon.
    """
    found: list[Polygon] = []
    budget = _Budget(where)
    for number, data in enumerate(geometries, start=1):
        try:
            end = _wkb(data, 0, found, budget)
        except (struct.error, ValueError, IndexError, RecursionError) as error:
            raise InputError(
                f"geometry number {number} cannot be read ({error})", where=where, hint=AGAIN
            ) from error
        if end is None:
            raise InputError(f"geometry number {number} is no polygon", where=where, hint=AGAIN)
    return found


def _wkb(data: bytes, at: int, found: list[Polygon], budget: _Budget) -> int | None:
    """Read a geometry at `at`; return where it ends, or None where it is no polygon."""
    order = "<" if data[at] == 1 else ">"
    (kind,) = struct.unpack_from(f"{order}I", data, at + 1)
    at += 5
    axes = 2 + bool(kind & _Z) + bool(kind & _M)
    if kind & _SRID:
        at += 4
    kind &= 0x0FFFFFFF
    axes += (0, 1, 1, 2)[min(kind // 1000, 3)]
    kind %= 1000
    if kind == _MULTIPOLYGON:
        (parts,) = struct.unpack_from(f"{order}I", data, at)
        at += 4
        for _ in range(parts):
            end = _wkb(data, at, found, budget)
            if end is None:
                return None
            at = end
        return at
    if kind != _POLYGON:
        return None
    (count,) = struct.unpack_from(f"{order}I", data, at)
    at += 4
    rings = []
    for _ in range(count):
        (corners,) = struct.unpack_from(f"{order}I", data, at)
        at += 4
        if corners * axes * 8 > len(data) - at:
            message = "it breaks off"
            raise ValueError(message)
        flat = np.frombuffer(data, dtype=f"{order}f8", count=corners * axes, offset=at)
        rings.append(budget.ring(flat.reshape(corners, axes)))
        at += corners * axes * 8
    if rings and len(rings[0]) >= LEAST_CORNERS:
        found.append(Polygon(tuple(rings)))
    return at
