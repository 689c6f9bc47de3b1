"""The reference atlas: payload codec, manifest, and the exact and embedded stores.

Names load when they are first used (PEP 562): who needs only the exact atlas loads no engine.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb.errors import AtlasError

if TYPE_CHECKING:
    from bleepdb.atlas.checks import vector_crc
    from bleepdb.atlas.commit import (
        Outcome,
        note_copy,
        point_id,
        prepare_collection,
        publish_section,
        retract_section,
    )
    from bleepdb.atlas.embedded import EmbeddedAtlas
    from bleepdb.atlas.exact import ExactAtlas
    from bleepdb.atlas.manifest import LiveSection, LogEntry, Manifest, live_where
    from bleepdb.atlas.panels import get_panel, put_panel
    from bleepdb.atlas.payload import decode, decode_fields, encode, expression_fields
    from bleepdb.atlas.protocol import Atlas, CollectionSpec, Hits, Points, Record, Where
    from bleepdb.atlas.reading import Pinned, Profiles, fetch_profiles, pin, resolve
    from bleepdb.atlas.sweeping import sweep, vacuum

_HOMES = {
    "Atlas": "protocol",
    "CollectionSpec": "protocol",
    "EmbeddedAtlas": "embedded",
    "ExactAtlas": "exact",
    "Hits": "protocol",
    "LiveSection": "manifest",
    "LogEntry": "manifest",
    "Manifest": "manifest",
    "Outcome": "commit",
    "Pinned": "reading",
    "Points": "protocol",
    "Profiles": "reading",
    "Record": "protocol",
    "Where": "protocol",
    "decode": "payload",
    "decode_fields": "payload",
    "encode": "payload",
    "expression_fields": "payload",
    "fetch_profiles": "reading",
    "get_panel": "panels",
    "live_where": "manifest",
    "note_copy": "commit",
    "pin": "reading",
    "point_id": "commit",
    "prepare_collection": "commit",
    "publish_section": "commit",
    "put_panel": "panels",
    "resolve": "reading",
    "retract_section": "commit",
    "sweep": "sweeping",
    "vacuum": "sweeping",
    "vector_crc": "checks",
}
__all__ = [
    "Atlas",
    "CollectionSpec",
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
    "Record",
    "Where",
    "decode",
    "decode_fields",
    "encode",
    "expression_fields",
    "fetch_profiles",
    "get_panel",
    "live_where",
    "note_copy",
    "open_atlas",
    "pin",
    "point_id",
    "prepare_collection",
    "publish_section",
    "put_panel",
    "refuse_location",
    "resolve",
    "retract_section",
    "sweep",
    "vacuum",
    "vector_crc",
]

MEMORY = "memory:"
# Slips such as http:/host are meant as URLs too, and may hold a key as well.
_URL = re.compile(r"(?P<scheme>https?):/*|(?P<other>[A-Za-z][A-Za-z0-9+.-]*)://", re.IGNORECASE)
_KINDS = "a folder (embedded) and memory: (exact) work in this version"


def open_atlas(location: str | Path, *, create: bool = False, lock_timeout: float = 10.0) -> Atlas:
    """Open the atlas at a location; what the location looks like decides its kind.

    Parameters
    ----------
    location
        A folder (embedded), or ``memory:`` (exact, new and empty).
    create
        Make the folder an atlas if it is missing or empty.
    lock_timeout
        Seconds to wait for another process that has the folder open.

    Raises
    ------
    EmptyAtlasError
        If there is no atlas and `create` is false.
    AtlasLockedError
        If another process holds it for longer; the message says which.
    AtlasError
        If the location is of a kind that this version does not know, or the folder is no atlas.
    """
    text = str(location)
    refuse_location(text)
    if text == MEMORY:
        exact: Atlas = import_module("bleepdb.atlas.exact").ExactAtlas()
        return exact
    module = import_module("bleepdb.atlas.embedded")
    embedded: Atlas = module.EmbeddedAtlas(Path(text), create=create, lock_timeout=lock_timeout)
    return embedded


def refuse_location(location: str | Path) -> None:
    """Refuse a location of a kind that this version does not know; nothing is opened.

    Raises
    ------
    AtlasError
        It does not repeat user information or parameters, which may hold a key.
    """
    text = str(location)
    found = _URL.match(text)
    if found is not None:
        scheme = (found["scheme"] or found["other"]).lower()
        rest = text[found.end() :]
        host = re.split("[/?#]", rest)[0]
        if "@" in rest and "@" not in host:
            host = "@"  # user information that is not quoted as it should be may be cut anywhere
        shown = f"{scheme}://{host.rpartition('@')[2]}"
        what = "a Qdrant server" if scheme in {"http", "https"} else f"a location of kind {scheme}"
        raise AtlasError(f"{what} cannot be an atlas yet", where=shown, hint=_KINDS)
    if text.rstrip("/").endswith(".snapshot"):
        raise AtlasError("a snapshot cannot be opened yet", where=text, hint=_KINDS)
    if not text:
        raise AtlasError("an empty location is no atlas", hint=_KINDS)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"bleepdb.atlas.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
