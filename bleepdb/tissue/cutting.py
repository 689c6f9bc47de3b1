"""Super-tiles cut into the fields of an encoder, each pixel decoded once."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.tissue.batches import StoppedError
from bleepdb.tissue.windows import resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.tissue.batches import Batches
    from bleepdb.tissue.geometry import TileGeometry
    from bleepdb.tissue.slide import Slide
    from bleepdb.tissue.windows import Window

UNTILED_PX: Final = 256


class Cutter:
    """Decodes super-tiles and cuts fields out of them."""

    def __init__(
        self,
        slide: Slide,
        xy_px: NDArray[np.float64],
        slide_mpp: float,
        geometry: TileGeometry,
    ) -> None:
        self.slide = slide
        self.xy_px = xy_px
        self.out_px = geometry.tile_px, geometry.tile_px
        self.resampling = geometry.resampling
        self.edges_px = [scale_um / slide_mpp for scale_um in geometry.scales_um]
        self.alone = threading.Lock()
        # Heights of the slide's own tiles.
        known = (level.get("tile_px") for level in slide.facts()["levels"])
        self.blocks = [UNTILED_PX if px is None else px[1] for px in known]

    def cut(self, shared: Batches, slots: list[int], scratch: list[NDArray[np.uint8]]) -> None:
        """Decode a super-tile and fill the batches with its tiles.

        `scratch` is the memory of one thread, a buffer a scale: fresh memory halves the speed.
        """
        places = self.xy_px[shared.plan.order[slots]].tolist()
        windows = [self._windows(places, edge) for edge in self.edges_px]
        if self._can_copy(shared, slots, windows):
            self._copy(shared, slots, windows[0] or [], scratch)
            return
        pieces = [self._piece(w, j, scratch) for j, w in enumerate(windows)]
        number, count, tiles = -1, 0, None
        for i, (slot, place) in enumerate(zip(slots, places, strict=True)):
            if slot // shared.batch != number or tiles is None:
                if count:
                    shared.put(number, count)
                number, count = slot // shared.batch, 0
                tiles = shared.buffer(number)
            if shared.stop:
                raise StoppedError
            at = tiles[slot % shared.batch]
            for j, (piece, edge) in enumerate(zip(pieces, self.edges_px, strict=True)):
                at[j] = self._large(place, edge) if piece is None else piece.field(i, self.out_px)
            count += 1
        shared.put(number, count)

    def _can_copy(
        self, shared: Batches, slots: list[int], windows: list[list[Window] | None]
    ) -> bool:
        """Whether the fields are whole pixels of one scale that need no resampling.

        All batches that they go to are then filled at once, and must have room together.
        """
        first = windows[0]
        if len(windows) > 1 or first is None or first[0].level >= len(self.blocks):
            return False
        span = shared.place[slots[-1] // shared.batch] - shared.place[slots[0] // shared.batch]
        return span < shared.buffers and all(w.is_copy(self.out_px) for w in first)

    def _copy(
        self,
        shared: Batches,
        slots: list[int],
        windows: list[Window],
        scratch: list[NDArray[np.uint8]],
    ) -> None:
        """Decode a super-tile row by row of the slide's own tiles, and copy each on while hot."""
        whole = windows[0].union(windows[1:])
        high = self.blocks[whole.level]
        numbers = [slot // shared.batch for slot in slots]
        batches = {number: shared.buffer(number) for number in dict.fromkeys(numbers)}
        tiles = [batches[n][slot % shared.batch, 0] for n, slot in zip(numbers, slots, strict=True)]
        top = whole.top
        while top < whole.bottom:
            bottom = min((top // high + 1) * high, whole.bottom)
            strip = self._decoded(replace(whole, top=top, bottom=bottom), 0, scratch)
            for tile, w in zip(tiles, windows, strict=True):
                first, last = max(w.top, top), min(w.bottom, bottom)
                if first < last:
                    tile[first - w.top : last - w.top] = strip[
                        first - top : last - top, w.left - whole.left : w.right - whole.left
                    ]
            top = bottom
            if shared.stop:
                raise StoppedError
        for number in batches:
            shared.put(number, numbers.count(number))

    def _box(self, place: list[float], edge: float) -> tuple[float, float, float, float]:
        x, y = place
        return x - edge / 2, y - edge / 2, edge, edge

    def _windows(self, places: list[list[float]], edge: float) -> list[Window] | None:
        """Return what the fields of one scale are made from; None where each is made in bands."""
        windows = []
        for place in places:
            window = self.slide.window(
                *self._box(place, edge), out_px=self.out_px, resampling=self.resampling
            )
            if window is None:
                return None
            windows.append(window)
        return windows

    def _piece(
        self, windows: list[Window] | None, j: int, scratch: list[NDArray[np.uint8]]
    ) -> _Piece | None:
        """Decode what the fields of one scale need; None where each is made in bands."""
        if windows is None:
            return None
        whole = windows[0].union(windows[1:])
        return _Piece(self._decoded(whole, j, scratch), whole, windows)

    def _decoded(
        self, window: Window, j: int, scratch: list[NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """Decode a window into the memory of a scale."""
        width, height = window.size
        if scratch[j].size < width * height * 3:
            scratch[j] = np.empty(width * height * 3, np.uint8)
        buffer = scratch[j][: width * height * 3].reshape(height, width, 3)
        return self.slide.pixels(window, out=buffer)

    def _large(self, place: list[float], edge: float) -> NDArray[np.uint8]:
        """Read a field that is larger than a super-tile, one at a time for its memory's sake."""
        with self.alone:
            return self.slide.read(
                *self._box(place, edge), out_px=self.out_px, resampling=self.resampling
            )


@dataclass(frozen=True, slots=True)
class _Piece:
    """Decoded pixels of a level, and the windows that lie in them."""

    pixels: NDArray[np.uint8]
    whole: Window
    windows: list[Window]

    def field(self, i: int, out_px: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the i-th field as `Slide.read` does."""
        w, whole = self.windows[i], self.whole
        inside = self.pixels[
            w.top - whole.top : w.bottom - whole.top, w.left - whole.left : w.right - whole.left
        ]
        return resampled(inside, w, out_px)
