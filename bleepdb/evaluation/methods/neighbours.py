"""The mean profile, and the mean over the spots whose image features are most similar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.encoders.towers import unit
from bleepdb.evaluation.methods.base import NO_FEATURES, OUR_FEATURES, PUBLISHED, Fold, Method
from bleepdb.evaluation.methods.post import EQUAL, Goal, on_axes
from bleepdb.imputation import effective_weights, nearest
from bleepdb.training.affine import SPREAD_FLOOR
from bleepdb.training.tuning import choose_penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

MEAN: Final = "mean profile"
KNN: Final = "image kNN, published features"
KNN_EQUAL: Final = "image kNN, our features, all equal"
KNN_FAMILY: Final = "image kNN"
KNN_K: Final = 50
KNN_KS: Final = (25, 50, 100, 200)
"""From which inner folds choose where all is equal."""


def mean_profile(fold: Fold) -> NDArray[np.floating]:
    """Predict the training mean everywhere."""
    target = fold.ours
    mean = target.inside.profiles[:, target.genes].mean(axis=0)
    return np.repeat(mean[None], len(target.outside), axis=0)


def knn(fold: Fold) -> NDArray[np.floating]:
    """Average the profiles of the 50 spots nearest by cosine of standardised features."""
    target = fold.target(PUBLISHED)
    x, q = target.inside.features, target.outside.features
    mean, spread = x.mean(axis=0), x.std(axis=0) + SPREAD_FLOOR
    found = nearest(unit((q - mean) / spread), unit((x - mean) / spread), KNN_K)
    W = effective_weights(*found, n_references=len(x), method="average")
    return np.asarray(W @ target.inside.profiles[:, target.genes])


def knn_on_axes(
    target: Target, settings: LinearSettings, ks: Sequence[float]
) -> list[NDArray[np.floating]]:
    """Average what surrounds each place on the principal axes of the features, for each K."""
    axes, queries = on_axes(target, settings)
    goal = Goal.of(target, settings)
    x, q = (unit(a.astype(np.float32)) for a in (axes.scores, queries))
    scores, columns = nearest(q, x, int(max(ks)))
    made = []
    for k in ks:
        first = scores[:, : int(k)], columns[:, : int(k)]
        W = effective_weights(*first, n_references=len(x), method="average")
        made.append(goal.finish(target, np.asarray(W @ goal.values), settings))
    return made


def knn_equal(fold: Fold) -> NDArray[np.floating]:
    """Do so with our context, low rank and smoothing, K chosen on inner folds."""

    def inner(target: Target, ks: Sequence[float]) -> list[NDArray[np.floating]]:
        return knn_on_axes(target, EQUAL, ks)

    k, _ = choose_penalty(fold.ours.inside, KNN_KS, inner)
    return knn_on_axes(fold.ours, EQUAL, [k])[0]


MEAN_METHOD: Final = Method(
    MEAN, "the training mean for every spot", mean_profile, MEAN, NO_FEATURES
)
METHODS: Final = (
    Method(KNN, "mean of the 50 spots with the most similar penultimate features", knn,
           KNN_FAMILY, PUBLISHED),
    Method(KNN_EQUAL, "the same on several levels and scales, context, K by inner folds, low rank "
           "20, smoothing", knn_equal, KNN_FAMILY, OUR_FEATURES, post=True),
)  # fmt: skip
