"""Stored tiles as batches on the device that trains on them."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from bleepdb.training.augment import Augmentation

AHEAD: Final = 2
"""Batches that are read while others are computed."""


@dataclass(frozen=True)
class Tiles:
    """Tiles and profiles of training spots.

    Attributes
    ----------
    stores
        Of each section, (n, scales, px, px, 3) uint8.
    profiles
        (spots, genes) float32, one section after the other.
    augmentation
        What is done to tiles on the device.
    generator
        What that draws from; the same on all ranks.
    """

    stores: Sequence[NDArray[np.uint8]]
    profiles: Tensor
    augmentation: Augmentation
    generator: torch.Generator
    _starts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        starts = np.cumsum([0, *(len(s) for s in self.stores)])
        object.__setattr__(self, "_starts", starts)

    def __len__(self) -> int:
        return len(self.profiles)

    def read(self, rows: NDArray[np.int64], *, pinned: bool = False) -> Tensor:
        """Return the tiles of spots, (b, scales, px, px, 3) uint8 on the CPU."""
        made = torch.empty(
            (len(rows), *self.stores[0].shape[1:]), dtype=torch.uint8, pin_memory=pinned
        )
        out = made.numpy()
        of = np.searchsorted(self._starts, rows, side="right") - 1
        for i, (section, row) in enumerate(zip(of, rows, strict=True)):
            out[i] = self.stores[section][row - self._starts[section]]
        return made

    def batches(
        self, rows: Tensor, share: slice, device: torch.device
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield images (b, scales, 3, px, px) in [0, 1] and profiles, as `Data` says.

        A thread reads ahead; what is drawn is drawn when a batch is given out, so that a
        checkpoint after it continues with the next.
        """
        pinned = device.type == "cuda"
        pending: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="training-tiles") as reader:
            for number in range(len(rows) + AHEAD):
                if number < len(rows):
                    mine = rows[number][share].numpy()
                    pending.append(reader.submit(self.read, mine, pinned=pinned))
                if number < AHEAD:
                    continue
                batch = rows[number - AHEAD]
                tiles = pending.popleft().result().to(device, non_blocking=True)
                # A permuted view of (..., px, px, 3) is what channels_last looks like in memory.
                images = tiles.permute(0, 1, 4, 2, 3).float().div_(255)
                drawn = self.augmentation.draw(len(batch), self.generator)[share]
                profiles = self.profiles[batch[share]].to(device, non_blocking=True)
                yield self.augmentation.apply(images, drawn), profiles

    def state(self) -> dict[str, Tensor]:
        """Return the state of the generator."""
        return {"augment.generator": self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        self.generator.set_state(state["augment.generator"])
