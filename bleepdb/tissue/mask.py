"""Where the tissue is: Otsu's threshold on the logarithm of optical density, or on a rival."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.filters.rank import entropy
from skimage.morphology import disk

from bleepdb.errors import InputError, SlideError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.tissue.slide import Slide

Method = Literal["otsu", "hsv", "entropy"]
OTSU: Final = "otsu"
METHODS: Final[tuple[str, ...]] = get_args(Method)

MAX_PX: Final = 1024
BLUR_PX: Final = 2.0
OD_OFFSET: Final = 0.02
"""Added before the logarithm; the optical density of one grey level, about."""
ENTROPY_PX: Final = 5
"""Radius within which grey levels are counted, in pixels of the thumbnail."""
CLOSING: Final = 3
SMALLEST_SHARE: Final = 1e-3
"""Pieces smaller than this share of the image are specks."""
LEAST_CONTRAST: Final = 0.1
"""Optical density (summed over RGB) by which tissue must exceed the background."""
INK: Final = 4.5
"""Optical density (summed over RGB) above which is ink or a black frame, grey 56 or less: tissue
on the thumbnails of H&E stays below. It would draw the threshold above pale tissue."""
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
    source
        How it was found: a method of `tissue_mask`, or the file that drew it.
    """

    mask: NDArray[np.bool_]
    scale: float
    source: str = OTSU

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


def tissue_mask(
    slide: Slide,
    *,
    method: str = OTSU,
    max_px: int = MAX_PX,
    thumbnail: NDArray[np.uint8] | None = None,
) -> TissueMask:
    """Find the tissue on an H&E slide.

    Otsu's threshold (IEEE Trans. SMC 1979) on a thumbnail, of what is lighter than ink where that
    is the most of it; holes are closed and specks dropped.

    Parameters
    ----------
    slide
        An open slide.
    method
        What the threshold is taken of. ``"otsu"``: the logarithm of the optical density summed
        over RGB, which keeps pale stroma. ``"hsv"``: saturation, as CLAM does; pen and tinted
        glass pass for tissue. ``"entropy"``: of the grey levels within 5 pixels of the thumbnail,
        which sees texture and no colour.
    max_px
        Longer side of the thumbnail.
    thumbnail
        That thumbnail, (h, w, 3) uint8, where it was read before.

    Raises
    ------
    InputError
        If the method is not known.
    SlideError
        If nothing stands out against the background, or the background is dark.
    """
    if method not in METHODS:
        raise InputError(f"unknown mask {method!r}", hint=f"use {', '.join(METHODS)} or a file")
    thumbnail = slide.thumbnail(max_px) if thumbnail is None else thumbnail
    density = ndimage.gaussian_filter(optical_density(thumbnail), BLUR_PX, mode="nearest")
    level = {"hsv": _saturation, "entropy": _entropy}.get(method, _log_density)(thumbnail, density)
    light = density <= INK
    judged = level[light] if light.mean() > 0.5 else level
    # scikit-image ships no types; where all values are alike its threshold is that value.
    found = level > threshold_otsu(judged)  # type: ignore[no-untyped-call]
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
    return TissueMask(mask, thumbnail.shape[1] / slide.size_px[0], method)


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w) float32: optical density summed over RGB; white is 0."""
    return np.asarray(-np.log((rgb.astype(np.float32) + 1) / 256).sum(axis=2))


def _log_density(thumbnail: NDArray[np.uint8], density: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG001 - as its rivals
    return np.asarray(np.log(density + OD_OFFSET))


def _saturation(thumbnail: NDArray[np.uint8], density: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG001 - as its rivals
    rgb = ndimage.gaussian_filter(
        thumbnail.astype(np.float32), (BLUR_PX, BLUR_PX, 0), mode="nearest"
    )
    most = rgb.max(axis=2)
    return np.asarray((most - rgb.min(axis=2)) / np.maximum(most, 1))


def _entropy(thumbnail: NDArray[np.uint8], density: NDArray[np.float32]) -> NDArray[np.float32]:  # noqa: ARG001 - as its rivals
    grey = thumbnail.mean(axis=2).astype(np.uint8)
    return np.asarray(entropy(grey, disk(ENTROPY_PX)), dtype=np.float32)  # type: ignore[no-untyped-call] # scikit-image ships no types


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
