"""Panels beside a collection: stored once, by digest, and checked when they are read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bleepdb.errors import AtlasCorruptError, GeneError
from bleepdb.files import canonical_json
from bleepdb.panel import Panel

if TYPE_CHECKING:
    from bleepdb.atlas.protocol import Atlas

FOLDER = "panels"


def panel_blob(digest: str) -> str:
    """Name of the document that holds a panel."""
    return f"{FOLDER}/{digest}.json"


def put_panel(atlas: Atlas, collection: str, panel: Panel) -> str:
    """Store a panel unless it is there; return its digest.

    Must be done before a section measured on it is published.
    """
    name = panel_blob(panel.digest)
    if name not in atlas.list_blobs(collection):
        atlas.put_blob(collection, name, canonical_json(panel.to_json()))
    return panel.digest


def get_panel(atlas: Atlas, collection: str, digest: str) -> Panel:
    """Read a panel.

    Raises
    ------
    AtlasCorruptError
        If it is not there, or is not the one that its name says.
    """
    data = atlas.get_blob(collection, panel_blob(digest))
    where = f"{atlas.location}/{collection}/{panel_blob(digest)}"
    hint = "restore the atlas from a copy, or index its sections into a new one"
    if data is None:
        raise AtlasCorruptError("this panel of genes is not there", where=where, hint=hint)
    try:
        panel = Panel.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError, GeneError) as error:
        raise AtlasCorruptError(f"is no panel ({error!r})", where=where, hint=hint) from error
    if panel.digest != digest:
        raise AtlasCorruptError("this panel's digest is wrong", where=where, hint=hint)
    return panel
