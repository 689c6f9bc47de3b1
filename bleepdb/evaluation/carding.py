"""A model's own recipe and features, so that the scores in its card are of what it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bleepdb.errors import InputError
from bleepdb.evaluation.rows import rows_of
from bleepdb.evaluation.settings import DEFAULT_RECIPES
from bleepdb.training.recipes.bleep import NAME as BLEEP
from bleepdb.training.recipes.settings import as_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bleepdb.encoders import Model
    from bleepdb.evaluation.features import Features
    from bleepdb.evaluation.settings import Settings

RANDOM: Final = "random:"
TRAINED: Final = "trained:"
FROM_FILE: Final = "file:"


def settings_of(model: Model, settings: Settings, *, chosen: bool, where: Path) -> Settings:
    """Return settings whose first recipe is the model's.

    Parameters
    ----------
    model
        Whose card is filled.
    settings
        As asked for.
    chosen
        Whether a person named recipes: then the first must be the model's.
    where
        The model's folder, for the message.

    Raises
    ------
    InputError
        If another recipe was named, or a plug-in's file has to be; or if the model has
        hyperparameters of its own, since a fold is fitted with the recipe's.
    """
    name = model.recipe
    if not chosen:
        others = (r for r in DEFAULT_RECIPES if r != name)
        settings = replace(settings, recipes=(name, *others))
    ours = rows_of(settings).ours
    if ours.name != name:
        raise InputError(
            f"is of the recipe {name}, and {ours.name} was to be evaluated",
            where=where,
            hint=f"name {name} first (--recipe), or leave --card out",
        )
    folds = as_json(ours.settings()) | ({"epochs": settings.epochs} if name == BLEEP else {})
    own = _own_hyper(model, folds)
    if own:
        raise InputError(
            f"was trained with {', '.join(own)}, and folds are fitted with the defaults of {name}",
            where=where,
            hint="leave --card out, or train with the defaults (of a .py recipe with these)",
        )
    return settings


def _own_hyper(model: Model, defaults: Mapping[str, Any]) -> list[str]:
    """Name what a model has otherwise than folds would; what inner folds choose is left out."""
    return [
        f"{key}={model.hyper[key]}"
        for key, value in defaults.items()
        if value is not None and key in model.hyper and model.hyper[key] != value
    ]


def features_of(model: Model, features: Features, *, where: Path) -> Features:
    """Return the features of a model's card.

    Parameters
    ----------
    model
        Whose features they are.
    features
        Gives a weights file, where one was named, and how far tiles may be enlarged.
    where
        The model's folder, for messages.

    Raises
    ------
    InputError
        If the backbone's weights came from a file that was not named, or were trained on the
        model's sections.
    """
    spec = model.feature_spec
    weights = features.weights
    if spec.weights.startswith(TRAINED):
        raise InputError(
            "its backbone was trained on its sections, and would be held out from nothing",
            where=where,
            hint="evaluate without --card: name the encoder that training started from",
        )
    if weights is None and spec.weights.startswith(FROM_FILE):
        raise InputError(
            f"the weights of its backbone came from {spec.weights.removeprefix(FROM_FILE)}",
            where=where,
            hint="give that file with --weights",
        )
    if weights is None and spec.weights.startswith(RANDOM):
        weights = spec.weights
    return replace(
        features,
        encoder=spec.backbone,
        weights=weights,
        levels=spec.levels,
        scales_um=spec.geometry.scales_um,
        tile_px=spec.geometry.tile_px,
        resampling=spec.geometry.resampling,
    )


def refuse_other_features(model: Model, features: Features, *, where: Path) -> None:
    """Refuse to fill a card with scores of other features than the model's.

    Raises
    ------
    InputError
        Naming what differs.
    """
    asked, own = features.spec(features.backbone()).to_json(), model.feature_spec.to_json()
    other = [k for k in own if asked.get(k) != own[k]]
    if other:
        raise InputError(
            f"its features differ from those to be evaluated ({', '.join(other)})",
            where=where,
            hint="leave --encoder, --levels and the tiles' options out: the card says them",
        )
