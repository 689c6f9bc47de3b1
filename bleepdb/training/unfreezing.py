"""Which weights of a backbone are trained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import torch
from open_clip.timm_model import TimmModel

from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

BLOCKS: Final = re.compile(
    r"^(?:trunk\.)?(?:transformer\.resblocks|blocks|stages|layers|features)\.(\d+)\.|^layer(\d+)\."
)
"""Names of weights in a numbered stage or block, as timm and open_clip have them."""


def unfreeze(network: nn.Module, which: str) -> list[str]:
    """Let weights be trained; return their names.

    Parameters
    ----------
    network
        Frozen.
    which
        ``"all"``; or ``"last"``: those of the last numbered stage or block (a stage of a
        convolutional network, a block of a vision transformer) and of what follows it.

    Raises
    ------
    ModelError
        If its stages or blocks are not numbered in a known way.
    """
    names = [name for name, _ in network.named_parameters()]
    chosen = set(names)
    if which == "last":
        numbers = {n: int(m[1] or m[2]) for n in names if (m := BLOCKS.match(n))}
        if not numbers:
            raise ModelError(
                f"the last stage of {type(network).__name__} is not known",
                hint="train all of it: --set train_backbone=all",
            )
        top = max(numbers.values())
        first = next(i for i, n in enumerate(names) if numbers.get(n) == top)
        chosen = {n for n in names[first:] if numbers.get(n, top) == top}
    for name, weight in network.named_parameters():
        weight.requires_grad_(name in chosen)
    return [n for n in names if n in chosen]


def freeze_unused(network: nn.Module, forward: Callable[[], Tensor]) -> list[str]:
    """Freeze what the features do not depend on; return its names.

    DDP waits for a gradient of every weight that is trained, and features of several levels do
    not read what stands behind the last of them.

    Parameters
    ----------
    network
        Some of whose weights are trained.
    forward
        Gives features of a batch through it.
    """
    forward().float().square().sum().backward()  # type: ignore[no-untyped-call] # torch ships it untyped
    unused = []
    for name, weight in network.named_parameters():
        if weight.requires_grad and weight.grad is None:
            weight.requires_grad = False
            unused.append(name)
        weight.grad = None
    return unused


def recompute(network: nn.Module) -> None:
    """Let activations be computed again in the backward pass.

    Raises
    ------
    ModelError
        If the network does not offer it.
    """
    inner: Any = network.trunk if isinstance(network, TimmModel) else network
    if not hasattr(inner, "set_grad_checkpointing"):
        raise ModelError(
            f"{type(inner).__name__} does not offer gradient checkpointing",
            hint="leave out --grad-checkpointing, or take smaller batches",
        )
    inner.set_grad_checkpointing(True)
    if not _flags(inner):
        raise ModelError(
            f"{type(inner).__name__} does not do gradient checkpointing",
            hint="leave out --grad-checkpointing, or take smaller batches",
        )


def _flags(network: nn.Module) -> bool:
    """Tell whether any part took the setting: some networks accept it and do nothing."""
    return any(getattr(part, "grad_checkpointing", False) is True for part in network.modules())


def frozen_copy(network: nn.Module) -> nn.Module:
    """Return a network as `load_backbone` gives them: evaluation mode, frozen."""
    network.eval().requires_grad_(requires_grad=False)
    inner: Any = network.trunk if isinstance(network, TimmModel) else network
    if _flags(inner):
        inner.set_grad_checkpointing(False)
    for weight in network.parameters():
        weight.grad = None
    return network.to(memory_format=torch.channels_last)
