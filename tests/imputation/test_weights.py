"""Weights: convex where they say so, the same in any order, a ridge where they say that."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.imputation import (
    METHODS,
    depth_weights,
    effective_weights,
    local_weights,
    nearest,
    smooth,
)
from bleepdb.imputation.smoothing import mixing
from bleepdb.places import adjacency


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def retrieved(n=12, refs=30, k=7, d=5, seed=0, gaps=True):
    rng = np.random.default_rng(seed)
    queries, keys = unit(rng.normal(size=(n, d))), unit(rng.normal(size=(refs, d)))
    scores = queries @ keys.T
    columns = np.argsort(-scores, axis=1)[:, :k].astype(np.int64)
    top = np.take_along_axis(scores, columns, axis=1)
    if gaps:
        columns[1, 3:] = -1
        columns[2, :] = -1
    return queries, keys, top, columns


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_convex_and_sum_to_one(method):
    _, _, scores, columns = retrieved()
    scores[columns < 0] = np.nan  # what stands beside an absent neighbour does not matter
    W = effective_weights(scores, columns, n_references=30, method=method)
    assert W.shape == (12, 30)
    assert W.dtype == np.float32
    assert W.indices.dtype == np.int32
    sums = np.asarray(W.sum(axis=1)).ravel()
    assert sums[2] == 0
    assert np.delete(sums, 2) == pytest.approx(1, abs=1e-6)
    assert (W.data > 0).all()
    for row, wanted in enumerate(columns):
        assert set(W[row].indices) <= set(wanted[wanted >= 0])


def test_methods_are_their_formulas():
    _, _, scores, columns = retrieved(gaps=False)

    def rows(method, **more):
        W = effective_weights(scores, columns, n_references=30, method=method, **more)
        return np.take_along_axis(W.toarray(), columns, axis=1)

    s = scores.astype(np.float64)
    assert rows("simple") == pytest.approx(np.eye(7)[np.zeros(12, int)])
    assert rows("average") == pytest.approx(np.full((12, 7), 1 / 7))
    wanted = np.exp(-(2 - 2 * s))
    assert rows("weighted") == pytest.approx(wanted / wanted.sum(1, keepdims=True), rel=1e-5)
    wanted = np.exp(s / 0.1)
    assert rows("softmax") == pytest.approx(wanted / wanted.sum(1, keepdims=True), rel=1e-5)
    assert rows("softmax", temperature=0.5) == pytest.approx(rows("weighted"), rel=1e-5)


def test_weighted_is_the_squared_distance():
    queries, keys, scores, columns = retrieved(gaps=False)
    d2 = ((queries[:, None] - keys[columns]) ** 2).sum(-1)
    wanted = np.exp(-d2) / np.exp(-d2).sum(1, keepdims=True)
    W = effective_weights(scores, columns, n_references=30, method="weighted").toarray()
    np.testing.assert_allclose(np.take_along_axis(W, columns, axis=1), wanted, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9999), st.sampled_from(METHODS))
def test_order_of_neighbours_does_not_matter(seed, method):
    _, _, scores, columns = retrieved(seed=seed)
    order = np.random.default_rng(seed).permutation(scores.shape[1])
    a = effective_weights(scores, columns, n_references=30, method=method)
    b = effective_weights(scores[:, order], columns[:, order], n_references=30, method=method)
    assert abs(a - b).max() < 1e-6


def test_tiny_temperature_is_the_best_neighbour():
    _, _, scores, columns = retrieved()
    cold = effective_weights(scores, columns, n_references=30, temperature=1e-6)
    best = effective_weights(scores, columns, n_references=30, method="simple")
    assert abs(cold - best).max() < 1e-6


def test_what_cannot_be_is_refused():
    _, _, scores, columns = retrieved()
    for bad in (
        {"method": "median"},
        {"temperature": 0.0},
        {"n_references": 5},
    ):
        with pytest.raises(ValueError, match=r"unknown|temperature|of 5"):
            effective_weights(scores, columns, **({"n_references": 30} | bad))
    scores[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        effective_weights(scores, columns, n_references=30)
    with pytest.raises(ValueError, match="same"):
        effective_weights(scores[:, 1:], columns, n_references=30)


@pytest.mark.parametrize(("k", "d"), [(7, 5), (4, 9)])
def test_local_weights_are_a_ridge_on_the_neighbours(k, d):
    queries, keys, _, columns = retrieved(k=k, d=d)
    Y = np.random.default_rng(3).normal(size=(30, 6))
    found = local_weights(queries, keys, columns, ridge=0.7) @ Y
    for i in range(len(queries)):
        there = columns[i][columns[i] >= 0]
        if not len(there):
            assert (found[i] == 0).all()
            continue
        X, T = keys[there].astype(float), Y[there]
        xc = X - X.mean(0)
        penalty = 0.7 * np.trace(xc.T @ xc) / d
        B = np.linalg.solve(xc.T @ xc + penalty * np.eye(d), xc.T @ (T - T.mean(0)))
        np.testing.assert_allclose(found[i], T.mean(0) + (queries[i] - X.mean(0)) @ B, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9999), st.floats(1e-2, 1e3))
def test_local_weights_sum_to_one_and_approach_the_mean(seed, ridge):
    queries, keys, _, columns = retrieved(seed=seed)
    W = local_weights(queries, keys, columns, ridge=ridge)
    sums = np.asarray(W.sum(axis=1)).ravel()
    assert np.delete(sums, 2) == pytest.approx(1, abs=1e-5)
    assert W[2].nnz == 0
    far = local_weights(queries, keys, columns, ridge=1e9).toarray()
    mean = effective_weights(
        np.zeros(columns.shape), columns, n_references=30, method="average"
    ).toarray()
    np.testing.assert_allclose(far, mean, atol=1e-6)


def test_local_weights_of_one_place_are_the_mean():
    keys = np.repeat(unit(np.ones((1, 4))), 3, axis=0)
    W = local_weights(unit(np.eye(4)[:1]), keys, np.arange(3)[None, :])
    np.testing.assert_allclose(W.toarray(), 1 / 3, atol=1e-6)
    with pytest.raises(ValueError, match="penalty"):
        local_weights(keys, keys, np.zeros((3, 1), np.int64), ridge=0)


def grid(n=5, pitch=100.0):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * pitch


def test_smoothing_is_the_mix_of_adjacent_rows():
    xy = np.concatenate([grid(), [[5000.0, 5000.0]]])
    N = adjacency(xy, inner_um=50, outer_um=150)
    _, _, scores, columns = retrieved(n=26)
    columns[2] = columns[3]  # every place has neighbours here
    W = effective_weights(scores, columns, n_references=30)
    found = smooth(W, N, 0.3)
    wanted = 0.7 * W.toarray() + 0.3 * N.toarray() @ W.toarray()
    wanted[25] = W.toarray()[25]  # stands alone
    np.testing.assert_allclose(found.toarray(), wanted, atol=1e-6)
    assert found.dtype == np.float32
    assert abs(smooth(W, N, 0.0) - W).max() < 1e-7


def test_smoothing_passes_over_places_without_neighbours():
    N = adjacency(grid(), inner_um=50, outer_um=150)
    _, _, scores, columns = retrieved(n=25)
    W = effective_weights(scores, columns, n_references=30)
    found = smooth(W, N, 0.5)
    sums = np.asarray(found.sum(axis=1)).ravel()
    assert sums[2] == 0  # nothing was retrieved there, and its adjacent places do not fill it
    assert np.delete(sums, 2) == pytest.approx(1, abs=1e-6)
    beside = N[1].indices  # 0, 2, 5, 6, 7 without 2
    wanted = 0.5 * W.toarray()[1] + 0.5 * W.toarray()[np.setdiff1d(beside, [2])].mean(0)
    np.testing.assert_allclose(found.toarray()[1], wanted, atol=1e-6)


def test_smoothing_refuses_what_does_not_fit():
    W = sp.csr_matrix(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="places"):
        smooth(W, sp.csr_matrix((2, 2)), 0.5)
    with pytest.raises(ValueError, match="between"):
        mixing(sp.csr_matrix((3, 3)), 1.5, np.ones(3, bool))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 9999), st.integers(1, 40))
def test_nearest_equals_a_full_sort(seed, k):
    rng = np.random.default_rng(seed)
    queries, keys = unit(rng.normal(size=(9, 4))), unit(rng.normal(size=(30, 4)))
    keys[7] = keys[3]
    scores, columns = nearest(queries, keys, k)
    full = queries @ keys.T
    assert scores.shape == columns.shape == (9, min(k, 30))
    np.testing.assert_array_equal(scores, -np.sort(-full, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(full, columns, axis=1), scores)
    assert all(len(set(row)) == len(row) for row in columns.tolist())


def test_nearest_in_parts_and_refusals(monkeypatch):
    queries, keys, _, _ = retrieved()
    whole = nearest(queries, keys, 5)
    monkeypatch.setattr("bleepdb.imputation.neighbours.SCORES_AT_ONCE", 40)
    for a, b in zip(nearest(queries, keys, 5), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(ValueError, match="nearest of"):
        nearest(queries, keys[:, :2], 5)


def test_depth_multiplies_the_softmax_and_leaves_the_other_methods_alone():
    rng = np.random.default_rng(3)
    scores, columns = rng.normal(size=(5, 4)), np.array([[0, 2, 4, -1]] * 5)
    totals = np.array([10, 1, 400, 7, 2500])
    own = depth_weights(totals, 0.5)
    W = effective_weights(
        scores, columns, n_references=5, temperature=0.5, reference_weights=own
    ).toarray()
    wanted = np.zeros((5, 5))
    wanted[:, [0, 2, 4]] = np.exp(scores[:, :3] / 0.5) * np.sqrt(totals[[0, 2, 4]])
    wanted /= wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(W, wanted, rtol=1e-5)
    even = effective_weights(
        scores, columns, n_references=5, method="average", reference_weights=own
    )
    np.testing.assert_allclose(even.toarray()[:, [0, 2, 4]], 1 / 3, rtol=1e-6)


def test_no_power_is_no_weight_and_an_empty_spot_weighs_a_count_of_one():
    assert depth_weights(np.array([0, 5]), 0.0) is None
    np.testing.assert_allclose(depth_weights(np.array([0, 9]), 0.5), [1.0, 3.0])


@pytest.mark.parametrize("own", [np.ones(2), np.array([1.0, 0.0, 1.0]), np.array([1, np.nan, 1])])
def test_own_weights_must_be_positive_and_one_a_reference(own):
    with pytest.raises(ValueError, match="own weight"):
        effective_weights(
            np.zeros((1, 3)), np.arange(3)[None], n_references=3, reference_weights=own
        )
