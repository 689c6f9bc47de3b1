"""A section of HEST-1k layout: its ``.h5ad`` with the slide, metadata and patches beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.h5ad import ASSAY, read_h5ad
from bleepdb.tissue.readers.hest import compare_patches, hest_parts, read_facts
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

SIZE_TOLERANCE: Final = 1
"""Pixels that the size of a slide may differ from what the metadata says."""


def read_hest(row: SheetRow, *, slide_mpp: float | None = None) -> Section:
    """Read ``st/ID.h5ad`` with what lies beside it.

    Where the row names no image, ``wsis/ID.tif`` is taken; microns per pixel of
    ``metadata/ID.json`` come after the user's and the sheet's. Patches are held against the
    spots' places, and some of them against the slide's pixels.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel that the user states.

    Raises
    ------
    SectionError
        If a file is damaged, or patches or metadata are of another slide.
    GeneError
        If genes stand twice or are of another species.
    SlideError
        If the slide cannot be opened.
    """
    parts = hest_parts(row.expression)
    if parts is None:
        return read_h5ad(row, slide_mpp=slide_mpp)
    notes = []
    if row.image is None and parts.slide is not None:
        row = replace(row, image=parts.slide)
        notes.append(f"the slide is {parts.slide}, by the layout of HEST-1k")
    facts = None if parts.metadata is None else read_facts(parts.metadata)
    if facts is not None and facts.species not in (None, row.species):
        raise SectionError(
            f"the metadata say {facts.species}, the section is said to be {row.species}",
            where=parts.metadata,
            hint=f"pass --species {facts.species}, or write it in the sheet's column species",
        )
    section = read_h5ad(
        row,
        slide_mpp=slide_mpp,
        assay=(facts and facts.assay) or ASSAY,
        stated=[("HEST metadata", facts.mpp if facts else None)],
        pitch_um=facts.pitch_um if facts else None,
        spot_um=facts.spot_um if facts else None,
    )
    own_slide = (
        row.image is not None and parts.slide is not None and row.image.samefile(parts.slide)
    )
    if not own_slide or row.image is None:
        if parts.patches is not None:
            notes.append("HEST patches are not compared: the image is not that of the layout")
        return replace(section, notes=(*notes, *section.notes))
    with open_slide(row.image) as slide:
        if facts is not None and facts.size_px is not None:
            off = max(abs(a - b) for a, b in zip(facts.size_px, slide.size_px, strict=True))
            if off > SIZE_TOLERANCE:
                raise SectionError(
                    f"the slide has {slide.size_px[0]} x {slide.size_px[1]} px, its metadata say "
                    f"{facts.size_px[0]} x {facts.size_px[1]}",
                    where=row.image,
                    hint="fetch slide and metadata of the same sample",
                )
        if parts.patches is not None:
            notes += compare_patches(
                parts.patches,
                section.barcodes.tolist(),
                section.xy_px,
                section.slide_mpp,
                slide,
            )
    return replace(section, notes=(*notes, *section.notes))
