"""Tile geometry in micrometres: a part of what a model is, and no slide in sight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
        The filter of that resampling (``"area"``: mean over the covered source pixels, by PIL's
        BOX filter from the nearest finer level; ``"bilinear"`` where a field is enlarged).
    """

    scales_um: tuple[float, ...]
    tile_px: int = 224
    resampling: str = "area"

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
