"""Where the tissue is: Otsu's threshold on the logarithm of optical density."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from bleepdb.errors import SlideError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.tissue.slide import Slide

MAX_PX: Final = 1024
BLUR_PX: Final = 2.0
OD_OFFSET: Final = 0.02
"""Added before the logarithm; the optical density of one grey level, about."""
CLOSING: Final = 3
SMALLEST_SHARE: Final = 1e-3
"""Pieces smaller than this share of the image are specks."""
LEAST_CONTRAST: Final = 0.1
"""Optical density (summed over RGB) by which tissue must exceed the background."""
DARK: Final = 100
"""Median grey level of what is not tissue: 225 and more on H&E, 28 under fluorescence."""


@dataclass(frozen=True)
class TissueMask:
    """Which parts of a slide are tissue.

    Parameters
    ----------
    mask
        (h, w) bool, over the whole slide.
    scale
        Pixels of the mask per level-0 pixel.
    """

    mask: NDArray[np.bool_]
    scale: float

    def covers(self, xy_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) bool: which places (level-0 pixels) are on tissue; outside the image none is."""
        at = np.floor(np.asarray(xy_px, dtype=np.float64).reshape(-1, 2) * self.scale)
        height, width = self.mask.shape
        inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
        column, line = np.where(inside[:, None], at, 0).astype(np.int64).T
        return np.asarray(self.mask[line, column] & inside)

    def fraction(self, xy_px: NDArray[np.float64], edge_px: float) -> NDArray[np.float64]:
        """(n,) float64: share of the square of `edge_px` around each place that is tissue.

        Exact on the mask's pixels: a summed-area table, interpolated linearly. What lies
        outside the image is not tissue.
        """
        centre = np.asarray(xy_px, dtype=np.float64).reshape(-1, 2) * self.scale
        half = edge_px * self.scale / 2
        (x0, y0), (x1, y1) = (centre - half).T, (centre + half).T
        total = (
            self._summed_to(x1, y1) - self._summed_to(x0, y1)
            - self._summed_to(x1, y0) + self._summed_to(x0, y0)
        )  # fmt: skip
        return np.asarray(np.clip(total / (2 * half) ** 2, 0, 1))

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """(h + 1, w + 1) tissue pixels above and left of each corner."""
        return np.pad(self.mask.cumsum(axis=0).cumsum(axis=1).astype(np.float64), ((1, 0), (1, 0)))

    def _summed_to(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.map_coordinates(self._sums, [y, x], order=1, mode="nearest"))


def tissue_mask(slide: Slide, *, max_px: int = MAX_PX) -> TissueMask:
    """Find the tissue on an H&E slide.

    Otsu's threshold (IEEE Trans. SMC 1979) on the logarithm of the optical density summed over
    RGB, on a thumbnail; holes are closed and specks dropped. The logarithm keeps pale stroma,
    which a threshold on density or saturation loses.

    Parameters
    ----------
    slide
        An open slide.
    max_px
        Longer side of the thumbnail.

    Raises
    ------
    SlideError
        If nothing stands out against the background, or the background is dark.
    """
    thumbnail = slide.thumbnail(max_px)
    density = -np.log((thumbnail.astype(np.float32) + 1) / 256).sum(axis=2)
    density = ndimage.gaussian_filter(density, BLUR_PX, mode="nearest")
    level = np.log(density + OD_OFFSET)
    # scikit-image ships no types; where all values are alike its threshold is that value.
    found = level > threshold_otsu(level)  # type: ignore[no-untyped-call]
    if found.any() and density[found].mean() - density[~found].mean() < LEAST_CONTRAST:
        found[:] = False
    if found.any() and np.median(thumbnail[~found].mean(axis=1)) < DARK:
        raise SlideError(
            "its background is dark, as under fluorescence",
            where=slide.path,
            hint="give the H&E slide",
        )
    mask = _without_specks(_closed(found))
    if not mask.any():
        raise SlideError(
            "no tissue found", where=slide.path, hint="is this an H&E slide, and not blank?"
        )
    return TissueMask(mask, thumbnail.shape[1] / slide.size_px[0])


def _closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    element = disk(CLOSING)  # type: ignore[no-untyped-call] # scikit-image ships no types
    grown = ndimage.binary_dilation(mask, element, iterations=CLOSING)
    return np.asarray(
        ndimage.binary_erosion(grown, element, iterations=CLOSING, border_value=1), dtype=np.bool_
    )


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray((sizes > SMALLEST_SHARE * mask.size)[pieces])
