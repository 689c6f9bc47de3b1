"""Depth alone: how far one goes by seeing no more than how many counts a spot will have.

A ridge predicts the log of a spot's total counts from its image; each gene then follows by its own
regression on log depth among the training spots. All predictions of a fold are so one map, turned
over for genes that fall with depth. Genes at the head of every list follow depth, and a score that
is not above this row says little about biology.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.evaluation.methods.base import OUR_FEATURES, PUBLISHED, Fold, Method
from bleepdb.evaluation.methods.post import Goal, depth, on_axes, settings_for
from bleepdb.training.tuning import choose_penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.methods.base import FeatureKind
    from bleepdb.training import Pairs
    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

FAMILY: Final = "depth"
DEPTH_PUBLISHED: Final = "depth, published features"
DEPTH_EQUAL: Final = "depth, our features, all equal"
ALPHAS: Final = (3e2, 1e3, 3e3, 1e4, 3e4)


def log_depth(pairs: Pairs) -> NDArray[np.float64]:
    """Return the log of each spot's total counts, (spots,)."""
    return np.asarray(np.log(depth(pairs)))


def by_depth(
    target: Target, settings: LinearSettings, alphas: Sequence[float]
) -> list[NDArray[np.floating]]:
    """Predict depth from features and genes from depth, for each penalty."""
    axes, queries = on_axes(target, settings)
    goal = Goal.of(target, settings)
    away = log_depth(target.inside)
    away -= away.mean()
    slopes = away @ goal.values / max(float(away @ away), np.finfo(float).tiny)
    made = []
    for alpha in alphas:
        predicted = queries @ axes.solve(away[:, None], alpha)
        made.append(goal.finish(target, predicted * slopes, settings))
    return made


def _method(name: str, about: str, features: FeatureKind, *, post: bool) -> Method:
    settings = settings_for(post=post)

    def predict(fold: Fold) -> NDArray[np.floating]:
        def inner(target: Target, alphas: Sequence[float]) -> list[NDArray[np.floating]]:
            return by_depth(target, settings, alphas)

        target = fold.target(features)
        alpha, _ = choose_penalty(target.inside, ALPHAS, inner)
        return by_depth(target, settings, [alpha])[0]

    return Method(name, about, predict, FAMILY, features, post=post)


METHODS: Final = (
    _method(DEPTH_PUBLISHED, "log total counts by ridge on penultimate features, each gene by its "
            "regression on them; penalty by inner folds", PUBLISHED, post=False),
    _method(DEPTH_EQUAL, "the same from several levels and scales, context, low rank 20, "
            "smoothing", OUR_FEATURES, post=True),
)  # fmt: skip
