"""What is held out decides nothing, every method sees the same fold, and the null knows nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.errors import InputError
from bleepdb.evaluation import OURS, Report, Settings, folds_of, methods, predict_with, run
from bleepdb.evaluation.held_out import WITHOUT, HeldOutTruth, ScoredTarget, rings_of
from bleepdb.evaluation.scoring import Scorer
from bleepdb.gene_sets import choose
from bleepdb.training import Pairs, fit
from bleepdb.training.recipes.linear import Folded, LinearSettings
from bleepdb.training.tuning import Target

FEW = ("mean profile", "ridge, our features, all equal")
FAST = Settings(
    by="section", permutations=0, epochs=2, only=("S2",), recipes=("linear",), methods=FEW,
    keep_values=True,
)  # fmt: skip


MITO = ("MT-ND1", "MT-CO1", "MT-CYB", "RPL3", "RPS6", "RPLP0", "RPL10A", "RPSA")


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
    assert after.chosen == before.chosen
    assert after.members.keys() == before.members.keys()
    for name, genes in before.members.items():
        np.testing.assert_array_equal(after.members[name], genes)
    assert after.genes.digest == before.genes.digest
    assert after.pcc[40] != before.pcc[40]
    assert after.scores != before.scores


def test_gene_sets_are_those_of_the_training_sections(report, three):
    for fold in report.folds:
        inside = three[0].subset(fold.split.train)
        wanted = choose(inside.profiles, inside.panel, rings=rings_of(inside))
        assert {k for k in fold.members if not k.endswith(WITHOUT)} == wanted.keys()
        assert {"SVG", "ALL"} < wanted.keys()
        for name, genes in wanted.items():
            np.testing.assert_array_equal(fold.members[name], genes)


def test_sets_without_mitochondrial_and_ribosomal_genes_stand_beside_the_others(three):
    """And a score that hangs on them alone is gone there."""
    ours, _ = three
    renamed = tuple(
        replace(s, panel=replace(s.panel, symbols=(*s.panel.symbols[:-8], *MITO)))
        for s in ours.sections
    )
    pairs = Pairs(renamed, ours.feature_spec)
    held = HeldOutTruth.of(ScoredTarget(pairs.subset(["S0", "S1"]), pairs.subset(["S2"])))
    for name in ("HEG", "HVG", "ALL"):
        kept = {pairs.panel.symbols[i] for i in held.members[name + WITHOUT]}
        every = {pairs.panel.symbols[i] for i in held.members[name]}
        assert kept == every - set(MITO)
    assert set(MITO) <= {pairs.panel.symbols[i] for i in held.members["ALL"]}
    assert "MG" + WITHOUT not in held.sets
    values = np.random.default_rng(0).normal(size=held.truth.shape)
    of = held.sets["ALL"][-8:]
    values[:, of] = held.truth[:, of]
    scores = dict(zip(held.sets, Scorer(held, 0).scores(values).sets, strict=True))
    assert scores["ALL"] > scores["ALL" + WITHOUT] + 0.05


def test_the_null_refits_what_a_fit_and_a_query_give(three):
    target = target_of(three[0])
    folded = Folded.of(target, LinearSettings())
    model = fit(target.inside, hyper={"alpha": 1e3, "readout": 0})
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
        fit(inside, hyper={"alpha": 1e3, "readout": 0}),
        Target(inside, target.outside),
        target.genes,
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
    for name in fold.null:
        assert abs(fold.scores[OURS][name]) < 0.2
        assert fold.scores[OURS][name] < np.max(fold.null[name]) + 0.05


def test_every_method_is_scored_on_the_same_genes(report):
    for fold in report.folds:
        assert list(fold.scores) == report.names
        assert report.names[0] == report.ours == OURS
        assert {methods.MEAN, methods.KNN, methods.RIDGE_EQUAL} < set(report.names)
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
        assert fold.imputed is None


def test_every_section_has_scores_of_its_own_and_their_mean_is_the_folds(three):
    fold = run(*three, replace(FAST, by="donor", only=("A",)))[0]
    assert [s.section for s in fold.sections] == ["S0", "S1"]
    assert {s.donor for s in fold.sections} == {"A"}
    for name, scores in fold.scores.items():
        for key, score in scores.items():
            parts = [s.scores[name][key] for s in fold.sections]
            assert np.mean(parts) == pytest.approx(score, abs=1e-4)


def test_further_scores_are_what_they_say(three):
    target = ScoredTarget(three[0].subset(["S0", "S1"]), three[0].subset(["S2"]))
    held = HeldOutTruth.of(target)
    scorer = Scorer(held, 0)
    perfect = scorer.scores(held.truth)
    assert perfect.sets == pytest.approx(np.ones(len(held.sets)))
    assert perfect.rmse[0] == 0
    assert perfect.variance_ratio[0] == pytest.approx(1)
    assert perfect.moran[0] == pytest.approx(perfect.moran[1])
    assert perfect.moran[2] == pytest.approx(1)
    assert perfect.agreement[0] == pytest.approx(1)
    np.testing.assert_allclose(perfect.bulk, scorer.truth_bulk)
    rng = np.random.default_rng(1)
    noise = scorer.scores(rng.normal(size=held.truth.shape))
    assert abs(noise.agreement[0]) < 0.3
    assert abs(noise.moran[1]) < 0.1 < noise.moran[0]
    flat = scorer.scores(np.zeros_like(held.truth))
    assert np.isnan(flat.moran[1:]).all()
    assert np.isnan(flat.agreement[0])
    assert (flat.undefined == [len(w) for w in held.sets.values()]).all()


def test_by_donor_no_donor_stands_on_both_sides(three):
    settings = replace(FAST, by="auto", only=None)
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
    donors = {s.section: s.donor for s in ours.sections}
    with pytest.raises(InputError, match="no fold S9"):
        folds_of(donors, replace(FAST, only=("S9",)))
    for wrong in ({"by": "slide"}, {"permutations": -1}, {"epochs": 0}, {"seed": -1}, {"seeds": 0}):
        with pytest.raises(InputError, match=r"hold out|permutations"):
            Settings(**wrong)
    with pytest.raises(InputError, match="2 donors"):
        folds_of({"S0": "A", "S1": "A"}, Settings(by="donor"))
    with pytest.raises(ValueError, match="same sections"):
        run(ours, published.subset(["S0", "S1"]), FAST)
    twin = replace(ours.sections[0], section="copy", donor="C")
    pairs = Pairs((*ours.sections, twin), ours.feature_spec)
    with pytest.raises(InputError, match="S0 and copy hold the same counts"):
        run(pairs, None, replace(FAST, methods=("mean profile",)))
    allowed = replace(FAST, methods=("mean profile",), allow_twins=("S0=copy",))
    assert len(run(pairs, None, allowed)) == 1


def test_progress_reaches_its_end_and_says_what_it_does(three):
    seen = []
    run(*three, FAST, progress=lambda *step: seen.append(step))
    done, total, what = zip(*seen, strict=True)
    assert done == tuple(range(total[0] + 1))
    assert set(total) == {len(seen) - 1}
    assert what[:3] == ("fold S2: linear", *(f"fold S2: {name}" for name in FEW))
    assert what[-1] == "done"


def test_seeds_run_what_draws_once_each_and_the_rest_once(three):
    """The mean over seeds is that of single runs; what does not draw is as with one seed."""
    settings = replace(FAST, methods=(methods.RIDGE_EQUAL, methods.BLEEP_EQUAL), seed=4)
    two = run(*three, replace(settings, seeds=2))[0]
    assert set(two.by_seed) == {methods.BLEEP_EQUAL}
    single = [
        run(*three, replace(settings, seed=seed))[0].scores[methods.BLEEP_EQUAL] for seed in (4, 5)
    ]
    assert single[0] != single[1]
    for key, drawn in two.by_seed[methods.BLEEP_EQUAL].items():
        assert drawn == [one[key] for one in single]
        assert two.scores[methods.BLEEP_EQUAL][key] == pytest.approx(np.mean(drawn), abs=1e-5)
    one = run(*three, settings)[0]
    assert two.scores[methods.RIDGE_EQUAL] == one.scores[methods.RIDGE_EQUAL]
    report = Report.of([two], replace(settings, seeds=2), *three)
    wanted = np.std(two.by_seed[methods.BLEEP_EQUAL]["HEG"], ddof=1)
    assert report.sd_over_seeds(methods.BLEEP_EQUAL, "HEG") == pytest.approx(wanted)
    assert np.isnan(report.sd_over_seeds(methods.RIDGE_EQUAL, "HEG"))
    again = run(*three, replace(settings, seeds=2))[0]
    assert again.to_json() == two.to_json()


def test_unknown_rows_are_named_all_at_once(three):
    with pytest.raises(InputError, match=r"no method ridg \| sorcery.*family"):
        run(*three, replace(FAST, methods=("ridge", "ridg", "sorcery")))
    with pytest.raises(InputError, match="no recipe 'magic'"):
        run(*three, replace(FAST, recipes=("magic",)))


def test_lists_hold_out_what_they_name(three):
    settings = replace(FAST, by="auto", only=None, train=("S1",), test=("S2",))
    fold = run(*three, settings)[0]
    assert (fold.split.train, fold.split.test) == (("S1",), ("S2",))
    alone = run(three[0].subset(["S1", "S2"]), None, replace(FAST, only=("S2",)))[0]
    np.testing.assert_array_equal(fold.imputed, alone.imputed)
