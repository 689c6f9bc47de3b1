"""Scores per gene against NumPy and SciPy, and what must hold of them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from bleepdb import metrics
from bleepdb.normalise import log1p_cp10k


def some(n=40, g=30, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.gamma(1.0, 1.0, (n, g)).astype(np.float32)
    return (truth + rng.normal(0, 1, (n, g))).astype(np.float32), truth


def test_pearson_equals_numpy_and_scipy():
    p, t = some()
    wanted = [np.corrcoef(p[:, j].astype(float), t[:, j].astype(float))[0, 1] for j in range(30)]
    found = metrics.pearson_per_gene(p, t)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert found[3] == pytest.approx(pearsonr(p[:, 3], t[:, 3]).statistic, abs=1e-6)


def test_more_genes_than_a_block(monkeypatch):
    p, t = some(g=30)
    whole = metrics.pearson_per_gene(p, t)
    monkeypatch.setattr(metrics, "GENES_A_BLOCK", 7)
    np.testing.assert_allclose(metrics.pearson_per_gene(p, t), whole, atol=1e-12)


def test_nan_pairs_are_dropped_for_their_gene_alone_and_nothing_moves():
    p, t = some()
    clean = metrics.pearson_per_gene(p, t)
    p[:5, 2] = np.nan
    t[7, 2] = np.nan
    p[:, 4] = np.nan
    found = metrics.pearson_per_gene(p, t)
    keep = np.isfinite(p[:, 2]) & np.isfinite(t[:, 2])
    assert keep.sum() == 34
    assert found[2] == pytest.approx(np.corrcoef(p[keep, 2], t[keep, 2])[0, 1], abs=1e-6)
    assert np.isnan(found[4])
    others = np.setdiff1d(np.arange(30), [2, 4])
    np.testing.assert_array_equal(found[others], clean[others])


def test_undefined_is_nan():
    p, t = some(n=6, g=5)
    p[:, 0] = 8.25
    p[::2, 0] = np.nextafter(np.float32(8.25), np.float32(9))  # constant up to rounding
    t[:, 1] = 0
    p[2:, 2] = np.nan  # two pairs
    found = metrics.pearson_per_gene(p, t)
    assert np.isnan(found[:3]).all()
    assert np.isfinite(found[3:]).all()


def test_small_values_are_not_taken_for_constant():
    p, t = some()
    np.testing.assert_allclose(
        metrics.pearson_per_gene(p.astype(float) * 1e-9, t), metrics.pearson_per_gene(p, t)
    )


def test_shapes_must_agree():
    p, t = some()
    with pytest.raises(ValueError, match="same"):
        metrics.pearson_per_gene(p[:, :3], t)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-20, 20))
def test_pearson_ignores_scale_shift_and_order(seed, scale, shift):
    p, t = some(n=12, g=3, seed=seed)
    found = metrics.pearson_per_gene(p, t)
    assert (np.abs(found) <= 1).all()
    np.testing.assert_allclose(
        metrics.pearson_per_gene(p.astype(float) * scale + shift, t), found, atol=1e-9
    )
    order = np.random.default_rng(seed).permutation(12)
    np.testing.assert_allclose(metrics.pearson_per_gene(p[order], t[order]), found, atol=1e-9)
    np.testing.assert_allclose(metrics.pearson_per_gene(t, p), found, atol=1e-9)


def test_weights_count_repeated_spots():
    p, t = some()
    p[3, 1] = np.nan
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, 40, 40) for _ in range(5)]
    weights = np.stack([np.bincount(d, minlength=40) for d in drawn])
    wanted = np.stack([metrics.pearson_per_gene(p[d], t[d]) for d in drawn])
    np.testing.assert_allclose(metrics.weighted_pearson(p, t, weights), wanted, atol=1e-9)


def test_a_sample_without_three_different_spots_is_undefined():
    p, t = some()
    weights = np.zeros((1, 40))
    weights[0, :2] = 20
    assert np.isnan(metrics.weighted_pearson(p, t, weights)).all()


def test_mean_score_counts_nan_as_zero():
    assert metrics.mean_score([0.5, np.nan, 0.25, np.nan]) == (0.1875, 2)
    mean, count = metrics.mean_score([])
    assert np.isnan(mean)
    assert count == 0


def test_rmse_and_variance_ratio():
    p, t = some()
    p[0, 0] = np.nan
    t[:, 1] = 3
    wanted = np.sqrt(((p[1:, 0] - t[1:, 0]) ** 2).mean())
    assert metrics.rmse_per_gene(p, t)[0] == pytest.approx(wanted, rel=1e-5)
    ratio = metrics.variance_ratio_per_gene(p, t)
    assert ratio[0] == pytest.approx(p[1:, 0].var() / t[1:, 0].var(), rel=1e-4)
    assert np.isnan(ratio[1])
    p[:, 2] = np.nan
    assert np.isnan(metrics.rmse_per_gene(p, t)[2])
    assert np.isnan(metrics.variance_ratio_per_gene(p, t)[2])


def drawn_counts(n=20_000, seed=0):
    """Poisson counts whose true rates are known, from rare genes to frequent ones."""
    rng = np.random.default_rng(seed)
    level = np.array([0.05, 0.3, 1.0, 4.0, 20.0])
    rate = level * rng.gamma(2.0, 0.5, (n, len(level)))
    counts = np.concatenate([rng.poisson(rate), np.zeros((n, 1), np.int64)], axis=1)
    return rate, counts, np.full(n, 2000.0)


def test_noise_ceiling_is_what_the_true_rate_reaches():
    rate, counts, totals = drawn_counts()
    found = metrics.noise_ceiling(counts, totals, seed=1)
    reached = metrics.pearson_per_gene(log1p_cp10k(rate, totals[:, None]),
                                       log1p_cp10k(counts[:, :5], totals[:, None]))  # fmt: skip
    np.testing.assert_allclose(found[:5], reached, atol=0.05)
    assert (np.diff(found[:5]) > 0).all()
    assert np.isnan(found[5])


def test_noise_ceiling_of_pure_noise_is_low_and_sparse_equals_dense():
    rng = np.random.default_rng(2)
    counts = rng.poisson(1.0, (2000, 8))
    totals = np.full(2000, 1e4)
    found = metrics.noise_ceiling(counts, totals, seed=3)
    assert (found < 0.3).all()
    np.testing.assert_array_equal(
        metrics.noise_ceiling(sp.csr_matrix(counts), totals, seed=3), found
    )
    assert not np.array_equal(metrics.noise_ceiling(counts, totals, seed=4), found)


def test_null_is_reproducible_and_says_how_rare():
    def draw(rng):
        return rng.normal(size=3)

    null = metrics.permutation_null(draw, n=200, seed=5)
    assert null.scores.shape == (200, 3)
    np.testing.assert_array_equal(
        metrics.permutation_null(draw, n=50, seed=5).scores, null.scores[:50]
    )
    assert (np.abs(null.mean) < 0.25).all()
    assert ((null.percentile(99) > 1.5) & (null.percentile(99) < 4)).all()
    assert null.p_value(np.full(3, 99.0)) == pytest.approx(1 / 201)
    assert (null.p_value(np.full(3, -99.0)) == 1).all()
