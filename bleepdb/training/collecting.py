"""Sections to pairs: the one step of training that opens slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bleepdb.encoders import extract
from bleepdb.errors import SectionError
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.training.pairs import PairedSection, Pairs, pitch_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bleepdb.encoders import Backbone, FeatureSpec
    from bleepdb.tissue import Section


def collect_pairs(
    sections: Sequence[Section],
    feature_spec: FeatureSpec,
    backbone: Backbone,
    *,
    max_upsampling: float = MAX_UPSAMPLING,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Encode the tiles of sections.

    Parameters
    ----------
    sections
        As read, after quality control, each with an image and known mpp.
    feature_spec, backbone
        What the features are, and the network that gives them.
    max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    progress
        Called with (spots done, spots).

    Raises
    ------
    SectionError
        If a section has no image, or its mpp is unknown.
    """
    refuse_without_image(sections)
    total = sum(len(s) for s in sections)
    made: list[PairedSection] = []
    before = 0
    for section in sections:
        assert section.slide_path is not None  # noqa: S101 - checked above
        start = before

        def moved(done: int, _: int, start: int = start) -> None:
            if progress is not None:
                progress(start + done, total)

        features = extract(
            section.slide_path,
            section.xy_px,
            slide_mpp=section.known_mpp,
            spec=feature_spec,
            backbone=backbone,
            max_upsampling=max_upsampling,
            progress=moved,
        )
        made.append(paired(section, features))
        before += len(section)
    return Pairs(tuple(made), feature_spec, blocks_of(feature_spec, backbone))


def refuse_without_image(sections: Sequence[Section]) -> None:
    """Check that each section has an image.

    Raises
    ------
    SectionError
        That names the first without.
    """
    for section in sections:
        if section.slide_path is None:
            raise SectionError(
                f"section {section.section} has no image",
                where=section.source,
                hint="name the H&E slide in the sheet's image column",
            )


def paired(section: Section, features: NDArray[np.float32]) -> PairedSection:
    """Pair the spots of a section with their features, (n, F) float32; F may be 0."""
    return PairedSection(
        section=section.section,
        donor=section.donor,
        digest=section.digest,
        features=features,
        positions_um=section.xy_um,
        counts=section.counts,
        panel=section.panel,
        barcodes=section.barcodes,
        pitch_um=pitch_of(section.xy_um),
    )


def blocks_of(feature_spec: FeatureSpec, backbone: Backbone) -> NDArray[np.int64]:
    """Return which scale and level each feature of a place comes from, (F,) int64 from 0."""
    geometry = feature_spec.geometry
    levels = backbone.level_of_columns(feature_spec.levels, geometry.tile_px)
    several = int(levels.max()) + 1
    return np.concatenate([levels + several * i for i in range(len(geometry.scales_um))])
