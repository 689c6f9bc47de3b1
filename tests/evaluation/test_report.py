"""What is said of an evaluation: one document without NaN, scores for a card, one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.evaluation import OURS, methods
from bleepdb.evaluation.report import Report
from bleepdb.files import write_json
from bleepdb.panel import Panel
from bleepdb.training import fit


def test_the_document_is_plain_json_and_complete(report, tmp_path):
    document = report.to_json()
    write_json(tmp_path / "report.json", document)  # refuses NaN
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == document
    assert read["sections"] == {"S0": "A", "S1": "A", "S2": "B"}
    assert [f["in_training_donor"] for f in read["folds"]] == [True, True, False]
    assert read["run_card"]["seeds"] == {"evaluation": 0}
    assert read["methods"].keys() == read["mean"].keys() == read["interval"].keys()
    for name, (low, high) in read["interval"][OURS].items():
        assert low <= read["mean"][OURS][name] + 0.05
        assert high >= read["mean"][OURS][name] - 0.05
        assert read["noise_ceiling"][name] > 0
    genes = read["genes"]
    assert len(genes["symbol"]) == len(genes["pcc"]) == len(genes["predictable"]) == 70
    assert any("training donors" in note for note in read["notes"])
    assert read["features"]["ours"]["levels"] == "multilevel"
    assert read["features"]["published"]["levels"] == "penultimate"


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
    assert poorer.to_json()["mean"][OURS].keys() == set(poorer.sets)


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


def test_intervals_are_labelled_for_what_they_are(report):
    assert "stays in training" in report.interval_label
    alone = replace(report, donors=dict.fromkeys(report.donors, "A"))
    assert "within one donor" in alone.interval_label
    apart = replace(report, settings=replace(report.settings, by="donor"))
    assert "held-out donors" in apart.interval_label


def test_a_report_is_made_of_what_was_run(report, three):
    again = Report.of(report.folds, report.settings, *three)
    assert again.to_json()["mean"] == report.to_json()["mean"]
