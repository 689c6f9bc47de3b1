"""What threads that cut tiles share with who takes them: batches, their room, their order."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.tissue.supertiles import Plan


class StoppedError(Exception):
    """Nobody waits for more."""


@dataclass
class Batches:
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
                raise StoppedError
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
