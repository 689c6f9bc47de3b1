"""Columns and tables in HDF5 files, read only where they are small."""

from __future__ import annotations

from typing import Any, Final

import h5py
import numpy as np

MOST_CHUNK: Final = 2**27
TEXT_BYTES: Final = 2**22
MOST_NAMES: Final = 200_000


def index_length(table: Any) -> int | None:  # noqa: ANN401 - a group, or what stands for one
    """Rows of a table in a file; None where its index cannot be found."""
    if isinstance(table, h5py.Dataset):  # as anndata before 0.7 wrote it
        return len(table) if table.ndim else None
    index = index_of(table)
    return None if index is None or not index.ndim else int(index.shape[0])


def index_of(table: h5py.Group) -> h5py.Dataset | None:
    """Return the index of a table; None where it cannot be found."""
    if not isinstance(table, h5py.Group):
        return None
    name = table.attrs.get("_index", "_index")
    name = name.decode() if isinstance(name, bytes) else name
    found = table.get(name) if isinstance(name, str) else None
    return found if isinstance(found, h5py.Dataset) else None


def is_large(dataset: h5py.Dataset) -> bool:
    """Whether the least piece that can be read of a dataset is too large to be looked at."""
    size = dataset.dtype.itemsize
    row = int(np.prod(dataset.shape[1:], dtype=np.float64)) * size
    piece = int(np.prod(dataset.chunks, dtype=np.float64)) * size if dataset.chunks else row
    return bool(max(piece, row) > MOST_CHUNK)


def texts(item: Any, most: int) -> list[str]:  # noqa: ANN401 - a dataset, a group, or nothing
    """Return the first texts of a column, also of one that is stored as categories."""
    if isinstance(item, h5py.Group):
        item = item.get("categories")
    if not isinstance(item, h5py.Dataset) or item.ndim != 1 or is_large(item):
        return []
    if item.dtype.kind not in "SO":
        return []
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in item[:most]]


def text(item: h5py.Dataset) -> str:
    """Return a text; an empty one where it is none, or longer than is looked at."""
    if item.shape != ():
        return ""
    value = item[()]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= TEXT_BYTES else ""
