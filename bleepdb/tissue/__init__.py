"""Sections and slides: sample sheet, readers, tiles, mask, quality of spots.

Public names load when they are first used (PEP 562), so that the geometry of a model can be read
where the packages that open slides and AnnData are absent.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bleepdb.tissue.check import Registration, check_registration
    from bleepdb.tissue.geometry import TileGeometry
    from bleepdb.tissue.grid import tile_centres
    from bleepdb.tissue.loading import Loaded, load_section
    from bleepdb.tissue.mask import TissueMask, tissue_mask
    from bleepdb.tissue.masks_in import find_tissue
    from bleepdb.tissue.overlay import Marks, draw_overlay
    from bleepdb.tissue.qc import SpotQC, spot_qc
    from bleepdb.tissue.readers.dispatch import read_section
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow, read_sheet, row_for
    from bleepdb.tissue.slide import Slide
    from bleepdb.tissue.slides import open_slide
    from bleepdb.tissue.spots import Spots, read_spots
    from bleepdb.tissue.stream import TileStream
    from bleepdb.tissue.tiles import edge_fraction, read_tiles

_HOMES = {
    "Loaded": "loading",
    "Marks": "overlay",
    "Registration": "check",
    "Section": "section",
    "SheetRow": "sheet",
    "Slide": "slide",
    "SpotQC": "qc",
    "Spots": "spots",
    "TileGeometry": "geometry",
    "TileStream": "stream",
    "TissueMask": "mask",
    "check_registration": "check",
    "draw_overlay": "overlay",
    "edge_fraction": "tiles",
    "find_tissue": "masks_in",
    "load_section": "loading",
    "open_slide": "slides",
    "read_section": "readers.dispatch",
    "read_sheet": "sheet",
    "read_spots": "spots",
    "read_tiles": "tiles",
    "row_for": "sheet",
    "spot_qc": "qc",
    "tile_centres": "grid",
    "tissue_mask": "mask",
}
__all__ = [
    "Loaded",
    "Marks",
    "Registration",
    "Section",
    "SheetRow",
    "Slide",
    "SpotQC",
    "Spots",
    "TileGeometry",
    "TileStream",
    "TissueMask",
    "check_registration",
    "draw_overlay",
    "edge_fraction",
    "find_tissue",
    "load_section",
    "open_slide",
    "read_section",
    "read_sheet",
    "read_spots",
    "read_tiles",
    "row_for",
    "spot_qc",
    "tile_centres",
    "tissue_mask",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
