"""Windows: which whole pixels of a level a field is made from, and how. The rule is here alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image

from bleepdb.tissue.geometry import BILINEAR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """Whole pixels of a level, and the field that lies in them.

    Parameters
    ----------
    level
        Which level.
    left, top, right, bottom
        The pixels of that level that are read; they may reach over its edges.
    box
        (x0, y0, x1, y1) of the field, in pixels from (left, top).
    smooth
        Whether the filter is BILINEAR; else it is BOX.
    """

    level: int
    left: int
    top: int
    right: int
    bottom: int
    box: tuple[float, float, float, float]
    smooth: bool

    @classmethod
    def around(
        cls,
        level: int,
        x: float,
        y: float,
        w: float,
        h: float,
        *,
        out_px: tuple[int, int],
        resampling: str,
    ) -> Self:
        """Return the window of a field, given in pixels of its level.

        Parameters
        ----------
        level
            Which level.
        x, y, w, h
            The field in pixels of that level; need not be whole.
        out_px
            (width, height) that it is resampled to.
        resampling
            As `TileGeometry.resampling` says.
        """
        out_w, out_h = out_px
        smooth = w < out_w or h < out_h or resampling == BILINEAR
        margin = math.ceil(max(w / out_w, h / out_h, 1.0)) if smooth else 0
        left, top = math.floor(x) - margin, math.floor(y) - margin
        return cls(
            level,
            left,
            top,
            math.ceil(x + w) + margin,
            math.ceil(y + h) + margin,
            (x - left, y - top, x - left + w, y - top + h),
            smooth,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the pixels that are read."""
        return self.right - self.left, self.bottom - self.top

    def is_copy(self, out_px: tuple[int, int]) -> bool:
        """Whether the pixels that are read are the result as they are."""
        return self.size == out_px and self.box == (0, 0, *out_px)

    def union(self, others: Iterable[Window]) -> Self:
        """Return a window of the same level that holds this one and the others."""
        every: tuple[Window, ...] = (self, *others)
        return replace(
            self,
            left=min(w.left for w in every),
            top=min(w.top for w in every),
            right=max(w.right for w in every),
            bottom=max(w.bottom for w in every),
        )


def resampled(
    pixels: NDArray[np.uint8], window: Window, out_px: tuple[int, int]
) -> NDArray[np.uint8]:
    """Resample the field of a window.

    Parameters
    ----------
    pixels
        (h, w, 3) uint8 RGB of that window.
    window
        Where they are from.
    out_px
        (width, height) of the result.

    Returns
    -------
    numpy.ndarray
        (height, width, 3) uint8 RGB; `pixels` itself where they are the result.
    """
    if window.is_copy(out_px):
        return pixels
    filter_ = Image.Resampling.BILINEAR if window.smooth else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels).resize(out_px, filter_, box=window.box))
