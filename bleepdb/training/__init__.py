"""Pairs, loss and recipes: where encoders come from.

Names load when they are first used (PEP 562): fitting on features that exist needs no package
that opens slides.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bleepdb.training.collecting import collect_pairs
    from bleepdb.training.pairs import PairedSection, Pairs
    from bleepdb.training.recipes import RECIPES, Recipe, check_recipe, fit, recipe_named

_HOMES = {
    "RECIPES": "recipes",
    "PairedSection": "pairs",
    "Pairs": "pairs",
    "Recipe": "recipes",
    "check_recipe": "recipes",
    "collect_pairs": "collecting",
    "fit": "recipes",
    "recipe_named": "recipes",
}
__all__ = [
    "RECIPES",
    "PairedSection",
    "Pairs",
    "Recipe",
    "check_recipe",
    "collect_pairs",
    "fit",
    "recipe_named",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
