"""What is held out decides nothing, every method sees the same fold, and the null knows nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.errors import InputError
from bleepdb.evaluation import OURS, Settings, methods, predict_with, run
from bleepdb.evaluation.protocol import difference, refuse_twins, splits_of
from bleepdb.gene_sets import choose
from bleepdb.training import Pairs, fit
from bleepdb.training.recipes.linear import Folded, LinearSettings
from bleepdb.training.tuning import Target

FAST = Settings(permutations=0, epochs=2, only=("S2",))


def target_of(pairs, held="S2"):
    return Target(pairs.subset([n for n in pairs.names if n != held]), pairs.subset([held]))


def with_counts(pairs, name, counts):
    changed = [
        replace(s, counts=sp.csr_matrix(counts), digest="f" * 64) if s.section == name else s
        for s in pairs.sections
    ]
    return Pairs(tuple(changed), pairs.feature_spec)


def test_signal_planted_in_the_held_out_counts_changes_nothing_but_the_scores(three):
    ours, published = three
    counts = ours.sections[2].counts.toarray()
    counts[:, 40] = np.arange(len(counts)) * 50  # the most variable and highest gene by far
    before = run(ours, published, FAST)[0]
    after = run(with_counts(ours, "S2", counts), with_counts(published, "S2", counts), FAST)[0]
    np.testing.assert_array_equal(after.imputed, before.imputed)
    assert after.alpha == before.alpha
    assert after.members.keys() == before.members.keys()
    for name, genes in before.members.items():
        np.testing.assert_array_equal(after.members[name], genes)
    assert after.genes.digest == before.genes.digest
    assert after.pcc[40] != before.pcc[40]
    assert after.scores != before.scores


def test_gene_sets_are_those_of_the_training_sections(report, three):
    for fold in report.folds:
        inside = three[0].subset(fold.split.train)
        wanted = choose(inside.profiles, inside.panel)
        assert fold.members.keys() == wanted.keys()
        for name, genes in wanted.items():
            np.testing.assert_array_equal(fold.members[name], genes)


def test_the_null_refits_what_a_fit_and_a_query_give(three):
    target = target_of(three[0])
    folded = Folded.of(target, LinearSettings())
    model = fit(target.inside, hyper={"alpha": 1e3})
    plain = predict_with(model, target, target.genes)
    n = len(target.inside)
    np.testing.assert_allclose(folded.predict(1e3), plain, atol=1e-5)
    np.testing.assert_allclose(folded.predict(1e3, np.arange(n)), plain, atol=1e-5)
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(81), 81 + rng.permutation(81)])
    shuffled = [
        replace(s, counts=s.counts[order[81 * i : 81 * (i + 1)] - 81 * i])
        for i, s in enumerate(target.inside.sections)
    ]
    inside = Pairs(tuple(shuffled), target.inside.feature_spec)
    again = predict_with(
        fit(inside, hyper={"alpha": 1e3}), Target(inside, target.outside), target.genes
    )
    found = folded.predict(1e3, order)
    np.testing.assert_allclose(found, again, atol=1e-4)
    assert np.abs(found - plain).max() > 0.05


def test_shuffled_pairs_score_near_zero_and_true_ones_far_above(report):
    for name, one in report.null().items():
        assert abs(one["mean"]) < 0.1, name
        assert one["observed"] > one["p99"] + 0.1, name
        assert one["p_value"] == pytest.approx(1 / 26)


def test_without_signal_nothing_is_found(paired):
    donors = ("A", "A", "B")
    settings = replace(FAST, permutations=25)
    fold = run(
        paired(donors, signal=0.0), paired(donors, signal=0.0, levels="penultimate"), settings
    )[0]
    for name in fold.sets:
        assert abs(fold.scores[OURS][name]) < 0.2
        assert fold.scores[OURS][name] < np.max(fold.null[name]) + 0.05


def test_every_method_is_scored_on_the_same_genes(report):
    for fold in report.folds:
        assert list(fold.scores) == [*(m.name for m in methods.BASELINES), OURS]
        for name, scores in fold.scores.items():
            assert scores.keys() == fold.sets.keys()
            assert all(np.isfinite(v) for v in scores.values())
            assert fold.draws[name].keys() == fold.sets.keys()
        mean = fold.scores[methods.MEAN]
        assert set(mean.values()) == {0.0}
        assert fold.undefined[methods.MEAN] == fold.sets
        for method in (OURS, methods.RIDGE_EQUAL, methods.RIDGE_RAW):
            assert fold.scores[method]["HEG"] > 0.25
        assert 0 < fold.variance_ratio[OURS] < 1.5
        assert fold.rmse[OURS] < fold.rmse[methods.MEAN]
        genes = fold.members["HEG"]
        assert fold.ceiling[genes].mean() > fold.pcc[genes].mean()
        assert fold.imputed.shape == (81, len(fold.genes))


def test_differences_are_paired(report):
    gap, (low, high) = difference(report.folds, methods.MEAN, "HEG")
    assert gap == pytest.approx(report.means()[OURS]["HEG"])
    assert low < gap < high
    assert difference(report.folds, OURS, "HEG") == (0.0, (0.0, 0.0))


def test_by_donor_no_donor_stands_on_both_sides(three):
    settings = replace(FAST, by="donor", only=None)
    folds = run(*three, settings)
    assert [f.split.name for f in folds] == ["A", "B"]
    donor_of = {s.section: s.donor for s in three[0].sections}
    for fold in folds:
        trained = {donor_of[s] for s in fold.split.train}
        assert not trained & {donor_of[s] for s in fold.split.test}
        assert not fold.in_training_donor
    assert folds[0].imputed.shape[0] == 162
    by_section = run(*three, replace(FAST, only=("S0", "S2")))
    assert [f.in_training_donor for f in by_section] == [True, False]


def test_what_cannot_be_split_is_refused(three):
    ours, published = three
    with pytest.raises(InputError, match="no fold S9"):
        splits_of(ours, Settings(only=("S9",)))
    for wrong in ({"by": "slide"}, {"permutations": -1}, {"epochs": 0}, {"seed": -1}):
        with pytest.raises(InputError, match=r"hold out|permutations"):
            Settings(**wrong)
    with pytest.raises(InputError, match="2 donors"):
        splits_of(ours.subset(["S0", "S1"]), Settings(by="donor"))
    twin = replace(ours.sections[0], section="copy")
    with pytest.raises(InputError, match="S0 and copy hold the same counts"):
        refuse_twins(Pairs((*ours.sections, twin), ours.feature_spec))
    with pytest.raises(ValueError, match="same sections"):
        run(ours, published.subset(["S0", "S1"]), FAST)


def test_progress_reaches_its_end(three):
    seen = []
    run(*three, FAST, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(seen)
