"""Further donors lie within the range of the first three, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.simulation import SimulationSettings, made_donors

KNOWN = SimulationSettings().donors


def test_the_first_three_are_those_of_the_settings():
    assert made_donors(3) == KNOWN
    assert made_donors(2) == KNOWN[:2]
    assert made_donors(30)[:6] == made_donors(6)


def test_drawn_donors_lie_within_their_range_and_differ():
    drawn = made_donors(30)[3:]
    assert len({d.name for d in made_donors(30)}) == 30
    for field in ("depth", "haematoxylin", "eosin", "strength", "glass", "blur_um", "noise"):
        known = np.array([getattr(d, field) for d in KNOWN])
        values = np.array([getattr(d, field) for d in drawn])
        assert (values >= known.min(axis=0) - 1e-9).all()
        assert (values <= known.max(axis=0) + 1e-9).all()
        assert len(np.unique(values, axis=0)) > 3
    assert made_donors(5, seed=1)[3:] != drawn[:2]
    with pytest.raises(ValueError, match="0 donors"):
        made_donors(0)
