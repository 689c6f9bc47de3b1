"""The image side of a training on tiles: backbone, levels, scales, standardisation and head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from bleepdb.encoders.levels import multilevel, penultimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from bleepdb.encoders.levels import Levels


class ImageEncoder(nn.Module):
    """Tiles to embeddings, as `bleepdb.encoders.Backbone` and a tower give them.

    Statistics of the network's batch norms stay, and its dropout is off: it stays in evaluation
    mode while the head trains. So a batch that is shared among ranks sees the same network.

    Parameters
    ----------
    network
        The backbone's.
    levels
        Of features.
    pixels
        Mean and SD of RGB in [0, 1].
    inputs
        What is taken off features, and what they are multiplied by, (F,) each.
    head
        Features to embeddings.
    """

    centre: Tensor
    spread: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        levels: Levels,
        pixels: tuple[Sequence[float], Sequence[float]],
        inputs: tuple[NDArray, NDArray],  # type: ignore[type-arg] # of any float
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.network = network
        self.head = head
        self.levels = levels
        for name, values in zip(("centre", "spread"), pixels, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        for name, array in zip(("mean", "scale"), inputs, strict=True):
            self.register_buffer(name, torch.as_tensor(array, dtype=torch.float32))

    def train(self, mode: bool = True) -> Self:
        """Set the head's mode; the backbone's stays."""
        super().train(mode)
        self.network.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return standardised features, (n, scales * D), of images (n, scales, 3, px, px)."""
        n, scales = images.shape[:2]
        read = penultimate if self.levels == "penultimate" else multilevel
        pixels = (images.flatten(0, 1) - self.centre) / self.spread
        made = read(self.network, pixels.contiguous(memory_format=torch.channels_last))
        return (made.reshape(n, scales * made.shape[1]) - self.mean) * self.scale

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (n, d) and the features that they are of, without gradient."""
        features = self.features(images)
        return self.head(features), features.detach()


class OnTiles(nn.Module):
    """Both sides of a training on tiles, as the loop takes them."""

    def __init__(self, images: ImageEncoder, profiles: nn.Module) -> None:
        super().__init__()
        self.images = images
        self.profiles = profiles

    def forward(self, images: Tensor, profiles: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return both embeddings, then features and profiles."""
        embedded, features = self.images(images)
        return embedded, self.profiles(profiles), features, profiles
