"""From a row of the sheet to a section, by what its path is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bleepdb.tissue.readers.h5ad import read_h5ad
from bleepdb.tissue.readers.hest_section import read_hest
from bleepdb.tissue.readers.layout import kind_of
from bleepdb.tissue.readers.legacy_st import read_legacy_st
from bleepdb.tissue.readers.scale import choose_mpp
from bleepdb.tissue.readers.spaceranger import read_spaceranger
from bleepdb.tissue.readers.spatialdata_store import read_spatialdata
from bleepdb.tissue.readers.visium_hd import read_visium_hd
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow


def read_section(
    row: SheetRow,
    *,
    slide_mpp: float | None = None,
    bin_um: float | None = None,
    allow_loss: bool = False,
) -> Section:
    """Read the section that a row names.

    Microns per pixel come from `slide_mpp`, else from the sheet, else from what the files state,
    else from the pitch of the spots, else from the image; `Section.mpp_source` says which.
    Sources that disagree by more than 5% are noted and logged. Of the image only its header is
    read.

    Parameters
    ----------
    row
        From `read_sheet` or `row_for`.
    slide_mpp
        Microns per pixel of the row's image, as the user states it.
    bin_um
        Edge in µm of the squares that bins of Visium HD are pooled to; by default what the row
        says, else about 56.
    allow_loss
        Go on where less than half of the counted spots have a place.

    Raises
    ------
    SectionError
        If counts, positions or barcodes cannot be used.
    GeneError
        If genes stand twice, are of several species, or of another one than the sheet says.
    SlideError
        If the image cannot be opened.
    MissingExtraError
        If the section is a SpatialData store and the package is not there.
    """
    bin_um = row.bin_um if bin_um is None else bin_um
    kind = kind_of(row.expression)
    if kind == "visium hd":
        section = read_visium_hd(row, slide_mpp=slide_mpp, bin_um=bin_um, allow_loss=allow_loss)
    elif kind == "spatialdata":
        section = read_spatialdata(row, slide_mpp=slide_mpp, bin_um=bin_um, allow_loss=allow_loss)
    elif kind == "spaceranger":
        section = read_spaceranger(row, slide_mpp=slide_mpp, allow_loss=allow_loss)
    elif kind == "legacy st":
        section = read_legacy_st(row, slide_mpp=slide_mpp, allow_loss=allow_loss)
    elif kind == "hest":
        section = read_hest(row, slide_mpp=slide_mpp)
    else:
        section = read_h5ad(row, slide_mpp=slide_mpp)
    if section.slide_path is None:
        return section
    with open_slide(section.slide_path) as slide:
        stated = [(section.mpp_source or "", section.slide_mpp), ("slide", slide.mpp)]
    scale = choose_mpp(stated, section.slide_path)
    return replace(
        section,
        slide_mpp=scale.mpp,
        mpp_source=scale.source,
        notes=(*section.notes, *scale.notes),
    )
