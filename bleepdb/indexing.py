"""Sections into an atlas: encode each spot, pack its counts, publish the section whole."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb import names
from bleepdb.admission import check_fit
from bleepdb.atlas import (
    CollectionSpec,
    LiveSection,
    Manifest,
    Points,
    Where,
    expression_fields,
    get_panel,
    point_id,
    prepare_collection,
    publish_section,
    put_panel,
    vector_crc,
)
from bleepdb.atlas.digests import PLACES
from bleepdb.encoders import extract, model_from_blobs, model_to_blobs
from bleepdb.errors import EmptyAtlasError
from bleepdb.files import digest
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.profiles import normalised
from bleepdb.tissue import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas import Atlas, Outcome
    from bleepdb.encoders import Model
    from bleepdb.panel import Panel
    from bleepdb.tissue import Section

SPOTS_A_BATCH = 500
CODEC_FAMILY = "bdb1"
MODEL_FOLDER = "model"


@dataclass(frozen=True)
class Indexed:
    """What became of one section.

    Attributes
    ----------
    section, collection
        Names.
    outcome
        Of the commit: status, points written, generation.
    spots
        Points that are live.
    shared
        Genes that its panel shares with the model's.
    panel_genes, model_genes
        Sizes of the two panels.
    matched_by
        ``"gene_id"`` or ``"symbol"``.
    """

    section: str
    collection: str
    outcome: Outcome
    spots: int
    shared: int
    panel_genes: int
    model_genes: int
    matched_by: str


def who() -> str:
    """Return who runs this, for the manifest's log: user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def model_blobs(model: Model) -> dict[str, bytes]:
    """Return the documents by which the model travels with a collection."""
    return {f"{MODEL_FOLDER}/{name}": data for name, data in model_to_blobs(model).items()}


def model_of(atlas: Atlas, collection: str) -> Model:
    """Return the model that travels with a collection (its backbone loads when it is needed).

    Raises
    ------
    EmptyAtlasError
        If none is stored.
    """
    stored = {
        name.removeprefix(f"{MODEL_FOLDER}/"): data
        for name in atlas.list_blobs(collection)
        if name.startswith(f"{MODEL_FOLDER}/")
        if (data := atlas.get_blob(collection, name)) is not None
    }
    if not stored:
        raise EmptyAtlasError(
            "no model is stored beside this collection",
            where=f"{atlas.location}/{collection}",
            hint="run `bleepdb index` again, or name the model with --model",
        )
    return model_from_blobs(stored, where=f"{atlas.location}/{collection}/{MODEL_FOLDER}")


def revision_of(section: Section, model: Model, fields: Sequence[str] = ()) -> str:
    """Return the revision that a section has once it is indexed: a digest of all it depends on.

    Parameters
    ----------
    section, model, fields
        As in `index_section`.

    Raises
    ------
    SectionError, SlideError
        As `index_section`.
    """
    return _revision(section, model, fields)[0]


def _revision(section: Section, model: Model, fields: Sequence[str]) -> tuple[str, str]:
    """Return the revision, and the digest of the slide."""
    check_fit(section, model)
    assert section.slide_path is not None  # noqa: S101 - checked just now
    with open_slide(section.slide_path, mpp=section.known_mpp) as slide:
        slide_digest = slide.digest
    revision = digest(
        "revision", section.digest, slide_digest, model.space_id, CODEC_FAMILY, *sorted(fields)
    )[:32]
    return revision, slide_digest


def is_live(section: Section, model: Model, atlas: Atlas, *, fields: Sequence[str] = ()) -> bool:
    """Tell whether `index_section` would find nothing to do."""
    collection = names.collection_name(section.tissue, model.space_id)
    if collection not in atlas.collections():
        return False
    try:
        live = atlas.read_manifest(collection).revisions
    except EmptyAtlasError:
        return False
    return revision_of(section, model, fields) in live


def check_writable(atlas: Atlas, collections: Iterable[str]) -> None:
    """Require that what is there can be written, before anything is encoded for it.

    A deletion that finds nothing asks it of a server, whose key may only read.

    Raises
    ------
    AtlasError
        If it cannot be written.
    """
    nobody = Where(must={names.REV: ["0" * 32]})
    present = set(atlas.collections())
    for name in collections:
        # One that was only half made is completed by `prepare_collection`.
        with contextlib.suppress(EmptyAtlasError):
            if name in present:
                atlas.read_manifest(name)
                atlas.delete(name, nobody)


def encode_section(
    section: Section,
    model: Model,
    *,
    max_upsampling: float = MAX_UPSAMPLING,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Encode the tiles of a section's spots, (spots, F) float32; they are kept on disk.

    Done before an embedded atlas is opened, it keeps the time short in which others wait for it.
    Parameters and errors as in `index_section`.
    """
    check_fit(section, model)
    assert section.slide_path is not None  # noqa: S101 - checked just now
    return extract(
        section.slide_path,
        section.xy_px,
        slide_mpp=section.known_mpp,
        spec=model.feature_spec,
        backbone=model.backbone(),
        max_upsampling=max_upsampling,
        progress=progress,
    )


def index_section(
    section: Section,
    model: Model,
    atlas: Atlas,
    *,
    fields: Sequence[str] = (),
    actor: str | None = None,
    max_upsampling: float = MAX_UPSAMPLING,
    progress: Callable[[int, int], None] | None = None,
) -> Indexed:
    """Put one section into the collection of its tissue, in place of an earlier revision.

    Parameters
    ----------
    section
        As read, after quality control.
    model
        Encodes its tiles and profiles.
    atlas
        Where it goes.
    fields
        Columns of the sample sheet that go into the payload, and can be filtered. Others stay.
    actor
        Who does it; default user@host.
    max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    progress
        Called with (spots encoded, spots).

    Raises
    ------
    SectionError
        If it has no image, its mpp is unknown, or it shares too few genes with the model.
    SlideError
        If spots lie outside the image, or it cannot be read.
    SpaceMismatchError
        If the tissue's collection of this space was made otherwise.
    """
    found = check_fit(section, model)
    assert section.slide_path is not None  # noqa: S101 - checked just now
    revision, slide_digest = _revision(section, model, fields)
    collection = names.collection_name(section.tissue, model.space_id)
    blobs = model_blobs(model)
    vectors = {names.IMAGE: model.dimension, names.EXPRESSION: model.dimension}
    manifest = Manifest(
        collection=collection,
        tissue=section.tissue,
        species=section.species,
        space_id=model.space_id,
        model_digest=hashlib.sha256(blobs[f"{MODEL_FOLDER}/{names.WEIGHTS_FILE}"]).hexdigest(),
        key=model.key,
        vectors=vectors,
    )
    spec = CollectionSpec(
        name=collection,
        alias=names.alias_name(section.tissue),
        vectors=vectors,
        keyword_fields=(*names.KEYWORD_FIELDS, *fields),
    )
    present = prepare_collection(atlas, spec, manifest, actor=actor or who())
    for name, data in blobs.items():
        if atlas.get_blob(collection, name) != data:
            atlas.put_blob(collection, name, data)
    live = LiveSection(
        section=section.section,
        revision=revision,
        spots=len(section),
        donor=section.donor,
        digest=section.digest,
        provenance={
            "source": section.source.name,
            "slide": section.slide_path.name,
            "slide_digest": slide_digest,
            "slide_mpp": section.slide_mpp,
            "mpp_source": section.mpp_source,
            "pitch_um": section.pitch_um,
            "shared_genes": len(found),
        },
    )
    outcome = publish_section(
        atlas,
        collection,
        live,
        _points(section, model, atlas, present, live, fields, max_upsampling, progress),
        actor=actor or who(),
    )
    return Indexed(
        section=section.section,
        collection=collection,
        outcome=outcome,
        spots=len(section),
        shared=len(found),
        panel_genes=len(section.panel),
        model_genes=len(model.panel),
        matched_by=found.by,
    )


def _known_order(
    atlas: Atlas, collection: str, manifest: Manifest, panel: Panel
) -> tuple[Panel, NDArray[np.int64]] | None:
    """Find a stored panel of exactly these genes, and where its genes stand in `panel`."""
    wanted = set(zip(panel.symbols, panel.gene_ids or ("",) * len(panel), strict=True))
    for stored_digest in manifest.panels:
        stored = get_panel(atlas, collection, stored_digest)
        genes = list(zip(stored.symbols, stored.gene_ids or ("",) * len(stored), strict=True))
        if len(stored) == len(panel) and set(genes) == wanted:
            here = {key: i for i, key in enumerate(panel.keys)}
            return stored, np.array([here[key] for key in stored.keys], dtype=np.int64)
    return None


def stored_panel(
    atlas: Atlas, collection: str, manifest: Manifest, section: Section
) -> tuple[Panel, NDArray[np.int64]]:
    """Return the panel under which a section's counts are stored, and its genes' columns.

    Genes are ordered by falling mean count in the first section that was measured on them, so
    that the gaps between expressed genes are small numbers; later sections reuse that order.
    """
    found = _known_order(atlas, collection, manifest, section.panel)
    if found is not None:
        return found
    means = np.asarray(section.counts.sum(axis=0)).ravel()
    order = np.argsort(-means, kind="stable").astype(np.int64)
    return section.panel.take(order), order


def model_profiles(section: Section, model: Model) -> NDArray[np.float32]:
    """Return a section's log1p profiles on the model's panel; NaN for genes it lacks."""
    found = section.panel.match(model.panel)
    values = normalised(section.counts, section.panel, model.panel)
    made = np.full((len(section), len(model.panel)), np.nan, dtype=np.float32)
    made[:, found.right] = values[:, found.left].toarray()
    return made


def _points(
    section: Section,
    model: Model,
    atlas: Atlas,
    manifest: Manifest,
    live: LiveSection,
    fields: Sequence[str],
    max_upsampling: float,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Points]:
    """Encode the section and yield its points; nothing runs before the first is asked for."""
    features = encode_section(section, model, max_upsampling=max_upsampling, progress=progress)
    image = model.embed_images(features, section.xy_um)
    expression = model.embed_profiles(model_profiles(section, model))
    panel, order = stored_panel(atlas, manifest.collection, manifest, section)
    panel_digest = put_panel(atlas, manifest.collection, panel)
    counts = section.counts[:, order].tocsr()
    counts.sort_indices()
    common: dict[str, Any] = {
        names.REV: live.revision,
        names.SECTION: section.section,
        names.DONOR: section.donor,
        names.SPECIES: section.species,
        names.TISSUE: section.tissue,
        names.ASSAY: section.assay,
        names.PANEL: panel_digest,
        **{name: section.fields[name] for name in fields},
    }
    for start in range(0, len(section), SPOTS_A_BATCH):
        spots = range(start, min(start + SPOTS_A_BATCH, len(section)))
        payloads = []
        for i in spots:
            row = slice(counts.indptr[i], counts.indptr[i + 1])
            vectors = {names.IMAGE: image[i], names.EXPRESSION: expression[i]}
            payloads.append(
                common
                | {
                    names.BARCODE: str(section.barcodes[i]),
                    names.X_PX: round(float(section.xy_px[i, 0]), PLACES),
                    names.Y_PX: round(float(section.xy_px[i, 1]), PLACES),
                    names.LIBRARY_TOTAL: int(section.totals[i]),
                    names.VCRC: vector_crc(vectors),
                }
                | expression_fields(counts.indices[row], counts.data[row])
            )
        block = slice(spots.start, spots.stop)
        yield Points(
            [point_id(section.section, live.revision, str(section.barcodes[i])) for i in spots],
            {names.IMAGE: image[block], names.EXPRESSION: expression[block]},
            payloads,
        )
