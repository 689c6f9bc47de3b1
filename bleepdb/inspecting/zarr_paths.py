"""Where a Zarr store begins, by names alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MARKS: Final = ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata", "zmetadata")
CLIMB: Final = 14
GAP: Final = 6
"""Folders without metadata on the way up: those of chunks and of Parquet parts."""


def is_store(path: Path) -> bool:
    """Tell a folder with Zarr metadata."""
    return any((path / mark).is_file() for mark in MARKS)


def root_of(path: Path) -> Path | None:
    """Return the outermost store that a path is, or lies in; None where there is none."""
    root, gap = None, 0
    whole = path.absolute()
    for folder in (whole, *whole.parents)[:CLIMB]:
        if folder.is_dir() and is_store(folder):
            root, gap = folder, 0
        else:
            gap += 1
        if gap > GAP:
            break
    return path if root == whole else root
