"""Import: what `exporting` wrote, or another tool by the same rules, goes into an atlas."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bleepdb.atlas.commit import prepare_collection, publish_section
from bleepdb.atlas.copies import local_place
from bleepdb.atlas.entries import LiveSection, LogEntry
from bleepdb.atlas.exact import ExactAtlas
from bleepdb.atlas.exporting import MARKER_FILE, POINTS_AT_ONCE, VERSION
from bleepdb.atlas.manifest import Manifest
from bleepdb.atlas.panels import put_panel
from bleepdb.atlas.receiving import Arrival, first_of, receive, spec_of
from bleepdb.atlas.tables import decoded_points, decoded_schema
from bleepdb.atlas.verifying import MODEL_FOLDER
from bleepdb.contracts import unsealed
from bleepdb.errors import AtlasCorruptError, AtlasError, GeneError
from bleepdb.files import file_digest
from bleepdb.names import WEIGHTS_FILE
from bleepdb.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bleepdb.atlas.protocol import Atlas, Points
    from bleepdb.atlas.receiving import Received

# What a file may say that it holds, unpacked: far more than counts and vectors ever shrink by.
MOST_RATIO = 64
MOST_SLACK = 64 * 2**20
MOST_TEXT = 4096  # bytes of a field; schemas/point.schema.json allows 1,000 characters
_MEND = "export the collection again"


def import_collection(
    folder: str | Path,
    atlas: Atlas,
    *,
    actor: str,
    progress: Callable[[int, int], None] | None = None,
) -> Received:
    """Put an export into an atlas; run again, it goes on.

    Everything is checked before anything becomes visible: each file against its digest, each
    point against its schema and id, each section against its digest.

    Parameters
    ----------
    folder
        As `export_collection` wrote it, or another tool that keeps to schemas/export.md.
    atlas
        The target.
    actor
        Who does it, for the log.
    progress
        Called with (points done, points), of two passes: checking, then writing.

    Raises
    ------
    AtlasCorruptError
        If the folder is not what was written. Nothing became visible.
    AtlasError
        If it is no export, of a newer format, or the target cannot be written.
    SpaceMismatchError
        If the collection of the target was made by another model.
    """
    root = Path(folder)
    document = _read_marker(root)
    _check_files(root, document)
    manifest = _manifest(root, document)
    files = {s["section"]: root / s["file"] for s in document["sections"]}
    panels = [_read_panel(root / p["file"], p["digest"]) for p in document["panels"]]
    documents = {n: (root / f).read_bytes() for n, f in document["documents"].items()}
    weights = documents.get(f"{MODEL_FOLDER}/{WEIGHTS_FILE}")
    if weights is not None and hashlib.sha256(weights).hexdigest() != manifest.model_digest:
        raise AtlasCorruptError(
            "the model is not the one that made the vectors", where=root, hint=_MEND
        )

    def points(live: LiveSection) -> Iterator[Points]:
        return _read_section(files[live.section], manifest, live)

    done, total = 0, 2 * manifest.spots
    for live in manifest.live:
        _rehearse(manifest, live, panels, points)
        done += live.spots
        if progress is not None:
            progress(done, total)
    return receive(
        atlas,
        Arrival(manifest, panels, documents, points),
        came_from=local_place(root),
        actor=actor,
        progress=None if progress is None else lambda n, all_: progress(all_ + n, 2 * all_),
    )


def _read_marker(root: Path) -> dict[str, Any]:
    path = root / MARKER_FILE
    if not path.is_file():
        raise AtlasError(
            f"this is no export (it holds no {MARKER_FILE})",
            where=root,
            hint="name a folder that `bleepdb atlas export` made",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AtlasCorruptError(
            f"cannot be read ({error.strerror})", where=path, hint=_MEND
        ) from error
    return unsealed(
        "export", data, newest=VERSION, where=path, hint=_MEND,
        error=AtlasError, damaged=AtlasCorruptError,
    )  # fmt: skip


def _check_files(root: Path, document: dict[str, Any]) -> None:
    """Compare each file with its digest; one that is named but not listed is refused."""
    named = [s["file"] for s in document["sections"]] + [p["file"] for p in document["panels"]]
    for name in (*named, *document["documents"].values()):
        if name not in document["files"]:
            raise AtlasCorruptError("has no digest", where=root / name, hint=_MEND)
    for name, about in document["files"].items():
        path = root / name
        try:
            same = path.stat().st_size == about["bytes"] and file_digest(path) == about["sha256"]
        except OSError as error:
            raise AtlasCorruptError(
                f"cannot be read ({error.strerror})", where=path, hint=_MEND
            ) from error
        if not same:
            raise AtlasCorruptError("is not what was written", where=path, hint=_MEND)


def _manifest(root: Path, document: dict[str, Any]) -> Manifest:
    """Return the manifest of an export, as it must have been."""
    live = tuple(
        LiveSection(**{k: v for k, v in s.items() if k != "file"}) for s in document["sections"]
    )
    made = Manifest(
        collection=document["collection"],
        tissue=document["tissue"],
        species=document["species"],
        space_id=document["space_id"],
        model_digest=document["model_digest"],
        key=document["key"],
        vectors=document["vectors"],
        keyword_fields=tuple(document["keyword_fields"]),
        panels=tuple(sorted(p["digest"] for p in document["panels"])),
        live=tuple(sorted(live, key=lambda s: s.section)),
        codec=document["codec"],
    )
    # By way of its JSON: what a manifest must be is checked in one place.
    return Manifest.from_json(made.to_json(), where=root / MARKER_FILE)


def _read_panel(path: Path, named: str) -> Panel:
    try:
        panel = Panel.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, GeneError) as error:
        raise AtlasCorruptError(f"is no panel ({error!r})", where=path, hint=_MEND) from error
    if panel.digest != named:
        raise AtlasCorruptError("this panel's digest is wrong", where=path, hint=_MEND)
    return panel


def _read_section(path: Path, manifest: Manifest, live: LiveSection) -> Iterator[Points]:
    """Read the points of a section, some at a time."""
    schema = decoded_schema(manifest.vectors, manifest.keyword_fields)
    try:
        texts = _check_declared(path, schema, live)
        # Texts stay numbers into a list of distinct ones until their lengths are known.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(POINTS_AT_ONCE, columns=schema.names):
                for column in batch.columns:
                    _check_texts(column, path)
                table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                for part in table.combine_chunks().to_batches():
                    part.validate(full=True)
                    yield decoded_points(part, where=str(path))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise AtlasCorruptError(f"cannot be read ({what})", where=path, hint=_MEND) from error


def _check_declared(path: Path, schema: pa.Schema, live: LiveSection) -> list[str]:
    """Judge a section's file by what its footer declares; return the paths of its texts.

    Values that repeat take next to nothing in the file, however many they are, so that they are
    counted, and not the bytes that they take alone.
    """
    with pq.ParquetFile(path) as file:
        about = file.metadata
    if about.num_rows != live.spots:
        raise AtlasCorruptError(
            f"holds {about.num_rows} spots, not {live.spots}", where=path, hint=_MEND
        )
    unpacked, texts = 0, []
    for group in map(about.row_group, range(about.num_row_groups)):
        columns = list(map(group.column, range(about.num_columns)))
        unpacked += sum(max(c.total_uncompressed_size, 4 * c.num_values) for c in columns)
        for column in columns:
            if not any(_within(column.path_in_schema, name) for name in schema.names):
                continue
            if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
                raise AtlasCorruptError(
                    f"{column.path_in_schema:.80} is of another kind", where=path, hint=_MEND
                )
            if column.physical_type == "BYTE_ARRAY":
                texts.append(column.path_in_schema)
    if unpacked > MOST_RATIO * path.stat().st_size + MOST_SLACK:
        raise AtlasCorruptError(
            f"says that it unpacks to {unpacked // 2**20} MB", where=path, hint=_MEND
        )
    return sorted(set(texts))


def _within(path: str, column: str) -> bool:
    return path == column or path.startswith(f"{column}.")


def _check_texts(column: pa.Array, path: Path) -> None:
    """Refuse texts longer than any may be, before each row gets a copy."""
    if pa.types.is_map(column.type):
        _check_texts(column.keys, path)
        _check_texts(column.items, path)
    elif pa.types.is_dictionary(column.type):
        longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        if longest > MOST_TEXT:
            raise AtlasCorruptError(f"holds a text of {longest} bytes", where=path, hint=_MEND)


def _rehearse(
    manifest: Manifest,
    live: LiveSection,
    panels: list[Panel],
    points: Callable[[LiveSection], Iterator[Points]],
) -> None:
    """Publish a section into an atlas in memory, which checks all that publishing checks."""
    with ExactAtlas("the export") as scratch:
        first = first_of(manifest, LogEntry.now("import", "rehearsal"))
        prepare_collection(scratch, spec_of(manifest), first, actor="import")
        for panel in panels:
            put_panel(scratch, manifest.collection, panel)
        publish_section(scratch, manifest.collection, live, points(live), actor="import")
