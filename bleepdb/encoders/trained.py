"""Backbones that were trained with a model: their weights travel in its folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from safetensors.torch import save

from bleepdb.encoders.backbone import RANDOM, load_backbone
from bleepdb.encoders.weights import match_all, read_state
from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from bleepdb.encoders.backbone import Backbone

TRAINED: Final = "trained:"
"""Begins what `Backbone.weights` says of such weights; where they came from before follows."""


def trained_from(backbone: Backbone, network: nn.Module) -> Backbone:
    """Return a backbone with its network replaced by one that was trained from it."""
    came = backbone.weights.removeprefix(TRAINED)
    return replace(backbone, network=network, weights=f"{TRAINED}{came}")


def write_backbone(backbone: Backbone, path: Path) -> None:
    """Write a network's weights as safetensors."""
    state = backbone.network.state_dict()
    path.write_bytes(save({k: v.detach().cpu().contiguous().clone() for k, v in state.items()}))


def read_backbone(
    spec: str, path: Path, *, weights: str, weights_digest: str, device: str | None = None
) -> Backbone:
    """Load a backbone with weights that `write_backbone` wrote.

    Parameters
    ----------
    spec, weights, weights_digest
        As the model card says.
    path
        The file.
    device
        As in `bleepdb.encoders.load_backbone`.

    Raises
    ------
    ModelError
        If they are not those that the card names.
    """
    state = read_state(path)
    made = load_backbone(spec, weights=f"{RANDOM}0", device=device)
    match_all(state, made.network.state_dict(), where=path)
    made.network.load_state_dict(state)
    made = replace(made, weights=weights)
    if made.weights_digest != weights_digest:
        raise ModelError(
            "is not the backbone that the model was trained with",
            where=path,
            hint="copy the model again, or train it again",
        )
    return made
