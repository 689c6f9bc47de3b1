"""Files that appear whole or not at all, digests, and the place of caches."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_dir() -> Path:
    """Folder of what can be computed again: ``BLEEPDB_CACHE``, else the user's cache folder.

    It is made where it is missing, for its owner alone: what is cached derives from patients.
    """
    named = os.environ.get("BLEEPDB_CACHE")
    folder = Path(named) if named else user_cache_path("bleepdb", appauthor=False)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_bytes(folder: Path) -> int:
    """Bytes that the files of a folder take on disk; holes of sparse files take none."""
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes the name, on error it goes.

    Yields
    ------
    Path
        Where to write. It is flushed to disk and renamed when the block ends well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield part
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
        fsync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON document whole, readable, with a final newline; NaN is refused."""
    with whole_file(path) as part:
        part.write_text(
            json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def canonical_json(document: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return the one byte string of a JSON value: sorted keys, no blanks, UTF-8."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(*parts: bytes | str) -> str:
    """Return the SHA-256 of parts, each preceded by its length, as 64 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
