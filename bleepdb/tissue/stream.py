"""Tiles as a stream: threads decode ahead of whoever takes them, in bounded memory.

Threads, not processes: libjpeg-turbo, OpenSlide and PIL let go of the interpreter while they
decode and resample. Two processes that even leave their tiles where they are were no faster than
two threads (`benchmarks/bench_tiles.py` measures both).
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue.batches import Batches, StoppedError
from bleepdb.tissue.cutting import Cutter
from bleepdb.tissue.supertiles import plan_super_tiles
from bleepdb.tissue.tiles import check_places

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from bleepdb.tissue.geometry import TileGeometry
    from bleepdb.tissue.slide import Slide
    from bleepdb.tissue.supertiles import Plan

MEMORY_BYTES: Final = 2**29
"""Tiles that wait, and pieces that are being cut, take no more than this, or two batches and one
super-tile where that is more."""
MOST_AHEAD: Final = 16
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
        self._cutter = Cutter(slide, places, slide_mpp, geometry)
        self._shared = Batches(
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


def _work(shared: Batches, cutter: Cutter) -> None:
    """Cut super-tiles until there are no more, or nobody wants them."""
    scratch = [np.empty(0, np.uint8) for _ in cutter.edges_px]
    while (task := shared.next()) is not None:
        group, slots = task
        try:
            cutter.cut(shared, slots, scratch)
        except StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer is told
            shared.fail(error, group)
            return
        finally:
            shared.done(group)


def _end(shared: Batches, threads: list[threading.Thread]) -> None:
    """Stop the threads and wait for them."""
    with shared.turn:
        shared.stop = True
        shared.turn.notify_all()
    for thread in threads:
        thread.join()
