"""A network fed without a pause: on a GPU, tiles go up and features come down while it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.levels import Levels


class Feeder:
    """Takes batches of tiles and promises their features.

    On a CPU they are there at once. On a GPU a batch is copied by a stream of its own while the
    one before is computed; memory that is not pinned is copied all the same, only not meanwhile.

    Parameters
    ----------
    backbone, levels
        As in `Backbone.features`.
    """

    def __init__(self, backbone: Backbone, levels: Levels) -> None:
        self._backbone = backbone
        self._levels = levels
        self.ahead = 1 if backbone.device == "cuda" else 0
        """Batches that are best under way while the features of an earlier one are taken."""
        self._copying: torch.cuda.Stream | None = None
        if backbone.device == "cuda":
            self._copying = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch's own gap

    def feed(self, tiles: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Begin with tiles, (n, px, px, 3) uint8; what is returned waits for their features.

        The memory of the tiles may be written to again as soon as this returns.
        """
        if self._copying is None:
            made = self._backbone.features(tiles, self._levels)
            return lambda: made
        with torch.cuda.stream(self._copying):
            above = torch.from_numpy(tiles).to(self._backbone.device, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's own gap
            copied.record(self._copying)
        present = torch.cuda.current_stream()
        present.wait_event(copied)
        above.record_stream(present)
        below = self._backbone.features_of(above, self._levels).to("cpu", non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch's own gap
        ready.record(present)
        copied.synchronize()

        def wait() -> NDArray[np.float32]:
            ready.synchronize()
            return np.asarray(below.numpy())

        return wait


def allocator(device: str) -> Callable[[tuple[int, ...]], NDArray[np.uint8]] | None:
    """Return what makes memory for tiles that go to a device: pinned where it is a GPU."""
    if device != "cuda":
        return None

    def pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        made: NDArray[np.uint8] = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
        return made

    return pinned
