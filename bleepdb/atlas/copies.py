"""Where points of a collection went is noted in its manifest, so that a retraction can say so."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from bleepdb.atlas.commit import note_copy
from bleepdb.errors import AtlasError

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.atlas.protocol import Atlas

log = logging.getLogger(__name__)


def local_place(path: Path) -> str:
    """Return what names a file or folder of this machine in notes that others read."""
    return f"{socket.gethostname()}:{path.absolute()}"


def note_where_possible(
    atlas: Atlas, collection: str, kind: str, where: str, *, actor: str
) -> None:
    """Note a copy in the manifest of an atlas that can be written; parameters as `note_copy`."""
    if atlas.kind == "snapshot":
        return
    try:
        note_copy(atlas, collection, kind, where, actor=actor)
    except AtlasError as error:  # such as a key that may only read
        log.warning("a retraction will not know of %s: %s", where, error)
