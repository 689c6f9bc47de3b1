"""Our recipes as rows: what an atlas would answer, with and without low rank and smoothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bleepdb.evaluation.imputing import predict_with
from bleepdb.evaluation.methods.base import OUR_FEATURES, Fold, Method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.encoders import Model
    from bleepdb.training.recipes.registry import Recipe

BARE: Final = ", no low rank or smoothing"


def bare_name(recipe: str) -> str:
    """Return the name of the row of a recipe without post-processing."""
    return recipe + BARE


def undressed(model: Model) -> Model:
    """Return the same encoders without the low-rank map and the smoothing of what is imputed."""
    near = dict(model.retrieval["smoothing"]) | {"weight": 0.0}
    return replace(
        model, components=None, readout=None, retrieval=dict(model.retrieval) | {"smoothing": near}
    )


def recipe_method(recipe: Recipe, *, post: bool) -> Method:
    """Return the row of a recipe, fitted once a fold for both of its rows.

    Parameters
    ----------
    recipe
        From the registry.
    post
        Whether its low rank and smoothing are on. Its context and what its inner folds choose
        belong to the encoders, and stay.
    """

    def predict(fold: Fold) -> NDArray[np.floating]:
        model = fold.fitted(recipe)
        return predict_with(model if post else undressed(model), fold.ours, fold.ours.genes)

    return Method(
        recipe.name if post else bare_name(recipe.name),
        recipe.about if post else "the same without low rank and smoothing",
        predict,
        recipe.name,
        OUR_FEATURES,
        post=post,
        draws=recipe.draws,
    )
