"""The loss of BLEEP: two views of a spot agree as far as spots agree among themselves.

Xie, Pang, Chung, Perciani, MacParland, Wang and Bader (NeurIPS 2023), section 3.2, as their code
computes it: the logits are the products of profile and image embeddings; the targets soften the
identity by the mean similarity within each view; gradients flow through the targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    import torch


def bleep_loss(
    images: torch.Tensor, profiles: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Return the loss of a batch.

    With image embeddings I and profile embeddings S, both (n, d), and temperature T::

        logits  = S I' / T
        targets = softmax((I I' + S S') / 2 / T)          rows
        loss    = mean(CE(targets, logits) + CE(targets', logits')) / 2

    where CE takes the log-softmax of the logits over rows.

    Parameters
    ----------
    images, profiles
        (n, d) embeddings of the same spots, not normalised.
    temperature
        T.

    Returns
    -------
    torch.Tensor
        A scalar.
    """
    logits = profiles @ images.T / temperature
    within = (images @ images.T + profiles @ profiles.T) / 2
    targets = functional.softmax(within / temperature, dim=-1)
    by_profile = -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=1)
    by_image = -(targets.T * functional.log_softmax(logits.T, dim=-1)).sum(dim=1)
    return ((by_profile + by_image) / 2).mean()
