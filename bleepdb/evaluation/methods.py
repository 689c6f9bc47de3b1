"""What is compared: our recipe, BLEEP twice, and baselines, each on stated features.

Every method takes the training and the held-out sections of a fold and gives log1p values of the
held-out spots for the fold's genes. All of them are fitted on the training sections alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.encoders.towers import unit
from bleepdb.evaluation.imputing import predict_with
from bleepdb.imputation import effective_weights, nearest
from bleepdb.training.affine import SPREAD_FLOOR, image_axes, with_context
from bleepdb.training.recipes import fit
from bleepdb.training.recipes.linear import (
    LinearSettings,
    context_of,
    profile_components,
    ring_um,
)
from bleepdb.training.tuning import Target, choose_penalty, smoothed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bleepdb.encoders import Model
    from bleepdb.training import Pairs

OURS: Final = "linear"
MEAN: Final = "mean profile"
KNN: Final = "image kNN, published features"
RIDGE_PUBLISHED: Final = "ridge, published features"
RIDGE_RAW: Final = "ridge, our features, nothing else"
RIDGE_EQUAL: Final = "ridge, our features, all equal"
BLEEP_PUBLISHED: Final = "bleep, published features"
BLEEP_EQUAL: Final = "bleep, our features"
BLEEP_ALL: Final = "bleep, our features, all equal"
KNN_K: Final = 50
RIDGE_ALPHA: Final = 1e4


@dataclass(frozen=True)
class Fold:
    """One fold, encoded twice.

    Attributes
    ----------
    ours
        Training and held-out sections on our features.
    published
        The same on penultimate features of one scale.
    seed
        Of what is drawn.
    epochs
        Of the bleep recipe.
    """

    ours: Target
    published: Target
    seed: int
    epochs: int

    @cached_property
    def bleep_equal(self) -> Model:
        """BLEEP's heads on our features with our context, trained once for two rows."""
        return _bleep(self.ours.inside, self, equal=True)


@dataclass(frozen=True)
class Method:
    """A named way to predict a fold.

    Attributes
    ----------
    name
        As in the table.
    about
        Features, context, tuning, low rank, smoothing in words.
    predict
        Gives (held-out spots, target genes) of a fold.
    """

    name: str
    about: str
    predict: Callable[[Fold], NDArray[np.floating]]


def _mean(fold: Fold) -> NDArray[np.floating]:
    target = fold.ours
    mean = target.inside.profiles[:, target.genes].mean(axis=0)
    return np.repeat(mean[None], len(target.outside), axis=0)


def _knn(fold: Fold) -> NDArray[np.floating]:
    target = fold.published
    x, q = target.inside.features, target.outside.features
    mean, spread = x.mean(axis=0), x.std(axis=0) + SPREAD_FLOOR
    found = nearest(unit((q - mean) / spread), unit((x - mean) / spread), KNN_K)
    W = effective_weights(*found, n_references=len(x), method="average")
    return np.asarray(W @ target.inside.profiles[:, target.genes])


def _ridge(
    target: Target, settings: LinearSettings, alphas: Sequence[float]
) -> list[NDArray[np.floating]]:
    """Ridge from features to profiles, for each penalty.

    With `low_rank` the regression is on that many components of the profiles, which is the same
    as a regression on all genes whose result is projected on them.
    """
    context = context_of(target.inside, settings)
    axes = image_axes(target.inside, context, settings.axes)
    queries = (with_context(target.outside, context) - axes.mean) @ axes.projection
    if settings.low_rank:
        of = profile_components(target.inside, settings)
        rank = min(settings.low_rank, of.scores.shape[1])
        goal, back, mean = (
            of.scores[:, :rank],
            of.axes[target.genes, :rank].T,
            of.mean[target.genes],
        )
    else:
        y = target.inside.profiles[:, target.genes].astype(np.float64)
        mean = y.mean(axis=0)
        goal, back = y - mean, None
    made: list[NDArray[np.floating]] = []
    for alpha in alphas:
        values: NDArray[np.floating] = queries @ axes.solve(goal, alpha)
        values = smoothed(
            values,
            target.outside.sections,
            ring_um=ring_um(target.inside, settings),
            weight=settings.smoothing,
        )
        made.append(mean + (values if back is None else values @ back))
    return made


PLAIN: Final = LinearSettings(context=0.0, low_rank=0, smoothing=0.0)


def _ridge_published(fold: Fold) -> NDArray[np.floating]:
    return _ridge(fold.published, PLAIN, [RIDGE_ALPHA])[0]


def _ridge_raw(fold: Fold) -> NDArray[np.floating]:
    return _ridge(fold.ours, PLAIN, [RIDGE_ALPHA])[0]


def _ridge_equal(fold: Fold) -> NDArray[np.floating]:
    settings = LinearSettings()

    def predict(target: Target, alphas: Sequence[float]) -> list[NDArray[np.floating]]:
        return _ridge(target, settings, alphas)

    alpha, _ = choose_penalty(fold.ours.inside, settings.alphas, predict)
    return _ridge(fold.ours, settings, [alpha])[0]


def fit_ours(fold: Fold) -> Model:
    """Fit the linear recipe on a fold's training sections."""
    return fit(fold.ours.inside, "linear", seed=fold.seed)


def _bleep(pairs: Pairs, fold: Fold, *, equal: bool) -> Model:
    context = LinearSettings().context if equal else 0.0
    hyper = {"epochs": fold.epochs, "standardise": equal, "context": context}
    return fit(pairs, "bleep", hyper=hyper, seed=fold.seed)


def _bleep_published(fold: Fold) -> NDArray[np.floating]:
    target = fold.published
    return predict_with(_bleep(target.inside, fold, equal=False), target, target.genes)


def _bleep_equal(fold: Fold) -> NDArray[np.floating]:
    return predict_with(fold.bleep_equal, fold.ours, fold.ours.genes)


def _bleep_all(fold: Fold) -> NDArray[np.floating]:
    """BLEEP's heads with what we do around them: context, low rank and smoothing."""
    target, settings = fold.ours, LinearSettings()
    model = fold.bleep_equal
    of = profile_components(target.inside, settings)
    near = dict(model.retrieval["smoothing"]) | {"weight": settings.smoothing}
    dressed = replace(
        model,
        components=of.axes[:, : settings.low_rank].astype(np.float32),
        retrieval=dict(model.retrieval) | {"smoothing": near},
    )
    return predict_with(dressed, target, target.genes)


BASELINES: Final = (
    Method(MEAN, "the training mean for every spot", _mean),
    Method(KNN, "mean of the 50 spots with the most similar penultimate features", _knn),
    Method(RIDGE_PUBLISHED, "penultimate features of one scale, PCA 256, penalty 1e4 (HEST style)",
           _ridge_published),
    Method(RIDGE_RAW, "several levels and scales, PCA 256, penalty 1e4", _ridge_raw),
    Method(RIDGE_EQUAL, "several levels and scales, context, penalty by inner folds, low rank 20, "
           "smoothing", _ridge_equal),
    Method(BLEEP_PUBLISHED, "penultimate features of one scale, last epoch, mean of 50",
           _bleep_published),
    Method(BLEEP_EQUAL, "several levels and scales, context, last epoch, mean of 50", _bleep_equal),
    Method(BLEEP_ALL, "the same with low rank 20 and smoothing", _bleep_all),
)  # fmt: skip
