"""Atlas folders, snapshots and exports, told by their manifests; nothing is locked or swept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bleepdb.atlas.exporting import MARKER_FILE as EXPORT_MARKER
from bleepdb.atlas.exporting import VERSION as EXPORT_VERSION
from bleepdb.atlas.folder import ALIASES_FILE, BLOBS, COLLECTIONS, MANIFEST_FILE
from bleepdb.atlas.folder import MARKER_FILE as ATLAS_MARKER
from bleepdb.atlas.manifest import Manifest
from bleepdb.atlas.snapshot import MARKER_FILE as SNAPSHOT_MARKER
from bleepdb.atlas.snapshot import read_marker
from bleepdb.atlas.verifying import MODEL_FOLDER
from bleepdb.contracts import unsealed
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.inspecting.findings import Entry, Findings, quoted, size_text
from bleepdb.inspecting.looking import json_object, names_in
from bleepdb.names import MODEL_CARD_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection

MARKERS: Final = (ATLAS_MARKER, SNAPSHOT_MARKER, EXPORT_MARKER)
MOST_MANIFEST: Final = 2**27
MEND: Final = "run `bleepdb atlas verify`, or restore the atlas from a copy"


def inspect_atlas(path: Path) -> Inspection:
    """Tell what an atlas folder holds, whoever has it open."""
    found = Findings(path)
    home = path / COLLECTIONS
    names = [n for n in names_in(home) if not n.startswith(".")] if home.is_dir() else []
    aliases = json_object(path / ALIASES_FILE)
    found.fact("kind of atlas", "embedded")
    found.fact("made", json_object(path / ATLAS_MARKER).get("created"))
    made: list[Manifest] = []
    entries = []
    for name in names:
        file = home / name / MANIFEST_FILE
        if not file.is_file():
            entries.append(Entry(name, "collection", "nothing was indexed into it yet"))
            continue
        try:
            if file.stat().st_size > MOST_MANIFEST:
                raise AtlasCorruptError("is too large for a manifest", where=file)
            manifest = Manifest.from_bytes(file.read_bytes(), where=file)
        except (AtlasError, OSError) as error:
            what = error.what if isinstance(error, AtlasError) else str(error)
            entries.append(Entry(name, "collection", f"damaged: {what}"))
            found.lacks(f"a sound manifest of {name}", needed_for="query", remedy=MEND)
            continue
        made.append(manifest)
        card = json_object(home / name / BLOBS / MODEL_FOLDER / MODEL_CARD_FILE)
        entries.append(_entry(manifest, aliases, card))
    _totals(found, made)
    return found.made("atlas", "an atlas", entries=tuple(entries), then=_next(path, made, aliases))


def inspect_snapshot(path: Path) -> Inspection:
    """Tell what a snapshot holds.

    Raises
    ------
    AtlasError
        If its document is damaged, or of a newer version.
    """
    found = Findings(path)
    document = read_marker(path)
    aliases: dict[str, Any] = document["aliases"]
    found.fact("kind of atlas", "snapshot, read-only")
    found.fact("made", document["created"])
    found.fact("made from", document["source"])
    made, entries, size = [], [], 0
    for name, about in sorted(document["collections"].items()):
        manifest = Manifest.from_json(about["manifest"], where=path / SNAPSHOT_MARKER)
        made.append(manifest)
        card = json_object(path / name / BLOBS / MODEL_FOLDER / MODEL_CARD_FILE)
        entries.append(_entry(manifest, aliases, card))
        file = path / name / "points.arrow"
        size += about["points"]["bytes"]
        if not file.is_file() or file.stat().st_size != about["points"]["bytes"]:
            found.lacks(f"the points of {name}, whole", needed_for="query",
                        remedy="write the snapshot again")  # fmt: skip
    found.fact("points", size, size_text(size))
    _totals(found, made)
    then = None if found.missing else _next(path, made, aliases)
    if not path.name.endswith(".snapshot"):
        found.lacks("the ending .snapshot", needed_for="query", remedy="rename the folder")
        then = None
    return found.made("snapshot", "a snapshot of an atlas", entries=tuple(entries), then=then)


def inspect_export(path: Path) -> Inspection:
    """Tell what an export holds.

    Raises
    ------
    AtlasError
        If its document is damaged, or of a newer version.
    """
    found = Findings(path)
    file = path / EXPORT_MARKER
    document = unsealed(
        "export", file.read_bytes(), newest=EXPORT_VERSION, where=file,
        hint="export it again", error=AtlasError, damaged=AtlasCorruptError,
    )  # fmt: skip
    sections = document["sections"]
    found.fact("collection", document["collection"])
    found.fact("holds", f"{document['species']} {document['tissue']}")
    found.fact("made", document["created"])
    found.fact("made from", document["source"])
    found.fact("sections", len(sections))
    found.fact("spots", sum(s["spots"] for s in sections))
    found.fact("donors", sorted({s["donor"] for s in sections}))
    found.fact("space", document["space_id"][:12])
    size = sum(f["bytes"] for f in document["files"].values())
    found.fact("files", size, f"{len(document['files'])}, {size_text(size)}")
    gone = [n for n, f in document["files"].items()
            if not (path / n).is_file() or (path / n).stat().st_size != f["bytes"]]  # fmt: skip
    if gone:
        found.lacks(f"{len(gone)} of its files, whole (such as {gone[0]})", needed_for="import",
                    remedy="export it again")  # fmt: skip
    entries = tuple(
        Entry(s["section"], "section", f"{s['donor']}, {s['spots']:,} spots, {s['file']}")
        for s in sections
    )
    then = None if gone else f"bleepdb atlas import {quoted(path)} --atlas ATLAS"
    return found.made("export", "an export of `bleepdb atlas export`", entries=entries, then=then)


def inspect_part(path: Path, root: Path) -> Inspection:
    """Tell a file or folder inside an atlas, a snapshot or an export."""
    found = Findings(path)
    found.note("what is inside is not looked at apart")
    return found.made("part", f"a part of the atlas {root}", then=f"bleepdb inspect {quoted(root)}")


def _entry(manifest: Manifest, aliases: dict[str, Any], card: dict[str, Any]) -> Entry:
    donors = {s.donor for s in manifest.live}
    alias = next((a for a, c in aliases.items() if c == manifest.collection), "no alias")
    features = card.get("features")
    backbone = features.get("backbone") if isinstance(features, dict) else None
    model = f"{card.get('recipe')} on {backbone}" if card else "no model beside it"
    return Entry(
        manifest.collection,
        "collection",
        f"{alias}; {manifest.species} {manifest.tissue}; {len(manifest.live)} sections, "
        f"{manifest.spots:,} spots, {len(donors)} donors; generation {manifest.generation}; "
        f"{model}",
    )


def _totals(found: Findings, made: list[Manifest]) -> None:
    found.fact("collections", len(made))
    found.fact("sections", sum(len(m.live) for m in made))
    found.fact("spots", sum(m.spots for m in made))
    found.fact("donors", len({s.donor for m in made for s in m.live}))
    copies = [c for m in made for c in m.copies]
    if copies:
        found.fact("copies", len(copies), f"{len(copies)} made, the last a {copies[-1].kind}")
    staging = [s for m in made for s in m.staging]
    if staging:
        found.note(f"{len(staging)} sections are being written")


def _next(path: Path, made: list[Manifest], aliases: dict[str, Any]) -> str:
    live = [m for m in made if m.live]
    if not live:
        return f"bleepdb index SHEET.csv --model MODEL --atlas {quoted(path)}"
    aliased = [m for m in live if m.collection in aliases.values()]
    tissue = aliased[0].tissue if aliased else live[0].collection
    return f"bleepdb query SLIDE --atlas {quoted(path)} --tissue {tissue} --out OUT.h5ad"
