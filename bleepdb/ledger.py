"""The ledger: where imputed outputs of this machine went, so that a retraction can name them.

One JSON object a line in ``outputs.jsonl`` in the cache folder, for its owner alone. It is a help
to memory and no proof: who deletes the cache, or moves a file, is not followed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from bleepdb.files import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

LEDGER_FILE: Final = "outputs.jsonl"


@dataclass(frozen=True)
class Output:
    """One imputed file.

    Attributes
    ----------
    path
        Where it was written, absolute.
    atlas, collection
        What was asked, secrets left out.
    donors, sections
        Whose spots its values rest on.
    when
        ISO 8601, UTC.
    """

    path: str
    atlas: str
    collection: str
    donors: tuple[str, ...]
    sections: tuple[str, ...]
    when: str


def record(
    path: Path, *, atlas: str, collection: str, donors: Iterable[str], sections: Iterable[str]
) -> None:
    """Add an output to the ledger. Where that cannot be done, a warning says so."""
    entry = Output(
        str(path.absolute()),
        atlas,
        collection,
        tuple(sorted(set(donors))),
        tuple(sorted(set(sections))),
        datetime.now(UTC).isoformat("T", "seconds"),
    )
    # In ASCII: a path need not be Unicode. The line ends before as well, since what a full disk cut
    # off may stand there without an end.
    line = f"\n{json.dumps(asdict(entry))}\n".encode("ascii")
    try:
        # One write at the end of the file: lines of several processes do not mix.
        handle = os.open(cache_dir() / LEDGER_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
    except OSError as error:
        log.warning("a retraction will not know of %s: %s", path, error)


def outputs() -> list[Output]:
    """Return the outputs that were recorded, oldest first, each file as it was last written.

    Lines that cannot be read are passed over.
    """
    try:
        path = cache_dir() / LEDGER_FILE
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("the list of outputs cannot be read: %s", error)
        return []
    made: dict[str, Output] = {}
    damaged = 0
    for line in filter(None, lines):
        try:
            found = json.loads(line)
            entry = Output(
                str(found["path"]),
                str(found["atlas"]),
                str(found["collection"]),
                tuple(map(str, found["donors"])),
                tuple(map(str, found["sections"])),
                str(found["when"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1
        else:
            made.pop(entry.path, None)
            made[entry.path] = entry
    if damaged:
        log.warning("%s: %d lines cannot be read", path, damaged)
    return list(made.values())
