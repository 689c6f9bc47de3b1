"""Zarr stores looked through before they are opened: nothing outside, no foreign codec, no bomb.

A store is a folder of small JSON documents that declare arrays, and of files that hold their
chunks. Each document is read here as text; consolidated copies of them are not used at all.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zstandard

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.hdf5 import (
    DEEPEST,
    LARGE_BYTES,
    LARGEST_BYTES,
    MOST_OBJECTS,
    MOST_TEXT_BYTES,
    PACKED_AT_MOST,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

AGAIN: Final = "fetch or write the store again"
DOCUMENTS: Final = (".zarray", ".zgroup", ".zattrs", "zarr.json")
MOST_DOCUMENT: Final = 2**24
CODECS: Final = frozenset(
    {
        "bytes", "blosc", "zstd", "gzip", "zlib", "lz4", "transpose", "crc32c", "crc32",
        "adler32", "sharding_indexed", "vlen-utf8", "vlen-bytes", "delta", "shuffle",
        "fletcher32",
    }
)  # fmt: skip
"""What is decoded; others are refused, since numcodecs knows some that run code (pickle)."""
TEXT: Final = frozenset({"vlen-utf8", "vlen-bytes"})
CHUNK_AT_MOST: Final = 2**31
CHUNK_HEAD: Final = 32
DEFLATE: Final = 1_100
"""Deflate packs at most about this many times."""


def check_zarr(root: Path, part: str) -> None:
    """Look through a part of a store before it is opened.

    Parameters
    ----------
    root
        The store.
    part
        Path in it: ``"tables/table"``, ``"shapes/spots"``.

    Raises
    ------
    SectionError
        If it holds links, is nested without end, uses a codec that is not known, or declares
        sizes far beyond what it stores.
    """
    arrays: dict[Path, dict[str, Any]] = {}
    stored: dict[Path, int] = {}
    chunks: dict[Path, list[Path]] = {}
    for path in _files(root, root / part):
        if path.name in DOCUMENTS:
            document = _document(path)
            if path.name == ".zarray" or document.get("node_type") == "array":
                arrays[path.parent] = document
            continue
        owner = next((p for p in path.parents if p in arrays), None)
        if owner is not None:
            stored[owner] = stored.get(owner, 0) + path.stat().st_size
            chunks.setdefault(owner, []).append(path)
    for folder, document in arrays.items():
        _check_array(folder, document, stored.get(folder, 0), chunks.get(folder, []))


def _files(root: Path, folder: Path) -> Iterator[Path]:
    """All files below a folder, its documents before its chunks; links are refused."""
    seen = 0
    for place in (folder, *folder.parents):
        if place == root:
            break
        if place.is_symlink():
            raise SectionError(f"{place} is a link", where=root, hint=AGAIN)
    for name, folders, files in os.walk(folder, followlinks=False):
        here = Path(name)
        if len(here.relative_to(folder).parts) > DEEPEST:
            raise SectionError(f"folders are nested {DEEPEST} deep", where=root, hint=AGAIN)
        folders.sort()
        for entry in [*folders, *sorted(files, key=lambda f: f not in DOCUMENTS)]:
            seen += 1
            if seen > MOST_OBJECTS:
                raise SectionError(
                    f"holds more than {MOST_OBJECTS:,} files", where=folder, hint=AGAIN
                )
            if (here / entry).is_symlink():
                raise SectionError(
                    f"{here / entry} is a link",
                    where=root,
                    hint="copy the files into the store; links are not followed",
                )
            if entry in files:
                yield here / entry


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_DOCUMENT:
        raise SectionError("is too large for metadata", where=path, hint=AGAIN)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SectionError(f"not readable JSON ({error})", where=path, hint=AGAIN) from error
    if not isinstance(document, dict):
        raise SectionError("not a JSON object", where=path, hint=AGAIN)
    return document


def _check_array(folder: Path, document: dict[str, Any], stored: int, chunks: list[Path]) -> None:
    names = _codecs(document)
    foreign = sorted(names - CODECS)
    if foreign or document.get("storage_transformers"):
        raise SectionError(
            f"is packed by {', '.join(foreign) or 'a storage transformer'}, which is not read",
            where=folder,
            hint=f"write it with one of {', '.join(sorted(CODECS))}",
        )
    shape, chunk = _numbers(document, folder)
    item = _item_bytes(document)
    declared, piece = math.prod(shape) * item, math.prod(chunk) * item
    if (
        declared > LARGEST_BYTES
        or piece > CHUNK_AT_MOST
        or (declared > LARGE_BYTES and declared > PACKED_AT_MOST * max(stored, 1))
    ):
        raise SectionError(
            f"declares {declared / 2**20:,.0f} MiB in chunks of {piece / 2**20:,.0f} MiB and "
            f"stores {stored / 2**20:,.0f} MiB",
            where=folder,
            hint=AGAIN,
        )
    if "sharding_indexed" in names:
        return  # inner chunks are bounded by what a shard declares
    most = MOST_TEXT_BYTES if names & TEXT else 2 * piece + 2**16
    for path in chunks:
        size = _unpacked_size(path, names)
        if size > most:
            raise SectionError(
                f"a chunk unpacks to {size / 2**20:,.0f} MiB, declared are {piece / 2**20:,.2f}",
                where=path,
                hint=AGAIN,
            )


def _codecs(document: dict[str, Any]) -> set[str]:
    """Names of all codecs that an array's document names, in shards too."""
    found: set[str] = set()
    waiting: list[Any] = [
        document.get("codecs") or [],
        document.get("filters") or [],
        [document["compressor"]] if document.get("compressor") else [],
    ]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            name = str(item.get("name", item.get("id", "?")))
            found.add(name.removeprefix("numcodecs."))
            setting = item.get("configuration")
            if isinstance(setting, dict):
                waiting += [setting.get("codecs") or [], setting.get("index_codecs") or []]
        elif isinstance(item, str):
            found.add(item)
    return found


def _numbers(document: dict[str, Any], folder: Path) -> tuple[list[int], list[int]]:
    grid = document.get("chunk_grid")
    chunk = document.get("chunks")
    if isinstance(grid, dict):
        chunk = (grid.get("configuration") or {}).get("chunk_shape")
    shape = document.get("shape")
    for numbers in (shape, chunk):
        if not isinstance(numbers, list) or not all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers
        ):
            raise SectionError(
                "its shape or chunks are not whole numbers", where=folder, hint=AGAIN
            )
    assert isinstance(shape, list)  # noqa: S101 - checked above, told to the type checker
    assert isinstance(chunk, list)  # noqa: S101 - the same
    return shape, chunk


def _item_bytes(document: dict[str, Any]) -> int:
    """Bytes of a cell; text and types of other kinds count as 8."""
    kind = document.get("dtype", document.get("data_type"))
    try:
        return max(1, int(np.dtype(kind).itemsize))
    except TypeError:
        return 8


def _unpacked_size(path: Path, names: set[str]) -> int:
    """Bytes that a chunk says, or may be thought, to unpack to."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(CHUNK_HEAD)
    if "blosc" in names and len(head) >= 8:
        return int.from_bytes(head[4:8], "little")
    if "zstd" in names:
        try:
            told = zstandard.frame_content_size(head)
        except zstandard.ZstdError:
            return size
        return size * PACKED_AT_MOST if told < 0 else told
    if "lz4" in names and len(head) >= 4:
        return int.from_bytes(head[:4], "little")
    if names & {"gzip", "zlib"}:
        return size * (1 if size < 2**16 else PACKED_AT_MOST)
    return size
