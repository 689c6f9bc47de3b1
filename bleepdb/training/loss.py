"""The loss of BLEEP: two views of a spot agree as far as spots agree among themselves.

Xie, Pang, Chung, Perciani, MacParland, Wang and Bader (NeurIPS 2023), section 3.2, as their code
computes it: the logits are the products of profile and image embeddings; the targets soften the
identity by the mean similarity within each view; gradients flow through the targets.

``stable`` targets are ours: what is similar is told by the features before the projections, which
the heads cannot move, and no gradient flows through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED: Final = "published"
STABLE: Final = "stable"
TARGETS: Final = (PUBLISHED, STABLE)


def bleep_loss(
    images: Tensor,
    profiles: Tensor,
    *,
    temperature: float = 1.0,
    targets: Tensor | None = None,
) -> Tensor:
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
    targets
        (n, n) that stand for those above, such as `stable_targets`; None: those above.

    Returns
    -------
    torch.Tensor
        A scalar.
    """
    logits = profiles @ images.T / temperature
    if targets is None:
        within = (images @ images.T + profiles @ profiles.T) / 2
        targets = functional.softmax(within / temperature, dim=-1)
    by_profile = -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=1)
    by_image = -(targets.T * functional.log_softmax(logits.T, dim=-1)).sum(dim=1)
    return ((by_profile + by_image) / 2).mean()


def stable_targets(images: Tensor, profiles: Tensor, *, temperature: float) -> Tensor:
    """Return targets from what stands before the projections.

    With x and y the features and profiles of a batch, each less the batch's mean and scaled to
    unit length::

        targets = softmax((x x' + y y') / 2 / t)          rows

    Parameters
    ----------
    images, profiles
        (n, F) features and (n, genes) log1p profiles of the same spots.
    temperature
        t. The similarities are cosines, so that it does not depend on the width of the features.

    Returns
    -------
    torch.Tensor
        (n, n), rows that sum to 1, without gradient.
    """
    with torch.no_grad():
        x, y = (functional.normalize(z - z.mean(dim=0), dim=1) for z in (images, profiles))
        return functional.softmax((x @ x.T + y @ y.T) / 2 / temperature, dim=-1)


@dataclass(frozen=True)
class Objective:
    """The loss with its settings.

    Parameters
    ----------
    temperature
        Of the logits, and of published targets.
    targets
        ``"published"`` or ``"stable"``.
    target_temperature
        Of stable targets.
    """

    temperature: float = 1.0
    targets: str = PUBLISHED
    target_temperature: float = 0.1

    @property
    def takes(self) -> int:
        """How many of image embeddings, profile embeddings, features and profiles it reads."""
        return 4 if self.targets == STABLE else 2

    def __call__(self, images: Tensor, profiles: Tensor, *before: Tensor) -> Tensor:
        """Return the loss of a batch; `before` are the features and profiles, (n, anything)."""
        targets = None
        if self.targets == STABLE:
            targets = stable_targets(*before, temperature=self.target_temperature)
        return bleep_loss(images, profiles, temperature=self.temperature, targets=targets)
