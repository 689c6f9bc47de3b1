"""Super-tiles: which places are cut out of one decoded piece of a slide, and in which order.

A field of a few hundred pixels touches several of the slide's own tiles, each of which adjacent
fields would decode again. Places are therefore grouped, the pixels that a group needs of a level
are decoded once, and its fields are cut out of them. Grouping decides no pixel: every field is
resampled from the very pixels that it would be read with alone (`bleepdb.tissue.windows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.tissue.planes import planes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bleepdb.tissue.geometry import TileGeometry
    from bleepdb.tissue.slide import Slide

SUPER_PX: Final = 2048
"""About how many pixels of a level a super-tile is wide where the slide has no tiles of its own."""
WIDEST_PX: Final = 3584
CACHED_PIXELS: Final = 2**24
"""A super-tile of so many pixels costs twice as much a pixel as one that stays in a CPU's cache
(measured: 1.6 to 1.9 times at 2**23.6)."""
HALVINGS: Final = 4
"""Super-tiles are halved this often where their places are few and far between."""
MOST_PIXELS: Final = 2**24
"""More pixels than this, of all scales together, are not decoded into one super-tile, unless twice
the fields of a single place are more."""
LARGEST_PIXELS: Final = 2**26
"""Nor are more than this even then."""
MOST_PLACES: Final = 256
"""More places than this make several super-tiles, so that several threads cut them."""
SAMPLE: Final = 50_000
"""The size of super-tiles is chosen on this many places."""


@dataclass(frozen=True)
class Plan:
    """Places in the order in which they are cut, and where one super-tile ends.

    Parameters
    ----------
    order
        (n,) int64: every row once, super-tile by super-tile.
    starts
        (groups + 1,) int64: the rows ``order[starts[g]:starts[g + 1]]`` are of super-tile g.
    pixels
        (groups,) int64: source pixels that its decoded pieces hold.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    pixels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each super-tile."""
        return (self.order[a:b] for a, b in zip(self.starts[:-1], self.starts[1:], strict=True))


@dataclass(frozen=True)
class _Scale:
    """What the fields of one scale read, as far as it is the same for all places.

    Parameters
    ----------
    factor
        Level-0 pixels that a pixel of its level is wide.
    half
        Half of a field, in level-0 pixels.
    span, margin
        Edge of a field, and what is read around it, in pixels of its level.
    size
        (width, height) of the level.
    block
        (width, height) of the pieces that the slide is decoded in there; (1, 1) where unknown.
    """

    factor: float
    half: float
    span: float
    margin: int
    size: tuple[int, int]
    block: tuple[int, int]

    def bounds(self, xy_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return left, top, right and bottom of the pixels of each place, (4, n), in the level."""
        low = (xy_px.T - self.half) / self.factor
        far = np.asarray(self.size)[:, None]
        first = np.clip(np.floor(low) - self.margin, 0, far)
        last = np.clip(np.ceil(low + self.span) + self.margin, 0, far)
        return np.concatenate([first, last]).astype(np.int64)

    def cost(self, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pixels that are decoded where these are asked for, (n,)."""
        block = np.asarray(self.block)[:, None]
        first = bounds[:2] // block
        last = -(-bounds[2:] // block)
        return np.asarray(((last - first) * block).prod(axis=0))


def plan_super_tiles(
    slide: Slide, xy_px: NDArray[np.float64], *, slide_mpp: float, geometry: TileGeometry
) -> Plan:
    """Group places so that no more pixels are decoded than one by one, and far fewer where dense.

    Parameters
    ----------
    slide
        An open slide.
    xy_px
        (n, 2) float64 centres in level-0 pixels.
    slide_mpp, geometry
        As in `bleepdb.tissue.read_tiles`.

    Returns
    -------
    Plan
        The same for the same places and slide, on any machine: from the upper left to the lower
        right, super-tile by super-tile.
    """
    scales = [
        made
        for scale_um in geometry.scales_um
        if (made := _scale(slide, scale_um / slide_mpp, geometry)) is not None
    ]
    if not scales or len(xy_px) < 2:
        return _Grouping.alone(xy_px, scales).plan()
    finest = min(scales, key=lambda s: s.factor)
    edges = _edges(finest)
    if len(edges) > 1:
        by_line = xy_px[np.argsort(xy_px[:, 1], kind="stable")]
        middle = max(0, (len(xy_px) - SAMPLE) // 2)
        sample = by_line[middle : middle + SAMPLE]
        edges.sort(key=lambda edge: (_Grouping.of(sample, scales, finest, edge).seconds, edge))
    return _Grouping.of(xy_px, scales, finest, edges[0]).plan()


def _scale(slide: Slide, edge_px: float, geometry: TileGeometry) -> _Scale | None:
    """Return what fields of this edge read; None where each is made in bands, by itself."""
    out_px = geometry.tile_px, geometry.tile_px
    window = slide.window(0, 0, edge_px, edge_px, out_px=out_px, resampling=geometry.resampling)
    if window is None:
        return None
    span = window.box[2] - window.box[0]
    plane = planes_of(slide.levels, slide.level_sizes)[window.level]
    across, down = slide.facts()["levels"][plane.level].get("tile_px") or (1, 1)
    return _Scale(
        factor=plane.factor,
        half=edge_px / 2,
        span=span,
        margin=-window.left,
        size=plane.size,
        block=(max(1, across // plane.by), max(1, down // plane.by)),
    )


def _edges(scale: _Scale) -> list[int]:
    """Return the edges that super-tiles may have, in pixels of a level: whole tiles of it."""
    block = max(scale.block)
    if block == 1:
        return [max(SUPER_PX - round(scale.span), SUPER_PX // 2)]
    return [n for n in range(block, WIDEST_PX + 1, block) if n >= SUPER_PX // 2] or [block]


@dataclass(frozen=True)
class _Grouping:
    """Places in the order of a quadtree, each with the group that it fell into."""

    order: NDArray[np.int64]
    group: NDArray[np.int64]
    pixels: NDArray[np.int64]
    cost: NDArray[np.int64]

    @property
    def seconds(self) -> float:
        """What it takes to decode all, in units of its own."""
        return float((self.cost * (1 + self.pixels / CACHED_PIXELS)).sum())

    @classmethod
    def alone(cls, xy_px: NDArray[np.float64], scales: list[_Scale]) -> _Grouping:
        """Return every place as a group of its own."""
        n = len(xy_px)
        pixels = _areas([s.bounds(xy_px) for s in scales], n)
        return cls(np.arange(n), np.arange(n), pixels, pixels)

    @classmethod
    def of(
        cls, xy_px: NDArray[np.float64], scales: list[_Scale], finest: _Scale, edge: int
    ) -> _Grouping:
        """Group by cells of an edge, halved where that decodes less; never more than alone."""
        corner = finest.bounds(xy_px)[:2]
        cell = corner // edge
        code = cell[1] * (1 + cell[0].max()) + cell[0]
        within = (corner - cell * edge) * 2**HALVINGS // edge
        for bit in range(HALVINGS - 1, -1, -1):
            code = code * 4 + (within[1] >> bit & 1) * 2 + (within[0] >> bit & 1)
        order = np.argsort(code, kind="stable")
        code = code[order]
        bounds = [s.bounds(xy_px[order]) for s in scales]
        n = len(order)
        best = sum((s.cost(b) for s, b in zip(scales, bounds, strict=True)), np.zeros(n, np.int64))
        pixels = _areas(bounds, n)
        most = min(max(MOST_PIXELS, 2 * int(pixels.max())), LARGEST_PIXELS)
        starts = np.arange(n)  # of the groups so far; finer cells lie within coarser ones
        for halvings in range(HALVINGS, -1, -1):
            label = code >> 2 * (HALVINGS - halvings)
            first = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
            unions = [_union(b, first) for b in bounds]
            cost = sum(
                (s.cost(u) for s, u in zip(scales, unions, strict=True)),
                np.zeros(len(first), np.int64),
            )
            apart = np.add.reduceat(best, np.searchsorted(starts, first))
            area = _areas(unions, len(first))
            joined = (cost <= apart) & (area <= most)
            if halvings < HALVINGS:
                joined &= np.diff(np.r_[first, n]) <= MOST_PLACES
            # A cell that is not joined keeps the groups that its quarters made.
            owner = np.searchsorted(first, starts, side="right") - 1
            keep = ~joined[owner] | (starts == first[owner])
            changed = joined[owner[keep]]
            best = np.where(changed, cost[owner[keep]], best[keep])
            pixels = np.where(changed, area[owner[keep]], pixels[keep])
            starts = starts[keep]
        group = np.searchsorted(starts, np.arange(n), side="right") - 1
        return cls(order, group, pixels, best)

    def plan(self) -> Plan:
        """Return it as a plan; within a group the rows rise."""
        order = self.order[np.lexsort((self.order, self.group))]
        starts = np.searchsorted(self.group, np.arange(len(self.pixels) + 1))
        return Plan(order.astype(np.int64), starts.astype(np.int64), self.pixels)


def _union(bounds: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bounds of groups that begin at these rows, (4, groups)."""
    return np.concatenate(
        [
            np.minimum.reduceat(bounds[:2], first, axis=1),
            np.maximum.reduceat(bounds[2:], first, axis=1),
        ]
    )


def _areas(bounds: list[NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    """Return the pixels of all scales together, (n,)."""
    areas = [(b[2:] - b[:2]).prod(axis=0) for b in bounds]
    return sum(areas, np.zeros(n, np.int64))
