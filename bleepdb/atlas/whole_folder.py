"""Folders that appear whole or not at all, and the room that they need."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb.atlas.lock import FolderLock
from bleepdb.errors import AtlasError
from bleepdb.files import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVE = 64 * 2**20  # bytes left free on a disk that others write to as well


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to fill; on success it takes the name, on error it goes.

    What a killed writer of the same name has left beside it goes first: it may hold spots of who
    was retracted since. A writer at work holds a lock beside its folder, and is left alone.

    Raises
    ------
    AtlasError
        If there is something of that name, or the folder cannot be written.
    """
    refuse_taken(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    lock = None
    try:
        part.mkdir(parents=True)
        lock = _lock(part)
        if lock is not None:
            _sweep(path)
        yield part
        for folder, _, names in os.walk(part):
            for name in names:
                with (Path(folder) / name).open("rb+") as handle:
                    os.fsync(handle.fileno())
            fsync_folder(Path(folder))
        refuse_taken(path)
        part.rename(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise AtlasError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            hint="see to the disk's space and the folder's permissions, then run again",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        _let_go(part, lock)


def _lock(part: Path) -> FolderLock | None:
    """Lock a part; None where another holds it, or the file system has no locks."""
    try:
        return FolderLock(_lock_file(part), timeout=0.0)
    except AtlasError:
        return None


def _let_go(part: Path, lock: FolderLock | None) -> None:
    if lock is not None:
        _lock_file(part).unlink(missing_ok=True)
        lock.release()


def _lock_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.lock")


def _sweep(path: Path) -> None:
    """Remove the parts of `path` whose writers are dead."""
    named = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.part")
    for part in [p for p in path.parent.iterdir() if named.fullmatch(p.name) and p.is_dir()]:
        if not _lock_file(part).is_file():
            continue  # it has just been made
        lock = _lock(part)
        if lock is not None:
            shutil.rmtree(part, ignore_errors=True)
            _let_go(part, lock)


def refuse_taken(path: Path) -> None:
    """Refuse to write over what is there; an empty folder is as good as none.

    Raises
    ------
    AtlasError
        If there is a file, or a folder that holds something.
    """
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise AtlasError("is there already", where=path, hint="name a new folder, or remove it")


def check_room(path: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for.

    Parameters
    ----------
    path
        What shall be written; it need not exist.
    needed
        Bytes.

    Raises
    ------
    AtlasError
        Before anything was written.
    """
    parent = next(p for p in path.absolute().parents if p.exists())
    free, needed = shutil.disk_usage(parent).free, needed + RESERVE
    if free < needed:
        raise AtlasError(
            f"{free // 2**20} MB are free on this disk and {needed // 2**20} MB are needed",
            where=path,
            hint="free some space; nothing was written",
        )
