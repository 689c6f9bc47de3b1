"""What the demo compares: few rows, since it has to be short."""

from __future__ import annotations

from bleepdb.cli.demo import DEMO_METHODS
from bleepdb.evaluation import Settings
from bleepdb.evaluation.methods import RIDGE_EQUAL
from bleepdb.evaluation.rows import rows_of


def test_the_demo_trains_bleep_once_and_can_say_whether_a_ridge_is_enough():
    methods = rows_of(Settings(recipes=("linear",), methods=DEMO_METHODS)).methods
    assert sum(m.draws for m in methods) == 1  # a family's name would ask for all its rows
    assert [m.name for m in methods].count(RIDGE_EQUAL) == 1
    assert len(methods) <= 8
