"""Structure against NumPy, squidpy and scikit-image, and what must hold of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb import metrics
from bleepdb.evaluation import structure
from bleepdb.places import adjacency


def places(side=7):
    at = np.arange(side) * 200.0
    return np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)


def ring(xy):
    return adjacency(xy, inner_um=1, outer_um=290)


def drawn(n=49, g=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(1.0, 1.0, (n, g)).astype(np.float32)


def moran_by_hand(x, w):
    z = x - x.mean()
    pairs = sum(w[i, j] * z[i] * z[j] for i in range(len(x)) for j in range(len(x)))
    return len(x) / w.sum() * pairs / (z**2).sum()


def test_moran_is_its_formula():
    x, w = drawn().astype(float), ring(places())
    wanted = [moran_by_hand(x[:, j], w.toarray()) for j in range(6)]
    np.testing.assert_allclose(structure.moran_per_gene(x, w), wanted, atol=1e-6)


def test_moran_equals_squidpy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        sq = pytest.importorskip("squidpy")
        ad = pytest.importorskip("anndata")
        data = ad.AnnData(drawn().astype(np.float64))
        data.obsp["spatial_connectivities"] = sp.csr_matrix(ring(places()), dtype=np.float64)
        theirs = sq.gr.spatial_autocorr(
            data, mode="moran", transformation=False, copy=True, n_jobs=1, show_progress_bar=False
        )["I"]
    ours = structure.moran_per_gene(drawn(), ring(places()))
    np.testing.assert_allclose(ours, theirs[data.var_names].to_numpy(), atol=1e-6)


def test_moran_tells_a_gradient_from_noise_and_a_chessboard():
    xy = places(12)
    whole = np.stack(
        [xy[:, 0], np.random.default_rng(1).normal(size=len(xy)), (xy.sum(1) / 200) % 2], 1
    )
    nearest = adjacency(xy, inner_um=1, outer_um=210)
    slope, noise, chess = structure.moran_per_gene(whole, nearest)
    assert slope > 0.9
    assert abs(noise) < 0.2
    assert chess == pytest.approx(-1, abs=1e-6)


def test_a_place_without_a_value_is_as_if_it_were_not_there():
    x, xy = drawn(), places()
    gone = [0, 5, 20]
    holes = x.copy()
    holes[gone, 2] = np.nan
    found = structure.moran_per_gene(holes, ring(xy))
    kept = np.setdiff1d(np.arange(49), gone)
    within = ring(xy)[kept][:, kept]  # the weights as they were, less those of what is gone
    assert found[2] == pytest.approx(moran_by_hand(x[kept, 2].astype(float), within.toarray()))
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(found[others], structure.moran_per_gene(x, ring(xy))[others])


def test_moran_is_not_defined_without_spread_neighbours_or_places():
    x = drawn()
    x[:, 0] = 3.0
    x[2:, 1] = np.nan
    found = structure.moran_per_gene(x, ring(places()))
    assert np.isnan(found[:2]).all()
    assert np.isfinite(found[2:]).all()
    alone = adjacency(places(), inner_um=1, outer_um=50)
    assert np.isnan(structure.moran_per_gene(x, alone)).all()
    with pytest.raises(ValueError, match="adjacency"):
        structure.moran_per_gene(x, alone[:5, :5])


def test_blocks_do_not_change_moran_or_ssim(monkeypatch):
    x, y, w = drawn(), drawn(seed=1), ring(places())
    windows = structure.disc_windows(places(), radius_um=450)
    before = structure.moran_per_gene(x, w), structure.ssim_per_gene(x, y, windows)
    monkeypatch.setattr(metrics, "GENES_A_BLOCK", 4)
    monkeypatch.setattr(structure, "GENES_A_BLOCK", 4)
    after = structure.moran_per_gene(x, w), structure.ssim_per_gene(x, y, windows)
    np.testing.assert_allclose(after, before, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.1, 50), st.floats(-20, 20))
def test_moran_ignores_scale_shift_and_the_order_of_places(seed, scale, shift):
    x, w = drawn(n=49, g=2, seed=seed).astype(float), ring(places())
    order = np.random.default_rng(seed).permutation(49)
    wanted = structure.moran_per_gene(x, w)
    np.testing.assert_allclose(
        structure.moran_per_gene(x[order] * scale + shift, w[order][:, order]), wanted, atol=1e-5
    )


def test_gene_gene_equals_numpy():
    x = drawn(n=30, g=8)
    found = structure.gene_gene(x)
    np.testing.assert_allclose(found, np.corrcoef(x.astype(float).T), atol=1e-9)
    assert (found == found.T).all()
    assert (np.diag(found) == 1).all()


def test_gene_gene_takes_the_spots_that_both_have():
    x = drawn(n=30, g=4).astype(float)
    x[:6, 0] = np.nan
    x[4:10, 1] = np.nan
    x[:, 2] = 5
    found = structure.gene_gene(x)
    assert found[0, 1] == pytest.approx(np.corrcoef(x[10:, 0], x[10:, 1])[0, 1])
    assert found[0, 3] == pytest.approx(np.corrcoef(x[6:, 0], x[6:, 3])[0, 1])
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    x[2:, 3] = np.nan
    assert np.isnan(structure.gene_gene(x)[3]).all()


def test_depth_of_whole_sections_ties_no_genes_together():
    rng = np.random.default_rng(0)
    section = np.repeat(["a", "b"], 200)
    depth = np.where(section == "a", 0.0, 10.0)[:, None]
    x = rng.normal(size=(400, 2)) + depth
    assert structure.gene_gene(x)[0, 1] > 0.9
    assert abs(structure.gene_gene(x, section)[0, 1]) < 0.2
    a, b = (x[section == s] - x[section == s].mean(0) for s in "ab")
    wanted = np.corrcoef(np.concatenate([a, b]).T)[0, 1]
    assert structure.gene_gene(x, section)[0, 1] == pytest.approx(wanted)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 0.6))
def test_gene_gene_is_symmetric_bounded_and_never_warns(seed, missing):
    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 1.0, (9, 5))
    x[rng.random(x.shape) < missing] = np.nan
    found = structure.gene_gene(x, rng.integers(0, 2, 9))
    np.testing.assert_array_equal(found, found.T)
    known = found[np.isfinite(found)]
    assert (np.abs(known) <= 1).all()


def test_agreement_is_over_pairs_of_different_genes():
    a, b = structure.gene_gene(drawn(g=8)), structure.gene_gene(drawn(g=8, seed=3))
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    wanted = np.corrcoef([a[p] for p in pairs], [b[p] for p in pairs])[0, 1]
    assert structure.structure_agreement(a, b) == pytest.approx(wanted)
    assert structure.structure_agreement(a, a) == pytest.approx(1)
    a[2], a[:, 2] = np.nan, np.nan
    left = [p for p in pairs if 2 not in p]
    wanted = np.corrcoef([a[p] for p in left], [b[p] for p in left])[0, 1]
    assert structure.structure_agreement(a, b) == pytest.approx(wanted)
    assert np.isnan(structure.structure_agreement(a[:2, :2], b[:2, :2]))
    with pytest.raises(ValueError, match="square"):
        structure.structure_agreement(a, b[:4, :4])


def test_pseudobulk_is_over_sections():
    x = drawn(n=40, g=5).astype(float)
    x[:10, 1] = np.nan
    x[:, 4] = np.nan
    of = np.repeat(["s3", "s1", "s2", "s4"], 10)
    means = structure.section_means(x, of)
    np.testing.assert_allclose(means[0, 0], x[of == "s1", 0].mean())
    np.testing.assert_allclose(means[3, 2], x[of == "s4", 2].mean())
    assert np.isnan(means[2, 1])
    assert np.isnan(means[:, 4]).all()
    other = structure.section_means(drawn(n=40, g=5, seed=2), of)
    found = structure.pseudobulk_correlation(other, means)
    assert found[0] == pytest.approx(np.corrcoef(other[:, 0], means[:, 0])[0, 1])
    kept = [0, 1, 3]
    assert found[1] == pytest.approx(np.corrcoef(other[kept, 1], means[kept, 1])[0, 1])
    assert np.isnan(found[4])
    assert np.isnan(structure.pseudobulk_correlation(other[:2], means[:2])).all()


def test_pseudobulk_without_what_folds_lean_on():
    measured = drawn(n=6, g=3).astype(float)
    others = np.stack([np.delete(measured, i, axis=0).mean(0) for i in range(6)])
    np.testing.assert_allclose(structure.pseudobulk_correlation(others, measured), -1)
    assert np.isnan(structure.pseudobulk_correlation(others, measured, others)).all()
    half = others + 0.5 * (measured - others)  # half of the way from the mean to the truth
    np.testing.assert_allclose(structure.pseudobulk_correlation(half, measured, others), 1)
    with pytest.raises(ValueError, match="training means"):
        structure.pseudobulk_correlation(half, measured, others[:3])


def test_donors_mix_as_their_weights_do():
    donors = ["x", "x", "x", "y"]
    weights = sp.csr_matrix([[0.5, 0, 0, 0.5], [0.2, 0.3, 0.5, 0], [0, 0, 0, 0]])
    found = structure.donor_mixing(weights, donors)
    assert found["share"] == pytest.approx({"x": 0.75, "y": 0.25})
    assert found["expected"] == pytest.approx({"x": 0.75, "y": 0.25})
    assert found["effective_donors"] == pytest.approx((2 + 1) / 2)
    assert found["expected_effective_donors"] == pytest.approx(1 / (0.75**2 + 0.25**2))
    nothing = structure.donor_mixing(sp.csr_matrix((2, 4)), donors)
    assert np.isnan(nothing["effective_donors"])
    assert np.isnan(list(nothing["share"].values())).all()
    with pytest.raises(ValueError, match="donors"):
        structure.donor_mixing(weights, donors[:3])
    with pytest.raises(ValueError, match="negative"):
        structure.donor_mixing(-weights, donors)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_effective_donors_lie_between_one_and_how_many_there_are(seed, k):
    rng = np.random.default_rng(seed)
    weights = sp.csr_matrix(rng.random((6, 12)) * (rng.random((6, 12)) < 0.5))
    donors = np.array([f"d{i}" for i in rng.integers(0, k, 12)])
    found = structure.donor_mixing(weights, donors)
    if weights.nnz:
        assert 1 - 1e-9 <= found["effective_donors"] <= k + 1e-9
        assert sum(found["share"].values()) == pytest.approx(1)


def squares(rows, columns, side):
    """Windows that lie wholly inside the picture, as scikit-image takes them."""
    half, made = side // 2, []
    for i in range(half, rows - half):
        for j in range(half, columns - half):
            mask = np.zeros((rows, columns))
            mask[i - half : i + half + 1, j - half : j + half + 1] = 1
            made.append(mask.ravel())
    return sp.csr_matrix(np.array(made))


@pytest.mark.parametrize("offset", [0.0, 3.0, -40.0])
def test_ssim_equals_scikit_image(offset):
    peer = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.normal(size=(14, 11)), axis=1) + offset
    p = 0.6 * t + rng.normal(size=t.shape) * 0.3
    wanted = peer.structural_similarity(p, t, win_size=7, data_range=float(np.ptp(t)))
    found = structure.ssim_per_gene(p.reshape(-1, 1), t.reshape(-1, 1), squares(14, 11, 7))
    assert found[0] == pytest.approx(wanted, abs=1e-10)


def test_ssim_sees_what_a_correlation_does_not():
    t = np.stack([places(9)[:, 0] / 800 + 1] * 3, 1)
    p = t * [1.0, 0.2, 1.0] + [0.0, 0.8, 2.0]  # the same, too flat, off in level
    found = structure.ssim_per_gene(p, t, structure.disc_windows(places(9), radius_um=450))
    assert found[0] == pytest.approx(1)
    assert (found[1:] < 0.9).all()
    np.testing.assert_allclose(metrics.pearson_per_gene(p, t), 1)


def test_ssim_leaves_out_what_is_missing_and_is_not_defined_on_flat_truth():
    p, t = drawn(), drawn(seed=1)
    windows = structure.disc_windows(places(), radius_um=450)
    gone = [3, 30]
    p[gone, 0] = np.nan
    t[:, 1] = 2.0
    p[:, 2] = np.nan
    found = structure.ssim_per_gene(p, t, windows)
    kept = np.setdiff1d(np.arange(49), gone)
    wanted = structure.ssim_per_gene(p[kept, :1], t[kept, :1], windows[:, kept])
    assert found[0] == pytest.approx(wanted[0])
    assert np.isnan(found[1:3]).all()
    assert np.isfinite(found[3:]).all()
    with pytest.raises(ValueError, match="fit"):
        structure.ssim_per_gene(p, t, windows[:, :5])


def test_discs_hold_what_is_near():
    windows = structure.disc_windows(places(), radius_um=210).toarray()
    away = np.linalg.norm(places()[:, None] - places()[None], axis=-1)
    np.testing.assert_array_equal(windows, away <= 210)
    inner = structure.disc_windows(places(), radius_um=210, fewest=5)
    assert inner.shape == (25, 49)
    assert structure.disc_windows(np.empty((0, 2)), radius_um=1).shape == (0, 0)
