"""Rows of the table: our recipes, and the baselines that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bleepdb.errors import InputError
from bleepdb.evaluation.methods import (
    BASELINES,
    BLEEP_PUBLISHED,
    KNN,
    MEAN,
    RIDGE_EQUAL,
    RIDGE_PUBLISHED,
    recipe_method,
)
from bleepdb.training.recipes.registry import recipe_named

if TYPE_CHECKING:
    from bleepdb.evaluation.methods import Method
    from bleepdb.evaluation.settings import Settings
    from bleepdb.training.recipes.registry import Recipe

ALL: Final = "all"
SHORT: Final = "short"
SHORT_LIST: Final = (MEAN, KNN, RIDGE_PUBLISHED, RIDGE_EQUAL, BLEEP_PUBLISHED)


@dataclass(frozen=True)
class Rows:
    """What is compared.

    Attributes
    ----------
    recipes
        The first is ours.
    methods
        The first is ours, with all that it does.
    """

    recipes: tuple[Recipe, ...]
    methods: tuple[Method, ...]

    @property
    def ours(self) -> Recipe:
        """The recipe of the first row."""
        return self.recipes[0]

    @property
    def features(self) -> frozenset[str]:
        """Kinds of features that a row takes."""
        return frozenset(m.features for m in self.methods)


def rows_of(settings: Settings) -> Rows:
    """Return the rows that settings ask for.

    Raises
    ------
    InputError
        If there is no such recipe or baseline; all names that are not there in one line. Or if
        two recipes have one name, so that a table could not tell them apart.
    """
    recipes = tuple(recipe_named(name) for name in dict.fromkeys(settings.recipes))
    taken: dict[str, str] = {}
    for asked, recipe in zip(dict.fromkeys(settings.recipes), recipes, strict=True):
        if recipe.name in taken:
            raise InputError(
                f"the recipes {taken[recipe.name]} and {asked} are both named {recipe.name}",
                hint="leave one of them out, or give its RECIPE another name",
            )
        taken[recipe.name] = asked
    methods = [recipe_method(recipe, post=True) for recipe in recipes]
    if _everything(settings):
        methods += [recipe_method(recipe, post=False) for recipe in recipes]
    known = {m.name for m in methods}
    return Rows(recipes, (*methods, *(m for m in _baselines(settings) if m.name not in known)))


def _everything(settings: Settings) -> bool:
    return settings.methods is None or ALL in settings.methods


def _baselines(settings: Settings) -> list[Method]:
    """Baselines by name, by family, or by the name of a list."""
    if _everything(settings):
        return list(BASELINES)
    names: set[str] = set()
    unknown = []
    for asked in settings.methods or ():
        found = (
            SHORT_LIST
            if asked == SHORT
            else [m.name for m in BASELINES if asked in (m.name, m.family)]
        )
        names |= set(found)
        if not found:
            unknown.append(asked)
    if unknown:
        families = ", ".join(dict.fromkeys(m.family for m in BASELINES))
        raise InputError(
            f"no method {' | '.join(unknown)}",
            hint=f"choose {SHORT}, {ALL}, a family ({families}), or a row's whole name",
        )
    return [m for m in BASELINES if m.name in names]
