"""Inner folds and grids: what is chosen, from what, and how little is computed twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bleepdb.training.tuning import NO_FOLDS, Stage, choose_among, choose_penalty, grid, staged


@dataclass(frozen=True)
class Settings:
    first: float | None = None
    firsts: tuple[float, ...] = (1.0, 2.0)
    second: float = 5.0
    seconds: tuple[float, ...] = ()
    third: float = 7.0
    thirds: tuple[float, ...] = (7.0, 8.0)


CHOICES = {"first": "firsts", "second": "seconds", "third": "thirds"}


def test_a_grid_holds_every_combination_of_what_is_open():
    made = grid(Settings(), CHOICES)
    values = [(s.first, s.second, s.third) for s in made]
    assert values == [(1.0, 5.0, 7.0), (1.0, 5.0, 8.0), (2.0, 5.0, 7.0), (2.0, 5.0, 8.0)]
    assert grid(Settings(first=3.0, thirds=()), CHOICES) == (Settings(first=3.0, thirds=()),)
    assert len(grid(Settings(seconds=(1.0, 2.0, 3.0)), CHOICES)) == 12


def test_no_step_is_run_twice_for_the_same_values():
    ran = []

    def step(name):
        def run(before, settings):
            ran.append(name)
            return (before, name, getattr(settings, name))

        return Stage((name,), run)

    candidates = grid(Settings(seconds=(1.0, 2.0)), CHOICES)
    stages = [step("first"), step("second"), step("third")]
    got = list(staged(candidates, stages))
    assert [ran.count(name) for name in CHOICES] == [2, 4, 8]
    assert got == [
        (((None, "first", c.first), "second", c.second), "third", c.third) for c in candidates
    ]


def test_a_step_runs_again_where_an_earlier_one_did():
    seen = []
    stages = [
        Stage(("first",), lambda _, s: s.first),
        Stage(("second",), lambda before, s: seen.append(before) or before * s.second),
    ]
    assert list(staged(grid(Settings(thirds=()), CHOICES), stages)) == [5.0, 10.0]
    assert seen == [1.0, 2.0]


def test_the_best_mean_score_is_chosen_and_all_are_told(pairs_of):
    pairs = pairs_of("a", "b", "c")
    noise = {0.0: 3.0, 1.0: 0.1, 2.0: 0.5}

    def predict(target, candidates):
        for c in candidates:
            shape = target.truth.shape
            yield target.truth + noise[c] * np.random.default_rng(0).normal(size=shape)

    done = []
    tuned = choose_among(
        pairs, [0.0, 1.0, 2.0], predict, otherwise=9.0, progress=lambda *a: done.append(a)
    )
    assert tuned.chosen == 1.0
    assert tuned.by == "leave one donor out"
    assert done == [(1, 3), (2, 3), (3, 3)]
    scores = dict(tuned.tried)
    assert scores[1.0] > scores[2.0] > scores[0.0]
    assert tuned.of(lambda c: {"c": c})[1] == {"hyper": {"c": 1.0}, "score": round(scores[1.0], 6)}
    assert choose_penalty(pairs, [0.0, 1.0, 2.0], lambda t, c: list(predict(t, c)))[0] == 1.0


def test_without_inner_folds_the_cautious_choice_stands(pairs_of):
    pairs = pairs_of("a")
    tuned = choose_among(pairs, [1.0, 2.0], None, otherwise=9.0)
    assert (tuned.chosen, tuned.by, tuned.tried) == (9.0, NO_FOLDS, ())
    assert choose_penalty(pairs, [1.0, 5.0, 2.0], None) == (5.0, NO_FOLDS)
    with pytest.raises(ValueError, match="nothing to choose from"):
        choose_among(pairs_of("a", "b"), [], None, otherwise=1.0)
