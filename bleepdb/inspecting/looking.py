"""Files looked at with care: no device is opened, no more is read than asked for."""

from __future__ import annotations

import gzip
import json
import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, Final

from bleepdb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES: Final = 2**16
MOST_JSON: Final = 2**26
MOST_LISTED: Final = 100_000
"""Names of one folder that are read."""
_MAGIC: Final = (
    (b"BDBSPOT1", "profile cache"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "BigTIFF"),
    (b"MM\x00+", "BigTIFF"),
    (b"PAR1", "Parquet"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "ZIP"),
    (b"%PDF", "PDF"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"ARROW1", "Arrow"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "XZ"),
    (b"SQLite format 3\x00", "SQLite"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x04\x95", "pickle"),
)
_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def refuse_special(path: Path) -> bool:
    """Tell whether a path is a folder (or else a file); what is neither is refused.

    Raises
    ------
    InputError
        If it does not exist, cannot be reached, or is a pipe, a socket or a device: opening one
        could wait for ever.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path.stat hides a name that cannot be
    except FileNotFoundError:
        dangling = path.is_symlink()
        raise InputError(
            "a link to what does not exist" if dangling else "no such file or folder",
            where=path,
            hint="check the path",
        ) from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot be reached ({said})", where=path, hint="check the path") from None
    for test, name in _KINDS:
        if test(mode):
            raise InputError(
                f"{name}, no file or folder", where=path, hint="give a file or a folder"
            )
    return stat.S_ISDIR(mode)


def is_plain_file(path: Path) -> bool:
    """Tell whether a path is a regular file that can be looked at; never waits, never raises."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - see refuse_special
    except (OSError, ValueError):
        return False


def head_of(path: Path, size: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a regular file.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return handle.read(size)
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=path, hint="check its permissions"
        ) from error


def magic_of(head: bytes) -> str | None:
    """Name the format that the first bytes of a file tell; None where they tell none."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for begin, name in _MAGIC if head.startswith(begin)), None)


def text_head(path: Path, size: int = HEAD_BYTES) -> str | None:
    """Return the first characters of a text, gzip or plain, whole lines; None if it is no text."""
    head = head_of(path, size)
    if head.startswith(b"\x1f\x8b"):
        head = _unzipped(head, size)
    whole = len(head) < size
    if b"\0" in head:
        return None
    if not whole and b"\n" in head:
        head = head[: head.rindex(b"\n") + 1]
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3 or whole:  # else: cut inside a character
            return None
        text = head[: error.start].decode("utf-8-sig")
    strange = sum(not (c.isprintable() or c in "\t\r\n\f") for c in text)
    return None if strange > max(8, len(text) // 50) else text


def _unzipped(head: bytes, most: int) -> bytes:
    """Return at most so many bytes of what the head of a gzip file holds."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, most)
    except zlib.error:
        return b"\0"


def json_of(path: Path, *, most: int = MOST_JSON) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value of a file; None where it is none, or larger than is looked at."""
    try:
        if not is_plain_file(path) or path.stat().st_size > most:
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def json_object(path: Path, *, most: int = MOST_JSON) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one where it is none."""
    value = json_of(path, most=most)
    return value if isinstance(value, dict) else {}


def names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; at most `MOST_LISTED`.

    Raises
    ------
    InputError
        If it may not be listed.
    """
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.append(entry.name)
                if len(found) >= MOST_LISTED:
                    break
    except OSError as error:
        raise InputError(
            f"cannot be listed ({error.strerror})", where=folder, hint="check its permissions"
        ) from error
    return sorted(found)


def line_count(path: Path, *, most_bytes: int = 2**28) -> int | None:
    """Count the lines of a text, gzip or plain; None where it is larger than is looked at."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    count = seen = 0
    last = b"\n"
    try:
        with opened(path, "rb") as handle:
            while block := handle.read(2**20):
                count += block.count(b"\n")
                seen += len(block)
                last = block[-1:]
                if seen > most_bytes:
                    return None
    except (OSError, EOFError, zlib.error):
        return None
    return count + (last != b"\n")
