"""The linear recipe beside a plain derivation of its steps, and what it may see when it chooses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bleepdb.evaluation.imputing import predict_with
from bleepdb.training import affine, fit
from bleepdb.training.affine import principal_axes
from bleepdb.training.recipes import linear
from bleepdb.training.recipes.linear import Folded, LinearSettings
from bleepdb.training.tuning import Target, inner_folds

SMALL = {
    "axes": 10, "components": 6, "low_rank": 4, "k": 20, "alphas": [1.0, 1e3, 1e6],
    "context_ring": [0.5, 1.5], "readout": 0,
}  # fmt: skip


def neighbours_mean(values, places):
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    near = (apart >= 100) & (apart <= 300) & ~np.eye(len(places), dtype=bool)
    return near @ values / near.sum(axis=1, keepdims=True)


def unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_equals_the_steps_written_plainly(pairs_of):
    pairs = pairs_of("a", "a", "b")
    inside, outside = pairs.subset(["s0", "s1"]), pairs.subset(["s2"])
    model = fit(inside, hyper=SMALL | {"alpha": 50.0})

    def seen(sections):
        parts = [
            np.hstack([s.features, neighbours_mean(s.features.astype(float), s.positions_um)])
            for s in sections
        ]
        return np.vstack(parts)

    x, q = seen(inside.sections), seen(outside.sections)
    centre, spread = x.mean(0), x.std(0)
    weigh = np.repeat([1.0, 0.5], x.shape[1] // 2) * np.sqrt(1280 / x.shape[1])
    x, q = (x - centre) / spread * weigh, (q - centre) / spread * weigh
    axes = np.linalg.svd(x, full_matrices=False)[2][:10].T

    y, depth = [], []
    for s in inside.sections:
        dense = s.counts.toarray()
        depth.append(dense.sum(1))
        y.append(np.log1p(1e4 * dense / dense.sum(1, keepdims=True)))
    y, depth = np.vstack(y), np.concatenate(depth)
    mean = y.mean(0)
    loadings = np.linalg.svd(y - mean, full_matrices=False)[2][:6].T
    scores = (y - mean) @ loadings
    within = scores.copy()
    for rows in np.split(np.arange(len(scores)), [len(inside.sections[0])]):
        within[rows] -= within[rows].mean(0)
    targets = within / np.sqrt(scores.std(0))
    t = x @ axes
    B = np.linalg.solve(t.T @ t + 50.0 * np.eye(10), t.T @ targets)
    keys, queries = unit_rows(t @ B), unit_rows(q @ axes @ B)
    got_keys = np.vstack([model.embed_images(s.features, s.positions_um) for s in inside.sections])
    got = model.embed_images(outside.sections[0].features, outside.sections[0].positions_um)
    # Signs of components are free: products of vectors are not.
    np.testing.assert_allclose(got @ got_keys.T, queries @ keys.T, atol=2e-4)

    similar = queries @ keys.T
    values = np.empty((len(q), y.shape[1]))
    for i, row in enumerate(similar):
        best = np.argsort(-row)[:20]
        w = np.exp((row[best] - row[best].max()) / 0.1) * np.sqrt(depth[best])
        values[i] = w @ y[best] / w.sum()
    places = outside.sections[0].positions_um
    values = 0.7 * values + 0.3 * neighbours_mean(values, places)
    kept = loadings[:, :4]
    want = mean + (values - mean) @ kept @ kept.T
    target = Target(inside, outside)
    every = np.arange(y.shape[1])
    np.testing.assert_allclose(predict_with(model, target, every), want, atol=2e-3)

    tower = model.profile_tower(y.astype(np.float32))
    plain = scores / np.sqrt(scores.std(0))
    np.testing.assert_allclose(tower @ tower.T, plain @ plain.T, atol=1e-2, rtol=1e-3)


def test_a_fold_predicts_as_the_fitted_model_does(pairs_of):
    pairs = pairs_of("a", "b", "c")
    target = Target(pairs.subset(["s0", "s2"]), pairs.subset(["s1"]))
    model = fit(target.inside, hyper=SMALL | {"alpha": 20.0})
    folded = Folded.of(target, LinearSettings(**SMALL))
    want = predict_with(model, target, target.genes)
    np.testing.assert_allclose(folded.predict(20.0), want, atol=1e-4)
    same = np.arange(len(target.inside))
    np.testing.assert_array_equal(folded.predict(20.0, same), folded.predict(20.0))
    shuffled = np.random.default_rng(0).permutation(len(target.inside))
    assert np.abs(folded.predict(20.0, shuffled) - want).max() > 0.1


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20)])
@pytest.mark.parametrize("iterate", [False, True])
def test_principal_axes_are_those_of_an_svd(shape, iterate, monkeypatch):
    if iterate:
        monkeypatch.setattr(affine, "EXACT_UP_TO", 5)
    x = np.random.default_rng(3).normal(size=shape)
    x -= x.mean(axis=0)
    _, want_s, want = np.linalg.svd(x, full_matrices=False)
    axes, s = principal_axes(x, 6)
    np.testing.assert_allclose(s, want_s[:6], rtol=1e-8)
    np.testing.assert_allclose(np.abs((axes * want[:6].T).sum(0)), 1, atol=1e-8)
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-8)
    assert (axes[np.abs(axes).argmax(0), np.arange(6)] > 0).all()


def test_axes_of_what_does_not_vary_are_none():
    axes, s = principal_axes(np.zeros((5, 7)), 3)
    assert axes.shape == (7, 0)
    assert s.shape == (0,)


@pytest.mark.parametrize(
    ("donors", "want"),
    [
        ("aab", [("s0", "s1"), ("s2",)]),
        ("aaa", [("s0",), ("s1",), ("s2",)]),
    ],
)
def test_inner_fits_see_no_section_of_what_they_are_scored_on(pairs_of, monkeypatch, donors, want):
    seen = []
    real = Folded.of.__func__

    def watched(cls, target, settings):
        seen.append((target.inside.names, target.outside.names))
        return real(cls, target, settings)

    monkeypatch.setattr(Folded, "of", classmethod(watched))
    pairs = pairs_of(*donors)
    model = fit(pairs, hyper=SMALL)
    assert [outside for _, outside in seen] == want
    for inside, outside in seen:
        assert set(inside) | set(outside) == set(pairs.names)
        assert not set(inside) & set(outside)
    assert model.hyper["alpha"] in SMALL["alphas"]
    by = "donor" if len(set(donors)) > 1 else "section"
    assert f"leave one {by} out" in model.training["inner_folds"]


def test_the_penalty_is_the_one_of_the_best_inner_score(pairs_of):
    pairs = pairs_of("a", "b", "c")
    settings = LinearSettings(**SMALL)
    total = np.zeros(3)
    for held in inner_folds(pairs)[0]:
        target = Target(pairs.subset([n for n in pairs.names if n not in held]), pairs.subset(held))
        total += [
            target.score(
                predict_with(fit(target.inside, hyper=SMALL | {"alpha": a}), target, target.genes)
            )
            for a in SMALL["alphas"]
        ]
    tuned = linear.tune(pairs, settings)
    assert tuned.chosen.alpha == SMALL["alphas"][int(total.argmax())]
    assert [c.alpha for c, _ in tuned.tried] == SMALL["alphas"]
    np.testing.assert_allclose([score for _, score in tuned.tried], total / 3, atol=1e-5)


def test_several_hyperparameters_are_chosen_together_and_recorded(pairs_of):
    pairs = pairs_of("a", "b")
    choices = {"alphas": [1.0, 1e3], "temperatures": [0.05, 0.3], "smoothings": [0.0, 0.3, 0.6]}
    model = fit(pairs, hyper=SMALL | choices)
    tried = model.training["tried"]
    assert len(tried) == 12
    assert all(list(t["hyper"]) == list(linear.CHOICES) for t in tried)
    one_by_one = []
    for entry in tried:
        settings = LinearSettings(**SMALL | entry["hyper"])
        folds = [
            Target(pairs.subset([inside]), pairs.subset([outside]))
            for inside, outside in (("s1", "s0"), ("s0", "s1"))
        ]
        found = [Folded.of(t, settings).predict(settings.alpha) for t in folds]
        one_by_one.append(np.mean([t.score(v) for t, v in zip(folds, found, strict=True)]))
    np.testing.assert_allclose([t["score"] for t in tried], one_by_one, atol=1e-6)
    best = tried[int(np.argmax(one_by_one))]["hyper"]
    assert {name: model.hyper[name] for name in best} == best
    assert model.retrieval["temperature"] == best["temperature"]
    assert model.retrieval["smoothing"]["weight"] == best["smoothing"]
    assert model.hyper["depth_power"] == 0.5  # without candidates it stays
    given = fit(pairs, hyper=SMALL | {"alpha": 5.0})
    assert given.training["inner_folds"] == "given"
    assert "tried" not in given.training


def test_one_section_has_no_inner_folds_and_takes_the_largest_penalty(pairs_of):
    model = fit(pairs_of("a"), hyper=SMALL)
    assert model.hyper["alpha"] == 1e6
    assert "none" in model.training["inner_folds"]


def test_fitting_needs_no_package_of_slides_tables_or_atlases(tmp_path):
    script = """
import sys
for name in ("openslide", "anndata", "qdrant_edge", "qdrant_client", "h5py"):
    sys.modules[name] = None
import numpy as np, scipy.sparse as sp
import bleepdb.training
from bleepdb.encoders import FeatureSpec
from bleepdb.panel import Panel
from bleepdb.tissue.geometry import TileGeometry
from bleepdb.training import PairedSection, Pairs, fit
rng = np.random.default_rng(0)
y, x = np.mgrid[0:5, 0:5]
panel = Panel(tuple(f"G{i}" for i in range(30)), ("",) * 30)
sections = tuple(
    PairedSection(n, n, "0" * 64, rng.normal(size=(25, 8)).astype(np.float32),
        np.stack([x.ravel(), y.ravel()], 1) * 100.0, sp.csr_matrix(rng.poisson(3, (25, 30))),
        panel, np.array([str(i) for i in range(25)]), 100.0) for n in "ab")
spec = FeatureSpec("timm:x", "random:0", "0" * 64, "penultimate", TileGeometry((100.0,), 64),
    (0.5,) * 3, (0.5,) * 3)
for recipe, hyper in (("linear", {}), ("average", {"epochs": 1}), ("bleep", {"epochs": 1})):
    assert len(fit(Pairs(sections, spec), recipe, hyper=hyper).space_id) == 64
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
