"""Tiles: the fields around given places, at the scales that an encoder sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.errors import SlideError
from bleepdb.names import MAX_UPSAMPLING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bleepdb.tissue.geometry import TileGeometry
    from bleepdb.tissue.slide import Slide

LARGEST_FIELD: Final = 4.0
"""A field wider than this many images says that its scale, or the mpp, is wrong."""


def read_tiles(
    slide: Slide,
    xy_px: NDArray[np.float64],
    *,
    slide_mpp: float,
    geometry: TileGeometry,
    batch: int = 64,
    max_upsampling: float = MAX_UPSAMPLING,
) -> Iterator[NDArray[np.uint8]]:
    """Read the tiles around places, in order; nothing is read before all is checked.

    Parameters
    ----------
    slide
        An open slide.
    xy_px
        (n, 2) centres (x, y) in level-0 pixels, inside the image. Fields may reach over its
        edges, and are white there.
    slide_mpp
        Microns per level-0 pixel.
    geometry
        Scales in µm, size in px, filter.
    batch
        Tiles at a time.
    max_upsampling
        How many times finer than the slide a tile may be.

    Returns
    -------
    Iterator
        (b, scales, tile_px, tile_px, 3) RGB, uint8, b <= `batch`.

    Raises
    ------
    SlideError
        If a place is outside the image, a scale asks for more detail than the slide has or for
        far more than the whole image, or (while reading) pixels cannot be decoded.
    """
    xy_px = np.asarray(xy_px, dtype=np.float64).reshape(-1, 2)
    check_places(slide, xy_px, slide_mpp, geometry, max_upsampling)
    return _batches(slide, xy_px, slide_mpp, geometry, batch)


def _batches(
    slide: Slide,
    xy_px: NDArray[np.float64],
    slide_mpp: float,
    geometry: TileGeometry,
    batch: int,
) -> Iterator[NDArray[np.uint8]]:
    size = geometry.tile_px
    for start in range(0, len(xy_px), batch):
        places = xy_px[start : start + batch]
        tiles = np.empty((len(places), len(geometry.scales_um), size, size, 3), dtype=np.uint8)
        for i, (x, y) in enumerate(places.tolist()):
            for j, scale_um in enumerate(geometry.scales_um):
                edge_px = scale_um / slide_mpp
                tiles[i, j] = slide.read(
                    x - edge_px / 2,
                    y - edge_px / 2,
                    edge_px,
                    edge_px,
                    out_px=(size, size),
                    resampling=geometry.resampling,
                )
        yield tiles


def outside(xy_px: NDArray[np.float64], size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """(n,) bool: which places lie outside an image of this (width, height)."""
    inside = (xy_px >= 0).all(axis=1) & (xy_px < np.asarray(size_px)).all(axis=1)
    return np.asarray(~inside)


def check_places(
    slide: Slide,
    xy_px: NDArray[np.float64],
    slide_mpp: float,
    geometry: TileGeometry,
    max_upsampling: float = MAX_UPSAMPLING,
) -> None:
    """Check places and scales as `read_tiles` does, and read nothing.

    Raises
    ------
    SlideError
        If a place is outside the image, or a scale does not suit the slide.
    """
    refuse_outside(xy_px, slide)
    refuse_scales(slide, slide_mpp, geometry, max_upsampling)


def refuse_outside(xy_px: NDArray[np.float64], slide: Slide) -> None:
    """Refuse places outside the image.

    Raises
    ------
    SlideError
        It says how many there are, and where the first is.
    """
    gone = np.flatnonzero(outside(xy_px, slide.size_px))
    if len(gone):
        x, y = xy_px[gone[0]]
        width, height = slide.size_px
        raise SlideError(
            f"{len(gone)} of {len(xy_px)} spots lie outside the image of {width} x {height} px, "
            f"the first is number {gone[0] + 1} at ({x:.0f}, {y:.0f})",
            where=slide.path,
            hint="is it the image that the positions were measured on, at full resolution?",
        )


def refuse_scales(
    slide: Slide, slide_mpp: float, geometry: TileGeometry, max_upsampling: float = MAX_UPSAMPLING
) -> None:
    """Refuse scales that ask for more detail than the slide has, or for fields far beyond it.

    Raises
    ------
    SlideError
        It says the factor.
    """
    widest_px = LARGEST_FIELD * max(slide.size_px)
    for scale_um in geometry.scales_um:
        if scale_um / slide_mpp > widest_px:
            width, height = slide.size_px
            raise SlideError(
                f"a field of {scale_um:g} µm is {scale_um / slide_mpp:,.0f} px at "
                f"{slide_mpp:.3g} µm a pixel, and the whole image {width} x {height} px",
                where=slide.path,
                hint="check the mpp and the scales of the tiles",
            )
        factor = geometry.tile_px * slide_mpp / scale_um
        if factor > max_upsampling:
            raise SlideError(
                f"a field of {scale_um:g} µm is {scale_um / slide_mpp:.0f} px at "
                f"{slide_mpp:.3g} µm a pixel; {geometry.tile_px} px would enlarge it "
                f"{factor:.2f} times",
                where=slide.path,
                hint="give a finer scan, check the mpp, "
                f"{_without_small(slide_mpp, geometry, max_upsampling)}, or allow it with "
                "--allow-upsampling",
            )


def _without_small(slide_mpp: float, geometry: TileGeometry, max_upsampling: float) -> str:
    """Say with which fields a model could be trained for a slide as coarse as this one."""
    least_um = geometry.tile_px * slide_mpp / max_upsampling
    fine = [um for um in geometry.scales_um if um >= least_um]
    if fine:
        return f"train with {' '.join(f'--scale-um {um:g}' for um in fine)} alone"
    return f"train with fields of {math.ceil(least_um)} µm or more (--scale-um)"


def edge_fraction(
    xy_px: NDArray[np.float64],
    size_px: tuple[int, int],
    *,
    slide_mpp: float,
    geometry: TileGeometry,
) -> NDArray[np.float64]:
    """Share of each field that lies outside the image (and is white), (n, scales) float64.

    Parameters
    ----------
    xy_px
        (n, 2) centres in level-0 pixels.
    size_px
        (width, height) of the image.
    slide_mpp, geometry
        As in `read_tiles`.
    """
    half = np.asarray(geometry.scales_um, dtype=np.float64)[None, :, None] / slide_mpp / 2
    centre = np.asarray(xy_px, dtype=np.float64).reshape(-1, 2)[:, None, :]
    low = np.maximum(centre - half, 0)
    high = np.minimum(centre + half, np.asarray(size_px, dtype=np.float64))
    shares = np.clip(high - low, 0, None) / (2 * half)
    return np.asarray(1 - shares.prod(axis=2))
