"""`builtin:colour`: what a tile's colours and nuclei say, without any weights.

Of red, green and blue, and of the densities of haematoxylin and eosin: mean, SD and five
percentiles. Of nuclei: the share of the tile that is dark with haematoxylin, and how many such
blobs there are. Nothing is learnt and nothing is downloaded, so that a baseline on these says how
far one goes by stain and cellularity alone.

Stains are separated as by Ruifrok and Johnston (2001), Analytical and Quantitative Cytology and
Histology 23:291, with their vectors for haematoxylin and eosin and what is orthogonal to both.
A nucleus is where the blurred haematoxylin is more than half way from the tile's 10th to its 99th
percentile, so that a stronger stain finds the same nuclei; where the two are close there is none.
Sizes are in pixels: tiles of one geometry are compared with each other, as with any network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's documentation writes it
from torch import nn

from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

KIND: Final = "builtin"
SPEC: Final = "builtin:colour"
HAEMATOXYLIN: Final = (0.65, 0.70, 0.29)
EOSIN: Final = (0.07, 0.99, 0.11)
PERCENTILES: Final = (5.0, 25.0, 50.0, 75.0, 95.0)
NUCLEAR_PERCENTILES: Final = (10.0, 99.0)
"""Percentiles of haematoxylin between which a nucleus is told from what surrounds it."""
LEAST_CONTRAST: Final = 0.1
"""Optical density between the two below which a tile shows no nuclei."""
BLUR_SD_PX: Final = 2.0
BLUR_REACH_PX: Final = 6
NUCLEUS_PX: Final = 7
"""Edge of the square in which a nucleus is the darkest place."""
COUNT_AREA_PX: Final = 10_000.0
CHANNELS: Final = ("red", "green", "blue", "haematoxylin", "eosin")
STATISTICS: Final = ("mean", "SD", *(f"{p:g}%" for p in PERCENTILES))
FEATURES: Final = (
    *(f"{channel} {what}" for channel in CHANNELS for what in STATISTICS),
    "nuclear share",
    "nuclei per 10,000 px",
)
"""What each feature is, in order."""


def stain_vectors() -> Tensor:
    """Return the optical densities of haematoxylin, eosin and the rest, (3, 3) float64, unit."""
    made = torch.tensor([HAEMATOXYLIN, EOSIN], dtype=torch.float64)
    made = made / made.norm(dim=1, keepdim=True)
    rest = torch.linalg.cross(made[0], made[1])
    return torch.cat([made, (rest / rest.norm())[None]])


class Colour(nn.Module):
    """Images, (n, 3, h, w) RGB in [0, 1], to `FEATURES`, (n, 37) float32.

    What defines it is kept in buffers, so that its digest changes with its definition.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unmix", torch.linalg.inv(stain_vectors()).float())
        reach = torch.arange(-BLUR_REACH_PX, BLUR_REACH_PX + 1, dtype=torch.float64)
        kernel = torch.exp(-(reach**2) / (2 * BLUR_SD_PX**2))
        self.register_buffer("blur", (kernel / kernel.sum()).float())
        shares = torch.tensor([*PERCENTILES, *NUCLEAR_PERCENTILES], dtype=torch.float64) / 100
        self.register_buffer("shares", shares.float())
        limits = torch.tensor([LEAST_CONTRAST, NUCLEUS_PX, COUNT_AREA_PX], dtype=torch.float64)
        self.register_buffer("limits", limits.float())

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        with torch.autocast(images.device.type, enabled=False):
            stains = self._stains(images.float())
            parts = [_statistics(torch.cat([images.float(), stains], dim=1), PERCENTILES)]
            share, count = self._nuclei(stains[:, 0])
            return torch.cat([*parts, share[:, None], count[:, None]], dim=1)

    def _stains(self, images: Tensor) -> Tensor:
        """Return the densities of haematoxylin and eosin, (n, 2, h, w), in units of OD."""
        # Half a grey level: black has a density, too.
        density = -torch.log10(images.clamp(min=0.5 / 255))
        unmix: Any = self.unmix
        # Written out: a matrix product might be computed in fewer digits on some devices.
        return torch.stack(
            [sum(density[:, c] * unmix[c, stain] for c in range(3)) for stain in range(2)], dim=1
        )

    def _nuclei(self, haematoxylin: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share of nuclei and their number per 10,000 px, (n,) each."""
        kernel: Any = self.blur
        padded = F.pad(haematoxylin[:, None], (BLUR_REACH_PX,) * 4, mode="reflect")
        smooth = F.conv2d(padded, kernel[None, None, None, :])
        smooth = F.conv2d(smooth, kernel[None, None, :, None])
        low, high = _percentiles(smooth.flatten(1), NUCLEAR_PERCENTILES).unbind(dim=1)
        contrast = high - low
        level = torch.where(contrast >= LEAST_CONTRAST, low + contrast / 2, torch.inf)
        dark = smooth > level[:, None, None, None]
        edge = NUCLEUS_PX // 2
        peak = F.max_pool2d(smooth, NUCLEUS_PX, stride=1, padding=edge)
        tops = dark & (smooth == peak)
        pixels = smooth[0].numel()
        share = dark.flatten(1).sum(dim=1).float() / pixels
        return share, tops.flatten(1).sum(dim=1).float() * (COUNT_AREA_PX / pixels)


def _statistics(values: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Return mean, SD and percentiles of each channel, (n, C (2 + percentiles))."""
    flat = values.flatten(2)
    mean = flat.mean(dim=2)
    spread = (flat - mean[:, :, None]).square().mean(dim=2).sqrt()
    found = _percentiles(flat, percentiles)
    return torch.cat([mean[:, :, None], spread[:, :, None], found], dim=2).flatten(1)


def _percentiles(values: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Return percentiles over the last axis, as NumPy's with linear interpolation.

    `torch.quantile` refuses as many values as a GPU's batch has.
    """
    ordered = values.sort(dim=-1).values
    last = values.shape[-1] - 1
    made = []
    for percentile in percentiles:
        place = last * percentile / 100
        low = min(int(place), last)
        high = min(low + 1, last)
        made.append(torch.lerp(ordered[..., low], ordered[..., high], place - low))
    return torch.stack(made, dim=-1)


def make_colour(
    base: str, arguments: Mapping[str, Any], weights: str | Path | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Make the network, and say what it is, as `bleepdb.encoders.making` does for others.

    Raises
    ------
    ModelError
        If another built-in is named, or weights or constructor arguments are given.
    """
    if base != SPEC or arguments:
        raise ModelError(
            f"{base!r} with {len(arguments)} arguments is not built in", hint=f"write {SPEC}"
        )
    if weights is not None:
        raise ModelError(f"{SPEC} has no weights to load", hint="give none")
    return Colour(), {
        "weights": "none",
        "licence": "none needed: it has no weights",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "tile_px": None,
    }
