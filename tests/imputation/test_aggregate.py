"""Imputed values against brute-force loops, and the evidence against the values."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.imputation import (
    Aggregator,
    Group,
    LowRank,
    aggregate,
    effective_donors,
    effective_neighbours,
    effective_weights,
    explain,
    kernels,
    local_weights,
    mappable,
    top_similarity,
)
from bleepdb.imputation.references import LEAST_SEEN
from bleepdb.panel import Panel

ALL = Panel(tuple(f"G{i}" for i in range(12)))
MODEL = ALL.take([8, 1, 2, 3, 0, 5])


def world(seed=0, signed=False, n=9, mixed=True):
    """Two groups: one measured genes 0..8, the other 3..11 without 4; the model's panel is 0..5."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(20)
    panels = [ALL.take([5, 0, 1, 2, 3, 4, 6, 7, 8]), ALL.take([3, 5, 6, 7, 11, 9, 8])]
    cuts = [order[:13], order[13:]] if mixed else [order, order[:0]]
    groups = []
    for panel, columns in zip(panels, cuts, strict=True):
        x = rng.gamma(1.0, 1.0, (len(columns), len(panel))) * (
            rng.random((len(columns), len(panel))) < 0.6
        )
        groups.append(Group(panel, columns.astype(np.int64), sp.csr_matrix(x.astype(np.float32))))
    scores = rng.uniform(-1, 1, (n, 6))
    columns = np.stack([rng.permutation(20)[:6] for _ in range(n)]).astype(np.int64)
    columns[0] = -1
    W = effective_weights(scores, columns, n_references=20, temperature=0.5)
    if signed:
        keys = rng.normal(size=(20, 3)).astype(np.float32)
        W = local_weights(rng.normal(size=(n, 3)).astype(np.float32), keys, columns, ridge=0.1)
        assert (W.data < 0).any()
    basis, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    mean = rng.gamma(1.0, 1.0, 6).astype(np.float32)
    other = rng.normal(size=(6, 2)).astype(np.float32) if seed % 2 else None
    low_rank = LowRank(MODEL, mean, basis.astype(np.float32), other)
    return groups, W, low_rank


def table(groups):
    """(references, genes) float64, NaN where not measured."""
    X = np.full((20, 12), np.nan)
    for g in groups:
        for j, symbol in enumerate(g.panel.symbols):
            X[g.columns, ALL.symbols.index(symbol)] = g.values[:, [j]].toarray().ravel()
    return X


def brute(groups, W, low_rank=None):
    """The definition, place by place and gene by gene."""
    X, W = table(groups), W.toarray().astype(np.float64)
    made = np.full((len(W), 12), np.nan)
    denoised = np.zeros(len(W), bool)
    for i, row in enumerate(W):
        near = np.flatnonzero(row)

        def among(ok, row=row, near=near):
            w = row[near].copy()
            if not ok[near].all():
                w[w < 0] = 0
            w[~ok[near]] = 0
            return w / w.sum() if w.sum() > 0 else None

        for g in range(12):
            ok = np.isfinite(X[:, g])
            w = among(ok)
            if len(near) and w is not None:
                made[i, g] = sum(a * b for a, b in zip(w, np.nan_to_num(X[near, g]), strict=True))
        if low_rank is None:
            continue
        genes = ALL.find(low_rank.panel.symbols)
        C = placed(X[:, genes], low_rank)
        for j, g in enumerate(genes):
            w = among(np.isfinite(X[:, g]) & np.isfinite(C).all(1))
            if len(near) and w is not None:
                y = w @ np.nan_to_num(C[near])
                read = low_rank.components if low_rank.readout is None else low_rank.readout
                made[i, g] = low_rank.mean[j] + y @ read[j].astype(np.float64)
                denoised[i] = True
    return made, denoised


def placed(X, low_rank):
    """Coordinates of each reference by least squares on what it measured; NaN where unknown."""
    U = low_rank.components.astype(np.float64)
    made = np.full((len(X), U.shape[1]), np.nan)
    for i, x in enumerate(X):
        there = np.isfinite(x)
        seen = np.linalg.svd(U[there], compute_uv=False) if there.any() else np.zeros(1)
        if len(seen) == U.shape[1] and seen.min() ** 2 >= LEAST_SEEN:
            made[i] = np.linalg.lstsq(U[there], (x - low_rank.mean)[there], rcond=None)[0]
    return made


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_values_equal_loops(seed, signed, mapped, mixed):
    groups, W, low_rank = world(seed, signed, mixed=mixed)
    low_rank = low_rank if mapped else None
    found = Aggregator(groups, ALL, low_rank).impute(W)
    wanted, denoised = brute(groups, W, low_rank)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, wanted, atol=1e-5)
    np.testing.assert_array_equal(found.denoised, denoised)
    assert np.isnan(found.values[0]).all()  # nothing retrieved
    assert np.isnan(found.values[:, 10]).all()  # measured by nobody


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_convex_weights_stay_between_their_neighbours(seed):
    groups, W, _ = world(seed)
    found = Aggregator(groups, ALL).impute(W).values
    X = table(groups)
    for i in range(1, len(found)):
        near = X[W[i].indices]
        for g in np.flatnonzero(np.isfinite(found[i])):
            assert np.nanmin(near[:, g]) - 1e-6 <= found[i, g] <= np.nanmax(near[:, g]) + 1e-6


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.booleans())
def test_order_of_references_and_genes_does_not_matter(seed, signed):
    groups, W, low_rank = world(seed, signed)
    before = Aggregator(groups, ALL, low_rank).impute(W)
    rng = np.random.default_rng(seed)
    moved = rng.permutation(20)  # old column -> new column
    place = np.argsort(moved)
    turned = []
    for g in reversed(groups):
        rows, genes = rng.permutation(len(g.columns)), rng.permutation(len(g.panel))
        turned.append(
            Group(g.panel.take(genes), moved[g.columns[rows]], g.values[rows][:, genes].tocsr())
        )
    asked = rng.permutation(12)
    after = Aggregator(turned, ALL.take(asked), low_rank).impute(W[:, place].tocsr())
    np.testing.assert_allclose(after.values, before.values[:, asked], atol=1e-5)
    np.testing.assert_array_equal(after.denoised, before.denoised)


def test_blocks_and_parts_do_not_change_values(monkeypatch):
    groups, W, low_rank = world(3, n=40)
    whole = Aggregator(groups, ALL, low_rank)
    values, spread = whole.impute(W).values, whole.neighbour_sd(W)
    monkeypatch.setattr(aggregate, "QUERIES_A_BLOCK", 7)
    monkeypatch.setattr(kernels, "DENSE_VALUES", 30)
    np.testing.assert_allclose(whole.impute(W).values, values, atol=1e-6)
    np.testing.assert_allclose(whole.neighbour_sd(W), spread, atol=1e-6)


def test_genes_outside_the_model_get_the_mean_and_a_choice_changes_nothing():
    groups, W, low_rank = world(4)
    values = Aggregator(groups, ALL, low_rank).impute(W).values
    plain = Aggregator(groups, ALL).impute(W).values
    outside = np.setdiff1d(np.arange(12), ALL.find(MODEL.symbols))
    np.testing.assert_array_equal(values[:, outside], plain[:, outside])
    some = [7, 0, 3]
    few = Aggregator(groups, ALL.take(some), low_rank).impute(W)
    np.testing.assert_allclose(few.values, values[:, some], atol=1e-6)
    only = Aggregator(groups, ALL.take([7]), low_rank).impute(W)
    assert not only.denoised.any()  # none of the model's genes was asked for


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.booleans())
def test_neighbour_sd_equals_loops(seed, signed):
    groups, W, _ = world(seed, signed)
    found = Aggregator(groups, ALL).neighbour_sd(W)
    X, dense = table(groups), np.abs(W.toarray().astype(np.float64))
    for i in range(len(dense)):
        for g in range(12):
            ok = np.isfinite(X[:, g]) & (dense[i] > 0)
            if not ok.any():
                assert np.isnan(found[i, g])
                continue
            w = dense[i, ok] / dense[i, ok].sum()
            m = w @ X[ok, g]
            assert found[i, g] == pytest.approx(np.sqrt(w @ (X[ok, g] - m) ** 2), abs=1e-6)


def test_coverage_counts_neighbours_that_measured():
    groups, W, _ = world(5)
    maker = Aggregator(groups, ALL)
    X = table(groups)
    wanted = [
        np.mean([np.isfinite(X[W[i].indices, g]).mean() for i in range(1, 9)]) for g in range(12)
    ]
    np.testing.assert_allclose(maker.coverage(W), wanted)
    assert np.isnan(maker.coverage(W[:1])).all()
    np.testing.assert_array_equal(maker.measured_by(0), np.isfinite(X[:, 0]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_the_map_places_who_measured_enough_of_it(seed):
    groups, _, low_rank = world(seed)
    X = table(groups)[:, ALL.find(MODEL.symbols)]
    known = placed(X, low_rank)
    np.testing.assert_array_equal(mappable(groups, low_rank), np.isfinite(known).all(1))
    for group in groups:
        found = low_rank.coordinates(group)
        if found is not None:
            np.testing.assert_allclose(found, known[group.columns], atol=1e-5)


def test_a_few_missing_genes_change_coordinates_little():
    """A profile that lies in the map is placed exactly, whichever genes are left out."""
    rng = np.random.default_rng(3)
    panel = Panel(tuple(f"H{i}" for i in range(200)))
    U = np.linalg.qr(rng.normal(size=(200, 5)))[0].astype(np.float32)
    low_rank = LowRank(panel, rng.gamma(1.0, 1.0, 200).astype(np.float32), U)
    truth = rng.normal(size=(7, 5))
    X = (low_rank.mean + truth @ U.T).astype(np.float32)
    kept = np.sort(rng.permutation(200)[:180])
    fewer = Group(panel.take(kept), np.arange(7), sp.csr_matrix(X[:, kept]))
    np.testing.assert_allclose(low_rank.coordinates(fewer), truth, atol=1e-4)
    few = Group(panel.take(kept[:20]), np.arange(7), sp.csr_matrix(X[:, kept[:20]]))
    assert low_rank.coordinates(few) is None


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_evidence_gives_the_value(seed, signed, mapped):
    groups, W, low_rank = world(seed, signed)
    low_rank = low_rank if mapped else None
    found = Aggregator(groups, ALL, low_rank).impute(W)
    X = table(groups)
    for i in (0, 1, 5):
        for g in range(12):
            why = explain(W[i], groups, ALL, g, low_rank=low_rank)
            assert why.gene == f"G{g}"
            np.testing.assert_allclose(why.value, found.values[i, g], atol=1e-5)
            if np.isnan(why.value):
                assert "no neighbour" in why.formula
                continue
            assert why.constant + why.contributions.sum() == pytest.approx(why.value)
            assert why.effective.sum() == pytest.approx(1, abs=1e-6)
            placed_there = (
                np.isfinite(placed(X[:, ALL.find(MODEL.symbols)], low_rank)).all(1)
                if (mapped)
                else np.zeros(20, bool)
            )
            answering = placed_there & np.isfinite(X[:, g]) & (W[i].toarray().ravel() > 0)
            assert why.denoised == (g in ALL.find(MODEL.symbols) and answering.any())
            np.testing.assert_allclose(why.measured, X[why.columns, g])
            np.testing.assert_allclose(why.weights, W[i].toarray().ravel()[why.columns])
            assert (np.diff(np.abs(why.contributions)) <= 0).all()
            assert f"{why.value:.5f}" in why.formula


def test_evidence_names_its_references():
    groups, W, low_rank = world(6)
    why = explain(W[1], groups, ALL, 3, low_rank=low_rank)
    names = {"id": [f"id{i}" for i in range(20)], "donor": ["A", "B"] * 10}
    rows = why.table(names)
    assert [r["id"] for r in rows] == [f"id{c}" for c in why.columns]
    assert sum(r["contribution"] for r in rows) + why.constant == pytest.approx(why.value)
    assert rows[0].keys() == {
        "id", "donor", "weight", "effective_weight", "measured", "contribution",
    }  # fmt: skip


def test_what_does_not_fit_is_refused():
    groups, W, low_rank = world()
    with pytest.raises(ValueError, match="columns of groups"):
        Aggregator([groups[0]], ALL)
    with pytest.raises(ValueError, match="columns of groups"):
        explain(W[1], [groups[0]], ALL, 0)
    with pytest.raises(ValueError, match="one query"):
        explain(W, groups, ALL, 0)
    with pytest.raises(ValueError, match="references"):
        Aggregator(groups, ALL).impute(W[:, :5].tocsr())
    with pytest.raises(ValueError, match="genes"):
        Group(ALL, np.arange(3), sp.csr_matrix((3, 5)))
    with pytest.raises(ValueError, match="genes"):
        LowRank(ALL, low_rank.mean, low_rank.components)
    with pytest.raises(ValueError, match="readout"):
        LowRank(MODEL, low_rank.mean, low_rank.components, low_rank.components[:, :1])


def test_effective_numbers():
    W = sp.csr_matrix(
        np.array([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0], [0, 0, 0, 0], [1.5, -0.5, 0, 0]])
    )
    np.testing.assert_allclose(effective_neighbours(W), [4, 1, 0, 4 / 2.5])
    np.testing.assert_allclose(effective_donors(W, ["a", "a", "b", "b"]), [2, 1, 0, 1])
    np.testing.assert_allclose(effective_donors(W, ["a"] * 4), [1, 1, 0, 1])
    with pytest.raises(ValueError, match="donors"):
        effective_donors(W, ["a"])
    columns = np.array([[2, 0], [-1, 3], [-1, -1]])
    found = top_similarity(np.array([[0.3, 0.9], [0.99, 0.5], [1, 1]]), columns)
    np.testing.assert_array_equal(found, np.array([0.9, 0.5, np.nan], np.float32))
