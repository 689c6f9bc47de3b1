"""One section, ready for use: read, its microns known, its spots judged, its slide checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bleepdb.tissue.check import check_registration
from bleepdb.tissue.masks_in import find_tissue
from bleepdb.tissue.qc import MIN_COUNTS, MIN_GENES, spot_qc
from bleepdb.tissue.readers.dispatch import read_section
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.tissue.qc import SpotQC
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow


@dataclass(frozen=True)
class Loaded:
    """A section and what was seen on the way.

    Attributes
    ----------
    section
        With the spots that are kept, and its microns per pixel.
    qc
        Of its spots.
    on_tissue
        Share of the kept spots on the tissue mask; None where there is no image.
    warnings
        Sentences to show.
    """

    section: Section
    qc: SpotQC
    on_tissue: float | None
    warnings: tuple[str, ...]


def load_section(
    row: SheetRow,
    *,
    slide_mpp: float | None = None,
    min_counts: int = MIN_COUNTS,
    min_genes: int = MIN_GENES,
    bin_um: float | None = None,
    allow_loss: bool = False,
    mask: str | Path | None = None,
    allow_misfit: bool = False,
    overlay: Path | None = None,
) -> Loaded:
    """Read the section that a row names, and check all that can be checked before it is used.

    Parameters
    ----------
    row
        From `read_sheet` or `row_for`.
    slide_mpp
        Microns per pixel of its image as the user states it; goes before every other source.
    min_counts, min_genes
        As in `spot_qc`.
    bin_um, allow_loss
        As in `read_section`.
    mask
        How the tissue of its image is found, as in `find_tissue`.
    allow_misfit
        As in `check_registration`.
    overlay
        A PNG to draw: the image, its tissue and the spots.

    Raises
    ------
    SectionError
        If it cannot be used, no spot reaches the minimums, or its mpp is unknown.
    SlideError
        If its image cannot be read, or its spots are not on it, or it looks turned, mirrored,
        rescaled or foreign.
    InputError
        If `mask` is a file that cannot be used.
    """
    section, qc = spot_qc(
        read_section(row, slide_mpp=slide_mpp, bin_um=bin_um, allow_loss=allow_loss),
        min_counts=min_counts,
        min_genes=min_genes,
    )
    if section.slide_path is None:
        return Loaded(section, qc, None, ())
    with open_slide(section.slide_path) as slide:
        if section.slide_mpp is None and slide.mpp is not None:
            section = replace(section, slide_mpp=slide.mpp, mpp_source="slide")
        _ = section.known_mpp
        seen = check_registration(
            section.xy_px,
            slide,
            mask=None if mask is None else find_tissue(slide, mask, mpp=section.slide_mpp),
            reference=section.reference_image,
            allow_misfit=allow_misfit,
            overlay=overlay,
        )
    warnings = () if seen.warning is None else (seen.warning,)
    section = replace(section, notes=(*section.notes, *seen.notes))
    return Loaded(section, qc, seen.on_tissue, warnings)
