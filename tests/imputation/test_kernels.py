"""Both ways to multiply weights with profiles, on both layouts of profiles, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.counts import Counts, runs_of
from bleepdb.imputation import Aggregator, Group, kernels
from bleepdb.imputation.kernels import prefers_dense, sums_of_rows, threads
from bleepdb.panel import Panel

GENES, REFERENCES, QUERIES = 40, 30, 21


def made(seed, references=REFERENCES, genes=GENES, share=0.4):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.0, (references, genes)) * (rng.random((references, genes)) < share)
    counts[0] = 0  # a spot that expressed nothing
    spots = [runs_of(np.flatnonzero(c).astype(np.uint16), c[c > 0]) for c in counts]
    stored = Counts.joined(genes, spots)
    values = stored.normalised(stored.totals())
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    dense = np.log1p(counts * (1e4 / totals))
    return values, sp.csr_matrix(dense.astype(np.float32)), dense


def weights(seed, references=REFERENCES, queries=QUERIES):
    W = sp.random(queries, references, density=0.3, random_state=seed, format="csr")
    W.data -= 0.3  # signed, as local weights are
    W = W.tolil()
    W[2] = 0  # nothing retrieved
    return sp.csr_matrix(W).astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_every_way_gives_the_product(seed, by_runs, dense, square, wide):
    values, matrix, x = made(seed)
    W = weights(seed)
    kind = np.float64 if wide else np.float32
    found = sums_of_rows(W, values if by_runs else matrix, kind, square=square, dense=dense)
    assert found.dtype == kind
    np.testing.assert_allclose(found, W.toarray() @ (x**2 if square else x), atol=3e-5, rtol=1e-5)
    assert (found[2] == 0).all()


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_threads_and_parts_change_nothing(count, monkeypatch):
    values, matrix, _ = made(3)
    W = weights(3)
    monkeypatch.setenv("OMP_NUM_THREADS", count)
    monkeypatch.setattr(kernels, "DENSE_VALUES", 3 * GENES)
    assert threads() == int(count)
    wanted = W.toarray() @ matrix.toarray()
    for rows in (values, matrix):
        for dense in (True, False):
            found = sums_of_rows(W, rows, np.float32, dense=dense)
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_shared_neighbours_are_multiplied_densely_and_others_gathered():
    values, matrix, _ = made(4, references=2000, genes=500, share=0.2)
    one = np.arange(20)
    same = sp.csr_matrix(
        (np.ones(200 * 20, np.float32), np.tile(one, 200), np.arange(0, 4001, 20)),
        shape=(200, 2000),
    )
    apart = sp.csr_matrix(
        (np.ones(2000, np.float32), np.arange(2000), np.arange(0, 2001, 20)), shape=(100, 2000)
    )
    for rows in (values, matrix):
        assert prefers_dense(same, rows, np.unique(same.indices))
        assert not prefers_dense(apart, rows, np.unique(apart.indices))


def test_an_aggregator_takes_both_layouts():
    values, matrix, _ = made(5)
    W = abs(weights(5))
    panel = Panel(tuple(f"G{i}" for i in range(GENES)))
    columns = np.arange(REFERENCES)
    chosen = panel.take([7, 39, 0, 12])
    for genes in (panel, chosen):
        one = Aggregator([Group(panel, columns, values)], genes)
        other = Aggregator([Group(panel, columns, matrix)], genes)
        for found, wanted in (
            (one.impute(W).values, other.impute(W).values),
            (one.neighbour_sd(W), other.neighbour_sd(W)),
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert np.isnan(one.impute(W).values[2]).all()
