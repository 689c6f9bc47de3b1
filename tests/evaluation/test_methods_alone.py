"""Baselines of one idea: place alone, depth alone, colour alone, and nothing beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bleepdb.evaluation.methods import (
    BASELINES,
    COLOUR_RAW,
    DEPTH_EQUAL,
    DEPTH_PUBLISHED,
    POSITION,
    POSITION_EQUAL,
    Fold,
    position,
)
from bleepdb.evaluation.methods.depth import by_depth, log_depth
from bleepdb.evaluation.methods.position import BANDWIDTHS, kernel_means, smoother
from bleepdb.evaluation.methods.post import PLAIN
from bleepdb.evaluation.methods.ridge import RIDGE_ALPHA, ridge
from bleepdb.metrics import pearson_per_gene
from bleepdb.training import Pairs
from bleepdb.training.tuning import Target

ROW = {m.name: m for m in BASELINES}


def target_of(pairs, held):
    return Target(pairs.subset([n for n in pairs.names if n != held]), pairs.subset([held]))


def fold_of(pairs, held="S2"):
    target = target_of(pairs, held)
    return Fold(target, target, 0, 1, target)


def with_field(pairs, *, shared, shifts=(0.0, 3e4, -7e3)):
    """Counts that follow a wave over each section: one for all of them, or one of its own each."""
    sections = []
    for number, (section, shift) in enumerate(zip(pairs.sections, shifts, strict=True)):
        rng = np.random.default_rng(0 if shared else 50 + number)
        wave = rng.uniform(0.004, 0.009, (2, 3)) * rng.choice([-1, 1], (2, 3))
        centred = section.positions_um - section.positions_um.mean(axis=0)
        state = np.sin(centred @ wave + rng.uniform(0, 6, 3))
        genes = np.random.default_rng(1).normal(size=(3, section.counts.shape[1]))
        counts = np.random.default_rng(number).poisson(np.exp(2.0 + 0.7 * state @ genes))
        sections.append(
            replace(
                section,
                counts=type(section.counts)(counts),
                positions_um=section.positions_um + shift,
            )
        )
    return Pairs(tuple(sections), pairs.feature_spec)


@pytest.mark.parametrize("name", [POSITION, POSITION_EQUAL])
def test_position_finds_a_field_that_sections_share_and_nothing_else(three, name):
    fold = fold_of(with_field(three[0], shared=True))
    pcc = pearson_per_gene(ROW[name].predict(fold), fold.ours.truth)
    assert np.nanmean(pcc) > 0.7
    own = fold_of(with_field(three[0], shared=False))
    assert abs(np.nanmean(pearson_per_gene(ROW[name].predict(own), own.ours.truth))) < 0.25
    # It looks at no image, and a section's place on its slide says nothing.
    sections = tuple(replace(s, features=-3 * s.features) for s in fold.ours.inside.sections)
    blind = replace(
        fold, ours=Target(Pairs(sections, fold.ours.inside.feature_spec), fold.ours.outside)
    )
    np.testing.assert_array_equal(ROW[name].predict(blind), ROW[name].predict(fold))
    unmoved = fold_of(with_field(three[0], shared=True, shifts=(0.0, 0.0, 0.0)))
    np.testing.assert_allclose(ROW[name].predict(unmoved), ROW[name].predict(fold), atol=1e-6)


def test_position_chooses_its_bandwidth_on_inner_folds(three):
    target = target_of(with_field(three[0], shared=True), "S2")
    found = ROW[POSITION].predict(Fold(target, target, 0, 1))
    tried = smoother(target, PLAIN, BANDWIDTHS)
    best = [np.array_equal(found, values) for values in tried]
    assert sum(best) == 1
    assert not best[0]  # half a pitch only copies the noise of the nearest spot
    assert not best[-1]  # sixteen pitches see no wave
    one = Target(target.inside.subset(["S0"]), target.outside)
    widest = smoother(one, PLAIN, [max(BANDWIDTHS)])[0]
    np.testing.assert_array_equal(ROW[POSITION].predict(Fold(one, one, 0, 1)), widest)


def test_kernel_means_equal_loops_and_far_away_take_the_nearest(monkeypatch):
    monkeypatch.setattr(position, "PAIRS_AT_ONCE", 30 * 16)
    rng = np.random.default_rng(0)
    places, values = rng.uniform(0, 1000, (30, 2)), rng.normal(size=(30, 4))
    queries = np.concatenate([rng.uniform(0, 1000, (40, 2)), [[1e6, 1e6]]])
    found = kernel_means(queries, places, values, 120.0)
    for i in (0, 15, 16, 39):  # either side of the edge of a block
        weights = [np.exp(-((queries[i] - p) ** 2).sum() / (2 * 120.0**2)) for p in places]
        wanted = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        np.testing.assert_allclose(found[i], wanted, atol=1e-9)
    nearest = ((places - 1e6) ** 2).sum(axis=1).argmin()
    np.testing.assert_allclose(found[-1], values[nearest], atol=1e-6)


@pytest.mark.parametrize("name", [DEPTH_PUBLISHED, DEPTH_EQUAL])
def test_depth_gives_one_map_times_a_slope_a_gene(three, name):
    fold = fold_of(three[0])
    values = ROW[name].predict(fold)
    mean = fold.ours.inside.profiles[:, fold.ours.genes].mean(axis=0, dtype=np.float64)
    sizes = np.linalg.svd(values - mean, compute_uv=False)
    assert sizes[1] < 1e-6 * sizes[0]
    assert sizes[0] > 0.1


def test_depth_is_ridge_then_a_regression_a_gene(three):
    """Against textbook solutions on features that tell of depth."""
    sections = []
    for number, section in enumerate(three[0].sections):
        features = section.features.copy()
        totals = np.asarray(section.counts.sum(axis=1)).ravel()
        noise = np.random.default_rng(number).normal(size=len(totals))
        features[:, 0] = np.log(totals) + 0.02 * noise
        sections.append(replace(section, features=features))
    target = target_of(Pairs(tuple(sections), three[0].feature_spec), "S2")
    found = by_depth(target, PLAIN, [5.0])[0]
    x, q = (p.features.astype(np.float64) for p in (target.inside, target.outside))
    scale = np.sqrt(1280 / x.shape[1]) / x.std(axis=0)
    a, b = (x - x.mean(axis=0)) * scale, (q - x.mean(axis=0)) * scale
    depth = log_depth(target.inside)
    weights = np.linalg.solve(a.T @ a + 5.0 * np.eye(24), a.T @ (depth - depth.mean()))
    predicted = depth.mean() + b @ weights
    assert np.corrcoef(predicted, log_depth(target.outside))[0, 1] > 0.95
    y = target.inside.profiles[:, target.genes].astype(np.float64)
    for gene in range(0, y.shape[1], 7):
        slope, level = np.polyfit(depth, y[:, gene], 1)
        np.testing.assert_allclose(found[:, gene], level + slope * predicted, atol=1e-6)


def test_the_depth_of_an_empty_spot_is_that_of_one_count(three):
    pairs = three[0].subset(["S0"])
    empty = pairs.sections[0].counts * 0
    again = Pairs((replace(pairs.sections[0], counts=empty),), pairs.feature_spec)
    np.testing.assert_array_equal(log_depth(again), np.zeros(81))


def test_colour_alone_is_a_ridge_on_the_colours(three):
    colour = target_of(three[1], "S2")
    fold = Fold(target_of(three[0], "S2"), None, 0, 1, colour)
    found = ROW[COLOUR_RAW].predict(fold)
    np.testing.assert_array_equal(found, ridge(colour, PLAIN, [RIDGE_ALPHA])[0])
