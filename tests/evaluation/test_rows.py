"""Rows of the table: recipes by name, and no two of one name."""

from __future__ import annotations

import pytest

from bleepdb.errors import InputError
from bleepdb.evaluation import Settings
from bleepdb.evaluation.rows import rows_of

LAB = """
from bleepdb.training.recipes.linear import LinearSettings, fit
from bleepdb.training.recipes.registry import Recipe

RECIPE = Recipe("ours", LinearSettings, fit, "{about}")
"""


def test_two_recipes_of_one_name_are_refused(tmp_path):
    """A fold keeps models by recipe, and a table rows by name: one would stand for both."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(LAB.format(about=name), encoding="utf-8")
    first, second = (str(tmp_path / f"{name}.py") for name in ("first", "second"))
    with pytest.raises(InputError, match=r"first\.py and .*second\.py are both named ours"):
        rows_of(Settings(recipes=(first, "linear", second)))
    rows = rows_of(Settings(recipes=(first, "linear", first), methods=("short",)))
    assert [r.name for r in rows.recipes] == ["ours", "linear"]
