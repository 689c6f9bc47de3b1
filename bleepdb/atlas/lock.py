"""The lock of a folder: one process at a time, and it says who."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bleepdb.errors import AtlasError, AtlasLockedError

LOCK_FILE = ".lock"
POLL_SECONDS = 0.05
MOST_BYTES = 4096


def _command() -> str:
    """Name of the program and its first plain argument; no options, which may hold secrets."""
    words = [Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"]
    words += [w for w in sys.argv[1:2] if w.isidentifier()]
    return " ".join(words)[:100]


class FolderLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    The kernel drops it when the process ends, however it ends. The file's text says who holds it;
    it is read only to word the error and decides nothing.

    Parameters
    ----------
    path
        The lock file; it is made if missing, and stays.
    timeout
        Seconds to wait for another holder.

    Raises
    ------
    AtlasLockedError
        If another holds it for longer; the message says who, where and since when.
    AtlasError
        If the file cannot be opened, or its file system has no locks.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise AtlasError(
                f"cannot be opened ({error.strerror})",
                where=path,
                hint="an embedded atlas needs a folder that can be written",
            ) from error
        try:
            self._wait(time.monotonic() + timeout, timeout)
        except BaseException:
            os.close(self._handle)
            raise
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat("T", "seconds"),
            "command": _command(),
        }
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(about).encode(), 0)

    def _wait(self, deadline: float, timeout: float) -> None:
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise AtlasLockedError(
                        f"is in use by {self._holder()}",
                        where=self.path.parent,
                        hint=f"waited {timeout:g} s; let it end, or give a longer --lock-timeout",
                    ) from error
                time.sleep(POLL_SECONDS)
            except OSError as error:
                raise AtlasError(
                    f"cannot be locked ({error.strerror})",
                    where=self.path,
                    hint="keep an embedded atlas on a file system with locks, such as a local disk",
                ) from error
            else:
                return

    def _holder(self) -> str:
        """Say who holds the lock, as far as the file tells."""
        try:
            about = json.loads(os.pread(self._handle, MOST_BYTES, 0))
            pid, host = int(about["pid"]), str(about["host"])
            command, since = str(about["command"]), str(about["since"])
        except (ValueError, KeyError, TypeError):
            return "another process"
        here = pid == os.getpid() and host == socket.gethostname()
        who = "this very process" if here else f"process {pid} on {host}"
        return f"{who} ({command}, since {since})"

    def release(self) -> None:
        """Let go. A second time is fine."""
        if self._handle >= 0:
            # Unlocked by name, not only closed: a forked child may still have the file open.
            os.ftruncate(self._handle, 0)
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            os.close(self._handle)
            self._handle = -1
