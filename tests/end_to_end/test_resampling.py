"""The filter of the tiles is chosen at training, and is a part of the model."""

from __future__ import annotations

import json


def test_the_filter_makes_a_space_of_its_own(sections, tmp_path, cli):
    cards = {}
    for resampling in ("area", "scaled"):
        model = tmp_path / resampling
        answer = cli(
            "train", sections, "--out", model, "--tile-px", 64, "--resampling", resampling
        )  # fmt: skip
        assert answer.code == 0, answer.err
        cards[resampling] = json.loads((model / "model.json").read_text())
        assert cards[resampling]["features"]["geometry"]["resampling"] == resampling
    assert cards["area"]["space_id"] != cards["scaled"]["space_id"]


def test_a_filter_that_is_not_known(sections, tmp_path, cli):
    answer = cli("train", sections, "--out", tmp_path / "model", "--resampling", "magic")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.strip().endswith("unknown resampling 'magic'; use area, bilinear or scaled")
    assert not (tmp_path / "model").exists()
