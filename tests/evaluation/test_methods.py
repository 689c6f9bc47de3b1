"""Methods of the evaluation: each is what its name says, and knows the training sections alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bleepdb.evaluation import methods
from bleepdb.evaluation.methods import bleep, neighbours
from bleepdb.evaluation.methods import ridge as ridge_rows
from bleepdb.evaluation.methods.post import EQUAL, PLAIN, Goal, on_axes
from bleepdb.evaluation.methods.ridge import ridge, ridge_tuned, weighted_ridge
from bleepdb.training.affine import image_axes, with_context
from bleepdb.training.recipes.linear import LinearSettings, context_of
from bleepdb.training.recipes.surroundings import near_by, profile_components, within_sections
from bleepdb.training.tuning import Target


def target_of(pairs, held="S2"):
    return Target(pairs.subset([n for n in pairs.names if n != held]), pairs.subset([held]))


def test_low_rank_ridge_is_the_projected_ridge(three):
    target = target_of(three[0])
    settings = replace(LinearSettings(), smoothing=0.0, low_rank=4)
    found = ridge(target, settings, [1e3])[0]
    on = image_axes(target.inside, context_of(target.inside, settings), settings.axes)
    y = target.inside.profiles.astype(np.float64)
    mean = y.mean(axis=0)
    x = with_context(target.outside, context_of(target.inside, settings))
    every = ((x - on.mean) @ on.projection) @ on.solve(y - mean, 1e3)
    _, _, axes = np.linalg.svd(y - mean, full_matrices=False)
    wanted = mean + every @ axes[:4].T @ axes[:4]
    np.testing.assert_allclose(found, wanted[:, target.genes], atol=1e-6)


def test_ridge_is_a_ridge(three):
    """With all axes kept, against the textbook solution on standardised features."""
    target = target_of(three[0])
    found = ridge(target, PLAIN, [50.0])[0]
    x, q = (p.features.astype(np.float64) for p in (target.inside, target.outside))
    scale = np.sqrt(1280 / x.shape[1]) / (x.std(axis=0) + 1e-6)
    a, b = (x - x.mean(axis=0)) * scale, (q - x.mean(axis=0)) * scale
    y = target.inside.profiles[:, target.genes].astype(np.float64)
    solved = np.linalg.solve(a.T @ a + 50.0 * np.eye(24), a.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(found, y.mean(axis=0) + b @ solved, atol=1e-6)


def test_depth_weights_count_a_spot_as_often_as_it_weighs(three):
    """A spot of weight 3 is one that is there three times."""
    rng = np.random.default_rng(0)
    x, y, q = rng.normal(size=(40, 6)), rng.normal(size=(40, 3)), rng.normal(size=(9, 6))
    times = rng.integers(1, 5, 40)
    a, b = np.repeat(x, times, axis=0), np.repeat(y, times, axis=0)
    for alpha, found in zip((0.1, 20.0), weighted_ridge(x, y, q, (0.1, 20.0), times), strict=True):
        at, level = a.mean(axis=0), b.mean(axis=0)
        solved = np.linalg.solve(
            (a - at).T @ (a - at) + alpha * np.eye(6), (a - at).T @ (b - level)
        )
        np.testing.assert_allclose(found, level + (q - at) @ solved, atol=1e-9)
    target = target_of(three[0])
    even = ridge(target, EQUAL, [1e3])[0]
    one = target.inside.section_of_spot * 0.0 + 1.0
    axes, queries = on_axes(target, EQUAL)
    goal = Goal.of(target, EQUAL)
    again = weighted_ridge(axes.scores, goal.values, queries, [1e3], one)[0]
    np.testing.assert_allclose(goal.finish(target, again, EQUAL), even, atol=1e-6)
    assert np.abs(ridge(target, EQUAL, [1e3], depth_power=0.5)[0] - even).max() > 1e-3


def test_image_neighbours_equal_loops(three):
    target = target_of(three[1])
    fold = methods.Fold(target_of(three[0]), target, 0, 1)
    found = neighbours.knn(fold)
    x, q = target.inside.features, target.outside.features
    a = (x - x.mean(axis=0)) / x.std(axis=0)
    b = (q - x.mean(axis=0)) / x.std(axis=0)
    cosine = (b @ a.T) / np.linalg.norm(b, axis=1)[:, None] / np.linalg.norm(a, axis=1)
    for i in (0, 40, 80):
        best = np.argsort(-cosine[i])[:50]
        wanted = target.inside.profiles[best][:, target.genes].mean(axis=0)
        np.testing.assert_allclose(found[i], wanted, atol=1e-4)


def test_bleep_is_repeatable_and_leaves_threads_alone(three):
    fold = methods.Fold(target_of(three[0]), target_of(three[1]), 3, 2)
    other = methods.Fold(fold.ours, fold.published, 4, 2)
    before = torch.get_num_threads()
    first = bleep.bleep_published(fold)
    assert torch.get_num_threads() == before
    np.testing.assert_array_equal(bleep.bleep_published(fold), first)
    assert not np.array_equal(bleep.bleep_published(other), first)
    plain, dressed = bleep.bleep_equal(fold), bleep.bleep_all(fold)
    assert plain.shape == dressed.shape
    # Low rank and smoothing take variance away and nothing else.
    assert dressed.var(axis=0).mean() < plain.var(axis=0).mean()


@pytest.mark.parametrize("off", [{"context": 0.0}, {"smoothing": 0.0}, {"low_rank": 0}])
def test_the_equal_ridge_has_what_ours_has(three, off):
    """Each of the three takes part: without it the equal ridge says something else."""
    target = target_of(three[0])
    whole = ridge(target, LinearSettings(), [1e3])[0]
    without = ridge(target, LinearSettings(**off), [1e3])[0]
    assert np.abs(whole - without).max() > 0.01


def test_the_tuned_ridge_has_the_readout_and_learns_within_sections(three, monkeypatch):
    target = target_of(three[0])
    found = ridge_tuned(target)
    monkeypatch.setattr(ridge_rows, "EQUAL", replace(EQUAL, readout=1e12))
    plain = ridge_tuned(target)
    assert np.abs(found - plain).max() > 1e-3
    # A readout that is drawn to the components without end: the ridge on its own.
    of = profile_components(target.inside, EQUAL)
    scores, mean = of.scores[:, :20], of.mean[target.genes]
    axes, queries = on_axes(target, EQUAL)
    within = within_sections(scores, target.inside)
    tried = [
        mean
        + near_by(target, queries @ axes.solve(within, a), EQUAL) @ of.axes[target.genes, :20].T
        for a in EQUAL.alphas
    ]
    assert any(np.allclose(plain, one, atol=1e-5) for one in tried)
