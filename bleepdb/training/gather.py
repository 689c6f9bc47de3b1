"""Embeddings of all ranks as one batch, so that N ranks of B train as one rank of N B does.

How the loss is scaled: it is not. Every rank computes the whole loss L of the gathered batch. The
gather's backward pass gives the rows of rank r the *sum* over ranks of dL/drow, which is N times
the gradient, as all N ranks computed the same L; DDP then takes the *mean* of the parameters'
gradients over ranks, which divides by N. What remains is the sum over ranks of their rows' shares:
the gradient of L in one process. A loss divided by N, or one of a rank's own rows against all
others (open_clip's ``local_loss``) averaged over ranks, would have to undo one of the two.

The gather is open_clip's own, with gradients.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from open_clip.loss import gather_features

if TYPE_CHECKING:
    from torch import Tensor


def gathered(tensors: tuple[Tensor, ...], *, rank: int, world: int) -> tuple[Tensor, ...]:
    """Return each tensor of all ranks, one rank's rows after the other's.

    Parameters
    ----------
    tensors
        An even number: image embeddings and profile embeddings (b, d), through which gradients
        flow; then, if there are more, what has no gradient.
    rank, world
        This process, and how many there are. With one, the tensors themselves come back.
    """
    if world == 1:
        return tensors
    made: list[Tensor] = []
    for first, second in zip(tensors[::2], tensors[1::2], strict=True):
        flows = first.requires_grad or second.requires_grad
        with torch.set_grad_enabled(flows), warnings.catch_warnings():
            # open_clip calls it by a name that torch is about to drop.
            warnings.filterwarnings(
                "ignore", r"torch\.distributed\.nn\.functional\.all_gather", FutureWarning
            )
            made += gather_features(
                first,
                second,
                local_loss=False,
                gather_with_grad=flows,
                rank=rank,
                world_size=world,
            )
    return tuple(made)
