"""Recipes by name: each is one file that can be held against its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bleepdb.training.recipes.linear import NAME as DEFAULT
from bleepdb.training.recipes.registry import RECIPES, Recipe, recipe_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bleepdb.encoders import Model
    from bleepdb.training.pairs import Pairs

__all__ = ["RECIPES", "Recipe", "check_recipe", "fit", "recipe_named"]


def check_recipe(recipe: str, hyper: Mapping[str, Any] | None = None) -> None:
    """Refuse a recipe or its hyperparameters before tiles are encoded for them.

    Raises
    ------
    InputError
        If there is no such recipe, or a hyperparameter is unknown or out of range.
    """
    recipe_named(recipe).check(hyper)


def fit(
    pairs: Pairs,
    recipe: str = DEFAULT,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Fit a recipe by name.

    Parameters
    ----------
    pairs
        Training sections, encoded.
    recipe
        A name, or the path of a ``.py`` file that defines one, which is run.
    hyper
        Hyperparameters that differ from the recipe's defaults.
    seed
        Of what the recipe draws; recorded.
    progress
        Called with (steps done, steps).

    Raises
    ------
    InputError
        If there is no such recipe, or a hyperparameter is unknown or out of range.
    """
    return recipe_named(recipe)(pairs, hyper=hyper, seed=seed, progress=progress)
