"""Writing a snapshot: all live points of an atlas into files that are mapped."""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from bleepdb.atlas.copies import local_place, note_where_possible
from bleepdb.atlas.entries import SNAPSHOT
from bleepdb.atlas.manifest import live_where
from bleepdb.atlas.panels import FOLDER as PANELS
from bleepdb.atlas.panels import panel_blob
from bleepdb.atlas.snapshot import (
    BLOBS,
    FORMAT,
    MARKER_FILE,
    POINTS_FILE,
    SUFFIX,
    VERSION,
    SnapshotAtlas,
)
from bleepdb.atlas.tables import (
    CODED,
    FURTHER,
    ID,
    NUMBERS,
    check_record,
    further_pairs,
    stored_schema,
    vector_column,
)
from bleepdb.atlas.whole_folder import check_room, new_folder
from bleepdb.contracts import sealed
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError
from bleepdb.files import file_digest, write_json
from bleepdb.names import BARCODE, EXPR, NNZ, alias_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas, Record

POINTS_AT_ONCE = 500
BYTES_A_GENE = 1.5  # of packed text; schemas/bdb1.md says 1.2
BYTES_A_POINT = 600  # all but vectors and counts


def write_snapshot(
    atlas: Atlas,
    folder: str | Path,
    collections: Sequence[str] | None = None,
    *,
    actor: str,
    progress: Callable[[int, int], None] | None = None,
) -> SnapshotAtlas:
    """Write what is live in an atlas into a folder that is opened read-only, and open it.

    Each collection is as it stood at one moment. The folder appears whole or not at all.

    Parameters
    ----------
    atlas
        What to copy; it may be in use by others.
    folder
        Its name ends in ``.snapshot``; it must not exist.
    collections
        Full names; all collections where None.
    actor
        Who does it, for the log of the atlas: a retraction will name this folder.
    progress
        Called with (points done, points).

    Raises
    ------
    AtlasError
        If the name is no name for a snapshot, is taken, or the disk is too full.
    EmptyAtlasError
        If nothing is live there.
    AtlasCorruptError
        If the atlas is damaged, or changed again and again meanwhile.
    """
    path = Path(folder)
    if path.suffix != SUFFIX:
        raise AtlasError(
            f"the name of a snapshot ends in {SUFFIX}", where=path, hint=f"name it {path}{SUFFIX}"
        )
    manifests = _manifests(atlas, collections)
    check_room(path, sum(_size(atlas, m) for m in manifests))
    total, done = sum(m.spots for m in manifests), 0
    aliases = {a: c for a, c in atlas.aliases().items() if c in {m.collection for m in manifests}}
    with new_folder(path) as part:
        written = {}
        for manifest in manifests:

            def move(n: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + n, total)

            written[manifest.collection] = _write_collection(
                atlas, manifest, part / manifest.collection, aliases, move
            )
            done += manifest.spots
        document = {
            "format": FORMAT,
            "version": VERSION,
            "created": datetime.now(UTC).isoformat("T", "seconds"),
            "source": atlas.location,
            "aliases": aliases,
            "collections": written,
        }
        write_json(part / MARKER_FILE, sealed("snapshot", document))
        SnapshotAtlas(part).close()
        # Noted before it is there: a note too many is better than a copy that nobody knows of.
        for manifest in manifests:
            note_where_possible(
                atlas, manifest.collection, SNAPSHOT, local_place(path), actor=actor
            )
    return SnapshotAtlas(path)


def _manifests(atlas: Atlas, collections: Sequence[str] | None) -> list[Manifest]:
    """Pin the collections; those into which nothing was ever indexed are left out."""
    made = []
    for name in atlas.collections() if collections is None else collections:
        try:
            made.append(atlas.read_manifest(name))
        except EmptyAtlasError:
            if collections is not None:
                raise
    if not any(m.live for m in made):
        raise EmptyAtlasError(
            "no section is live here", where=atlas.location, hint="run `bleepdb index` first"
        )
    return made


def _size(atlas: Atlas, manifest: Manifest) -> int:
    """Estimate the bytes that writing a collection takes, from the genes of some of its points."""
    genes = [0]
    for batch in atlas.scroll(
        manifest.collection, where=live_where(manifest), fields=[NNZ], batch=POINTS_AT_ONCE
    ):
        genes = [int(r.payload.get(NNZ, 0)) for r in batch]
        break
    vectors = 4 * sum(manifest.vectors.values())
    # Vectors and counts stand in a file of their own before they stand in the table.
    a_point = 2 * (vectors + BYTES_A_GENE * float(np.mean(genes))) + BYTES_A_POINT
    return int(manifest.spots * a_point)


class _Columns:
    """Points on their way into one table: small columns in memory, large ones in files."""

    def __init__(self, folder: Path, manifest: Manifest, stack: ExitStack) -> None:
        self.folder, self.manifest = folder, manifest
        self.schema = stored_schema(manifest.vectors, manifest.keyword_fields)
        self.rows = 0
        self.small: dict[str, list[pa.Array]] = {}
        self.coded: dict[str, tuple[dict[str, int], array[int]]] = {
            field.name: ({}, array("i")) for field in self.schema if field.type == CODED
        }
        self.ends = array("q", [0])
        self.large: dict[str, BinaryIO] = {
            name: stack.enter_context((folder / f"{name}.raw").open("wb"))
            for name in (*(vector_column(v) for v in manifest.vectors), EXPR)
        }

    def add(self, records: Sequence[Record]) -> None:
        where = f"{self.manifest.collection}"
        for record in records:
            check_record(record, self.manifest.vectors, where=where)
        payloads = [r.payload for r in records]
        self._keep(ID, [r.id for r in records])
        for name in (BARCODE, *NUMBERS):
            self._keep(name, [p[name] for p in payloads])
        self._keep(FURTHER, [further_pairs(p, self.schema) for p in payloads])
        for name, (codes, rows) in self.coded.items():
            field = name.removeprefix("field.")
            values = (p.get(field) for p in payloads)
            rows.extend(-1 if v is None else codes.setdefault(v, len(codes)) for v in values)
        for name in self.manifest.vectors:
            made = np.stack([r.vectors[name] for r in records if r.vectors is not None])
            self.large[vector_column(name)].write(made.astype("<f4").tobytes())
        for payload in payloads:
            data = payload[EXPR].encode()
            self.large[EXPR].write(data)
            self.ends.append(self.ends[-1] + len(data))
        self.rows += len(records)

    def _keep(self, name: str, values: list[Any]) -> None:
        made = pa.array(values, self.schema.field(name).type)
        self.small.setdefault(name, []).append(made)

    def batch(self) -> pa.RecordBatch:
        """Return the table; what stands in files is mapped."""
        made: dict[str, pa.Array] = {}
        for field in self.schema:
            if field.type == CODED:
                codes, rows = self.coded[field.name]
                numbers = np.array(rows, dtype=np.int32)
                made[field.name] = pa.DictionaryArray.from_arrays(
                    pa.array(numbers, mask=numbers < 0), pa.array(list(codes), pa.string())
                )
            elif field.name in self.large:
                made[field.name] = self._mapped(field)
            else:
                chunks = self.small.get(field.name, [])
                made[field.name] = pa.chunked_array(chunks, field.type).combine_chunks()
        return pa.RecordBatch.from_arrays([made[n] for n in self.schema.names], schema=self.schema)

    def _mapped(self, field: pa.Field) -> pa.Array:
        self.large[field.name].flush()
        path = self.folder / f"{field.name}.raw"
        data = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else pa.py_buffer(b"")
        if field.name == EXPR:
            ends = pa.py_buffer(np.array(self.ends, dtype=np.int64))
            return pa.Array.from_buffers(field.type, self.rows, [None, ends, data])
        flat = pa.Array.from_buffers(pa.float32(), self.rows * field.type.list_size, [None, data])
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)


def _write_collection(
    atlas: Atlas,
    manifest: Manifest,
    folder: Path,
    aliases: dict[str, str],
    move: Callable[[int], None],
) -> dict[str, Any]:
    """Write a collection's files; return what the marker says of it."""
    name = manifest.collection
    folder.mkdir()
    path = folder / POINTS_FILE
    with ExitStack() as stack:
        columns = _Columns(folder, manifest, stack)
        found = atlas.scroll(
            name, where=live_where(manifest), with_vectors=True, batch=POINTS_AT_ONCE
        )
        for records in found if manifest.live else ():
            columns.add(records)
            move(columns.rows)
        if columns.rows != manifest.spots:
            raise AtlasCorruptError(
                f"{columns.rows} of {manifest.spots} points were found",
                where=f"{atlas.location}/{name}",
                hint="where sections were replaced meanwhile, run again; else see "
                "`bleepdb atlas verify`",
            )
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, columns.schema) as writer:
            writer.write_batch(columns.batch())
    for raw in folder.glob("*.raw"):
        raw.unlink()
    blobs = {}
    used = {panel_blob(d) for d in manifest.panels}
    for blob in atlas.list_blobs(name):
        data = atlas.get_blob(name, blob)
        if data is not None and (blob in used or not blob.startswith(f"{PANELS}/")):
            target = folder / BLOBS / blob
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            blobs[blob] = _about(target)
    alias = next((a for a, c in aliases.items() if c == name), alias_name(manifest.tissue))
    pinned = replace(manifest, staging=(), condemned=())
    return {
        "alias": alias,
        "manifest": pinned.to_json(),
        "points": _about(path),
        "blobs": blobs,
    }


def _about(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}
