"""Sections from Space Ranger's folders, versions 1 to 3, as it writes them or as archives do."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.assemble import assemble, join_barcodes, panel_of
from bleepdb.tissue.readers.layout import READ
from bleepdb.tissue.readers.outs import (
    HIRES_IMAGE,
    LOWRES_IMAGE,
    MATRICES,
    SCALEFACTORS,
    find_outs,
)
from bleepdb.tissue.readers.positions import Positions, find_positions, read_positions
from bleepdb.tissue.readers.reference import read_picture, reference_among
from bleepdb.tissue.readers.tables import unpacked
from bleepdb.tissue.readers.tenx import read_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.tissue.readers.outs import Outs
    from bleepdb.tissue.section import ReferenceImage, Section
    from bleepdb.tissue.sheet import SheetRow

AGAIN: Final = "fetch the folder again as Space Ranger wrote it"
BIN_UM: Final = "bin_size_um"
MPP: Final = "microns_per_pixel"
DIAMETER: Final = "spot_diameter_fullres"
REDUCED_IMAGES: Final = {
    HIRES_IMAGE: "tissue_hires_scalef",
    LOWRES_IMAGE: "tissue_lowres_scalef",
}
ASSAY: Final = "visium"


def read_spaceranger(
    row: SheetRow, *, slide_mpp: float | None = None, allow_loss: bool = False
) -> Section:
    """Read a section from ``outs/``, from its parent, or from its matrix.

    Only spots under tissue and features of type "Gene Expression" are kept. Positions are those
    of the full-resolution image, unless the row's image is the folder's own
    ``tissue_hires_image.png`` (or lowres): then positions and derived mpp are scaled to it.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel of the row's image that the user states.
    allow_loss
        Go on where less than half of the counted spots have a place.

    Raises
    ------
    SectionError
        If a part is missing or damaged, or counts and positions do not belong together.
    GeneError
        If there are several genomes, or another species than the sheet says.
    """
    given = row.expression
    outs = find_outs(given)
    if outs is None:
        matrix = read_matrix(given)  # it may have a fault of its own, which goes first
        raise SectionError("no spatial/ beside the matrix", where=matrix.source, hint=READ)
    if outs.matrix is None:
        raise SectionError(
            f"neither {MATRICES[0]} nor {MATRICES[1]}/", where=outs.folder, hint=AGAIN
        )
    matrix = read_matrix(outs.matrix)
    positions = read_positions(find_positions(outs))
    factors = read_scalefactors(outs)
    under = np.flatnonzero(positions.in_tissue)
    beside = np.flatnonzero(~positions.in_tissue) if outs.raw else ()
    counted, placed, notes = join_barcodes(
        matrix.barcodes,
        [positions.barcodes[i] for i in under],
        outs.folder,
        off_tissue={positions.barcodes[i] for i in beside},
        allow_loss=allow_loss,
    )
    if outs.raw:
        notes = (*notes, f"{outs.matrix.name} is read, since there is no filtered matrix")
    factor = image_factor(row.image, outs, factors)
    reference, doubts = reference_of(outs, factors, factor)
    pitch_mpp = _pitch_mpp(positions)
    derived = [
        ("scalefactors", positive(factors, MPP, outs)),
        ("spot pitch", pitch_mpp),
        ("spot diameter", scales.mpp_of_diameter(positive(factors, DIAMETER, outs), pitch_mpp)),
    ]
    on_image = [(source, None if m is None else m / factor) for source, m in derived]
    return assemble(
        row,
        assay=ASSAY,
        counts=matrix.counts[counted],
        panel=panel_of(matrix.symbols, matrix.gene_ids, row.species, matrix.source),
        barcodes=[matrix.barcodes[i] for i in counted],
        xy_px=positions.xy_px[under[placed]] * factor,
        scale=scales.choose_mpp(
            [("--slide-mpp", slide_mpp), ("sheet", row.mpp), *on_image], outs.folder
        ),
        slide_path=row.image,
        pitch_um=scales.VISIUM_PITCH_UM,
        spot_diameter_um=scales.VISIUM_SPOT_UM,
        notes=(*notes, *doubts),
        reference_image=reference,
    )


def reference_of(
    outs: Outs, factors: dict[str, Any], factor: float
) -> tuple[ReferenceImage | None, tuple[str, ...]]:
    """Find the folder's own reduced image; `factor` is that of the row's image."""
    scaled = [
        (path, positive(factors, REDUCED_IMAGES[name], outs))
        for name, path in outs.pictures.items()
    ]
    return reference_among(
        [
            (str(path), scale / factor, partial(read_picture, path))
            for path, scale in scaled
            if scale is not None
        ]
    )


def read_scalefactors(outs: Outs) -> dict[str, Any]:
    """Read ``scalefactors_json.json``, packed or not; empty where there is none.

    Raises
    ------
    SectionError
        If it is not a JSON object.
    """
    if outs.scalefactors is None:
        return {}
    path = outs.scalefactors
    try:
        factors = json.loads(unpacked(path, first=2**20))
    except (ValueError, RecursionError) as error:
        raise SectionError(f"not readable JSON ({error})", where=path, hint=AGAIN) from error
    if not isinstance(factors, dict):
        raise SectionError("not a JSON object", where=path, hint=AGAIN)
    return factors


def positive(factors: dict[str, Any], key: str, outs: Outs) -> float | None:
    """Return a scale factor; None where it is not there.

    Raises
    ------
    SectionError
        If it is no positive number.
    """
    value = factors.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise SectionError(
            f"{key} is {value!r}, not a positive number", where=outs.scalefactors, hint=AGAIN
        )
    return float(value)


def image_factor(image: Path | None, outs: Outs, factors: dict[str, Any]) -> float:
    """Return pixels of the row's image per pixel of the full-resolution image.

    Raises
    ------
    SectionError
        If the image is a reduced one whose factor is not known.
    """
    for name, key in REDUCED_IMAGES.items():
        own = outs.pictures.get(name)
        if image is not None and own is not None and image.resolve() == own.resolve():
            factor = positive(factors, key, outs)
            if factor is None:
                raise SectionError(
                    f"no {key}, so places on {own.name} are unknown",
                    where=outs.spatial / SCALEFACTORS[0],
                    hint="name the full-resolution image, or fetch the folder again",
                )
            return factor
    return 1.0


def _pitch_mpp(positions: Positions) -> float | None:
    """Microns per full-resolution pixel from the whole array, under tissue or not."""
    array_um = scales.visium_array_um(positions.array_row, positions.array_col)
    return scales.mpp_of_array(array_um, positions.xy_px, scales.VISIUM_PITCH_UM)
