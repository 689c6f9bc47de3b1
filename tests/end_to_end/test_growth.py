"""`bleepdb evaluate --growth` from the command line: tables, document, picture, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

SMALL = ("--encoder", "timm:test_efficientnet", "--weights", "random:0", "--scale-um", 400)


def test_growth_writes_what_it_shows(sections, tmp_path, cli):
    report, figure = tmp_path / "growth.json", tmp_path / "growth.png"
    words = ("evaluate", sections, "--growth", "--by", "donor", *SMALL)
    answer = cli(*words, "--json-out", report, "--figure", figure)
    assert answer.code == 0, answer.err
    read = json.loads(report.read_text())
    assert read["summary"] in answer.out
    for name in ("HEG", "HVG"):
        assert f"{name}: mean PCC per gene as donors are added" in answer.out
        for step in read["curve"]:
            for at in step["sets"][name].values():
                assert f"{at['pcc']['value']:.3f} ±{at['spread']:.3f}" in answer.out
    assert {w["held_out"] for w in read["walks"]} == {"donor-a", "donor-b", "donor-c"}
    picture = np.asarray(Image.open(figure).convert("L"))
    assert min(picture.shape) > 300
    assert (picture < 128).any()
    answer = cli(*words, "--fold", "donor-c", "--orders", 1, "--json")
    assert answer.code == 0, answer.err
    one = json.loads(answer.out)
    assert len(one["walks"]) == 1
    assert one["walks"][0] in read["walks"] or one["walks"][0]["held_out"] == "donor-c"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--growth", "--card", "m"), "--card cannot be given with --growth"),
        (("--growth", "--pred", "a.h5ad", "--truth", "b"), "--pred, --truth cannot be given"),
        (("--growth", "--permutations", 100), "--permutations cannot be given with --growth"),
        (("--growth", "--epochs", 3), "--epochs cannot be given with --growth"),
        (("--orders", 6), "--orders needs --growth"),
        (("--start", 1, "--orders", 2), "--orders, --start needs --growth"),
        (("--growth", "--seeds", 2, "--html", "x.html"), "--seeds, --html cannot be given"),
        (("--growth", "--recipe", "linear", "--recipe", "bleep"), "takes one recipe"),
        (("--growth", "--figure", "x.svg"), "is no .png"),
        (("--growth", "--figure", "x.png", "--json-out", "x.png"), "report and for the picture"),
        (("--growth", "--by", "donor", "--start", 2), "at least 4 donors"),
        (("--growth", "--exclude-section", "donor-a-1"), "at least 3 sections"),
        (("--growth", "--fold", "nobody"), "no fold nobody"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_work(
    sections, cli, words, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    answer = cli("evaluate", sections, *words)
    assert answer.code == 2, answer.err
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not list(tmp_path.iterdir())
