"""Ridge on principal axes of image features: the opponent that is closest to being enough.

Jaume et al. (HEST-1k, NeurIPS 2024) score encoders by ridge on 256 principal components of their
features. Here penultimate features of one scale with a fixed penalty stand for that; on our
features the same is run as it is, and with all that the linear recipe has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.evaluation.methods.base import OUR_FEATURES, PUBLISHED, Method
from bleepdb.evaluation.methods.post import EQUAL, PLAIN, Goal, depth, on_axes
from bleepdb.imputation import depth_weights
from bleepdb.training.readout import fit_readout, out_of_fold
from bleepdb.training.recipes.surroundings import near_by, profile_components, within_sections
from bleepdb.training.tuning import choose_penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.methods.base import FeatureKind, Fold
    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

FAMILY: Final = "ridge"
RIDGE_PUBLISHED: Final = "ridge, published features"
RIDGE_RAW: Final = "ridge, our features, nothing else"
RIDGE_EQUAL: Final = "ridge, our features, all equal"
RIDGE_WEIGHTED: Final = "ridge, our features, depth weights, all equal"
RIDGE_ALPHA: Final = 1e4


def ridge(
    target: Target, settings: LinearSettings, alphas: Sequence[float], *, depth_power: float = 0.0
) -> list[NDArray[np.floating]]:
    """Ridge from features to profiles, for each penalty.

    With `low_rank` the regression is on that many components of the profiles, which is the same
    as a regression on all genes whose result is projected on them.

    Parameters
    ----------
    target, settings, alphas
        The fold, what surrounds the method, and penalties.
    depth_power
        A training spot's squared error is multiplied by this power of its counts, as the recipes
        multiply what a neighbour weighs; the weights have a mean of 1.
    """
    axes, queries = on_axes(target, settings)
    goal = Goal.of(target, settings)
    weights = depth_weights(depth(target.inside), depth_power)
    if weights is None:
        found = [queries @ axes.solve(goal.values, a) for a in alphas]
    else:
        found = weighted_ridge(axes.scores, goal.values, queries, alphas, weights / weights.mean())
    return [goal.finish(target, values, settings) for values in found]


def weighted_ridge(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    queries: NDArray[np.float64],
    alphas: Sequence[float],
    weights: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Predict by ridge with a free intercept on spots of unequal weight, for each penalty.

    Parameters
    ----------
    x, y, queries
        (n, r), (n, t) and (q, r).
    alphas
        Penalties on the squared coefficients.
    weights
        (n,) of the squared errors.
    """
    at, level = np.average(x, axis=0, weights=weights), np.average(y, axis=0, weights=weights)
    pulled = (x - at).T * weights
    gram, goal = pulled @ (x - at), pulled @ (y - level)
    one = np.eye(x.shape[1])
    return [level + (queries - at) @ np.linalg.solve(gram + a * one, goal) for a in alphas]


def ridge_tuned(target: Target, *, depth_power: float = 0.0) -> NDArray[np.floating]:
    """Ridge with all that the linear recipe has, its penalty chosen on inner folds.

    That is context, targets less their section's mean, low rank, smoothing, and genes read by
    loadings that inner folds correct (`bleepdb.training.readout`).
    """

    def predict(inner: Target, alphas: Sequence[float]) -> list[NDArray[np.floating]]:
        return ridge(inner, EQUAL, alphas, depth_power=depth_power)

    alpha, _ = choose_penalty(target.inside, EQUAL.alphas, predict)

    def impute(inner: Target, coordinates: NDArray[np.float64]) -> NDArray[np.floating]:
        axes, queries = on_axes(inner, EQUAL)
        own = depth_weights(depth(inner.inside), depth_power)
        weights = np.ones(len(inner.inside)) if own is None else own / own.mean()
        goal = within_sections(coordinates, inner.inside)
        found = weighted_ridge(axes.scores, goal, queries, [alpha], weights)[0]
        return near_by(inner, found + coordinates.mean(axis=0), EQUAL)

    of = profile_components(target.inside, EQUAL)
    scores = of.scores[:, : EQUAL.low_rank]
    components = of.axes[target.genes, : EQUAL.low_rank]
    loadings, mean = components, of.mean[target.genes]
    seen = out_of_fold(target.inside, scores, impute)
    if seen is not None:
        measured = target.inside.profiles[:, target.genes]
        loadings = fit_readout(measured, mean, components, seen, EQUAL.readout)
    return np.asarray(mean + impute(target, scores) @ loadings.T)


def ridge_method(
    name: str,
    about: str,
    features: FeatureKind,
    *,
    post: bool,
    family: str = FAMILY,
    depth_power: float = 0.0,
) -> Method:
    """Return a row that is a ridge on features of a kind."""

    def predict(fold: Fold) -> NDArray[np.floating]:
        target = fold.target(features)
        if post:
            return ridge_tuned(target, depth_power=depth_power)
        return ridge(target, PLAIN, [RIDGE_ALPHA])[0]

    return Method(name, about, predict, family, features, post=post)


METHODS: Final = (
    ridge_method(RIDGE_PUBLISHED, "penultimate features of one scale, PCA 256, penalty 1e4 (HEST "
                 "style)", PUBLISHED, post=False),
    ridge_method(RIDGE_RAW, "several levels and scales, PCA 256, penalty 1e4", OUR_FEATURES,
                 post=False),
    ridge_method(RIDGE_EQUAL, "several levels and scales, context, penalty by inner folds, low "
                 "rank 20, readout, smoothing", OUR_FEATURES, post=True),
    ridge_method(RIDGE_WEIGHTED, "the same, deeper training spots weighing more as in our recipes",
                 OUR_FEATURES, post=True, depth_power=EQUAL.depth_power),
)  # fmt: skip
