"""What is compared: our recipes, BLEEP, and baselines, each on stated features.

Every method takes the training and the held-out sections of a fold and gives log1p values of the
held-out spots for the fold's genes. All of them are fitted on the training sections alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bleepdb.evaluation.methods import (
    bleep,
    colour,
    depth,
    histogene,
    neighbours,
    position,
    ridge,
    st_net,
)
from bleepdb.evaluation.methods.base import FeatureKind, Fold, Method
from bleepdb.evaluation.methods.bleep import BLEEP_ALL, BLEEP_EQUAL, BLEEP_PUBLISHED
from bleepdb.evaluation.methods.colour import COLOUR_EQUAL, COLOUR_RAW
from bleepdb.evaluation.methods.depth import DEPTH_EQUAL, DEPTH_PUBLISHED
from bleepdb.evaluation.methods.histogene import HISTOGENE_EQUAL, HISTOGENE_PUBLISHED
from bleepdb.evaluation.methods.neighbours import KNN, KNN_EQUAL, KNN_K, MEAN
from bleepdb.evaluation.methods.position import POSITION, POSITION_EQUAL
from bleepdb.evaluation.methods.recipes import bare_name, recipe_method
from bleepdb.evaluation.methods.ridge import (
    RIDGE_ALPHA,
    RIDGE_EQUAL,
    RIDGE_PUBLISHED,
    RIDGE_RAW,
    RIDGE_WEIGHTED,
)
from bleepdb.evaluation.methods.st_net import STNET_EQUAL, STNET_PUBLISHED
from bleepdb.training.recipes import fit

if TYPE_CHECKING:
    from bleepdb.encoders import Model

OURS: Final = "linear"
BASELINES: Final = (
    neighbours.MEAN_METHOD,
    *position.METHODS,
    *depth.METHODS,
    *colour.METHODS,
    *neighbours.METHODS,
    *ridge.METHODS,
    *st_net.METHODS,
    *histogene.METHODS,
    *bleep.METHODS,
)


def fit_ours(fold: Fold) -> Model:
    """Fit the linear recipe on a fold's training sections."""
    return fit(fold.ours.inside, "linear", seed=fold.seed)


__all__ = [
    "BASELINES",
    "BLEEP_ALL",
    "BLEEP_EQUAL",
    "BLEEP_PUBLISHED",
    "COLOUR_EQUAL",
    "COLOUR_RAW",
    "DEPTH_EQUAL",
    "DEPTH_PUBLISHED",
    "HISTOGENE_EQUAL",
    "HISTOGENE_PUBLISHED",
    "KNN",
    "KNN_EQUAL",
    "KNN_K",
    "MEAN",
    "OURS",
    "POSITION",
    "POSITION_EQUAL",
    "RIDGE_ALPHA",
    "RIDGE_EQUAL",
    "RIDGE_PUBLISHED",
    "RIDGE_RAW",
    "RIDGE_WEIGHTED",
    "STNET_EQUAL",
    "STNET_PUBLISHED",
    "FeatureKind",
    "Fold",
    "Method",
    "bare_name",
    "fit_ours",
    "recipe_method",
]
