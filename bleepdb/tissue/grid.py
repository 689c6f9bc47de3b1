"""Places for tiles where no spots are given: a regular grid over the tissue."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.errors import InputError, SlideError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.tissue.mask import TissueMask

MIN_TISSUE: Final = 0.5
MOST_PLACES: Final = 20_000_000
ROUNDING: Final = 1e-9
"""A field of nothing but tissue may sum to a share this much below 1."""


def tile_centres(
    mask: TissueMask,
    *,
    size_px: tuple[int, int],
    slide_mpp: float,
    stride_um: float,
    tile_um: float,
    min_tissue: float = MIN_TISSUE,
) -> NDArray[np.float64]:
    """Centres of the tiles that hold enough tissue, on a square grid, row by row.

    The grid starts half a stride from the upper left corner, so that a slide at a stride and at
    half of it is covered alike.

    Parameters
    ----------
    mask
        From `tissue_mask`.
    size_px
        (width, height) of level 0.
    slide_mpp
        Microns per level-0 pixel.
    stride_um
        Distance between adjacent centres.
    tile_um
        Edge of the field that is judged.
    min_tissue
        Least share of tissue in that field, 0 to 1.

    Returns
    -------
    numpy.ndarray
        (n, 2) float64, (x, y) in level-0 pixels, inside the image.

    Raises
    ------
    InputError
        If a size is not positive, or the stride gives more than 20 million places.
    SlideError
        If no place holds enough tissue.
    """
    if not (stride_um > 0 and tile_um > 0 and slide_mpp > 0 and 0 <= min_tissue <= 1):
        raise InputError(
            f"stride {stride_um:g} µm, tile {tile_um:g} µm and mpp {slide_mpp:g} must be positive, "
            f"and the share of tissue ({min_tissue:g}) between 0 and 1",
            hint="correct the option",
        )
    stride_px = stride_um / slide_mpp
    width, height = size_px
    if (width / stride_px) * (height / stride_px) > MOST_PLACES:
        raise InputError(
            f"a stride of {stride_um:g} µm ({stride_px:.2g} px) gives more than {MOST_PLACES:,} "
            "tiles",
            hint="choose a larger stride",
        )
    columns, lines = ((np.arange(math.ceil(n / stride_px)) + 0.5) * stride_px for n in size_px)
    inside = np.meshgrid(columns[columns < width], lines[lines < height])
    places = np.stack(inside, axis=-1).reshape(-1, 2)
    if not len(places):
        raise SlideError(
            f"an image of {width * slide_mpp:.0f} x {height * slide_mpp:.0f} µm holds no place at "
            f"a stride of {stride_um:g} µm",
            hint="check the mpp, or choose a smaller stride",
        )
    kept = places[mask.fraction(places, tile_um / slide_mpp) >= min_tissue - ROUNDING]
    if not len(kept):
        raise SlideError(
            f"none of {len(places)} tiles of {tile_um:g} µm is tissue to {min_tissue:.0%}",
            hint="lower --min-tissue or --stride-um, or find tissue otherwise with --mask",
        )
    return kept
