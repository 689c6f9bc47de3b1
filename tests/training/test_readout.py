"""The readout: what inner folds got wrong is corrected, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.evaluation.imputing import predict_with
from bleepdb.training import fit
from bleepdb.training.readout import fit_readout, out_of_fold
from bleepdb.training.recipes import linear
from bleepdb.training.recipes.linear import Folded, LinearSettings
from bleepdb.training.tuning import Target

SMALL = {"axes": 10, "components": 6, "low_rank": 4, "k": 20, "alpha": 30.0}


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    components = np.linalg.qr(rng.normal(size=(30, 4)))[0]
    z = rng.normal(size=(200, 4)) * [5, 2, 1, 0.3]
    mean = rng.random(30)
    return rng, components, z, mean


@pytest.mark.parametrize("rows", [7, 4096])
def test_it_is_the_ridge_that_is_drawn_to_the_components(made, monkeypatch, rows):
    monkeypatch.setattr("bleepdb.training.readout.ROWS_AT_ONCE", rows)
    rng, components, z, mean = made
    y = mean + rng.normal(size=(200, 30))
    got = fit_readout(y, mean, components, z, 0.3)
    size = np.sqrt((z**2).mean(0))
    x = np.vstack([z / size, np.sqrt(0.3 * 200) * np.eye(4)])
    goal = np.vstack([y - mean - z @ components.T, np.zeros((4, 30))])
    change = np.linalg.lstsq(x, goal, rcond=None)[0]
    np.testing.assert_allclose(got, components + (change / size[:, None]).T, atol=1e-9)


def test_shrunken_coordinates_are_read_larger_and_a_large_penalty_changes_nothing(made):
    _, components, z, mean = made
    y = mean + 2.0 * z @ components.T
    np.testing.assert_allclose(fit_readout(y, mean, components, z, 1e-9), 2 * components, atol=1e-6)
    np.testing.assert_allclose(fit_readout(y, mean, components, z, 1e12), components, atol=1e-6)
    silent = fit_readout(y, mean, components, z * [1, 1, 1, 0], 1.0)
    assert np.isfinite(silent).all()
    np.testing.assert_allclose(silent[:, 3], components[:, 3])


@pytest.mark.parametrize(
    ("donors", "held"), [("aab", [{"s0", "s1"}, {"s2"}]), ("aaa", [{"s0"}, {"s1"}, {"s2"}])]
)
def test_no_spot_is_imputed_from_its_own_fold(pairs_of, donors, held):
    pairs = pairs_of(*donors)
    coordinates = pairs.section_of_spot[:, None] + np.zeros((1, 2))
    seen = []

    def impute(target, inside):
        seen.append(set(target.outside.names))
        assert not set(target.inside.names) & set(target.outside.names)
        assert set(target.inside.names) | set(target.outside.names) == set(pairs.names)
        want = [pairs.names.index(n) for n in target.inside.names]
        np.testing.assert_array_equal(np.unique(inside), want)
        return np.full((len(target.outside), 2), -1.0 - pairs.names.index(target.outside.names[0]))

    found = out_of_fold(pairs, coordinates, impute)
    assert seen == held
    first = {n: min(group, key=pairs.names.index) for group in held for n in group}
    want = [-1 - pairs.names.index(first[pairs.names[i]]) for i in pairs.section_of_spot]
    np.testing.assert_array_equal(found[:, 0], want)
    assert out_of_fold(pairs_of("a"), np.zeros((49, 2)), None) is None


def test_a_model_reads_its_genes_by_it(pairs_of):
    pairs = pairs_of("a", "b", "c")
    target = Target(pairs.subset(["s0", "s1"]), pairs.subset(["s2"]))
    plain = fit(target.inside, hyper=SMALL | {"readout": 0})
    model = fit(target.inside, hyper=SMALL | {"readout": 0.5})
    assert plain.readout is None
    assert model.space_id == plain.space_id
    of = linear.profile_components(target.inside, LinearSettings(**SMALL))
    imputed = np.empty((len(target.inside), 4))
    for inside, outside, rows in (("s1", "s0", slice(0, 49)), ("s0", "s1", slice(49, 98))):
        inner = Target(pairs.subset([inside]), pairs.subset([outside]))
        other = slice(49, 98) if rows.start == 0 else slice(0, 49)
        settings = LinearSettings(**SMALL)
        imputed[rows] = Folded.of(inner, settings).impute(settings, of.scores[other, :4])
    want = fit_readout(target.inside.profiles, of.mean, of.axes[:, :4], imputed, 0.5)
    np.testing.assert_allclose(model.readout, want, atol=1e-5)
    every = np.arange(len(target.inside.panel))
    a, b = (predict_with(m, target, every) for m in (plain, model))
    coordinates = (a - of.mean) @ of.axes[:, :4]
    np.testing.assert_allclose(b, of.mean + coordinates @ want.T, atol=1e-3)
