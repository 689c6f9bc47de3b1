"""Recipes by name: each is one file that can be held against its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from bleepdb.errors import InputError
from bleepdb.training.recipes import bleep, linear

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
    if recipe not in RECIPES:
        raise InputError(f"no recipe {recipe!r}", hint=f"choose one of {', '.join(RECIPES)}")
    return RECIPES[recipe](pairs, hyper=hyper, seed=seed, progress=progress)
