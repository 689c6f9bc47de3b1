"""JSON documents, the markers of bleepdb's own folders, and packed archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bleepdb.inspecting.findings import Findings, quoted, size_text
from bleepdb.inspecting.looking import json_object, json_of
from bleepdb.inspecting.masks import inspect_geojson
from bleepdb.tissue.readers.outs import SCALEFACTORS

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection


def inspect_json(path: Path) -> Inspection | None:
    """Tell a JSON document; None where it is none."""
    if path.name in SCALEFACTORS or path.name.endswith("scalefactors_json.json"):
        found = Findings(path)
        for key, value in list(json_object(path).items())[:20]:
            found.fact(str(key), value)
        return found.made(
            "part",
            "scale factors of a Space Ranger folder",
            then=f"bleepdb inspect {quoted(path.parent.parent)}",
        )
    mask = inspect_geojson(path)
    if mask is not None:
        return mask
    document = json_of(path)
    if document is None:
        return None
    found = Findings(path)
    found.fact("file", path.stat().st_size, size_text(path.stat().st_size))
    if isinstance(document, dict):
        named = document.get("format")
        found.fact("keys", [str(k)[:40] for k in list(document)[:20]])
        if isinstance(named, str):
            found.fact("format", named[:80])
        if {"command", "versions", "facts"} <= set(document):
            return found.made("json", "a run card of bleepdb")
    elif isinstance(document, list):
        found.fact("items", len(document))
    return found.made("json", "a JSON document; bleepdb takes nothing from it")


def inspect_card(path: Path) -> Inspection:
    """Tell the document that says what the folder around it is."""
    found = Findings(path)
    document = json_object(path)
    found.fact("format", document.get("format"))
    found.fact("version", document.get("version"))
    found.note("the folder is what bleepdb opens")
    then = f"bleepdb inspect {quoted(path.parent)}"
    return found.made("part", "the document of a folder of bleepdb's own", then=then)


def inspect_archive(path: Path, magic: str) -> Inspection:
    """Tell a packed archive."""
    found = Findings(path)
    found.fact("file", path.stat().st_size, size_text(path.stat().st_size))
    found.lacks("its contents, unpacked", needed_for="any use", remedy="unpack it, then inspect it")
    return found.made("archive", f"a packed archive ({magic}), which is not looked into")
