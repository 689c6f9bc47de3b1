"""Baselines that are trained: the head reaches least squares, the transformer sees the section."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bleepdb.evaluation.methods import (
    BASELINES,
    HISTOGENE_EQUAL,
    HISTOGENE_PUBLISHED,
    Fold,
    histogene,
)
from bleepdb.evaluation.methods.post import EQUAL, PLAIN
from bleepdb.evaluation.methods.st_net import head, train_head
from bleepdb.evaluation.methods.stopping import choose_epochs
from bleepdb.metrics import pearson_per_gene
from bleepdb.training import Pairs
from bleepdb.training.tuning import Target

EPOCHS = 40
ROW = {m.name: m for m in BASELINES}


def target_of(pairs, held="S2"):
    return Target(pairs.subset([n for n in pairs.names if n != held]), pairs.subset([held]))


def linear_data(n=60, p=5, t=4, noise=0.3):
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(n, p)), rng.normal(size=(11, p))
    x -= x.mean(axis=0)
    y = x @ rng.normal(size=(p, t)) + noise * rng.normal(size=(n, t))
    return x, y - y.mean(axis=0), q


def test_the_head_begins_at_the_mean_and_approaches_least_squares():
    x, y, q = linear_data()
    wanted = q @ np.linalg.lstsq(x, y, rcond=None)[0]
    found = train_head(x, y, q, [1, 5, 400], seed=0, batch=len(x))
    away = [np.abs(f - wanted).max() for f in found]
    assert away[2] < 1e-4 < away[1] < away[0]
    assert np.linalg.norm(found[0]) < 0.5 * np.linalg.norm(wanted)
    # In batches it reaches the same, but for the noise of batches.
    batches = train_head(x, y, q, [200], seed=0)[0]
    assert np.abs(batches - wanted).max() < 0.2
    assert not np.array_equal(batches, train_head(x, y, q, [200], seed=1)[0])


def test_the_head_on_components_is_the_projected_head_on_all_genes():
    x, y, q = linear_data(t=6)
    _, _, axes = np.linalg.svd(y, full_matrices=False)
    every = train_head(x, y, q, [3], seed=5)[0]
    few = train_head(x, y @ axes[:2].T, q, [3], seed=5)[0]
    np.testing.assert_allclose(few @ axes[:2], every @ axes[:2].T @ axes[:2], atol=1e-5)


def test_epochs_are_given_in_any_order():
    x, y, q = linear_data()
    rising, falling = (train_head(x, y, q, e, seed=0) for e in ([1, 4], [4, 1]))
    for a, b in zip(rising, falling[::-1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_head_learns_what_images_tell(three):
    target = target_of(three[0])
    for settings in (PLAIN, EQUAL):
        pcc = pearson_per_gene(head(target, settings, [20], seed=0)[0], target.truth)
        assert np.nanmean(pcc[target.where["HEG"]]) > 0.25


def test_inner_folds_choose_when_to_stop(three):
    asked = []

    def predict(target, epochs):
        asked.append((target.inside.names, list(epochs)))
        noise = np.random.default_rng(0).normal(size=target.truth.shape)
        return [target.truth if n == 7 else noise for n in epochs]

    pairs = three[0]
    assert choose_epochs(pairs, (3, 7, 30), predict) == 7
    assert asked == [(("S2",), [3, 7, 30]), (("S0", "S1"), [3, 7, 30])]  # one donor at a time
    assert choose_epochs(pairs.subset(["S0"]), (3, 7, 30), predict) == 3
    assert len(asked) == 2


@pytest.fixture(scope="module")
def predicted(three):
    """The transformer on a fold."""
    target = target_of(three[0])
    return target, histogene.transformer(target, PLAIN, [EPOCHS], seed=0)[0]


def test_the_transformer_learns_what_images_tell(predicted, paired):
    target, values = predicted
    pcc = pearson_per_gene(values, target.truth)
    assert np.nanmean(pcc[target.where["HEG"]]) > 0.25
    mute = target_of(paired(("A", "A", "B"), signal=0.0))
    without = histogene.transformer(mute, PLAIN, [EPOCHS], seed=0)[0]
    pcc = pearson_per_gene(without, mute.truth)
    assert abs(np.nanmean(pcc[mute.where["HEG"]])) < 0.15


def small(target, queries=None, steps=4, **changed):
    """A short training on raw features; `changed` goes to the held-out section."""
    if changed:
        section = replace(target.outside.sections[0], **changed)
        target = Target(target.inside, Pairs((section,), target.outside.feature_spec))
    y = target.inside.profiles[:, :5] - target.inside.profiles[:, :5].mean(axis=0)
    q = target.outside.features if queries is None else queries
    return histogene.train_transformer(target, target.inside.features, y, q, [steps], seed=0)[0]


def test_spots_of_a_section_see_each_other_and_know_where_they_are(three):
    target = target_of(three[0])
    plain = small(target)
    queries = target.outside.features.copy()
    queries[0] += 5.0
    assert np.abs(small(target, queries)[1:] - plain[1:]).max() > 1e-4
    places = target.outside.sections[0].positions_um
    np.testing.assert_array_equal(small(target, positions_um=places + 12345.0), plain)
    mirrored = places * np.array([-1.0, 1.0])
    assert np.abs(small(target, positions_um=mirrored) - plain).max() > 1e-4
    # What lies beyond the places of training takes the outermost embedding.
    far = small(target, positions_um=places * 3)
    assert np.isfinite(far).all()


def test_large_sections_are_cut_into_strips(three, monkeypatch):
    target = target_of(three[0])
    whole = small(target)
    monkeypatch.setattr(histogene, "MOST_TOKENS", 30)
    section = target.outside.sections[0]
    cut = histogene.strips(section)
    assert [len(rows) for rows in cut] == [27, 27, 27]
    np.testing.assert_array_equal(np.sort(np.concatenate(cut)), np.arange(81))
    x = section.positions_um[:, 0]
    assert all(x[a].max() <= x[b].min() for a, b in pairwise(cut))
    found = small(target)
    assert np.isfinite(found).all()
    assert np.abs(found - whole).max() > 1e-4


def test_published_epochs_are_kept_and_inner_folds_choose_ours(three, monkeypatch):
    target = target_of(three[0])
    monkeypatch.setattr(histogene, "EPOCHS", (1, 3))
    fold = Fold(target, target, 0, 1)
    np.testing.assert_array_equal(
        ROW[HISTOGENE_PUBLISHED].predict(fold),
        histogene.transformer(target, PLAIN, [3], seed=0)[0],
    )
    found = ROW[HISTOGENE_EQUAL].predict(fold)
    tried = histogene.transformer(target, EQUAL, [1, 3], seed=0)
    assert any(np.array_equal(found, one) for one in tried)
