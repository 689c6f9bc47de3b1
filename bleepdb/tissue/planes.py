"""Planes: the levels of a slide, and those that it lacks and that are made while it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

REDUCTIONS: Final = (2, 4, 8)
"""What a JPEG decoder can make of a tile as it decodes it."""
NEXT_LEVEL: Final = 1.01
"""A level that is made must be finer than the next one of the slide by more than this."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A level as it can be read.

    Parameters
    ----------
    level
        The level of the slide that is decoded.
    by
        How many times smaller each of its sides is made: 1, 2, 4 or 8.
    factor
        Level-0 pixels a pixel of this plane.
    size
        (width, height); the last column and row may cover less than the others.
    """

    level: int
    by: int
    factor: float
    size: tuple[int, int]


def planes_of(
    levels: tuple[float, ...], level_sizes: tuple[tuple[int, int], ...]
) -> tuple[Plane, ...]:
    """Return the levels of a slide, in their order, then those that can be made of them."""
    own = [
        Plane(i, 1, factor, size)
        for i, (factor, size) in enumerate(zip(levels, level_sizes, strict=True))
    ]
    made = []
    for plane in own:
        coarser = min((f for f in levels if f > plane.factor), default=float("inf"))
        for by in REDUCTIONS:
            factor = plane.factor * by
            if factor * NEXT_LEVEL < coarser:
                width, height = plane.size
                made.append(Plane(plane.level, by, factor, (-(-width // by), -(-height // by))))
    return (*own, *made)


def box_reduced(pixels: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8 means of `by` x `by` pixels; of fewer in the last row and column."""
    return np.asarray(Image.fromarray(pixels).reduce(by))
