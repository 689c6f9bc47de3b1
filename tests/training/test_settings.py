"""Hyperparameters: what a person writes is checked before anything is fitted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bleepdb.errors import InputError
from bleepdb.training.recipes.linear import LinearSettings
from bleepdb.training.recipes.settings import settings_from


def test_lists_stand_for_tuples_and_whole_numbers_for_floats():
    made = settings_from(
        LinearSettings, {"alphas": [1, 10.0], "ring": [0, 2], "alpha": 3}, "linear"
    )
    assert made.alphas == (1, 10.0)
    assert made.ring == (0, 2)
    assert made.alpha == 3
    assert settings_from(LinearSettings, None, "linear") == LinearSettings()
    assert settings_from(LinearSettings, {"alpha": None}, "linear").alpha is None


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"neighbours": 5}, "no hyperparameter 'neighbours'.*it has .*temperature"),
        ({"k": 5.5}, "k of the recipe linear is int, not 5.5"),
        ({"k": True}, "k of the recipe linear is int, not True"),
        ({"k": None}, "k of the recipe linear is int, not None"),
        ({"temperature": "hot"}, "temperature of the recipe linear is float"),
        ({"temperature": float("nan")}, "temperature of the recipe linear is float"),
        ({"alphas": 5}, "alphas of the recipe linear is tuple"),
        ({"alphas": ["a"]}, "alphas of the recipe linear is tuple"),
        ({"ring": [1, 2, 3]}, "ring of the recipe linear is tuple"),
        ({"k": 0}, "out of range for the recipe linear: k"),
        ({"temperature": 0, "smoothing": 1.5}, "linear: smoothing, temperature"),
        ({"alphas": []}, "linear: alphas"),
        ({"alpha": -1.0}, "linear: alpha"),
        ({"ring": [2, 1]}, "linear: ring"),
        ({"context": 11}, "linear: context"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(hyper, told):
    with pytest.raises(InputError, match=told) as caught:
        settings_from(LinearSettings, hyper, "linear")
    assert "\n" not in str(caught.value)


def test_text_is_text_and_nothing_else():
    @dataclass(frozen=True)
    class Settings:
        kernel: str = "cosine"
        levels: str | None = None

    assert settings_from(Settings, {"kernel": "dot", "levels": None}, "x") == Settings("dot")
    for wrong in (5, None, ["dot"], True):
        with pytest.raises(InputError, match="kernel of the recipe x is str"):
            settings_from(Settings, {"kernel": wrong}, "x")
