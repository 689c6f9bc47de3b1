"""What the cards of all recipes say in the same words: retrieval, and what was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bleepdb.names import DEPTH_POWER
from bleepdb.training.recipes.surroundings import ring_um

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bleepdb.training.pairs import Pairs
    from bleepdb.training.recipes.surroundings import Surroundings

GIVEN: Final = "given"
"""Stands for the inner folds where nothing was left to choose."""

MOST_MEMBERS: Final = 60
"""A joined tower has a bound on its parts (`bleepdb.encoders.towers.MOST_PARTS`)."""


def retrieval(pairs: Pairs, settings: Surroundings, temperature: float) -> dict[str, Any]:
    """Return how neighbours are averaged: a softmax, deeper spots weighing more, smoothed.

    Parameters
    ----------
    pairs
        Training sections, whose pitch turns the ring into µm.
    settings
        Of the recipe.
    temperature
        Of the softmax.
    """
    inner, outer = ring_um(pairs, settings)
    return {
        "method": "softmax",
        "k": settings.k,
        "temperature": temperature,
        DEPTH_POWER: settings.depth_power,
        "smoothing": {"inner_um": inner, "outer_um": outer, "weight": settings.smoothing},
    }


def training(
    pairs: Pairs, *, seed: int, by: str, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a model was trained on.

    Parameters
    ----------
    pairs
        Training sections.
    seed
        Of what was drawn.
    by
        What the inner folds were.
    more
        Further entries; empty ones are left out.
    """
    return {
        "sections": [
            {"section": s.section, "donor": s.donor, "digest": s.digest, "spots": len(s)}
            for s in pairs.sections
        ],
        "pitch_um": pairs.pitch_um,
        "seed": seed,
        "inner_folds": by,
    } | {name: value for name, value in (more or {}).items() if value}
