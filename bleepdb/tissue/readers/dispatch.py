"""From a row of the sheet to a section, by what its path is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bleepdb.tissue.readers.h5ad import read_h5ad
from bleepdb.tissue.readers.layout import kind_of
from bleepdb.tissue.readers.legacy_st import read_legacy_st
from bleepdb.tissue.readers.scale import choose_mpp
from bleepdb.tissue.readers.spaceranger import read_spaceranger
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

READERS = {"h5ad": read_h5ad, "spaceranger": read_spaceranger, "legacy st": read_legacy_st}


def read_section(row: SheetRow, *, slide_mpp: float | None = None) -> Section:
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

    Raises
    ------
    SectionError
        If counts, positions or barcodes cannot be used.
    GeneError
        If genes stand twice, are of several species, or of another one than the sheet says.
    SlideError
        If the image cannot be opened.
    """
    section = READERS[kind_of(row.expression)](row, slide_mpp=slide_mpp)
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
