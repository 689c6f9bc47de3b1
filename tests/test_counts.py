"""Counts by runs are the counts: back as a matrix, summed, chosen, joined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.counts import Counts, ranges, runs_of
from bleepdb.normalise import log1p_cp10k


def drawn(seed, spots=9, genes=50, highest=5):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, highest, (spots, genes)) * (rng.random((spots, genes)) < 0.5)
    x[seed % spots] = 0
    return x.astype(np.int64)


def stored(x, kind=np.uint16):
    spots = [(np.flatnonzero(row).astype(np.uint16), row[row > 0].astype(kind)) for row in x]
    return Counts.joined(x.shape[1], [runs_of(*spot) for spot in spots])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([2, 5, 3000, 2**16 - 1, 2**32 - 1]))
def test_counts_come_back(seed, highest):
    x = drawn(seed, highest=highest)
    made = stored(x, np.uint32)
    found = made.csr()
    np.testing.assert_array_equal(found.toarray(), x)
    assert found.has_sorted_indices
    assert found.dtype == (np.uint16 if x.max() < 2**16 else np.uint32)
    np.testing.assert_array_equal(made.nnz, (x > 0).sum(axis=1))
    np.testing.assert_array_equal(made.totals(), x.sum(axis=1))
    shared = np.random.default_rng(seed).random(x.shape[1]) < 0.6
    np.testing.assert_array_equal(made.totals(shared), x[:, shared].sum(axis=1))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_taken_joined_and_chosen(seed):
    x, y = drawn(seed), drawn(seed + 1, spots=4)
    rng = np.random.default_rng(seed)
    both = Counts.together(50, [stored(x), stored(y)])
    z = np.concatenate([x, y])
    np.testing.assert_array_equal(both.csr().toarray(), z)
    rows = rng.integers(0, len(z), 7)
    np.testing.assert_array_equal(both.take(rows).csr().toarray(), z[rows])
    assert both.take(rows).stores[0] is both.stores[0]
    values = both.normalised(both.totals())
    wanted = log1p_cp10k(z, z.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(values.rows(np.arange(len(z))).toarray(), wanted)
    chosen = rng.permutation(50)[:11]
    np.testing.assert_array_equal(
        values.genes(chosen).rows(rows).toarray(), wanted[rows][:, chosen]
    )
    assert values.genes(np.arange(50)) is values


def test_nothing():
    made = Counts.joined(7, [])
    assert made.csr().shape == (0, 7)
    assert made.totals().shape == (0,)
    assert Counts.together(7, []).csr().shape == (0, 7)
    assert len(ranges(np.zeros(0), np.zeros(0, np.int64))) == 0


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_runs_rise_and_genes_rise_within_each(kind):
    genes, counts = np.array([1, 4, 5, 9, 11]), np.array([2, 1, 2, 70000 % 65536, 1], dtype=kind)
    ordered, values, lengths = runs_of(genes, counts)
    assert ordered.tolist() == [4, 11, 1, 5, 9]
    assert values.tolist() == [1, 2, 4464]
    assert lengths.tolist() == [2, 2, 1]
