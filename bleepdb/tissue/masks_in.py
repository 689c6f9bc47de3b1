"""Tissue as another tool or a person drew it: polygons and tile lists made into a mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from bleepdb.errors import InputError, SlideError
from bleepdb.tissue.mask import METHODS, OTSU, TissueMask, tissue_mask
from bleepdb.tissue.polygons import Polygon, read_geojson
from bleepdb.tissue.tile_lists import (
    TAKEN,
    TileList,
    is_tile_list,
    read_store_shapes,
    read_tile_list,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.tissue.slide import Slide

DRAWN_PX: Final = 2048
"""Longer side of a drawn mask: outlines by hand are finer than what a threshold finds."""
OVERHANG: Final = 0.01
"""Share of the slide by which an outline may reach over its edge, and is cut there."""
UNIT: Final = 1.5
"""Coordinates that are all below are shares of the slide, not pixels."""
LITTLE, MUCH = 0.1, 0.5
"""Shares of a drawn mask on tissue: with less than LITTLE, a scale that gives MUCH is suspected."""
SIZE_DIFFERS: Final = 0.01
GEOJSON_SUFFIXES: Final = (".geojson", ".json")
PIXELS: Final = "give coordinates in level-0 pixels of this slide"


def find_tissue(
    slide: Slide,
    how: str | Path | None = None,
    *,
    mpp: float | None = None,
    thumbnail: NDArray[np.uint8] | None = None,
) -> TissueMask:
    """Find the tissue of a slide as asked: by a method, or as a file draws it.

    Parameters
    ----------
    slide
        An open slide.
    how
        ``"otsu"`` (default), ``"hsv"``, ``"entropy"`` (see `tissue_mask`), or a file: GeoJSON
        polygons in level-0 pixels (QuPath, TRIDENT), a TRIDENT or CLAM tile list (``.h5``), or a
        WSIData store (``.zarr``; its shapes ``tissues``, else ``tiles``; or
        ``STORE.zarr/shapes/NAME``).
    mpp
        Microns per level-0 pixel where known: outlines in µm are then recognised.
    thumbnail
        Of the slide, for the methods, where one was read before.

    Raises
    ------
    InputError
        If the file cannot be used, or its outlines do not lie on this slide.
    SlideError
        If a method finds no tissue.
    SectionError
        If a tile list or store is damaged.
    """
    if how is None or str(how).lower() in METHODS:
        return tissue_mask(slide, method=str(how or OTSU).lower(), thumbnail=thumbnail)
    path = Path(how)
    if not path.exists():
        raise InputError(
            f"no such mask: neither {', '.join(METHODS)} nor a file", where=path, hint=TAKEN
        )
    shapes = _read(path, slide)
    _refuse_misplaced(shapes, slide, path)
    drawn = shapes.drawn(slide.size_px)
    if not drawn.mask.any():
        raise InputError("its outlines hold no pixel of the slide", where=path, hint=PIXELS)
    _refuse_other_units(drawn, shapes, slide, path, mpp)
    return drawn


def draw_mask(
    polygons: Sequence[Polygon],
    size_px: tuple[int, int],
    *,
    source: str = "drawn",
    max_px: int = DRAWN_PX,
) -> TissueMask:
    """Fill polygons, holes left out and cuts taken away, into a mask of the slide.

    Parameters
    ----------
    polygons
        In level-0 pixels.
    size_px
        (width, height) of the slide.
    source
        Who drew them.
    max_px
        Longer side of the mask.
    """
    scale = min(1.0, max_px / max(size_px))
    width, height = (max(1, round(n * scale)) for n in size_px)
    page = Image.new("1", (width, height), 0)
    pen = ImageDraw.Draw(page)
    for polygon in sorted(polygons, key=lambda p: p.cut):
        outline, *holes = (ring * scale - 0.5 for ring in polygon.rings)
        if not holes:
            pen.polygon(_corners(outline), fill=0 if polygon.cut else 1)
            continue
        left, top = np.clip(np.floor(outline.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(outline.max(axis=0)) + 1, 0, (width, height)).astype(int)
        if right <= left or bottom <= top:
            continue
        stencil = Image.new("1", (int(right - left), int(bottom - top)), 0)
        draw = ImageDraw.Draw(stencil)
        draw.polygon(_corners(outline - (left, top)), fill=1)
        for hole in holes:
            if len(hole) > 2:
                draw.polygon(_corners(hole - (left, top)), fill=0)
        page.paste(0 if polygon.cut else 1, (int(left), int(top)), stencil)
    return TissueMask(np.array(page, dtype=np.bool_), width / size_px[0], source)


def _corners(ring: NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in np.clip(ring, -1e6, 1e6).tolist()]


def draw_tiles(
    tiles: TileList,
    size_px: tuple[int, int],
    *,
    source: str = "tiles",
    max_px: int = DRAWN_PX,
) -> TissueMask:
    """Fill the squares of a tile list into a mask of the slide, however many there are.

    Parameters
    ----------
    tiles
        In level-0 pixels.
    size_px, source, max_px
        As in `draw_mask`.
    """
    scale = min(1.0, max_px / max(size_px))
    width, height = (max(1, round(n * scale)) for n in size_px)
    low = np.rint((tiles.xy_px - tiles.edge_px / 2) * scale)
    high = np.maximum(np.rint((tiles.xy_px + tiles.edge_px / 2) * scale), low + 1)
    (x0, y0), (x1, y1) = (np.clip(c, 0, (width, height)).astype(np.int64).T for c in (low, high))
    steps = np.zeros((height + 1, width + 1), dtype=np.int64)
    for line, column, sign in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
        np.add.at(steps, (line, column), sign)
    covered = steps.cumsum(axis=0).cumsum(axis=1)[:height, :width] > 0
    return TissueMask(covered, width / size_px[0], source)


@dataclass(frozen=True)
class _Shapes:
    """What a file draws: polygons, or tiles."""

    source: str
    polygons: list[Polygon]
    tiles: TileList | None = None

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, 2) lower and upper corners."""
        if self.tiles is not None:
            half = self.tiles.edge_px / 2
            return self.tiles.xy_px - half, self.tiles.xy_px + half
        return (
            np.array([p.rings[0].min(axis=0) for p in self.polygons]),
            np.array([p.rings[0].max(axis=0) for p in self.polygons]),
        )

    def drawn(self, size_px: tuple[int, int], factor: float = 1.0) -> TissueMask:
        """Draw them on a slide, enlarged by a factor."""
        if self.tiles is not None:
            larger = TileList(self.tiles.xy_px * factor, self.tiles.edge_px * factor)
            return draw_tiles(larger, size_px, source=self.source)
        larger_ones = [
            Polygon(tuple(ring * factor for ring in p.rings), p.cut) for p in self.polygons
        ]
        return draw_mask(larger_ones, size_px, source=self.source)


def _read(path: Path, slide: Slide) -> _Shapes:
    if path.suffix.lower() in GEOJSON_SUFFIXES and path.is_file():
        return _Shapes(path.name, read_geojson(path))
    if not is_tile_list(path):
        raise InputError("is no mask that can be read", where=path, hint=TAKEN)
    if path.is_dir():
        return _Shapes(path.name, read_store_shapes(path))
    tiles = read_tile_list(path)
    _refuse_other_slide(tiles, slide, path)
    return _Shapes(path.name, [], tiles)


def _refuse_other_slide(tiles: TileList, slide: Slide, path: Path) -> None:
    if tiles.size_px is None:
        return
    off = np.abs(np.asarray(tiles.size_px) / slide.size_px - 1).max()
    if off > SIZE_DIFFERS:
        width, height = tiles.size_px
        raise InputError(
            f"its tiles are of a slide of {width:.0f} x {height:.0f} px, not of this one of "
            f"{slide.size_px[0]} x {slide.size_px[1]} px",
            where=path,
            hint=f"give the tile list of {slide.path.name}",
        )


def _refuse_misplaced(shapes: _Shapes, slide: Slide, path: Path) -> None:
    low, high = shapes.bounds
    if high.max() <= UNIT:
        raise InputError(
            f"its coordinates are all below {UNIT:g}, as shares of the slide are",
            where=path,
            hint=PIXELS,
        )
    size = np.asarray(slide.size_px)
    margin = OVERHANG * max(slide.size_px)
    if shapes.tiles is not None:
        margin = max(margin, shapes.tiles.edge_px)  # tiles of the last row may hang over
    below, above = low < -margin, high > size + margin
    over = (below | above).any(axis=1)
    if over.any():
        x, y = high.max(axis=0) if above.any() else low.min(axis=0)
        raise InputError(
            f"{over.sum()} of {len(low)} outlines reach outside the slide of {size[0]} x "
            f"{size[1]} px, as far as ({x:.0f}, {y:.0f})",
            where=path,
            hint=f"{PIXELS}: is it of another slide, or in other units?",
        )


def _refuse_other_units(
    drawn: TissueMask, shapes: _Shapes, slide: Slide, path: Path, mpp: float | None
) -> None:
    """Refuse outlines that miss the tissue as they are, and hit it in µm or at another level."""
    try:
        found = tissue_mask(slide)
    except SlideError:
        return  # a mask from outside is the way to use such a slide
    if _on(drawn, found) >= LITTLE:
        return
    mpp = slide.mpp if mpp is None else mpp
    scales = [(f, f"pixels of the level that is {f:.3g} times smaller") for f in slide.levels[1:]]
    if mpp is not None:
        scales.append((1 / mpp, "µm"))
    for factor, unit in scales:
        if _on(shapes.drawn(slide.size_px, factor), found) >= MUCH:
            raise InputError(
                f"its outlines miss the tissue, and hit it where they are taken for {unit}",
                where=path,
                hint=PIXELS,
            )


def _on(drawn: TissueMask, found: TissueMask) -> float:
    """Share of the drawn mask that is tissue."""
    lines, columns = np.nonzero(drawn.mask)
    if not len(lines):
        return 0.0
    xy_px = (np.column_stack([columns, lines]) + 0.5) / drawn.scale
    return float(found.covers(xy_px.astype(np.float64)).mean())
