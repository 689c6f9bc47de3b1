"""The reference atlas: payload codec, manifest, and the stores.

Names load when they are first used (PEP 562): who needs only the exact atlas loads no engine.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb.atlas.connection import Address, shown_url
from bleepdb.errors import AtlasError

if TYPE_CHECKING:
    from bleepdb.atlas.cache import purge
    from bleepdb.atlas.checks import vector_crc
    from bleepdb.atlas.commit import (
        Outcome,
        note_copy,
        prepare_collection,
        publish_section,
        retract_section,
    )
    from bleepdb.atlas.connection import Connection
    from bleepdb.atlas.copying import copy_collection
    from bleepdb.atlas.describing import describe
    from bleepdb.atlas.embedded import EmbeddedAtlas
    from bleepdb.atlas.entries import LiveSection, LogEntry
    from bleepdb.atlas.exact import ExactAtlas
    from bleepdb.atlas.exporting import export_collection
    from bleepdb.atlas.importing import import_collection
    from bleepdb.atlas.manifest import Manifest, live_where
    from bleepdb.atlas.panels import get_panel, put_panel
    from bleepdb.atlas.payload import decode, decode_fields, encode, expression_fields
    from bleepdb.atlas.protocol import Atlas, CollectionSpec, Hits, Points, Record, Where
    from bleepdb.atlas.reading import Pinned, Profiles, fetch_profiles, pin, resolve
    from bleepdb.atlas.receiving import Received
    from bleepdb.atlas.reporting import Report
    from bleepdb.atlas.server import ServerAtlas
    from bleepdb.atlas.snapshot import SnapshotAtlas
    from bleepdb.atlas.snapshotting import write_snapshot
    from bleepdb.atlas.staging import point_id
    from bleepdb.atlas.sweeping import sweep, vacuum
    from bleepdb.atlas.tidying import tidy
    from bleepdb.atlas.verifying import verify

_HOMES = {
    "Atlas": "protocol",
    "CollectionSpec": "protocol",
    "Connection": "connection",
    "EmbeddedAtlas": "embedded",
    "ExactAtlas": "exact",
    "Hits": "protocol",
    "LiveSection": "entries",
    "LogEntry": "entries",
    "Manifest": "manifest",
    "Outcome": "commit",
    "Pinned": "reading",
    "Points": "protocol",
    "Profiles": "reading",
    "Received": "receiving",
    "Record": "protocol",
    "Report": "reporting",
    "ServerAtlas": "server",
    "SnapshotAtlas": "snapshot",
    "Where": "protocol",
    "copy_collection": "copying",
    "decode": "payload",
    "decode_fields": "payload",
    "describe": "describing",
    "encode": "payload",
    "export_collection": "exporting",
    "expression_fields": "payload",
    "fetch_profiles": "reading",
    "get_panel": "panels",
    "import_collection": "importing",
    "live_where": "manifest",
    "note_copy": "commit",
    "pin": "reading",
    "point_id": "staging",
    "prepare_collection": "commit",
    "publish_section": "commit",
    "purge": "cache",
    "put_panel": "panels",
    "resolve": "reading",
    "retract_section": "commit",
    "sweep": "sweeping",
    "tidy": "tidying",
    "vacuum": "sweeping",
    "vector_crc": "checks",
    "verify": "verifying",
    "write_snapshot": "snapshotting",
}
__all__ = [
    "Atlas",
    "CollectionSpec",
    "Connection",
    "EmbeddedAtlas",
    "ExactAtlas",
    "Hits",
    "LiveSection",
    "LogEntry",
    "Manifest",
    "Outcome",
    "Pinned",
    "Points",
    "Profiles",
    "Received",
    "Record",
    "Report",
    "ServerAtlas",
    "SnapshotAtlas",
    "Where",
    "copy_collection",
    "decode",
    "decode_fields",
    "describe",
    "encode",
    "export_collection",
    "expression_fields",
    "fetch_profiles",
    "get_panel",
    "import_collection",
    "live_where",
    "note_copy",
    "open_atlas",
    "pin",
    "point_id",
    "prepare_collection",
    "publish_section",
    "purge",
    "put_panel",
    "refuse_location",
    "resolve",
    "retract_section",
    "sweep",
    "tidy",
    "vacuum",
    "vector_crc",
    "verify",
    "write_snapshot",
]

MEMORY = "memory:"
SNAPSHOT_SUFFIX = ".snapshot"
# Slips such as http:/host are meant as URLs too, and may hold a key as well.
_URL = re.compile(r"(?P<http>https?):/*|(?P<other>[A-Za-z][A-Za-z0-9+.-]*)://", re.IGNORECASE)
_KINDS = (
    "an atlas is a folder, a NAME.snapshot folder, a Qdrant server (http(s)://host:6333), "
    "or memory:"
)


def open_atlas(
    location: str | Path,
    *,
    create: bool = False,
    lock_timeout: float = 10.0,
    connection: Connection | None = None,
) -> Atlas:
    """Open the atlas at a location; what the location looks like decides its kind.

    Parameters
    ----------
    location
        A folder (embedded), ``http(s)://host[:port]`` (a Qdrant server), a ``.snapshot`` folder
        (read-only), or ``memory:`` (exact, new and empty).
    create
        Make the folder an atlas if it is missing or empty.
    lock_timeout
        Seconds to wait for another process that has the folder open.
    connection
        Key, certificates and deadlines for a server; default: what the environment says.

    Raises
    ------
    EmptyAtlasError
        If there is no atlas and `create` is false.
    AtlasLockedError
        If another process holds it for longer; the message says which.
    AtlasError
        If the location is of no known kind, the folder is no atlas, or the server cannot be used.
    """
    text = str(location)
    refuse_location(text)
    opened: Atlas
    if text == MEMORY:
        opened = import_module("bleepdb.atlas.exact").ExactAtlas()
    elif is_url(text):
        opened = import_module("bleepdb.atlas.server").ServerAtlas(text, connection)
    elif is_snapshot(text):
        opened = import_module("bleepdb.atlas.snapshot").SnapshotAtlas(Path(text))
    else:
        module = import_module("bleepdb.atlas.embedded")
        opened = module.EmbeddedAtlas(Path(text), create=create, lock_timeout=lock_timeout)
    return opened


def is_url(location: str | Path) -> bool:
    """Tell whether a location means a server."""
    found = _URL.match(str(location))
    return found is not None and found["http"] is not None


def is_snapshot(location: str | Path) -> bool:
    """Tell whether a location means a read-only snapshot."""
    return not is_url(location) and str(location).rstrip("/").endswith(SNAPSHOT_SUFFIX)


def refuse_location(location: str | Path) -> None:
    """Refuse a location of no known kind, or a URL with a secret in it; nothing is opened.

    Raises
    ------
    AtlasError
        It does not repeat user information or parameters, which may hold a key.
    """
    text = str(location)
    if not text:
        raise AtlasError("an empty location is no atlas", hint=_KINDS)
    if is_url(text):
        Address.parse(text)
    elif found := _URL.match(text):
        raise AtlasError(
            f"a location of kind {found['other'].lower()} cannot be an atlas",
            where=shown_url(text),
            hint=_KINDS,
        )


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"bleepdb.atlas.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
