"""Masks and tiles that other tools wrote: GeoJSON; HDF5 files with coordinates of patches."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np

from bleepdb.errors import InputError
from bleepdb.inspecting.findings import Findings, quoted
from bleepdb.inspecting.looking import MOST_JSON, json_of
from bleepdb.tissue.polygons import read_geojson
from bleepdb.tissue.tile_lists import read_tile_list

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection

FEATURES: Final = ("FeatureCollection", "Feature", "GeometryCollection", "Polygon", "MultiPolygon")
AREAS: Final = ("Polygon", "MultiPolygon")
MOST_FEATURES: Final = 200_000


def masked_next(path: Path) -> str:
    """Return the command that takes a mask."""
    return f"bleepdb query SLIDE --mask {quoted(path)} --atlas ATLAS --tissue TISSUE --out OUT.h5ad"


def inspect_geojson(path: Path) -> Inspection | None:
    """Tell what a GeoJSON file outlines; None where the JSON is none."""
    document = json_of(path)
    if document is None and path.stat().st_size > MOST_JSON:
        found = Findings(path)
        found.note(f"larger than {MOST_JSON // 2**20} MB: not looked at")
        return found.made("json", "a large JSON document")
    first = document[0] if isinstance(document, list) and document else None
    if isinstance(first, dict) and first.get("type") == FEATURES[1]:  # as QuPath once exported
        document = {"type": "FeatureCollection", "features": document}
    if not isinstance(document, dict) or document.get("type") not in FEATURES:
        return None
    features = document.get("features") if document["type"] == FEATURES[0] else [document]
    features = [f for f in features if isinstance(f, dict)] if isinstance(features, list) else []
    geometries = [f.get("geometry", f) for f in features[:MOST_FEATURES]]
    kinds = Counter(str(g.get("type")) for g in geometries if isinstance(g, dict))
    found = Findings(path)
    found.fact("features", len(features))
    found.fact("geometries", dict(kinds))
    named = Counter(_class_of(f) for f in features[:MOST_FEATURES])
    found.fact("classes", {k: n for k, n in named.most_common(8) if k})
    box = _bounds(geometries)
    if box is not None:
        found.fact("bounds px", box, "x {:,.0f} to {:,.0f}, y {:,.0f} to {:,.0f}".format(*box))
    areas = sum(kinds[k] for k in AREAS)
    if not areas:
        found.lacks("polygons", needed_for="a mask", remedy="export areas, not points or lines")
    else:
        try:
            read_geojson(path)
        except InputError as error:
            found.lacks(f"polygons that can be used: {error.what}", needed_for="a mask",
                        remedy=error.hint or "export it again")  # fmt: skip
            areas = 0
    return found.made(
        "mask", "a GeoJSON mask" if areas else "GeoJSON without areas",
        then=masked_next(path) if areas else None,
    )  # fmt: skip


def inspect_patches(path: Path, handle: h5py.File) -> Inspection:
    """Tell an HDF5 file with ``coords``: tiles of TRIDENT or CLAM, features, patches of HEST."""
    found = Findings(path)
    coords = handle["coords"]
    found.fact("tiles", int(coords.shape[0]) if coords.ndim else 0)
    about = {k: _plain(v) for k, v in list(coords.attrs.items())[:20]}
    about |= {k: _plain(v) for k, v in list(handle.attrs.items())[:20]}
    size = about.get("patch_size_level0", about.get("patch_size"))
    found.fact("tile px", size)
    if about:
        found.fact("states", about)
    features = handle.get("features")
    if isinstance(features, h5py.Dataset):
        found.fact("features", list(features.shape), f"{features.shape} {features.dtype}")
    if {"img", "barcode"} <= set(handle):
        found.fact("patches", list(handle["img"].shape))
        return found.made("patches", "patches of HEST-1k around the spots of a section")
    try:
        size = read_tile_list(path).edge_px
    except InputError as error:
        size = None
        found.lacks(f"tiles that can be used: it {error.what}", needed_for="a mask",
                    remedy=error.hint or "write it again")  # fmt: skip
    return found.made(
        "mask", "a list of tiles (TRIDENT or CLAM)",
        then=None if size is None else masked_next(path),
    )  # fmt: skip


def _class_of(feature: dict[str, Any]) -> str:
    about = feature.get("properties")
    if not isinstance(about, dict):
        return ""
    given = about.get("classification")
    name = given.get("name") if isinstance(given, dict) else about.get("objectType")
    return name[:40] if isinstance(name, str) else ""


def _bounds(geometries: list[Any]) -> list[float] | None:
    """Least and largest x and y of the geometries."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    waiting = [g.get("coordinates") for g in geometries if isinstance(g, dict)]
    for _ in range(5_000_000):
        if not waiting:
            break
        item = waiting.pop()
        if not isinstance(item, list) or not item:
            continue
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in item[:2]):
            if len(item) >= 2:
                place = np.array(item[:2], np.float64)
                low, high = np.minimum(low, place), np.maximum(high, place)
        else:
            waiting.extend(item)
    if not np.isfinite(low).all():
        return None
    return [float(low[0]), float(high[0]), float(low[1]), float(high[1])]


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever an attribute holds
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")[:200]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.ravel()[:8].tolist()
    return str(value)[:200] if not isinstance(value, int | float | bool) else value
