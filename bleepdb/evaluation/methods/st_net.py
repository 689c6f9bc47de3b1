"""An ST-Net style regression head.

He, Bergenstråhle, Stenbeck, Abid, Andersson, Borg, Maaskola, Lundeberg and Zou (2020), Nature
Biomedical Engineering 4:827, and their code: the last layer of an image network gives log counts
of all genes at once; its weights begin at zero and its bias at the mean of the training spots; it
is trained on the squared error by gradient descent with momentum 0.9 in batches of 32; how many
epochs, up to 50, is decided by folds among the training patients.

What differs, and is meant to. The backbone is frozen, where theirs is a DenseNet-121 that is
trained as a whole: this is their head, not their network. So features are standardised, taken to
their 256 principal axes (which gradient descent from zero does not feel) and scaled by the first;
the rate of learning belongs to that scale. The error is the mean over a batch and the sum over
genes, so that a gene is learnt at the same rate whatever others are. Images are not turned and
mirrored. The folds decide by correlation, as for all methods here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from bleepdb.evaluation.methods.base import OUR_FEATURES, PUBLISHED, Fold, Method
from bleepdb.evaluation.methods.post import Goal, on_axes, settings_for
from bleepdb.evaluation.methods.stopping import choose_epochs
from bleepdb.training.recipes.bleep import one_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.methods.base import FeatureKind
    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

FAMILY: Final = "ST-Net"
STNET_PUBLISHED: Final = "ST-Net head, published features"
STNET_EQUAL: Final = "ST-Net head, our features, all equal"
EPOCHS: Final = (2, 5, 10, 20, 50)
BATCH: Final = 32
MOMENTUM: Final = 0.9
LEARNING_RATE: Final = 0.02


def train_head(
    x: NDArray[Any],
    y: NDArray[Any],
    queries: NDArray[Any],
    epochs: Sequence[int],
    *,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    batch: int = BATCH,
) -> list[NDArray[np.float64]]:
    """Train one linear layer from zero, and predict after each of some numbers of epochs.

    Parameters
    ----------
    x, y
        (n, p) features and (n, t) targets, both centred on the training spots.
    queries
        (q, p), centred likewise.
    epochs
        After how many epochs to predict, in any order.
    seed
        Of the order of spots; the global generator is left alone.
    learning_rate, batch
        Of the gradient descent.

    Returns
    -------
    list
        (q, t) float64 for each of `epochs`.
    """
    features, goal, asked = (torch.from_numpy(np.ascontiguousarray(a, np.float32))
                             for a in (x, y, queries))  # fmt: skip
    order_of = torch.Generator().manual_seed(seed)
    weight = torch.zeros(features.shape[1], goal.shape[1], requires_grad=True)
    bias = torch.zeros(goal.shape[1], requires_grad=True)
    optimiser = torch.optim.SGD([weight, bias], lr=learning_rate, momentum=MOMENTUM)
    made: dict[int, NDArray[np.float64]] = {}
    with one_thread():
        for epoch in range(1, max(epochs) + 1):
            order = torch.randperm(len(features), generator=order_of)
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                error = features[rows] @ weight + bias - goal[rows]
                optimiser.zero_grad()
                loss = error.square().sum() / len(rows)
                loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
                optimiser.step()
            if epoch in epochs:
                with torch.inference_mode():
                    made[epoch] = (asked @ weight + bias).numpy().astype(np.float64)
    return [made[e] for e in epochs]


def head(
    target: Target, settings: LinearSettings, epochs: Sequence[int], *, seed: int
) -> list[NDArray[np.floating]]:
    """Train the head on a fold, and predict after each of some numbers of epochs."""
    axes, queries = on_axes(target, settings)
    goal = Goal.of(target, settings)
    largest = axes.singular[0] / np.sqrt(len(target.inside))  # SD along the first axis
    found = train_head(axes.scores / largest, goal.values, queries / largest, epochs, seed=seed)
    return [goal.finish(target, values, settings) for values in found]


def _method(name: str, about: str, features: FeatureKind, *, post: bool) -> Method:
    settings = settings_for(post=post)

    def predict(fold: Fold) -> NDArray[np.floating]:
        def inner(target: Target, epochs: Sequence[int]) -> list[NDArray[np.floating]]:
            return head(target, settings, epochs, seed=fold.seed)

        target = fold.target(features)
        return inner(target, [choose_epochs(target.inside, EPOCHS, inner)])[0]

    return Method(name, about, predict, FAMILY, features, post=post, draws=True)


METHODS: Final = (
    _method(STNET_PUBLISHED, "linear head on penultimate features by gradient descent, frozen "
            "backbone, epochs by inner folds", PUBLISHED, post=False),
    _method(STNET_EQUAL, "the same on several levels and scales, context, low rank 20, smoothing",
            OUR_FEATURES, post=True),
)  # fmt: skip
