"""Export: a collection as a folder of Parquet that other tools read (schemas/export.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from bleepdb.atlas.copies import local_place, note_where_possible
from bleepdb.atlas.digests import point_digest, section_digest
from bleepdb.atlas.entries import EXPORT, LiveSection, now
from bleepdb.atlas.panels import FOLDER as PANELS
from bleepdb.atlas.panels import get_panel, panel_blob
from bleepdb.atlas.payload import decode_fields
from bleepdb.atlas.protocol import Where
from bleepdb.atlas.tables import check_record, decoded_batch, decoded_schema
from bleepdb.atlas.verifying import MODEL_FOLDER
from bleepdb.atlas.whole_folder import check_room, new_folder
from bleepdb.contracts import check, sealed
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, PayloadError
from bleepdb.files import canonical_json, file_digest, write_json
from bleepdb.names import NNZ, PANEL, REV

if TYPE_CHECKING:
    from collections.abc import Callable

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas
    from bleepdb.panel import Panel

MARKER_FILE = "bleepdb-export.json"
FORMAT = "bleepdb-export"
VERSION = 1
SECTIONS = "sections"
OTHER = "other"  # documents that are neither panels nor of the model
POINTS_AT_ONCE = 500
BYTES_A_GENE = 8  # at most: a position and a count, not compressed
BYTES_A_POINT = 400


def export_collection(
    atlas: Atlas,
    collection: str,
    folder: str | Path,
    *,
    actor: str,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write what is live in a collection into a folder that any Parquet tool reads.

    It appears whole or not at all. Counts are decoded, and digests compared on the way.

    Parameters
    ----------
    atlas
        Any kind.
    collection
        Full name.
    folder
        A new folder.
    actor
        Who does it, for the log of the atlas: a retraction will name this folder.
    progress
        Called with (points done, points).

    Raises
    ------
    EmptyAtlasError
        If nothing is live in it.
    AtlasCorruptError
        If what is stored is not what was published.
    AtlasError
        If the folder is taken or the disk too full.
    """
    path = Path(folder)
    manifest = atlas.read_manifest(collection)
    if not manifest.live:
        raise EmptyAtlasError(
            "no section is live here", where=f"{atlas.location}/{collection}", hint="index first"
        )
    panels = {d: get_panel(atlas, collection, d) for d in manifest.panels}
    check_room(path, _size(atlas, manifest))
    total, done = manifest.spots, 0
    with new_folder(path) as part:
        sections = []
        (part / SECTIONS).mkdir()
        for live in manifest.live:
            name = f"{SECTIONS}/{live.section}-{live.revision[:8]}.parquet"
            found = _write_section(atlas, manifest, live, panels, part / name)
            sections.append({**replace(live, points_digest=found).to_json(), "file": name})
            done += live.spots
            if progress is not None:
                progress(done, total)
        documents = _write_documents(atlas, collection, part)
        listed = []
        for named, panel in panels.items():
            file = panel_blob(named)
            (part / PANELS).mkdir(exist_ok=True)
            (part / file).write_bytes(canonical_json(panel.to_json()))
            listed.append({"digest": named, "genes": len(panel), "file": file})
        files = {
            file.relative_to(part).as_posix(): {
                "bytes": file.stat().st_size,
                "sha256": file_digest(file),
            }
            for file in sorted(part.rglob("*"))
            if file.is_file()
        }
        document = {
            "format": FORMAT,
            "version": VERSION,
            "created": now(),
            "source": f"{atlas.location}/{collection}",
            "collection": collection,
            "tissue": manifest.tissue,
            "species": manifest.species,
            "codec": manifest.codec,
            "space_id": manifest.space_id,
            "model_digest": manifest.model_digest,
            "key": manifest.key,
            "vectors": dict(manifest.vectors),
            "keyword_fields": list(manifest.keyword_fields),
            "sections": sections,
            "panels": listed,
            "documents": documents,
            "files": files,
        }
        made = sealed("export", document)
        check("export", made, where=path, error=AtlasError)
        write_json(part / MARKER_FILE, made)
        # Noted before it is there: a note too many is better than a copy that nobody knows of.
        note_where_possible(atlas, collection, EXPORT, local_place(path), actor=actor)
    return path


def _size(atlas: Atlas, manifest: Manifest) -> int:
    """Estimate how large an export may become, from the genes of some points."""
    where = Where(must={REV: [manifest.live[0].revision]})
    genes = [0]
    for batch in atlas.scroll(manifest.collection, where=where, fields=[NNZ], batch=POINTS_AT_ONCE):
        genes = [int(r.payload.get(NNZ, 0)) for r in batch]
        break
    a_gene = BYTES_A_GENE * sum(genes) / len(genes)
    vectors = 4 * sum(manifest.vectors.values())
    return int(manifest.spots * (a_gene + vectors + BYTES_A_POINT))


def _write_section(
    atlas: Atlas, manifest: Manifest, live: LiveSection, panels: dict[str, Panel], path: Path
) -> str:
    """Write the points of a section; return their digest."""
    schema = decoded_schema(manifest.vectors, manifest.keyword_fields)
    where = f"{atlas.location}/{manifest.collection}, section {live.section}"
    digests: dict[str, bytes] = {}
    found = atlas.scroll(
        manifest.collection,
        where=Where(must={REV: [live.revision]}),
        with_vectors=True,
        batch=POINTS_AT_ONCE,
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for records in found:
            expression = []
            for record in records:
                check_record(record, manifest.vectors, where=where)
                panel = panels.get(record.payload[PANEL])
                try:
                    genes, counts = decode_fields(
                        record.payload, n_genes=0 if panel is None else len(panel)
                    )
                except PayloadError as error:
                    raise AtlasCorruptError(
                        f"point {record.id}: {error.what}",
                        where=where,
                        hint="see `bleepdb atlas verify`",
                    ) from error
                digests[record.id] = point_digest(
                    record.id, record.payload, record.vectors or {}, genes, counts
                )
                expression.append((genes, counts))
            writer.write_batch(decoded_batch(records, expression, schema))
    whole = section_digest(digests)
    if len(digests) != live.spots or live.points_digest not in {None, whole}:
        raise AtlasCorruptError(
            f"{len(digests)} of {live.spots} points were found, and their digest "
            f"{'fits' if live.points_digest in {None, whole} else 'differs'}",
            where=where,
            hint="where the section was replaced meanwhile, run again; else see "
            "`bleepdb atlas verify`",
        )
    return whole


def _write_documents(atlas: Atlas, collection: str, part: Path) -> dict[str, str]:
    """Write what stands beside the manifest, panels left out; return name -> file."""
    made: dict[str, str] = {}
    for name in atlas.list_blobs(collection):
        data = atlas.get_blob(collection, name)
        if name.startswith(f"{PANELS}/") or data is None:
            continue
        own = name.startswith(f"{MODEL_FOLDER}/")
        file = name if own else f"{OTHER}/{len(made):04d}"
        (part / file).parent.mkdir(exist_ok=True)
        (part / file).write_bytes(data)
        made[name] = file
    return made
