"""Sections from a Space Ranger ``outs/`` folder, versions 1 to 3."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.assemble import assemble, join_barcodes, panel_of
from bleepdb.tissue.readers.layout import HIRES_IMAGE, READ, outs_folder
from bleepdb.tissue.readers.positions import Positions, find_positions, read_positions
from bleepdb.tissue.readers.reference import reference_among
from bleepdb.tissue.readers.tenx import read_h5, read_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.tissue.section import ReferenceImage, Section
    from bleepdb.tissue.sheet import SheetRow

AGAIN: Final = "fetch the folder again as Space Ranger wrote it"
SCALEFACTORS: Final = "scalefactors_json.json"
BIN_UM: Final = "bin_size_um"
MPP: Final = "microns_per_pixel"
REDUCED_IMAGES: Final = {
    HIRES_IMAGE: "tissue_hires_scalef",
    "tissue_lowres_image.png": "tissue_lowres_scalef",
}


def read_spaceranger(row: SheetRow, *, slide_mpp: float | None = None) -> Section:
    """Read a section from ``outs/``, from its parent, or from its matrix ``.h5``.

    Only spots under tissue and features of type "Gene Expression" are kept. Positions are those
    of the full-resolution image, unless the row's image is the folder's own
    ``tissue_hires_image.png`` (or lowres): then positions and derived mpp are scaled to it.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel of the row's image that the user states.

    Raises
    ------
    SectionError
        If a part is missing or damaged, or counts and positions do not belong together.
    GeneError
        If there are several genomes, or another species than the sheet says.
    """
    given = row.expression
    outs = outs_folder(given)
    if outs is None:
        matrix = read_h5(given)  # it may have a fault of its own, which goes first
        raise SectionError("no spatial/ beside the matrix", where=matrix.source, hint=READ)
    matrix = read_h5(given) if given.is_file() else read_matrix(outs)
    positions = read_positions(find_positions(outs / "spatial"))
    factors = _scalefactors(outs / "spatial" / SCALEFACTORS)
    under = np.flatnonzero(positions.in_tissue)
    counted, placed, notes = join_barcodes(
        matrix.barcodes, [positions.barcodes[i] for i in under], outs
    )
    bin_um = _positive(factors, BIN_UM, outs)
    factor = _image_factor(row.image, outs, factors)
    reference, doubts = _reference(outs / "spatial", factors, factor, outs)
    derived = [
        ("scalefactors", _positive(factors, MPP, outs)),
        ("spot pitch", _pitch_mpp(positions, bin_um)),
    ]
    on_image = [(source, None if m is None else m / factor) for source, m in derived]
    return assemble(
        row,
        assay="visium" if bin_um is None else "visium-hd",
        counts=matrix.counts[counted],
        panel=panel_of(matrix.symbols, matrix.gene_ids, row.species, matrix.source),
        barcodes=[matrix.barcodes[i] for i in counted],
        xy_px=positions.xy_px[under[placed]] * factor,
        scale=scales.choose_mpp([("--slide-mpp", slide_mpp), ("sheet", row.mpp), *on_image], outs),
        slide_path=row.image,
        pitch_um=bin_um or scales.VISIUM_PITCH_UM,
        spot_diameter_um=bin_um or scales.VISIUM_SPOT_UM,
        notes=(*notes, *doubts),
        reference_image=reference,
    )


def _reference(
    spatial: Path, factors: dict[str, Any], factor: float, outs: Path
) -> tuple[ReferenceImage | None, tuple[str, ...]]:
    """Find the folder's own reduced image; `factor` is that of the row's image."""
    scaled = {spatial / name: _positive(factors, key, outs) for name, key in REDUCED_IMAGES.items()}
    return reference_among([(path, s / factor) for path, s in scaled.items() if s is not None])


def _scalefactors(path: Path) -> dict[str, Any]:
    try:
        factors = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SectionError(f"not readable JSON ({error})", where=path, hint=AGAIN) from error
    if not isinstance(factors, dict):
        raise SectionError("not a JSON object", where=path, hint=AGAIN)
    return factors


def _positive(factors: dict[str, Any], key: str, outs: Path) -> float | None:
    value = factors.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise SectionError(
            f"{key} is {value!r}, not a positive number",
            where=outs / "spatial" / SCALEFACTORS,
            hint=AGAIN,
        )
    return float(value)


def _image_factor(image: Path | None, outs: Path, factors: dict[str, Any]) -> float:
    """Pixels of the row's image per pixel of the full-resolution image."""
    spatial = outs / "spatial"
    for name, key in REDUCED_IMAGES.items():
        if image is not None and image.resolve() == (spatial / name).resolve():
            factor = _positive(factors, key, outs)
            if factor is None:
                raise SectionError(
                    f"no {key}, so places on {name} are unknown",
                    where=spatial / SCALEFACTORS,
                    hint="name the full-resolution image, or fetch the folder again",
                )
            return factor
    return 1.0


def _pitch_mpp(positions: Positions, bin_um: float | None) -> float | None:
    """Microns per full-resolution pixel from the whole array, under tissue or not."""
    if bin_um is None:
        array_um = scales.visium_array_um(positions.array_row, positions.array_col)
        return scales.mpp_of_array(array_um, positions.xy_px, scales.VISIUM_PITCH_UM)
    array_um = bin_um * np.column_stack([positions.array_col, positions.array_row])
    return scales.mpp_of_array(array_um, positions.xy_px, bin_um)
