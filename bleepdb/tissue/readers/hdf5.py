"""HDF5 files opened so that nothing outside them is read and no size is believed unseen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import h5py

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE_BYTES: Final = 2**28
PACKED_AT_MOST: Final = 200
"""A dataset that declares more than `LARGE_BYTES` and this many times what it stores is refused:
counts pack 3 to 60 to 1, an empty dataset without end, and a bomb of zeros about 1,000 to 1."""
LARGEST_BYTES: Final = 2**37
"""No section has a dataset of more than this (128 GiB)."""
LONGEST_CELL: Final = 2**16
"""Bytes of one fixed-length cell; a name or a number needs far less."""
MOST_TEXT_BYTES: Final = 2**30
"""All strings of a dataset of strings, unpacked."""
DEEPEST: Final = 32
MOST_OBJECTS: Final = 200_000
AGAIN: Final = "fetch or write the file again"


@contextmanager
def open_hdf5(path: Path, what: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to read, after a walk over all of its links and datasets.

    Parameters
    ----------
    path
        The file.
    what
        What it should be, for messages: ``"AnnData"``, ``"a Space Ranger matrix"``.

    Yields
    ------
    h5py.File
        Open for reading until the block ends.

    Raises
    ------
    SectionError
        If the file is missing, is no HDF5 file or breaks off, points to other files, is nested
        without end, or declares sizes far beyond what it stores. What h5py raises inside the
        block becomes a SectionError too.
    """
    if not path.is_file():
        raise SectionError("no such file", where=path, hint="check the path")
    if not path.stat().st_size:
        raise SectionError("the file is empty", where=path, hint=AGAIN)
    try:
        with h5py.File(path, "r") as handle:
            _walk(handle, path)
            yield handle
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        said = " ".join(str(error).split())[:160]
        raise SectionError(
            f"cannot be read as {what}, it may be damaged or incomplete ({said})",
            where=path,
            hint=AGAIN,
        ) from error


def _walk(root: h5py.File, path: Path) -> None:
    seen: set[int] = set()
    waiting: list[tuple[h5py.Group, int]] = [(root, 0)]
    while waiting:
        group, depth = waiting.pop()
        if depth > DEEPEST:
            raise SectionError(f"groups are nested {DEEPEST} deep", where=path, hint=AGAIN)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise SectionError(
                    f"{group.name}: {name} is an external link to {link.filename}",
                    where=path,
                    hint="write all data into one file; links to other files are not followed",
                )
            if isinstance(link, h5py.SoftLink):
                continue  # stays in the file, so what it names is walked under its own name
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise SectionError(
                    f"holds more than {MOST_OBJECTS:,} objects", where=path, hint=AGAIN
                )
            if isinstance(item, h5py.Group):
                waiting.append((item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                _check_storage(item, path)


def _check_storage(dataset: h5py.Dataset, path: Path) -> None:
    if dataset.external or dataset.is_virtual:
        raise SectionError(
            f"{dataset.name} is stored outside the file",
            where=path,
            hint="write all data into one file; external storage is not read",
        )
    declared, stored = dataset.nbytes, dataset.id.get_storage_size()
    if declared > LARGEST_BYTES or (
        declared > LARGE_BYTES and declared > PACKED_AT_MOST * max(stored, 1)
    ):
        raise SectionError(
            f"{dataset.name} declares {_size(declared)} and stores {_size(stored)}",
            where=path,
            hint=f"no section is packed so; {AGAIN}",
        )
    if dataset.dtype.itemsize > LONGEST_CELL:
        raise SectionError(
            f"{dataset.name} has cells of {_size(dataset.dtype.itemsize)}", where=path, hint=AGAIN
        )
    if h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.kind == "O":
        _check_text(dataset, path)


def _check_text(dataset: h5py.Dataset, path: Path) -> None:
    """Refuse strings that unpack to far more than the file holds: cells may share their bytes."""
    cells = int(dataset.size or 0)
    if dataset.ndim != 1 or cells * path.stat().st_size <= MOST_TEXT_BYTES:
        return
    total, at, step = 0, 0, 16
    while at < cells:
        part = dataset[at : at + step]
        own = sum(len(cell) for cell in part)
        total, at = total + own, at + len(part)
        if total > MOST_TEXT_BYTES:
            raise SectionError(
                f"the strings of {dataset.name} unpack to more than {_size(MOST_TEXT_BYTES)}",
                where=path,
                hint=AGAIN,
            )
        mean = own // max(len(part), 1)
        step = min(max(16, 2**24 // (mean + 1)), 2**16, 4 * step)


def _size(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.0f} {unit}"
    return f"{number} bytes"
