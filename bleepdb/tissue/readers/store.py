"""Which folders are SpatialData stores, and what part of one a path names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

MARKS = ("zarr.json", ".zgroup", ".zattrs", "zmetadata", ".zmetadata")
TABLES, SHAPES, POINTS = "tables", "shapes", "points"
PARTS = (TABLES, "table", SHAPES, POINTS)


class Store(NamedTuple):
    """A SpatialData store, and the element of it that a path names.

    Attributes
    ----------
    root
        The ``.zarr`` folder.
    part, name
        ``"tables"`` and the table's name, ``"shapes"`` and the region's; both None where the path
        is the store itself.
    """

    root: Path
    part: str | None
    name: str | None


def store_of(path: Path) -> Store | None:
    """Tell the store that a folder is, or lies in (``X.zarr/tables/NAME``); else None."""
    if _is_store(path):
        return Store(path, None, None)
    part, root = path.parent.name, path.parent.parent
    if part in PARTS and _is_store(root):
        return Store(root, TABLES if part == "table" else part, path.name)
    return None


def is_zarr(path: Path) -> bool:
    """Whether a folder is a group or an array of a Zarr store."""
    return any((path / mark).is_file() for mark in MARKS)


def _is_store(path: Path) -> bool:
    return is_zarr(path) and any((path / part).is_dir() for part in (*PARTS, "images", "labels"))
