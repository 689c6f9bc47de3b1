"""What is said of growth: means over orders and folds, paired intervals, one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.evaluation import GrowthReport, GrowthSettings, grow
from bleepdb.evaluation.growth import Score, Step, Walk
from bleepdb.evaluation.held_out import DRAWS
from bleepdb.files import write_json
from bleepdb.splits import Split


def score(value, seed=0):
    noise = np.random.default_rng(seed).normal(size=DRAWS) * 0.1
    return Score({"HEG": value}, {"HEG": value + noise})


def made(folds, *, by="donor", orders=2, gain=0.0):
    """Walks of two steps; fold i and order j start at i/10 + j/100."""
    names = [f"D{i}" for i in range(folds)]
    donors = {f"S{i}": name for i, name in enumerate(names)}
    walks = []
    for i, name in enumerate(names):
        others = tuple(n for n in names if n != name)
        split = Split(name, tuple(s for s, d in donors.items() if d != name), (f"S{i}",), by)
        for j in range(orders):
            base = i / 10 + j / 100
            first = score(base, i)
            steps = (
                Step(("S0",), 1, 10, 10, first, score(base + 0.03, i), first),
                Step(
                    ("S0", "S1"), 2, 30, 10, score(base + gain + 0.01 * i, i),
                    score(base + 0.1, i), score(base + 0.2, i),
                ),
            )  # fmt: skip
            walks.append(Walk(split, others, steps))
    return GrowthReport(walks, GrowthSettings(by=by), donors, {"levels": "none"})


def test_means_are_over_orders_and_folds_and_the_spread_is_over_orders():
    first, last = made(3, gain=0.05).curve
    at = first.sets["HEG"]
    assert at["grown"].pcc.value == pytest.approx(0.105)
    assert at["grown"].spread == pytest.approx(0.005)
    assert at["grown"].lead.value == at["grown"].gain.value == 0
    assert at["plain"].gain.value == pytest.approx(0.03)
    at = last.sets["HEG"]
    assert at["grown"].gain.value == pytest.approx(0.06)
    assert at["plain"].gain.value == pytest.approx(0.1)
    assert at["retrained"].gain.value == pytest.approx(0.2)
    assert at["grown"].lead.value == pytest.approx(-0.14)
    assert at["plain"].lead.value == pytest.approx(-0.1)
    assert (last.added, last.sections, last.donors, last.spots, last.mapped) == (2, 2, 2, 30, 10)
    assert made(3, orders=1).curve[0].sets["HEG"]["grown"].spread == 0


def test_intervals_are_over_blocks_of_few_donors_and_paired():
    report = made(3, gain=0.05)
    assert not report.over_donors
    assert "few donors" in report.interval_label
    point = report.curve[1].sets["HEG"]["grown"]
    # The same draws stand on both sides, so that a difference does not move with them.
    assert point.lead.high - point.lead.low < 1e-9
    noise = np.mean([np.random.default_rng(i).normal(size=DRAWS) * 0.1 for i in range(3)], axis=0)
    low, high = np.quantile(0.105 + 0.06 + noise, [0.025, 0.975])
    assert (point.pcc.low, point.pcc.high) == pytest.approx((low, high))


def test_intervals_are_over_donors_where_there_are_five():
    report = made(5, gain=0.05)
    assert report.over_donors
    assert "5 held-out donors" in report.interval_label
    gain = report.curve[1].sets["HEG"]["grown"].gain
    assert gain.value == pytest.approx(0.07)
    # Donors gain .05 to .09; the SD of a mean of five draws is .0063.
    assert 0.05 < gain.low < 0.062
    assert 0.078 < gain.high < 0.09
    assert report.curve[1].sets["HEG"]["retrained"].gain.low == pytest.approx(0.2)


def test_sections_of_one_donor_are_drawn_together():
    report = made(6, by="section")
    donors = {s: "one" if s != "S5" else "two" for s in report.donors}
    assert not GrowthReport(report.walks, report.settings, donors, {}).over_donors
    few = GrowthReport(report.walks, report.settings, donors, {})
    assert "the held-out donor stays in training" in few.interval_label
    assert any("donor come into the atlas" in note for note in few.notes())
    assert not any("donor come into the atlas" in note for note in made(3).notes())


def test_the_sentence_says_what_share_comes_without_retraining_where_that_is_sure():
    report = made(5, gain=0.08)
    assert report.summary() == (
        "from 1 to 2 donors, growing without retraining brings +0.100 on HEG (50%); with the "
        "low-rank map left out it brings +0.100 on HEG (50%); retraining brings +0.200 on HEG"
    )
    walks = [
        Walk(w.split, w.order, (w.steps[0], replace(w.steps[1], retrained=w.steps[0].retrained)))
        for w in report.walks
    ]
    assert GrowthReport(walks, report.settings, report.donors, {}).summary() == (
        "from 1 to 2 donors, growing without retraining brings +0.100 on HEG; with the "
        "low-rank map left out it brings +0.100 on HEG; retraining brings +0.000 on HEG "
        "(not surely above 0)"
    )


def test_the_document_is_plain_json_and_complete(paired, tmp_path):
    pairs, settings = paired(("A", "B", "C")), GrowthSettings(by="donor")
    report = GrowthReport.of(grow(pairs, settings), settings, pairs)
    document = report.to_json()
    write_json(tmp_path / "growth.json", document)  # refuses NaN
    read = json.loads((tmp_path / "growth.json").read_text())
    assert read == document
    assert read["format"] == "bleepdb-growth"
    assert read["sections"] == {"S0": "A", "S1": "B", "S2": "C"}
    assert [s["added"] for s in read["curve"]] == [1, 2]
    assert len(read["walks"]) == 6
    means = [w["steps"][1]["grown"]["HVG"] for w in read["walks"]]
    assert read["curve"][1]["sets"]["HVG"]["grown"]["pcc"]["value"] == pytest.approx(np.mean(means))
    assert read["frozen"]["HVG"] == read["curve"][0]["sets"]["HVG"]["grown"]["pcc"]
    assert read["orders"] == 2
    assert read["run_card"]["seeds"] == {"evaluation": 0}
    assert read["features"]["levels"] == "multilevel"
