"""Microns a pixel as image files state them, and which of their statements can be believed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from bleepdb.errors import SlideError

if TYPE_CHECKING:
    from pathlib import Path

ANISOTROPY: Final = 0.05
"""Pixels whose sides differ by more than this share are refused: tiles are square in µm."""
PLAUSIBLE_MPP: Final = (0.05, 5.0)
"""Resolution tags outside are those of a screen, a printer or a camera, not of a microscope: 72 dpi
is 353 µm a pixel, 300 dpi 85, 2,400 dpi 10.6."""
MICRONS_OF_UNIT: Final = {"inch": 25_400.0, "centimeter": 10_000.0}
FROM_HEADER: Final = "slide header"
FROM_OME: Final = "OME-XML PhysicalSize"
FROM_TAGS: Final = "TIFF resolution tags"


def square_mpp(across: float, down: float, path: Path) -> float | None:
    """Return the side of a pixel from its stated width and height in µm; None where they say none.

    Raises
    ------
    SlideError
        If the pixels are far from square.
    """
    if not (math.isfinite(across) and math.isfinite(down) and across > 0 and down > 0):
        return None
    if abs(across / down - 1) > ANISOTROPY:
        raise SlideError(
            f"pixels of {across:g} by {down:g} µm are not square",
            where=path,
            hint="resample the slide to square pixels",
        )
    return math.sqrt(across * down)


def tags_mpp(unit: str, across: float, down: float) -> float | None:
    """Return the side of a pixel in µm by the resolution tags of a TIFF.

    Parameters
    ----------
    unit
        ``"inch"`` or ``"centimeter"``; any other says nothing.
    across, down
        Pixels a unit.

    Returns
    -------
    float or None
        None where the tags say nothing, or what no microscope does.
    """
    micron = MICRONS_OF_UNIT.get(unit)
    if micron is None or not (across > 0 and down > 0):
        return None
    mpp = micron / math.sqrt(across * down)
    low, high = PLAUSIBLE_MPP
    return mpp if low <= mpp <= high and abs(across / down - 1) <= ANISOTROPY else None
