"""What may go into an atlas: checks of a whole sheet before its first section is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bleepdb import names
from bleepdb.errors import InputError, SectionError
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue import open_slide
from bleepdb.tissue.tiles import refuse_scales

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bleepdb.encoders import Model
    from bleepdb.panel import Match
    from bleepdb.tissue import Section, SheetRow

LEAST_SHARED = 0.5  # of the model's panel; below, a profile would say too little


def check_fit(section: Section, model: Model) -> Match:
    """Match a section's genes with a model's, and require that it can be encoded.

    Raises
    ------
    SectionError
        If it has no image, is of another species, or shares too few genes with the model.
    """
    found = section.panel.match(model.panel)
    if section.slide_path is None:
        raise SectionError(
            f"section {section.section} has no image",
            where=section.source,
            hint="name the H&E slide in the sheet's image column",
        )
    if model.panel.species_seen and section.species not in model.panel.species_seen:
        of = ", ".join(sorted(model.panel.species_seen))
        raise SectionError(
            f"section {section.section} is of {section.species}, the model's genes are of {of}",
            where=section.source,
            hint=f"use a model that was trained on {section.species}",
        )
    if len(found) < LEAST_SHARED * len(model.panel):
        raise SectionError(
            f"section {section.section} measured {len(found)} of the model's {len(model.panel)} "
            f"genes, less than {LEAST_SHARED:.0%}",
            where=section.source,
            hint="train a model on sections with this panel",
        )
    return found


def check_sections(
    sections: Sequence[Section], model: Model, *, max_upsampling: float = MAX_UPSAMPLING
) -> None:
    """Check all sections before the first is published, so that a sheet goes in as a whole.

    Parameters
    ----------
    sections, model, max_upsampling
        As in `index_section`.

    Raises
    ------
    SectionError
        If one has no image, its mpp is unknown, it shares too few genes with the model, or
        sections of one tissue are of several species.
    SlideError
        If the slide of one is too coarse.
    """
    species: dict[str, Section] = {}
    for section in sections:
        check_fit(section, model)
        first = species.setdefault(section.tissue, section)
        if first.species != section.species:
            raise SectionError(
                f"section {section.section} is of {section.species}, section {first.section} of "
                f"the same tissue of {first.species}",
                where=section.source,
                hint="index one species at a time, each into an atlas or tissue of its own",
            )
        assert section.slide_path is not None  # noqa: S101 - `check_fit` has seen to it
        with open_slide(section.slide_path) as slide:
            refuse_scales(slide, section.known_mpp, model.feature_spec.geometry, max_upsampling)


def check_fields(
    sections: Sequence[Section | SheetRow],
    fields: Sequence[str],
    *,
    where: str | Path | None = None,
) -> None:
    """Check that the listed fields stand in the sheet and may go into a payload.

    Parameters
    ----------
    sections
        As read, or as the sheet names them.
    fields
        Columns.
    where
        The sheet, for messages.

    Raises
    ------
    InputError
        If a field is reserved, or a section does not have it.
    """
    for name in fields:
        if name in names.RESERVED_FIELDS:
            raise InputError(
                f"the field {name!r} is stored anyway", where=where, hint="leave it out of --field"
            )
        lacking = [s.section for s in sections if name not in s.fields]
        if lacking:
            raise InputError(
                f"the sheet has no column {name!r} for section {lacking[0]}",
                where=where,
                hint="add the column, or leave it out of --field",
            )
