"""Zarr stores, told by their metadata: SpatialData, WSIData, AnnData, OME-Zarr."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import zarr

from bleepdb.errors import SectionError
from bleepdb.inspecting.findings import Findings, quoted
from bleepdb.inspecting.looking import json_object, names_in
from bleepdb.inspecting.masks import masked_next
from bleepdb.inspecting.sections import indexing_next, needs_image
from bleepdb.tissue.readers.assemble import count_fault
from bleepdb.tissue.readers.store import store_of
from bleepdb.tissue.readers.store_sections import choose

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection

ELEMENTS: Final = ("images", "labels", "shapes", "points", "tables", "table")
SAMPLED: Final = 100_000
MOST_CHUNK: Final = 2**26
MOST_NAMED: Final = 8
WSIDATA: Final = ("wsi_thumbnail", "slide_properties")


def inspect_store(path: Path) -> Inspection:
    """Tell what a Zarr store holds."""
    found = Findings(path)
    attributes = attributes_of(path)
    version = 3 if (path / "zarr.json").is_file() else 2
    found.fact("zarr", version)
    held = {e: _elements(path / e) for e in ELEMENTS if (path / e).is_dir()}
    if held:
        return _spatialdata(found, held, attributes)
    if attributes.get("encoding-type") == "anndata" or {"obs", "var"} <= set(names_in(path)):
        found.lacks("a reader of AnnData in Zarr", needed_for="train and index",
                    remedy="write it as .h5ad (adata.write_h5ad)")  # fmt: skip
        return found.made("zarr", "an AnnData store in Zarr, which is not read")
    if "multiscales" in attributes or "ome" in attributes:
        found.lacks("a reader of OME-Zarr", needed_for="query", remedy="write it as OME-TIFF")
        return found.made("zarr", "an OME-Zarr image, which is not read")
    found.fact("holds", names_in(path)[:20])
    return found.made("zarr", "a Zarr store of an unknown kind")


def inspect_store_part(path: Path, root: Path) -> Inspection:
    """Tell a file or folder inside a store."""
    found = Findings(path)
    found.note("what is inside is not looked at apart")
    return found.made(
        "part", f"a part of the Zarr store {root}", then=f"bleepdb inspect {quoted(root)}"
    )


def attributes_of(path: Path) -> dict[str, Any]:
    """Return the attributes of a group or an array, of either version."""
    if (path / "zarr.json").is_file():
        found = json_object(path / "zarr.json").get("attributes")
        return found if isinstance(found, dict) else {}
    return json_object(path / ".zattrs")


def shape_of(path: Path) -> tuple[list[int], str] | None:
    """Return shape and type of an array, of either version; None where it is none."""
    for name in ("zarr.json", ".zarray"):
        document = json_object(path / name)
        shape = document.get("shape")
        if isinstance(shape, list) and all(isinstance(n, int) for n in shape):
            return shape, str(document.get("data_type", document.get("dtype", "?")))
    return None


def _elements(folder: Path) -> list[str]:
    return [n for n in names_in(folder) if (folder / n).is_dir() and not n.startswith(".")]


def _spatialdata(
    found: Findings, held: dict[str, list[str]], attributes: dict[str, Any]
) -> Inspection:
    path = found.path
    stated = attributes.get("spatialdata_attrs")
    if isinstance(stated, dict) and "version" in stated:
        found.fact("spatialdata", str(stated["version"]))
    for element in ("images", "labels", "shapes", "points"):
        named = held.get(element, [])
        if named:
            words = [f"{n}{_image_words(path / element / n) if element == 'images' else ''}"
                     for n in named[:MOST_NAMED]]  # fmt: skip
            found.fact(element, named, ", ".join(words) + (", ..." if named[MOST_NAMED:] else ""))
    tables = [path / e / n for e in ("tables", "table") for n in held.get(e, [])]
    shapes = held.get("shapes", [])
    masks = [n for n in shapes if "tile" in n.lower() or "tissue" in n.lower()]
    usable = bool(tables)
    for table in tables[:4]:
        usable = _table(found, table, shapes, held) and usable
    found.fact("coordinate systems", _systems(path, held))
    wsi = any(n in held.get("images", []) or n in attributes for n in WSIDATA)
    if masks and (wsi or not tables):
        found.fact("mask", masks)
        then = masked_next(path)
        return found.made("mask", "a WSIData store with tiles or tissue outlines", then=then)
    if not tables:
        found.lacks("a table of counts", needed_for="train and index",
                    remedy="write the table into the store (sdata.tables)")  # fmt: skip
        return found.made("spatialdata", "a SpatialData store without a table")
    store = store_of(path)
    try:
        if store is not None:
            chosen = choose(store)
            found.fact("index reads", f"table {chosen.table}, region {chosen.region}")
    except SectionError as error:
        found.lacks(f"one section: it {error.what}", needed_for="train and index",
                    remedy=error.hint or "name one by its path")  # fmt: skip
        usable = False
    needs_image(found)
    then = indexing_next(path)
    return found.made("spatialdata", "a SpatialData store", then=then if usable else None)


def _table(found: Findings, table: Path, shapes: list[str], held: dict[str, list[str]]) -> bool:
    """Tell one table: its size, its region keys, whether it holds counts; and if it is usable."""
    about = attributes_of(table)
    x = table / "X"
    shape = attributes_of(x).get("shape")
    if not isinstance(shape, list):
        dense = shape_of(x)
        shape = dense[0] if dense else None
    regions = about.get("region")
    regions = (
        [regions] if isinstance(regions, str) else regions if isinstance(regions, list) else []
    )
    fault = _counts_fault(table)
    size = f"{shape[0]:,} x {shape[1]:,}" if isinstance(shape, list) and len(shape) == 2 else "?"
    found.fact(
        f"table {table.name}",
        {
            "shape": shape,
            "regions": regions,
            "region_key": about.get("region_key"),
            "instance_key": about.get("instance_key"),
            "counts": fault is None,
        },
        f"{size}, of {', '.join(map(str, regions)) or 'no region'} "
        f"(keys {about.get('region_key')}, {about.get('instance_key')}), "
        f"{'counts' if fault is None else fault}",
    )
    usable = True
    if fault is not None and fault != "not looked at":
        found.lacks("raw counts in X of " + table.name, needed_for="train and index",
                    remedy="write the raw counts to the table's X")  # fmt: skip
        usable = False
    if not regions:
        found.lacks(f"the region that {table.name} belongs to", needed_for="places of its rows",
                    remedy="set region, region_key and instance_key of the table")  # fmt: skip
        usable = False
    gone = [str(r) for r in regions if not any(r in held.get(e, []) for e in ELEMENTS)]
    if gone:
        found.lacks(f"the element {', '.join(gone)}", needed_for="places of its rows",
                    remedy="write it into the store")  # fmt: skip
        usable = False
    placed = {*shapes, *held.get("points", [])}
    flat = [str(r) for r in regions if r not in placed and str(r) not in gone]
    if flat:
        found.lacks(f"places of {', '.join(flat)} (it is no shape)", needed_for="train and index",
                    remedy="give a table that annotates circles, polygons or points")  # fmt: skip
        usable = False
    return usable


def _counts_fault(table: Path) -> str | None:
    """Say what keeps X from being counts, by its first values; None where nothing does."""
    values = table / "X" / "data" if (table / "X" / "data").is_dir() else table / "X"
    found = shape_of(values)
    if found is None:
        return "no X that can be read"
    try:
        array = zarr.open_array(values, mode="r")
        if math.prod(array.chunks) * array.dtype.itemsize > MOST_CHUNK:
            return "not looked at"
        lead = max(1, SAMPLED // max(1, math.prod(array.shape[1:])))
        sampled: Any = array[:lead]
        return count_fault(sampled.ravel())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, NotImplementedError):
        return "no X that can be read"


def _image_words(path: Path) -> str:
    """Size of the first scale of an image."""
    for name in ("0", "s0", "scale0"):
        found = shape_of(path / name) or shape_of(path / name / "image")
        if found is not None:
            return f" ({' x '.join(map(str, found[0]))} {found[1]})"
    return ""


def _systems(path: Path, held: dict[str, list[str]]) -> list[str]:
    """Names of the coordinate systems that elements are transformed to."""
    systems: set[str] = set()
    for element, named in held.items():
        for name in named[:32]:
            about = attributes_of(path / element / name)
            ome = about.get("ome")
            scales = (ome if isinstance(ome, dict) else about).get("multiscales")
            first = scales[0] if isinstance(scales, list) and scales else about
            moves = first.get("coordinateTransformations") if isinstance(first, dict) else None
            for move in moves if isinstance(moves, list) else []:
                target = move.get("output") if isinstance(move, dict) else None
                if isinstance(target, dict) and isinstance(target.get("name"), str):
                    systems.add(target["name"])
    return sorted(systems)
