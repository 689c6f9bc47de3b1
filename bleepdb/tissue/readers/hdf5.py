"""HDF5 files opened so that nothing outside them is read and no size is believed unseen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import h5py

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE_BYTES: Final = 2**32
PACKED_AT_MOST: Final = 2_000
"""A dataset that declares more than `LARGE_BYTES` and this many times what it stores is refused
(deflate packs at most about 1,030 to 1)."""


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
        If the file is missing, is no HDF5 file or breaks off, points to other files, or
        declares sizes far beyond what it stores. What h5py raises inside the block becomes a
        SectionError too.
    """
    if not path.is_file():
        raise SectionError("no such file", where=path, hint="check the path")
    try:
        with h5py.File(path, "r") as handle:
            _walk(handle, path, set())
            yield handle
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:160]
        raise SectionError(
            f"cannot be read as {what}, it may be damaged or incomplete ({said})",
            where=path,
            hint="fetch or write the file again",
        ) from error


def _walk(group: h5py.Group, path: Path, seen: set[int]) -> None:
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise SectionError(
                f"{group.name}: {name} is an external link to {link.filename}",
                where=path,
                hint="write all data into one file; links to other files are not followed",
            )
        if isinstance(link, h5py.SoftLink):
            continue
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.Group):
            _walk(item, path, seen)
        elif isinstance(item, h5py.Dataset):
            _check_storage(item, path)


def _check_storage(dataset: h5py.Dataset, path: Path) -> None:
    if dataset.external or dataset.is_virtual:
        raise SectionError(
            f"{dataset.name} is stored outside the file",
            where=path,
            hint="write all data into one file; external storage is not read",
        )
    declared = dataset.nbytes
    if declared > LARGE_BYTES and declared > PACKED_AT_MOST * dataset.id.get_storage_size():
        raise SectionError(
            f"{dataset.name} declares {declared / 2**30:.0f} GiB and stores next to nothing",
            where=path,
            hint="fetch or write the file again",
        )
