"""Augmentation of tiles on the device that trains on them.

What is drawn is drawn for a whole batch from a generator of its own, on the CPU, before ranks take
their shares: the same seed gives the same tiles on one device and on several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

# Optical densities of haematoxylin, eosin and a residual in R, G and B: Ruifrok and Johnston
# (Anal. Quant. Cytol. Histol. 2001), the values that scikit-image uses.
STAINS: Final = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
DARKEST: Final = 1 / 256
"""Stands for black, whose optical density would be infinite."""


@dataclass(frozen=True)
class Draw:
    """What was drawn for a batch of places; all scales of a place share it.

    Attributes
    ----------
    turn
        (n,) int64 in 0..7: bit 2 mirrors left and right, the rest are quarter turns after it.
    brightness, contrast
        (n,) factors around 1.
    stain
        (n, 3) factors of the optical densities of haematoxylin, eosin and the residual.
    """

    turn: Tensor
    brightness: Tensor
    contrast: Tensor
    stain: Tensor

    def __getitem__(self, rows: slice) -> Draw:
        """Return the share of some places."""
        return Draw(self.turn[rows], self.brightness[rows], self.contrast[rows], self.stain[rows])


@dataclass(frozen=True)
class Augmentation:
    """How far tiles are changed.

    Parameters
    ----------
    flips
        Whether they are mirrored and turned by quarters, all eight ways alike.
    brightness, contrast, stain
        Factors are drawn evenly within so much of 1; 0 leaves a tile as it is.
    """

    flips: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    stain: float = 0.0

    def draw(self, n: int, generator: Generator) -> Draw:
        """Draw for a batch of n places; as many numbers are drawn whatever the settings."""
        turn = torch.randint(8, (n,), generator=generator)
        even = torch.rand((n, 5), generator=generator) * 2 - 1
        return Draw(
            turn if self.flips else torch.zeros_like(turn),
            1 + self.brightness * even[:, 0],
            1 + self.contrast * even[:, 1],
            1 + self.stain * even[:, 2:],
        )

    def apply(self, images: Tensor, drawn: Draw) -> Tensor:
        """Return changed images.

        Parameters
        ----------
        images
            (n, scales, 3, px, px) in [0, 1], on any device.
        drawn
            For these n places.
        """
        made = turned(images, drawn.turn) if self.flips else images
        if self.stain:
            made = stained(made, _per_place(drawn.stain, made)[:, :, None, :, None, None])
        if self.contrast:
            grey = made.mean(dim=(2, 3, 4), keepdim=True)
            made = grey + (made - grey) * _per_place(drawn.contrast, made)
        if self.brightness:
            made = made * _per_place(drawn.brightness, made)
        return made.clamp(0, 1) if self.stain or self.contrast or self.brightness else made


def turned(images: Tensor, turn: Tensor) -> Tensor:
    """Mirror and turn each place's images, (n, scales, 3, px, px), as `Draw.turn` says."""
    made = torch.empty_like(images)
    for way in range(8):
        rows = torch.nonzero(turn == way)[:, 0]
        if len(rows):
            rows = rows.to(images.device)
            some = images[rows]
            made[rows] = torch.rot90(some.flip(-1) if way & 4 else some, way & 3, (-2, -1))
    return made


def stained(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the optical density of each stain.

    Parameters
    ----------
    images
        (n, scales, 3, px, px) in [0, 1].
    factors
        (n, 1, 1, 3, 1, 1), broadcast over scales, colours and pixels.
    """
    vectors = torch.tensor(STAINS, dtype=images.dtype, device=images.device)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    density = -images.clamp_min(DARKEST).log()
    amounts = torch.einsum("nschw,ck->nskhw", density, torch.linalg.inv(vectors))
    amounts = amounts * factors[:, :, 0]
    return (-torch.einsum("nskhw,kc->nschw", amounts, vectors)).exp()


def _per_place(values: Tensor, images: Tensor) -> Tensor:
    """Give values (n, ...) the device and type of images, and axes to broadcast over them."""
    made = values.to(device=images.device, dtype=images.dtype)
    return made.view(len(made), *([1] * 4)) if made.ndim == 1 else made[:, None]
