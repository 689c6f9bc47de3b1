"""What holds for every row: it knows the training sections alone, and says truly what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bleepdb.evaluation.methods import (
    BASELINES,
    MEAN,
    Fold,
    bare_name,
    histogene,
    neighbours,
    recipe_method,
    st_net,
)
from bleepdb.evaluation.methods.depth import by_depth
from bleepdb.evaluation.methods.position import smoother
from bleepdb.evaluation.methods.post import EQUAL
from bleepdb.evaluation.methods.recipes import undressed
from bleepdb.evaluation.methods.ridge import ridge
from bleepdb.imputation import effective_weights, nearest
from bleepdb.training import Pairs
from bleepdb.training.recipes.registry import RECIPES
from bleepdb.training.tuning import Target

RECIPE_ROWS = [
    recipe_method(RECIPES[r], post=p) for r in ("linear", "bleep") for p in (True, False)
]
ROWS = [*BASELINES, *RECIPE_ROWS]
HELD = "S2"


def fold_of(kinds, *, seed=0):
    targets = [Target(p.subset([n for n in p.names if n != HELD]), p.subset([HELD])) for p in kinds]
    return Fold(targets[0], targets[1], seed, 2, targets[2])


def with_counts(kinds, name, change):
    """The same features, with other counts in one section."""
    made = []
    for pairs in kinds:
        sections = [
            replace(s, counts=change(s.counts), digest="f" * 64) if s.section == name else s
            for s in pairs.sections
        ]
        made.append(Pairs(tuple(sections), pairs.feature_spec))
    return made


@pytest.fixture(scope="module", autouse=True)
def few_epochs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st_net, "EPOCHS", (1, 2))
        patch.setattr(histogene, "EPOCHS", (1, 2))
        yield


@pytest.fixture(scope="module")
def kinds(paired, three):
    other = paired(("A", "A", "B"), levels="penultimate", seed=500)
    sections = tuple(
        replace(s, features=o.features)
        for s, o in zip(three[1].sections, other.sections, strict=True)
    )
    return [*three, Pairs(sections, other.feature_spec)]


@pytest.fixture(scope="module")
def found(kinds):
    fold = fold_of(kinds)
    return {m.name: m.predict(fold) for m in ROWS}


def test_names_are_unique_and_say_what_the_fields_say():
    assert len({m.name for m in ROWS}) == len(ROWS)
    for row in BASELINES:
        assert row.post == row.name.endswith("all equal")
        assert ("published features" in row.name) == (row.features == "published")
        assert not ("our features" in row.name and row.features != "ours")
        assert row.about
        assert row.family
    families = {m.family for m in BASELINES}
    for family in families - {MEAN}:
        posts = {m.post for m in BASELINES if m.family == family}
        assert posts == {True, False}, family


@pytest.mark.parametrize("row", ROWS, ids=lambda m: m.name)
def test_each_row_knows_the_training_sections_alone(row, kinds, found):
    target = fold_of(kinds).ours
    plain = found[row.name]
    assert plain.shape == (len(target.outside), len(target.genes))
    assert np.isfinite(plain).all()

    def planted(counts):
        made = counts.toarray()[::-1].copy()
        made[:, 40] = np.arange(len(made)) * 50
        return sp.csr_matrix(made)

    held_out = row.predict(fold_of(with_counts(kinds, HELD, planted)))
    np.testing.assert_array_equal(held_out, plain)
    shuffled = with_counts(kinds, "S0", lambda c: c[::-1])
    trained = row.predict(fold_of(shuffled))
    if row.name == MEAN:
        np.testing.assert_allclose(trained, plain, rtol=1e-5)
    else:
        assert np.abs(trained - plain).max() > 1e-3


@pytest.mark.parametrize("row", ROWS, ids=lambda m: m.name)
def test_a_row_draws_where_it_says_so_and_leaves_the_generator_alone(row, kinds, found):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    again = row.predict(fold_of(kinds, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(again, found[row.name])
    other = row.predict(fold_of(kinds, seed=1))
    assert np.array_equal(other, again) != row.draws


def test_a_fold_offers_what_it_was_encoded_for(kinds):
    whole = fold_of(kinds)
    assert all(whole.offers(m) for m in ROWS)
    lean = replace(whole, published=None, colour=None)
    assert {m.features for m in ROWS if lean.offers(m)} == {"none", "ours"}
    row = next(m for m in BASELINES if m.features == "colour")
    with pytest.raises(ValueError, match="no colour features"):
        row.predict(lean)


AROUND = {
    "ridge": lambda t, s: ridge(t, s, [1e3])[0],
    "depth": lambda t, s: by_depth(t, s, [1e3])[0],
    "kNN": lambda t, s: neighbours.knn_on_axes(t, s, [20])[0],
    "position": lambda t, s: smoother(t, s, [1.0])[0],
    "ST-Net": lambda t, s: st_net.head(t, s, [2], seed=0)[0],
    "HisToGene": lambda t, s: histogene.transformer(t, s, [2], seed=0)[0],
}


@pytest.mark.parametrize("off", [{"context": 0.0}, {"smoothing": 0.0}, {"low_rank": 0}], ids=str)
@pytest.mark.parametrize("name", AROUND)
def test_each_part_of_post_processing_takes_part(name, off, kinds):
    target = fold_of(kinds).ours
    whole = AROUND[name](target, EQUAL)
    gap = np.abs(AROUND[name](target, replace(EQUAL, **off)) - whole).max()
    if name == "position" and "context" in off:
        assert gap == 0  # it reads no features
    else:
        assert gap > 1e-3


def test_neighbours_on_axes_equal_loops(kinds):
    target = fold_of(kinds).ours
    settings = replace(EQUAL, context=0.0, low_rank=0, smoothing=0.0, axes=24)
    found = neighbours.knn_on_axes(target, settings, [7, 30])
    x, q = (p.features.astype(float) for p in (target.inside, target.outside))
    mean, spread = x.mean(axis=0), x.std(axis=0)
    a, b = (x - mean) / spread, (q - mean) / spread  # all axes kept: a rotation
    cosine = (b @ a.T) / np.linalg.norm(b, axis=1)[:, None] / np.linalg.norm(a, axis=1)
    for values, k in zip(found, (7, 30), strict=True):
        for i in (0, 40, 80):
            best = np.argsort(-cosine[i])[:k]
            wanted = target.inside.profiles[best][:, target.genes].mean(axis=0)
            np.testing.assert_allclose(values[i], wanted, atol=1e-4)


def test_a_recipe_is_fitted_once_a_fold_and_bare_means_without_low_rank_and_smoothing(kinds):
    fits = []

    def fit(pairs, *, hyper=None, seed=0, progress=None):
        fits.append((pairs.names, seed))
        flat = {"depth_power": 0.0}
        return RECIPES["linear"].fit(pairs, hyper=flat, seed=seed, progress=progress)

    recipe = replace(RECIPES["linear"], fit=fit)
    fold = fold_of(kinds, seed=3)
    dressed, bare = (recipe_method(recipe, post=p) for p in (True, False))
    assert (dressed.name, bare.name) == ("linear", bare_name("linear"))
    whole, plain = dressed.predict(fold), bare.predict(fold)
    assert fits == [(("S0", "S1"), 3)]
    model = undressed(fold.fitted(recipe))
    target = fold.ours
    keys, queries = (
        np.concatenate([model.embed_images(s.features, s.positions_um) for s in p.sections])
        for p in (target.inside, target.outside)
    )
    W = effective_weights(
        *nearest(queries, keys, model.retrieval["k"]),
        n_references=len(keys), method="softmax", temperature=model.retrieval["temperature"],
    )  # fmt: skip
    np.testing.assert_allclose(plain, W @ target.inside.profiles[:, target.genes], atol=1e-4)
    assert whole.var(axis=0).mean() < plain.var(axis=0).mean()
