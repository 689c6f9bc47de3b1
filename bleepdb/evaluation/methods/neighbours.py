"""The mean profile, and the mean over the spots whose image features are most similar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.encoders.towers import unit
from bleepdb.evaluation.methods.base import NO_FEATURES, PUBLISHED, Fold, Method
from bleepdb.imputation import effective_weights, nearest
from bleepdb.training.affine import SPREAD_FLOOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEAN: Final = "mean profile"
KNN: Final = "image kNN, published features"
KNN_FAMILY: Final = "image kNN"
KNN_K: Final = 50


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


MEAN_METHOD: Final = Method(
    MEAN, "the training mean for every spot", mean_profile, MEAN, NO_FEATURES
)
METHODS: Final = (
    Method(KNN, "mean of the 50 spots with the most similar penultimate features", knn,
           KNN_FAMILY, PUBLISHED),
)  # fmt: skip
