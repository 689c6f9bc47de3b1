"""BLEEP beside us: as published, on equal features, and with all that we do around it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.evaluation.imputing import predict_with
from bleepdb.evaluation.methods.base import OUR_FEATURES, PUBLISHED, Fold, Method, fit_bleep
from bleepdb.evaluation.methods.post import EQUAL
from bleepdb.training.recipes.surroundings import profile_components, ring_um

if TYPE_CHECKING:
    from numpy.typing import NDArray

FAMILY: Final = "bleep"
BLEEP_PUBLISHED: Final = "bleep, published features"
BLEEP_EQUAL: Final = "bleep, our features"
BLEEP_ALL: Final = "bleep, our features, all equal"


def bleep_published(fold: Fold) -> NDArray[np.floating]:
    """Train BLEEP's heads on penultimate features and impute as published."""
    target = fold.target(PUBLISHED)
    return predict_with(fit_bleep(target.inside, fold, equal=False), target, target.genes)


def bleep_equal(fold: Fold) -> NDArray[np.floating]:
    """Do the same on our features with our context."""
    return predict_with(fold.bleep_equal, fold.ours, fold.ours.genes)


def bleep_all(fold: Fold) -> NDArray[np.floating]:
    """BLEEP's heads with what we do around them: context, low rank and smoothing."""
    target = fold.ours
    model = fold.bleep_equal
    of = profile_components(target.inside, EQUAL)
    inner, outer = ring_um(target.inside, EQUAL)
    near = {"inner_um": inner, "outer_um": outer, "weight": EQUAL.smoothing}
    dressed = replace(
        model,
        components=of.axes[:, : EQUAL.low_rank].astype(np.float32),
        retrieval=dict(model.retrieval) | {"smoothing": near},
    )
    return predict_with(dressed, target, target.genes)


METHODS: Final = (
    Method(BLEEP_PUBLISHED, "penultimate features of one scale, last epoch, mean of 50",
           bleep_published, FAMILY, PUBLISHED, draws=True),
    Method(BLEEP_EQUAL, "several levels and scales, context, last epoch, mean of 50", bleep_equal,
           FAMILY, OUR_FEATURES, draws=True),
    Method(BLEEP_ALL, "the same with low rank 20 and smoothing", bleep_all, FAMILY, OUR_FEATURES,
           post=True, draws=True),
)  # fmt: skip
