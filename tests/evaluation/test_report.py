"""What is said of an evaluation: one document without NaN, scores for a card, one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.contracts import faults
from bleepdb.evaluation import OURS, Report, Settings, methods
from bleepdb.evaluation.document import write_document
from bleepdb.evaluation.held_out import DRAWS
from bleepdb.panel import Panel
from bleepdb.splits import block_draws
from bleepdb.training import fit

RIDGE = methods.RIDGE_EQUAL


def test_the_document_is_plain_json_and_complete(report, tmp_path):
    document = report.to_json()
    write_document(tmp_path / "report.json", document)  # refuses NaN
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == document
    assert faults("evaluation", read) == []
    assert read["donors"] == {"S0": "A", "S1": "A", "S2": "B"}
    assert read["held_out"] == "section"
    assert [f["in_training_donor"] for f in read["folds"]] == [True, True, False]
    assert read["run_card"]["seeds"] == {"evaluation": 0}
    names = [m["name"] for m in read["methods"]]
    assert names[0] == read["ours"] == OURS
    assert list(read["results"]) == names == [OURS, *read["comparisons"]]
    for name, found in read["results"][OURS].items():
        assert found["low"] <= found["mean"] + 0.05
        assert found["high"] >= found["mean"] - 0.05
        assert found["sd_over_seeds"] is None
        assert read["ceiling"][name] > 0
    genes = read["genes"]
    assert len(genes["symbol"]) == len(genes["pcc"]) == len(genes["predictable"]) == 70
    assert any("training donors" in note for note in read["notes"])
    assert read["features"]["ours"]["levels"] == "multilevel"
    assert read["features"]["published"]["levels"] == "penultimate"
    assert read["features"]["colour"] is None
    structure = read["structure"]
    assert len(structure["genes"]) == len(structure["measured"]) > 3
    assert structure["agreement"][OURS] > structure["agreement"][methods.BLEEP_PUBLISHED] - 1
    assert set(structure["imputed"]) == set(read["settings"]["structure_of"])
    assert read["pseudobulk"].keys() == set(names)
    mixing = read["folds"][2]["mixing"]
    assert mixing["share"] == {"A": pytest.approx(1)}


def test_a_document_that_lost_something_breaks_the_schema(report):
    document = report.to_json()
    for key in ("seeds", "folds", "results", "interval_label"):
        assert faults("evaluation", {k: v for k, v in document.items() if k != key})
    assert faults("evaluation", document | {"more": 1})
    assert faults("evaluation", document | {"version": 1})


def test_means_are_over_folds(report):
    wanted = np.mean([f.scores[OURS]["HEG"] for f in report.folds])
    assert report.means()[OURS]["HEG"] == pytest.approx(wanted)
    one = report.comparisons()[methods.RIDGE_EQUAL]["HEG"]
    base = np.mean([f.scores[methods.RIDGE_EQUAL]["HEG"] for f in report.folds])
    assert one["ratio"] == pytest.approx(wanted / base)
    assert one["difference"] == pytest.approx(wanted - base)
    assert one["low"] <= one["difference"] + 0.02
    assert 0 <= one["folds_above"] <= 3


def test_a_set_that_one_fold_lacks_is_left_out(report):
    first = replace(
        report.folds[0], sets={k: v for k, v in report.folds[0].sets.items() if k != "MG"}
    )
    poorer = replace(report, folds=[first, *report.folds[1:]])
    assert "MG" in report.sets
    assert "MG" not in poorer.sets
    assert poorer.to_json()["results"][OURS].keys() == set(poorer.sets)


def test_without_shuffles_there_is_no_null(report):
    bare = replace(report, folds=[replace(f, null={}) for f in report.folds])
    assert bare.null() == {}
    assert bare.to_json()["null"] == {}


def test_gene_scores_match_by_name_and_know_what_is_predictable(report):
    panel = Panel((*reversed(report.panel.symbols), "NEW"))
    found = report.gene_scores(panel)
    pcc = np.stack([f.pcc for f in report.folds])[:, ::-1]
    np.testing.assert_allclose(found["pcc"][:-1], pcc.mean(axis=0))
    assert np.isnan(found["pcc"][-1])
    assert np.isnan(found["noise_ceiling"][-1])
    wanted = (pcc.mean(axis=0) >= 0.2) & (pcc.min(axis=0) >= 0)
    np.testing.assert_array_equal(found["predictable"][:-1] > 0, wanted)
    assert found["predictable"][-1] == 0
    assert 0.2 < wanted.mean() < 1


def test_a_model_card_takes_the_scores(report, three):
    model = fit(three[0], hyper={"alpha": 1e3})
    carded = model.with_scores(report.card_scores(model.panel))
    assert carded.space_id == model.space_id
    scores = carded.gene_scores
    np.testing.assert_allclose(scores["pcc"], report.gene_scores(model.panel)["pcc"], atol=1e-4)
    assert carded.predictable.sum() > 10
    assert carded.scores["sets"]["HEG"] == pytest.approx(report.means()[OURS]["HEG"], abs=1e-4)
    json.dumps(carded.scores, allow_nan=False)


def with_gap(report, gaps):
    """The same report with other differences between ours and an equal ridge."""
    folds = []
    for fold in report.folds:
        draws, scores = dict(fold.draws), dict(fold.scores)
        draws[OURS] = {
            k: fold.draws[methods.RIDGE_EQUAL][k] + gaps.get(k, 0.0) + np.linspace(-0.01, 0.01, 500)
            for k in fold.draws[OURS]
        }
        folds.append(replace(fold, draws=draws, scores=scores))
    return replace(report, folds=folds)


def test_the_sentence_says_where_a_ridge_is_enough(report):
    every = dict.fromkeys(report.sets, 0.05)
    assert "on every gene set" in with_gap(report, every).summary()
    assert "a ridge is enough here" in with_gap(report, {}).summary()
    mixed = with_gap(report, {"HEG": 0.05}).summary()
    assert "above an equal ridge on HEG (" in mixed
    assert mixed.endswith("a ridge is enough")


def test_without_an_equal_ridge_the_sentence_says_so(report):
    kept = tuple(m for m in report.about.methods if m["name"] != methods.RIDGE_EQUAL)
    fewer = replace(report, about=replace(report.about, methods=kept))
    assert "not known" in fewer.summary()


def test_intervals_are_labelled_for_what_they_are(report):
    assert "stays in training" in report.interval_label
    one = replace(report.about, donors=dict.fromkeys(report.about.donors, "A"))
    assert "within donor, serial sections" in replace(report, about=one).interval_label
    apart = replace(report, about=replace(report.about, held_out="donor"))
    assert "held-out donors" in apart.interval_label


def many_donors(report, gaps):
    """The same report with one section of its own donor a fold, and ours that far above."""
    folds = []
    for i, gap in enumerate(gaps):
        one = report.folds[i % 3]
        scores = {RIDGE: {"HEG": 0.1 * i}, OURS: {"HEG": 0.1 * i + gap}}
        section = replace(one.sections[0], donor=f"D{i}", scores=scores)
        folds.append(replace(one, sections=(section,), in_training_donor=False))
    return replace(report, folds=tuple(folds))


def test_intervals_are_over_donors_where_there_are_five_and_paired(report):
    """A steady lead has no width, however far donors lie apart; one donor may decide."""
    gaps = [0.02, 0.02, 0.02, 0.02, 0.02, 0.02]
    steady = many_donors(report, gaps).bootstrap
    assert steady.over_donors
    assert steady.difference(OURS, RIDGE, "HEG") == pytest.approx((0.02, 0.02))
    low, high = steady.interval(RIDGE, "HEG")
    assert low < 0.2
    assert high > 0.3
    one = many_donors(report, [0.3, 0, 0, 0, 0, 0]).bootstrap
    low, high = one.difference(OURS, RIDGE, "HEG")
    assert low == 0
    assert high == pytest.approx(0.15)
    assert "over 6 held-out donors, paired" in steady.label({}, "donor")
    assert not many_donors(report, gaps[:4]).bootstrap.over_donors
    assert "over 4" not in many_donors(report, gaps[:4]).interval_label


def test_drawing_donors_takes_all_their_sections(report):
    """Against a plain loop over donors."""
    folds = many_donors(report, [0.0] * 5).folds
    first = folds[0]
    two = replace(first, sections=(first.sections[0], replace(first.sections[0], donor="D1")))
    boot = replace(many_donors(report, [0.0] * 5), folds=(two, *folds[1:])).bootstrap
    found = boot.samples(OURS, "HEG")
    donors = ["D0", "D1", "D1", "D2", "D3", "D4"]
    share = [0.5, 0.5, 1, 1, 1, 1]
    scores = [s.scores[OURS]["HEG"] for f in boot.folds for s in f.sections]
    drawn = block_draws(np.array([int(d[1]) for d in donors]), n=DRAWS, seed=0)
    for times, value in zip(drawn[:20], found[:20], strict=True):
        weight = times * np.array(share)
        assert value == pytest.approx((weight * scores).sum() / weight.sum())


def test_a_report_is_made_of_what_was_run(report, three):
    settings = Settings(by="section", permutations=25, epochs=3, recipes=("linear",),
                        methods=("mean profile", "image kNN", "ridge", "bleep"))  # fmt: skip
    again = Report.of(report.folds, settings, *three)
    first, second = report.to_json(), again.to_json()
    assert {k: v for k, v in first.items() if k != "run_card"} == {
        k: v for k, v in second.items() if k != "run_card"
    }
