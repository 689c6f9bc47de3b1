"""What a method of the evaluation is, and the fold that it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from bleepdb.training.recipes import bleep, fit
from bleepdb.training.recipes.linear import LinearSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.encoders import Model
    from bleepdb.training import Pairs
    from bleepdb.training.recipes.registry import Recipe
    from bleepdb.training.tuning import Target

FeatureKind = Literal["none", "colour", "published", "ours"]
NO_FEATURES: Final[FeatureKind] = "none"
COLOUR: Final[FeatureKind] = "colour"
PUBLISHED: Final[FeatureKind] = "published"
OUR_FEATURES: Final[FeatureKind] = "ours"


@dataclass(frozen=True)
class Fold:
    """One fold, encoded in up to three ways.

    Attributes
    ----------
    ours
        Training and held-out sections on our features.
    published
        The same on penultimate features of one scale; None where no method that takes them runs.
    seed
        Of what is drawn.
    epochs
        Of the bleep recipe.
    colour
        The same sections on `builtin:colour` features, one scale; None likewise.
    """

    ours: Target
    published: Target | None
    seed: int
    epochs: int
    colour: Target | None = None

    def offers(self, method: Method) -> bool:
        """Tell whether the features that a method takes are there."""
        return self._of(method.features) is not None

    def target(self, features: FeatureKind) -> Target:
        """Return the fold on the features of a kind; a method without features gets ours.

        Raises
        ------
        ValueError
            If the sections were not encoded so.
        """
        found = self._of(features)
        if found is None:
            message = f"this fold has no {features} features"
            raise ValueError(message)
        return found

    def _of(self, features: FeatureKind) -> Target | None:
        if features == PUBLISHED:
            return self.published
        return self.colour if features == COLOUR else self.ours

    @cached_property
    def _fitted(self) -> dict[str, Model]:
        return {}

    def fitted(self, recipe: Recipe) -> Model:
        """Return a recipe fitted on the training sections with our features, once a fold."""
        if recipe.name not in self._fitted:
            hyper = {"epochs": self.epochs} if recipe.name == bleep.NAME else None
            made = recipe(self.ours.inside, hyper=hyper, seed=self.seed)
            self._fitted[recipe.name] = made
        return self._fitted[recipe.name]

    @cached_property
    def bleep_equal(self) -> Model:
        """BLEEP's heads on our features with our context, trained once for two rows."""
        return fit_bleep(self.ours.inside, self, equal=True)


def fit_bleep(pairs: Pairs, fold: Fold, *, equal: bool) -> Model:
    """Train BLEEP's heads as published, or with the standardised features and context of ours."""
    hyper: dict[str, Any] = {"epochs": fold.epochs, "standardise": equal}
    if equal:
        ours = LinearSettings()
        hyper |= {"context": ours.context, "ring": list(ours.context_ring)}
    return fit(pairs, bleep.NAME, hyper=hyper, seed=fold.seed)


@dataclass(frozen=True)
class Method:
    """A named way to predict a fold, fitted on its training sections alone.

    Attributes
    ----------
    name
        As in the table.
    about
        Features, context, tuning, low rank, smoothing in words.
    predict
        Gives (held-out spots, target genes) log1p values of a fold.
    family
        What rows of the same idea have in common.
    features
        What it reads of the image: ``"none"``, ``"colour"``, ``"published"`` or ``"ours"``.
    post
        Whether it has the context, inner tuning, low rank and smoothing of ours, as far as they
        apply to it.
    draws
        Whether the fold's seed matters.
    """

    name: str
    about: str
    predict: Callable[[Fold], NDArray[np.floating]]
    family: str
    features: FeatureKind
    post: bool = False
    draws: bool = False
