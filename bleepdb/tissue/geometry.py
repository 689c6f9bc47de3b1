"""Tile geometry in micrometres: a part of what a model is, and no slide in sight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from bleepdb.errors import InputError

AREA: Final = "area"
BILINEAR: Final = "bilinear"
SCALED: Final = "scaled"
RESAMPLINGS: Final = (AREA, BILINEAR, SCALED)
MPP_RANGE: Final = (0.05, 20.0)
"""Microns per pixel that a person can mean: from a 200x oil scan to a thumbnail."""


def mpp_fault(mpp: float) -> str | None:
    """Say what keeps a number from being microns per pixel; None where nothing does."""
    low, high = MPP_RANGE
    if not math.isfinite(mpp) or mpp <= 0:
        return f"{mpp:g} is not a positive number"
    if not low <= mpp <= high:
        return f"{mpp:g} µm a pixel is outside {low:g} to {high:g}"
    return None


@dataclass(frozen=True)
class TileGeometry:
    """What an encoder sees around a place.

    Parameters
    ----------
    scales_um
        Edge lengths of the square fields, one a scale, in µm.
    tile_px
        Every field is resampled to this many pixels a side.
    resampling
        The filter of that resampling, from the nearest level of the slide that is as fine or
        finer. ``"area"``: each pixel of the tile is the mean of the source pixels whose centres
        it covers (PIL's BOX filter, at the field's own place, which need not be whole pixels);
        a field that is enlarged is interpolated bilinearly. ``"bilinear"``: PIL's BILINEAR
        filter, a triangle as wide as two pixels of the tile. ``"scaled"``: as ``"area"``, but
        where the slide lacks a level, it is made 2, 4 or 8 times smaller while it is decoded:
        JPEG tiles by their decoder (low frequencies only, which is faster), all else as the mean
        of the pixels. Values differ from ``"area"`` by a few grey levels.

    Raises
    ------
    InputError
        If a size is not positive or the filter is not known.
    """

    scales_um: tuple[float, ...]
    tile_px: int = 224
    resampling: str = AREA

    def __post_init__(self) -> None:
        sizes = (*self.scales_um, self.tile_px)
        if not self.scales_um or not all(math.isfinite(s) and s > 0 for s in sizes):
            scales = ", ".join(f"{s:g}" for s in self.scales_um)
            raise InputError(
                f"tile scales {scales} µm and {self.tile_px} px must be positive",
                hint="such as 176 µm and 224 px",
            )
        if self.resampling not in RESAMPLINGS:
            raise InputError(
                f"unknown resampling {self.resampling!r}",
                hint=f"use {', '.join(RESAMPLINGS[:-1])} or {RESAMPLINGS[-1]}",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the model card keeps."""
        return {
            "scales_um": list(self.scales_um),
            "tile_px": self.tile_px,
            "resampling": self.resampling,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> TileGeometry:
        """Read what `to_json` wrote."""
        return cls(tuple(document["scales_um"]), document["tile_px"], document["resampling"])
