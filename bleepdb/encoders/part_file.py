"""The file in which features gather until all are there, so that a killed run is continued.

It looks as the finished file will, without a digest, and behind the values stands a journal: which
batches are there, each with a digest of its values. A record is written after what it tells of;
what does not agree with its digest is computed again, so that no flush is needed on the way. At
the end the journal is cut off, the digest filled in, and the file takes its name.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import secrets
import struct
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from bleepdb.encoders.feature_cache import (
    BYTES_AT_ONCE,
    MOST_HEADER,
    PART,
    Checksum,
    header,
    stated,
)
from bleepdb.errors import ModelError
from bleepdb.files import digest, fsync_folder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

RECORD: Final = struct.Struct("<I16sI")
"""Number of a batch, BLAKE2b of its values, CRC32 of the two."""


class PartFile:
    """Features of a slide that are computed batch by batch.

    Parameters
    ----------
    path
        The name that it takes in the end.
    slide_digest
        Of the slide.
    order
        (n,) int64: the places, in the order in which they are computed.
    batch
        Places of a batch. Another order or batch than those of a part that is there begins anew:
        the last digits of features depend on what goes through a network together.

    Raises
    ------
    OSError
        If it cannot be written.
    """

    def __init__(
        self, path: Path, *, slide_digest: str, order: NDArray[np.int64], batch: int
    ) -> None:
        self.path = path
        self.n = len(order)
        self._slide = slide_digest
        self._order = order
        self._batch = batch
        self._plan = digest("batches", str(batch), order.astype("<i8").tobytes()).encode()
        self._width = 0
        self._values_at = self._journal_at = 0
        self._records = 0
        self.done: set[int] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._part, self._file, self.shared = _opened(path)
        try:
            self._resume()
            if not self._width:
                # Whose features these will be is said from the start: retracting looks for it.
                os.ftruncate(self._file, 0)
                _write_all(self._file, header(self.n, 0, self._slide), 0)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, number: int) -> NDArray[np.int64]:
        """Return the places of a batch, (b,) int64."""
        return self._order[number * self._batch : (number + 1) * self._batch]

    def write(self, number: int, values: NDArray[np.float32]) -> None:
        """Write the features of a batch, (b, width), in the order of `rows`.

        Raises
        ------
        OSError
            If the disk is full: before the first batch, if not all would fit.
        """
        if not self._width:
            self._begin(values.shape[1])
        values = np.ascontiguousarray(values, dtype="<f4")
        for start, stop, row in _runs(self.rows(number)):
            _write_all(self._file, values[start:stop].tobytes(), self._at(row))
        told = struct.pack("<I16s", number, _seen(values.tobytes()))
        record = told + zlib.crc32(told).to_bytes(4, "little")
        _write_all(self._file, record, self._record_at(self._records))
        self._records += 1
        self.done.add(number)

    def complete(self) -> None:
        """Give the file its digest and its name; all batches must be there.

        Raises
        ------
        ModelError
            If the part was removed meanwhile, as retracting does.
        """
        seen = Checksum(self.n, self._width)
        for at in range(self._values_at, self._journal_at, BYTES_AT_ONCE):
            seen.add(os.pread(self._file, min(BYTES_AT_ONCE, self._journal_at - at), at))
        os.fsync(self._file)
        _write_all(self._file, header(self.n, self._width, self._slide, seen.text()), 0)
        os.ftruncate(self._file, self._journal_at)
        os.fsync(self._file)
        try:
            self._part.replace(self.path)
        except FileNotFoundError as error:
            raise ModelError(
                "the features were removed while they were computed",
                where=self.path,
                hint="if their slide was not retracted, run it again",
            ) from error
        fsync_folder(self.path.parent)
        self.close()

    def close(self, *, keep: bool = True) -> None:
        """Let go of the file, and remove it where what is there is not to be continued."""
        if self._file < 0:
            return
        if not (keep and self.shared and self.done):
            with suppress(FileNotFoundError):
                # Only if the name is still this file's: a finished one has another.
                if os.path.samestat(self._part.stat(), os.fstat(self._file)):
                    self._part.unlink()
        os.close(self._file)
        self._file = -1

    def _at(self, row: int) -> int:
        return self._values_at + 4 * self._width * row

    def _record_at(self, number: int) -> int:
        return self._journal_at + len(self._plan) + RECORD.size * number

    def _place(self, width: int) -> None:
        self._width = width
        self._values_at = len(header(self.n, width, self._slide))
        self._journal_at = self._values_at + 4 * self.n * width

    def _begin(self, width: int) -> None:
        self._place(width)
        room = os.fstatvfs(self._file)
        free, need = room.f_bavail * room.f_frsize, 4 * self.n * width
        if need > free:
            said = f"{need / 1e9:.1f} GB of features do not fit, {free / 1e9:.1f} GB are free"
            raise OSError(errno.ENOSPC, said, str(self.path.parent))
        os.ftruncate(self._file, 0)
        _write_all(self._file, header(self.n, width, self._slide), 0)
        _write_all(self._file, self._plan, self._journal_at)

    def _resume(self) -> None:
        """Find which batches are there, and whole."""
        said = stated(os.pread(self._file, MOST_HEADER, 0))
        if said is None or said[::2] != (self.n, self._slide) or said[1] < 1:
            return
        self._place(said[1])
        if os.pread(self._file, len(self._plan), self._journal_at) != self._plan:
            self._width = 0
            return
        damaged = 0
        while len(record := os.pread(self._file, RECORD.size, self._record_at(self._records))):
            if len(record) < RECORD.size or zlib.crc32(record[:-4]) != RECORD.unpack(record)[2]:
                break  # killed while it was written
            self._records += 1
            number, told, _ = RECORD.unpack(record)
            rows = self.rows(number)
            found = b"".join(
                os.pread(self._file, 4 * self._width * (stop - start), self._at(row))
                for start, stop, row in _runs(rows)
            )
            if len(rows) and _seen(found) == told:
                self.done.add(number)
            else:
                self.done.discard(number)
                damaged += 1
        if damaged:
            log.warning("%s: %d damaged batches are computed again", self._part, damaged)


def _opened(path: Path) -> tuple[Path, int, bool]:
    """Open the part of a file for this process alone: its path, handle, and if it is kept.

    Where another process is at work on the same one, or the file system has no locks, this
    process has a part of its own, which does not outlive it.
    """
    shared = path.with_name(f".{path.stem}{PART}")
    for part, kept in (
        (shared, True),
        (shared.with_suffix(f".{secrets.token_hex(4)}{PART}"), False),
    ):
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(part.stat(), os.fstat(file)):
                return part, file, kept
        except OSError:
            if not kept:
                return part, file, kept
        os.close(file)
    message = f"{part} was removed while it was opened"
    raise OSError(message)


def _seen(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return (start, stop, first row) of each stretch of rows that follow upon one another."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = [0, *breaks.tolist()]
    stops = [*breaks.tolist(), len(rows)]
    return [(a, b, int(rows[a])) for a, b in zip(starts, stops, strict=True) if b > a]


def _write_all(file: int, data: bytes, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], at + done)
