"""What the cards of all recipes say in the same words: retrieval, and what was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bleepdb.names import DEPTH_POWER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bleepdb.training.pairs import Pairs

GIVEN: Final = "given"
"""Stands for the inner folds where nothing was left to choose."""

MOST_MEMBERS: Final = 60
"""A joined tower has a bound on its parts (`bleepdb.encoders.towers.MOST_PARTS`)."""


def retrieval(
    *,
    k: int,
    temperature: float,
    ring_um: tuple[float, float],
    smoothing: float,
    depth_power: float,
) -> dict[str, Any]:
    """Return how neighbours are averaged: a softmax, deeper spots weighing more, smoothed."""
    return {
        "method": "softmax",
        "k": k,
        "temperature": temperature,
        DEPTH_POWER: depth_power,
        "smoothing": {"inner_um": ring_um[0], "outer_um": ring_um[1], "weight": smoothing},
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
