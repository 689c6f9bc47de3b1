"""What is read out of a backbone: its last vector, or statistics of several of its levels.

Texture lives in the spread of activations as much as in their mean, and in middle levels as much
as in the last. ``multilevel`` therefore takes, of a convolutional network, mean and standard
deviation of every channel of every level at an eighth of the tile's resolution or coarser; of a
vision transformer, after half, three quarters and all of its blocks, the class token (the first
token that is no patch) and mean and standard deviation of the patch tokens.

``penultimate`` is what the network itself returns. One that pools nothing (``global_pool=``, as
Virchow's) returns its tokens: of them the class token and the mean of the patch tokens are taken,
side by side, as its authors do.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from open_clip.timm_model import TimmModel
from timm.models import EfficientNet, MobileNetV3

from bleepdb.encoders.adapters import Adapted
from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    Network = Any  # timm and open_clip share method names, not a base class

Levels = Literal["penultimate", "multilevel"]
LEVELS: Final[tuple[Levels, ...]] = ("penultimate", "multilevel")
FINEST_STRIDE: Final = 8


def penultimate(network: nn.Module, images: Tensor) -> Tensor:
    """Return the pooled vector before a classifier, (n, D); of a CLIP tower the projected one."""
    found = network(images)
    made: Tensor = found[0] if isinstance(found, tuple) else found  # CoCa gives its tokens too
    if made.ndim == 3:
        prefix: int = network.num_prefix_tokens  # type: ignore[assignment] # timm's count
        patches = made[:, prefix:].float().mean(dim=1)
        return torch.cat([made[:, 0].float(), patches], dim=1) if prefix else patches
    return made.float()


def multilevel(network: nn.Module, images: Tensor) -> Tensor:
    """Return statistics of several levels, (n, D) float32.

    Raises
    ------
    ModelError
        If the network does not offer its intermediate levels.
    """
    return torch.cat([values for _, values in _parts(network, images)], dim=1)


def level_of_columns(network: nn.Module, images: Tensor) -> list[int]:
    """Return the level, counted from 0, that each column of `multilevel` comes from.

    Parameters
    ----------
    network
        As in `multilevel`.
    images
        One image or more, of the size of a tile.
    """
    parts = _parts(network, images)
    return [level for level, values in parts for _ in range(values.shape[1])]


def _parts(network: nn.Module, images: Tensor) -> list[tuple[int, Tensor]]:
    """Return statistics (n, D) float32 with the level that they are of."""
    inner: Network = network.trunk if isinstance(network, TimmModel | Adapted) else network
    if not hasattr(inner, "forward_intermediates"):
        named = type(network if inner is None else inner).__name__
        raise ModelError(
            f"{named} does not offer its intermediate levels",
            hint="use penultimate features with this backbone",
        )
    if _is_transformer(inner):
        return _of_tokens(_token_levels(inner, images))
    maps = _maps(inner, images)
    return _of_maps([m for m in maps if m.shape[-1] * FINEST_STRIDE <= images.shape[-1]])


def _is_transformer(network: Network) -> bool:
    """Tell networks of one resolution and tokens, timm's and open_clip's."""
    if hasattr(network, "class_embedding"):
        return True
    # XCiT counts prefix tokens too, but offers its levels as maps alone.
    offered = signature(network.forward_intermediates).parameters
    return hasattr(network, "num_prefix_tokens") and "return_prefix_tokens" in offered


def _maps(network: Network, images: Tensor) -> list[Tensor]:
    """Return the maps of a convolutional or windowed network, finest first, each (n, C, h, w)."""
    # All stages: by default timm leaves out those that another follows at the same resolution.
    all_stages = isinstance(network, EfficientNet | MobileNetV3)
    found = network.forward_intermediates(
        images, intermediates_only=True, **({"extra_blocks": True} if all_stages else {})
    )
    return list(found["image_intermediates"] if isinstance(found, dict) else found)


def _root(variance: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0: a channel that is silent all over a tile has one."""
    if not variance.requires_grad:
        return variance.sqrt()
    there = variance > 0
    return torch.where(there, variance, 1.0).sqrt() * there


def _of_maps(maps: list[Tensor]) -> list[tuple[int, Tensor]]:
    means, spreads = [], []
    for one in maps:
        values = one.float().flatten(2)
        mean = values.mean(dim=2)
        # E[x²] - E[x]² would lose the small spreads of channels with a large mean.
        spreads.append(_root((values - mean[:, :, None]).square().mean(dim=2)))
        means.append(mean)
    return [*enumerate(means), *enumerate(spreads)]


def _token_levels(network: Network, images: Tensor) -> list[tuple[Tensor | None, Tensor]]:
    """Return prefix tokens (or None) and patch tokens (n, tokens, C) after the chosen blocks."""
    if hasattr(network, "num_prefix_tokens"):
        found = network.forward_intermediates(
            images,
            indices=_chosen_blocks(len(network.blocks)),
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [(x[1], x[0]) if isinstance(x, tuple) else (None, x) for x in found]
    blocks = network.transformer.resblocks
    found = network.forward_intermediates(
        images,
        indices=_chosen_blocks(len(blocks)),
        # The norm of a CoCa tower stands behind its attention pool, at another width.
        normalize_intermediates=network.attn_pool is None,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    return list(zip(found["image_intermediates_prefix"], found["image_intermediates"], strict=True))


def _chosen_blocks(depth: int) -> list[int]:
    """Blocks after half, three quarters and all of the depth, counted from 0."""
    return sorted({max(depth // 2 - 1, 0), max(depth * 3 // 4 - 1, 0), depth - 1})


def _of_tokens(levels: list[tuple[Tensor | None, Tensor]]) -> list[tuple[int, Tensor]]:
    parts = []
    for level, (prefix, patches) in enumerate(levels):
        if prefix is not None:
            parts.append((level, prefix[:, 0].float()))
        values = patches.float()
        mean = values.mean(dim=1)
        spread = _root((values - mean[:, None]).square().mean(dim=1))
        parts += [(level, mean), (level, spread)]
    return parts
