"""Sections from AnnData files; only what a section needs is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.annotated import WRITE_AGAIN, genes_of, read_counts
from bleepdb.tissue.readers.assemble import as_counts, assemble, panel_of
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.places import (
    Places,
    picture_loaders,
    read_places,
    visium_mpp,
)
from bleepdb.tissue.readers.reference import reference_among
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

ASSAY: Final = "visium"

__all__ = ["ASSAY", "Places", "read_h5ad", "read_places"]


def read_h5ad(
    row: SheetRow,
    *,
    slide_mpp: float | None = None,
    assay: str = ASSAY,
    stated: Sequence[tuple[str, float | None]] = (),
    pitch_um: float | None = None,
    spot_um: float | None = None,
) -> Section:
    """Read a section from an AnnData ``.h5ad``.

    Counts come from the first of ``layers["counts"]``, ``layers["raw_counts"]``,
    ``layers["raw"]``, ``raw.X`` and ``X`` that holds whole numbers. Symbols and Ensembl ids are
    taken from ``var``. Places are ``obsm["spatial"]`` (or ``X_spatial``, ``spatial_coords``), else
    the columns of ``obs`` that `read_places` knows; where the file's
    scale factors tell that they were stored at the scale of its reduced image, they are divided
    by it, unless that image is the row's own.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel that the user states; goes before every other source.
    assay
        The assay where the row does not say it.
    stated
        (source, microns per pixel or None) of files beside this one, after the sheet.
    pitch_um, spot_um
        Of an array that is no Visium, where known.

    Raises
    ------
    SectionError
        If the file is damaged, points outside itself, has no positions, several libraries, or
        no raw counts.
    GeneError
        If genes stand twice or are of another species.
    """
    path = row.expression
    with open_hdf5(path, "AnnData") as handle:
        places = read_places(handle, path)
        counts, var = read_counts(handle, path)
    if len(places.obs) != counts.shape[0]:
        raise SectionError(
            f"{counts.shape[0]} rows of counts for {len(places.obs)} spots",
            where=path,
            hint=WRITE_AGAIN,
        )
    symbols, gene_ids = genes_of(var)
    kept = places.under_tissue
    factor = _frame_factor(places, row.image)
    notes = list(places.notes if factor == 1 else ())
    if factor != 1:
        notes.append(f"places are those of the reduced image {row.image}")
    if not kept.all():
        notes.append(f"{(~kept).sum()} of {len(kept)} spots are not under tissue")
    visium = (row.assay or assay).lower() == ASSAY
    xy_px = places.xy_px * factor
    on_image = [
        ("h5ad", None if places.file_mpp is None else places.file_mpp / factor),
        *stated,
        ("spot pitch", visium_mpp(xy_px, places.obs) if visium else None),
    ]
    reference, doubts = reference_among(picture_loaders(places, path, factor))
    return assemble(
        row,
        assay=assay,
        counts=as_counts(counts[kept], path),
        panel=panel_of(symbols, gene_ids, row.species, path),
        barcodes=[b for b, k in zip(places.barcodes, kept, strict=True) if k],
        xy_px=xy_px[kept],
        scale=scales.choose_mpp([("--slide-mpp", slide_mpp), ("sheet", row.mpp), *on_image], path),
        slide_path=row.image,
        pitch_um=scales.VISIUM_PITCH_UM if visium else pitch_um,
        spot_diameter_um=scales.VISIUM_SPOT_UM if visium else spot_um,
        notes=(*notes, *doubts),
        reference_image=reference,
    )


def _frame_factor(places: Places, image: Path | None) -> float:
    """Return pixels of the row's image per full-resolution pixel.

    It is 1, or the factor of the file's own reduced image where places are stored at its scale
    and the row's image has its size.
    """
    if places.reduced == 1 or image is None:
        return 1.0
    with open_slide(image) as slide:
        size = slide.size_px
    for _, factor, own in places.pictures:
        if factor == places.reduced and np.abs(np.subtract(own, size)).max() <= 1:
            return factor
    return 1.0
