"""Ridge on principal axes of image features: the opponent that is closest to being enough.

Jaume et al. (HEST-1k, NeurIPS 2024) score encoders by ridge on 256 principal components of their
features. Here penultimate features of one scale with a fixed penalty stand for that; on our
features the same is run as it is, and with all that the linear recipe has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bleepdb.evaluation.methods.base import OUR_FEATURES, PUBLISHED, Method
from bleepdb.evaluation.methods.post import EQUAL, PLAIN, Goal, on_axes
from bleepdb.training.tuning import choose_penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.evaluation.methods.base import FeatureKind, Fold
    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

FAMILY: Final = "ridge"
RIDGE_PUBLISHED: Final = "ridge, published features"
RIDGE_RAW: Final = "ridge, our features, nothing else"
RIDGE_EQUAL: Final = "ridge, our features, all equal"
RIDGE_ALPHA: Final = 1e4


def ridge(
    target: Target, settings: LinearSettings, alphas: Sequence[float]
) -> list[NDArray[np.floating]]:
    """Ridge from features to profiles, for each penalty.

    With `low_rank` the regression is on that many components of the profiles, which is the same
    as a regression on all genes whose result is projected on them.
    """
    axes, queries = on_axes(target, settings)
    goal = Goal.of(target, settings)
    return [goal.finish(target, queries @ axes.solve(goal.values, a), settings) for a in alphas]


def ridge_tuned(target: Target) -> NDArray[np.floating]:
    """Ridge with our context, low rank and smoothing, its penalty chosen on inner folds."""

    def predict(inner: Target, alphas: Sequence[float]) -> list[NDArray[np.floating]]:
        return ridge(inner, EQUAL, alphas)

    alpha, _ = choose_penalty(target.inside, EQUAL.alphas, predict)
    return ridge(target, EQUAL, [alpha])[0]


def ridge_method(
    name: str, about: str, features: FeatureKind, *, post: bool, family: str = FAMILY
) -> Method:
    """Return a row that is a ridge on features of a kind."""

    def predict(fold: Fold) -> NDArray[np.floating]:
        target = fold.target(features)
        if post:
            return ridge_tuned(target)
        return ridge(target, PLAIN, [RIDGE_ALPHA])[0]

    return Method(name, about, predict, family, features, post=post)


METHODS: Final = (
    ridge_method(RIDGE_PUBLISHED, "penultimate features of one scale, PCA 256, penalty 1e4 (HEST "
                 "style)", PUBLISHED, post=False),
    ridge_method(RIDGE_RAW, "several levels and scales, PCA 256, penalty 1e4", OUR_FEATURES,
                 post=False),
    ridge_method(RIDGE_EQUAL, "several levels and scales, context, penalty by inner folds, low "
                 "rank 20, smoothing", OUR_FEATURES, post=True),
)  # fmt: skip
