"""Where a slide is imputed, and what the encoder sees there."""

from __future__ import annotations

from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.encoders import begin_features
from bleepdb.errors import InputError
from bleepdb.files import cache_dir
from bleepdb.places import adjacency
from bleepdb.tissue import (
    check_registration,
    edge_fraction,
    find_tissue,
    open_slide,
    tile_centres,
)
from bleepdb.tissue.overlay import Marks, draw_overlay
from bleepdb.tissue.slide import MPP_DISAGREE
from bleepdb.tissue.tiles import refuse_scales

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from bleepdb.encoders import Model, PendingFeatures
    from bleepdb.querying.settings import Query, QuerySettings
    from bleepdb.tissue import Slide, TissueMask

THUMBNAIL_PX = 2000
FEATURES_A_BLOCK = 4_000_000
LEAST_A_BLOCK = 64
SPOT_OF_PITCH = 0.55  # a Visium spot is 55 µm wide at a pitch of 100 µm


@dataclass(frozen=True)
class Places:
    """Where is imputed on a slide, and what the encoder saw there.

    Attributes
    ----------
    names
        (n,) str.
    xy_px
        (n, 2) float64.
    slide_mpp
        Microns per level-0 pixel.
    diameter_px
        Size at which a viewer draws a place.
    features
        (n, F) float32, mapped from the cache of features.
    edge
        (n,) share of the widest field that lies outside the image.
    thumbnail, thumbnail_scale
        (h, w, 3) uint8, and its pixels per level-0 pixel.
    slide_digest
        Digest of the slide's content.
    warnings
        Sentences to show.
    mpp_source
        Who says the mpp.
    """

    names: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    slide_mpp: float
    diameter_px: float
    features: NDArray[np.float32]
    edge: NDArray[np.float64]
    thumbnail: NDArray[np.uint8]
    thumbnail_scale: float
    slide_digest: str
    warnings: tuple[str, ...] = field(default=())
    mpp_source: str | None = None


@dataclass(frozen=True)
class Located:
    """A slide that was opened and looked at: where is imputed is known, no tile is read.

    Attributes
    ----------
    query, settings
        What is asked.
    names, xy_px, slide_mpp, diameter_px, edge, thumbnail, thumbnail_scale, slide_digest, warnings
        As in `Places`.
    size_px
        (width, height) of level 0.
    mpp_source
        Who says the mpp.
    mask
        Its tissue; None where it was not looked for.
    """

    query: Query
    settings: QuerySettings
    names: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    slide_mpp: float
    diameter_px: float
    edge: NDArray[np.float64]
    thumbnail: NDArray[np.uint8]
    thumbnail_scale: float
    slide_digest: str
    size_px: tuple[int, int]
    mpp_source: str | None
    mask: TissueMask | None
    warnings: tuple[str, ...] = ()

    def begin(self, model: Model) -> PendingPlaces:
        """Start to read its tiles.

        Raises
        ------
        SlideError
            If the slide is too coarse.
        """
        return PendingPlaces(
            self,
            begin_features(
                self.query.slide_path,
                self.xy_px,
                slide_mpp=self.slide_mpp,
                spec=model.feature_spec,
                backbone=model.backbone(),
                max_upsampling=self.settings.max_upsampling,
                mapped=True,
                slide_digest=self.slide_digest,
            ),
        )


class PendingPlaces:
    """Places whose tiles are being read ahead; `finish` encodes them.

    Parameters
    ----------
    located
        Where they are.
    features
        What reads and encodes.
    """

    def __init__(self, located: Located, features: PendingFeatures) -> None:
        self.located = located
        self._features = features

    def finish(self, progress: Callable[[int, int], None] | None = None) -> Places:
        """Encode what is read, and give the places with their features.

        Raises
        ------
        SlideError
            If pixels cannot be decoded.
        """
        found = self.located
        return Places(
            names=found.names,
            xy_px=found.xy_px,
            slide_mpp=found.slide_mpp,
            diameter_px=found.diameter_px,
            features=self._features.finish(progress),
            edge=found.edge,
            thumbnail=found.thumbnail,
            thumbnail_scale=found.thumbnail_scale,
            slide_digest=found.slide_digest,
            warnings=found.warnings,
            mpp_source=found.mpp_source,
        )

    def close(self) -> None:
        """Stop reading; twice is fine."""
        self._features.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def locate(
    query: Query, model: Model, settings: QuerySettings, *, overlay: Path | None = None
) -> Located:
    """Open a slide and find the places where it is imputed.

    Parameters
    ----------
    query, model, settings
        As in `bleepdb.querying.query_slide`.
    overlay
        Where the slide with its tissue and its places is drawn (PNG), or None.

    Raises
    ------
    SlideError
        If the slide cannot be read, its mpp is unknown, it is too coarse for the model, spots lie
        outside it or none is on tissue.
    """
    pitch_um = model.pitch_um
    stride_um = settings.stride_um or pitch_um
    geometry = model.feature_spec.geometry
    with open_slide(query.slide_path, mpp=query.slide_mpp) as slide:
        mpp = slide.known_mpp
        refuse_scales(slide, mpp, geometry, settings.max_upsampling)
        labels, xy_px, mask, warnings = _where(slide, query, model, settings, stride_um)
        if slide.file_mpp is not None and abs(slide.file_mpp / mpp - 1) > MPP_DISAGREE:
            said = (
                f"{mpp:.4g} µm/px are used ({query.mpp_source}), and the slide itself says "
                f"{slide.file_mpp:.4g}"
            )
            warnings = (*warnings, said)
        edge = edge_fraction(xy_px, slide.size_px, slide_mpp=mpp, geometry=geometry).max(axis=1)
        thumbnail = slide.thumbnail(THUMBNAIL_PX)
        diameter_px = (stride_um if query.spots is None else SPOT_OF_PITCH * pitch_um) / mpp
        if overlay is not None:
            what = "spots" if query.spots is not None else f"tiles every {stride_um:.4g} um"
            places = Marks(xy_px, diameter_px, f"{len(xy_px)} {what}", square=query.spots is None)
            title = f"{query.library}, {mpp:.4g} um/px"  # the font of pictures has no µ
            draw_overlay(
                slide, overlay, mask=mask, marks=[places], lines=[title], thumbnail=thumbnail
            )
        return Located(
            query=query,
            settings=settings,
            names=labels,
            xy_px=xy_px,
            slide_mpp=mpp,
            diameter_px=diameter_px,
            edge=edge,
            thumbnail=thumbnail,
            thumbnail_scale=thumbnail.shape[1] / slide.size_px[0],
            slide_digest=slide.digest,
            size_px=slide.size_px,
            mpp_source=query.mpp_source if query.slide_mpp is not None else slide.mpp_source,
            mask=mask,
            warnings=warnings,
        )


def embed(places: Places, model: Model) -> NDArray[np.float32]:
    """Embed the places of a slide a block at a time, each with the places around it.

    Returns
    -------
    numpy.ndarray
        (n, d) float32 unit vectors; mapped from a file without a name where they are many.
    """
    positions_um = places.xy_px * places.slide_mpp
    n, width = places.features.shape
    made = _scratch(n, model.dimension)
    ring = None
    if model.context is not None:
        near = model.context
        ring = adjacency(positions_um, inner_um=near.inner_um, outer_um=near.outer_um)
    order = np.lexsort((positions_um[:, 0], positions_um[:, 1]))  # few places around a block
    step = max(LEAST_A_BLOCK, FEATURES_A_BLOCK // max(width, 1))
    for start in range(0, n, step):
        rows = np.sort(order[start : start + step])
        seen = rows if ring is None else np.union1d(rows, ring[rows].indices)
        vectors = model.embed_images(np.asarray(places.features[seen]), positions_um[seen])
        made[rows] = vectors[np.searchsorted(seen, rows)]
    return made


def _scratch(n: int, width: int) -> NDArray[np.float32]:
    """Return an array to fill, (n, width): a large one lies in a file that has no name."""
    if n * width <= FEATURES_A_BLOCK:
        return np.empty((n, width), dtype=np.float32)
    with TemporaryFile(dir=cache_dir()) as file:
        return np.memmap(file, np.float32, "w+", shape=(n, width))


def _where(
    slide: Slide, query: Query, model: Model, settings: QuerySettings, stride_um: float
) -> tuple[NDArray[np.str_], NDArray[np.float64], TissueMask, tuple[str, ...]]:
    """Names and centres of the places, the tissue, and what to warn of."""
    if query.spots is not None:
        asked = None if query.mask is None else find_tissue(slide, query.mask, mpp=slide.mpp)
        checked = check_registration(
            query.spots.xy_px, slide, mask=asked, allow_misfit=settings.allow_misfit
        )
        said = () if checked.warning is None else (checked.warning,)
        return query.spots.names, query.spots.xy_px, checked.mask, said
    mask = find_tissue(slide, query.mask, mpp=slide.mpp)
    try:
        xy_px = tile_centres(
            mask,
            size_px=slide.size_px,
            slide_mpp=slide.known_mpp,
            stride_um=stride_um,
            tile_um=min(model.feature_spec.geometry.scales_um),
            min_tissue=settings.min_tissue,
        )
    except InputError as error:  # the mask does not know which slide it is of
        raise type(error)(error.what, where=slide.path, hint=error.hint) from error
    return np.array([f"tile-{i}" for i in range(len(xy_px))]), xy_px, mask, ()
