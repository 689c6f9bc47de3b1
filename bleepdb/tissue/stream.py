"""Tiles as a stream: threads decode ahead of whoever takes them, in bounded memory.

Threads, not processes: libjpeg-turbo, OpenSlide and PIL let go of the interpreter while they
decode and resample, and tiles that another process has made must be carried over, which costs as
much as to cut them. `benchmarks/bench_tiles.py` shows both.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from bleepdb.tissue.supertiles import plan_super_tiles
from bleepdb.tissue.tiles import MAX_UPSAMPLING, check_places
from bleepdb.tissue.windows import resampled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from bleepdb.tissue.geometry import TileGeometry
    from bleepdb.tissue.slide import Slide
    from bleepdb.tissue.supertiles import Plan
    from bleepdb.tissue.windows import Window

MEMORY_BYTES: Final = 2**29
"""Tiles that wait, and pieces that are being cut, take no more than this, or two batches and one
super-tile where that is more."""
MOST_AHEAD: Final = 16
UNTILED_PX: Final = 256
MOST_WORKERS: Final = 16


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class TileStream:
    """The tiles around places of a slide, decoded ahead by threads.

    Decoding starts at once. The order is that of super-tiles (`bleepdb.tissue.supertiles`), the
    same for the same places, batch and slide, whatever the number of threads. A consumer that
    stops taking stops the decoding. Use it in a ``with`` block, or `close` it; one that is
    forgotten ends its threads when it is collected.

    Parameters
    ----------
    slide
        An open slide, which stays open until this is closed.
    xy_px, slide_mpp, geometry, max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    batch
        Places at a time; the last batch may have fewer.
    workers
        Threads; by default as many as there are cores, at most 16.
    ahead
        Batches that are decoded ahead, at most; fewer where memory is short.
    memory_bytes
        For tiles that wait and pieces that are being cut.
    plan
        From `plan_super_tiles` of the same places, where it is there already.
    skip
        Numbers of batches that are not wanted: others stay as they are.
    reuse
        Whether the memory of a batch is used again once the next one is asked for. Fresh memory
        for each batch is safer and slower.
    allocate
        Makes the memory of a batch from its shape; by default `numpy.empty`.

    Raises
    ------
    SlideError
        If a place is outside the image or a scale does not suit the slide; while iterating, if
        pixels cannot be decoded.
    """

    def __init__(
        self,
        slide: Slide,
        xy_px: NDArray[np.float64],
        *,
        slide_mpp: float,
        geometry: TileGeometry,
        batch: int = 64,
        workers: int | None = None,
        ahead: int = MOST_AHEAD,
        memory_bytes: int = MEMORY_BYTES,
        max_upsampling: float = MAX_UPSAMPLING,
        plan: Plan | None = None,
        skip: Collection[int] = (),
        reuse: bool = False,
        allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]] | None = None,
    ) -> None:
        places = np.ascontiguousarray(xy_px, dtype=np.float64).reshape(-1, 2)
        check_places(slide, places, slide_mpp, geometry, max_upsampling)
        if plan is None:
            plan = plan_super_tiles(slide, places, slide_mpp=slide_mpp, geometry=geometry)
        shape = batch, len(geometry.scales_um), geometry.tile_px, geometry.tile_px, 3
        buffers = max(2, min(ahead, memory_bytes // 2 // int(np.prod(shape))))
        self.plan = plan
        self.batch = batch
        self._cutter = _Cutter(slide, places, slide_mpp, geometry)
        self._shared = _Shared(
            plan=plan,
            batch=batch,
            wanted=[k for k in range(-(-len(places) // batch)) if k not in set(skip)],
            shape=shape,
            buffers=buffers,
            most_pixels=memory_bytes // 2 // 3,
            reuse=reuse,
            allocate=allocate or (lambda shape: np.empty(shape, np.uint8)),
        )
        self.numbers = tuple(self._shared.wanted)
        threads = [
            threading.Thread(
                target=_work, args=(self._shared, self._cutter), name=f"tiles-{i}", daemon=True
            )
            for i in range(max(1, min(workers or min(usable_cores(), MOST_WORKERS), len(plan))))
            if self.numbers
        ]
        self._close = weakref.finalize(self, _end, self._shared, threads)
        for thread in threads:
            thread.start()

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield (rows, tiles): which places, (b,) int64; (b, scales, px, px, 3) uint8 RGB.

        Raises
        ------
        SlideError
            If pixels cannot be decoded.
        """
        for number in self.numbers:
            rows = self.plan.order[number * self.batch : (number + 1) * self.batch]
            tiles = self._shared.take(number)
            try:
                yield rows, tiles[: len(rows)]
            finally:
                self._shared.release(number)

    def close(self) -> None:
        """End the threads, once each has done the piece at hand. A second time is fine."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _StoppedError(Exception):
    """Nobody waits for more."""


@dataclass
class _Shared:
    """What threads and consumer share; all that changes is changed under `turn`.

    Batches are admitted in order, so many beyond the last that was given back; super-tiles are
    handed out in order too. So the first super-tile that is not done can always go on, and
    nothing waits for ever.
    """

    plan: Plan
    batch: int
    wanted: list[int]
    shape: tuple[int, ...]
    buffers: int
    most_pixels: int
    reuse: bool
    allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]]
    turn: threading.Condition = field(default_factory=threading.Condition)
    stop: bool = False
    error: BaseException | None = None
    failed_batch: int = -1
    released: int = 0
    next_group: int = 0
    pixels: int = 0
    filled: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    spare: list[NDArray[np.uint8]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.place = {number: i for i, number in enumerate(self.wanted)}
        n = len(self.plan.order)
        self.left = {k: min(self.batch, n - k * self.batch) for k in self.wanted}

    def slots(self, group: int) -> list[int]:
        """Positions in the order that a super-tile is to fill."""
        start, end = int(self.plan.starts[group]), int(self.plan.starts[group + 1])
        return [p for p in range(start, end) if p // self.batch in self.place]

    def admitted(self, number: int) -> bool:
        """Whether there is room for a batch."""
        return self.place[number] < self.released + self.buffers

    def next(self) -> tuple[int, list[int]] | None:
        """Wait for the next super-tile whose first batch has room; None where there is no more."""
        with self.turn:
            while True:
                if self.stop or self.error is not None:
                    return None
                while (group := self.next_group) < len(self.plan) and not (
                    slots := self.slots(group)
                ):
                    self.next_group += 1
                if group == len(self.plan):
                    return None
                pixels = int(self.plan.pixels[group])
                room = not self.pixels or self.pixels + pixels <= self.most_pixels
                if room and self.admitted(slots[0] // self.batch):
                    self.next_group += 1
                    self.pixels += pixels
                    return group, slots
                self.turn.wait()

    def buffer(self, number: int) -> NDArray[np.uint8]:
        """Wait until a batch is admitted; return its memory."""
        with self.turn:
            while not self.stop and not self.admitted(number):
                self.turn.wait()
            if self.stop:
                raise _StoppedError
            if number not in self.filled:
                self.filled[number] = self.spare.pop() if self.spare else self.allocate(self.shape)
            return self.filled[number]

    def put(self, number: int, count: int) -> None:
        """Say that so many tiles of a batch are there."""
        with self.turn:
            self.left[number] -= count
            if not self.left[number]:
                self.turn.notify_all()

    def done(self, group: int) -> None:
        """Say that a super-tile is let go."""
        with self.turn:
            self.pixels -= int(self.plan.pixels[group])
            self.turn.notify_all()

    def fail(self, error: BaseException, group: int) -> None:
        """Say what kept a super-tile from being cut; the first of them in the order counts."""
        with self.turn:
            batch = int(self.plan.starts[group]) // self.batch
            if self.error is None or batch < self.failed_batch:
                self.error, self.failed_batch = error, batch
            self.turn.notify_all()

    def take(self, number: int) -> NDArray[np.uint8]:
        """Wait for a batch."""
        with self.turn:
            while not self.stop and self.left[number]:
                if self.error is not None and number >= self.failed_batch:
                    raise self.error
                self.turn.wait()
            if self.stop:
                message = "the stream of tiles is closed"
                raise ValueError(message)
            return self.filled[number]

    def release(self, number: int) -> None:
        """Give a batch back."""
        with self.turn:
            tiles = self.filled.pop(number, None)
            if self.reuse and tiles is not None:
                self.spare.append(tiles)
            self.released = self.place[number] + 1
            self.turn.notify_all()


class _Cutter:
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

    def cut(self, shared: _Shared, slots: list[int], scratch: list[NDArray[np.uint8]]) -> None:
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
                raise _StoppedError
            at = tiles[slot % shared.batch]
            for j, (piece, edge) in enumerate(zip(pieces, self.edges_px, strict=True)):
                at[j] = self._large(place, edge) if piece is None else piece.field(i, self.out_px)
            count += 1
        shared.put(number, count)

    def _can_copy(
        self, shared: _Shared, slots: list[int], windows: list[list[Window] | None]
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
        shared: _Shared,
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
                raise _StoppedError
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


def _work(shared: _Shared, cutter: _Cutter) -> None:
    """Cut super-tiles until there are no more, or nobody wants them."""
    scratch = [np.empty(0, np.uint8) for _ in cutter.edges_px]
    while (task := shared.next()) is not None:
        group, slots = task
        try:
            cutter.cut(shared, slots, scratch)
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer is told
            shared.fail(error, group)
            return
        finally:
            shared.done(group)


def _end(shared: _Shared, threads: list[threading.Thread]) -> None:
    """Stop the threads and wait for them."""
    with shared.turn:
        shared.stop = True
        shared.turn.notify_all()
    for thread in threads:
        thread.join()
