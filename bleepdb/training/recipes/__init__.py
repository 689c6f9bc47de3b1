"""Recipes by name: each is one file that can be held against its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from bleepdb.errors import InputError
from bleepdb.training.recipes import bleep, linear
from bleepdb.training.recipes.settings import settings_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bleepdb.encoders import Model
    from bleepdb.training.pairs import Pairs


class Recipe(Protocol):
    """What fits a model to pairs."""

    def __call__(
        self,
        pairs: Pairs,
        *,
        hyper: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Model:
        """Fit on training pairs; what is not in `hyper` has the recipe's default."""
        ...


RECIPES: Final[dict[str, Recipe]] = {linear.NAME: linear.fit, bleep.NAME: bleep.fit}
SETTINGS: Final[dict[str, type]] = {
    linear.NAME: linear.LinearSettings,
    bleep.NAME: bleep.BleepSettings,
}


def check_recipe(recipe: str, hyper: Mapping[str, Any] | None = None) -> None:
    """Refuse a recipe or its hyperparameters before tiles are encoded for them.

    Raises
    ------
    InputError
        If there is no such recipe, or a hyperparameter is unknown or out of range.
    """
    if recipe not in RECIPES:
        raise InputError(f"no recipe {recipe!r}", hint=f"choose one of {', '.join(RECIPES)}")
    settings_from(SETTINGS[recipe], hyper, recipe)


def fit(
    pairs: Pairs,
    recipe: str = linear.NAME,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Fit a recipe by name.

    Raises
    ------
    InputError
        If there is no such recipe, or a hyperparameter is unknown or out of range.
    """
    check_recipe(recipe, hyper)
    return RECIPES[recipe](pairs, hyper=hyper, seed=seed, progress=progress)
