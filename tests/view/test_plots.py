"""The picture is drawn, and shows what it says."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bleepdb.view import measured_beside_imputed, score_curves


def draw(path, imputed):
    side = np.arange(6.0) * 100
    xy = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    measured = np.stack([xy[:, 0], xy[:, 1]], 1).astype(np.float32)
    measured_beside_imputed(measured, imputed(measured), xy, ["A", "B"], path, title="t")
    return np.asarray(Image.open(path).convert("L"))


def test_values_make_a_difference_to_the_picture(tmp_path):
    same = draw(tmp_path / "a.png", lambda m: m)
    other = draw(tmp_path / "b.png", lambda m: m[::-1])
    assert same.shape == other.shape
    assert min(same.shape) > 300
    upper = slice(0, same.shape[0] // 2 - 20)
    lower = slice(same.shape[0] // 2 + 20, None)
    assert (same[upper] == other[upper]).all()
    assert (same[lower] != other[lower]).mean() > 0.1


def test_values_that_are_missing_are_left_out(tmp_path):
    full = draw(tmp_path / "a.png", lambda m: m)
    holes = draw(tmp_path / "b.png", lambda m: np.where(np.arange(36)[:, None] % 2, m, np.nan))
    assert (holes > 250).sum() > (full > 250).sum()


def curves(path, grown, floor):
    panels = {
        name: {"retrained": ([0.1, 0.2, 0.3], [0.01] * 3), "grown": (grown, [0.02] * 3)}
        for name in ("HEG", "MG")
    }
    score_curves(
        [1, 2, 3], panels, path, title="t", x_label="donors",
        floors=dict.fromkeys(panels, ("frozen", floor)),
    )  # fmt: skip
    return np.asarray(Image.open(path).convert("L"))


def test_curves_and_the_floor_are_drawn(tmp_path):
    low = curves(tmp_path / "a.png", [0.1, 0.1, 0.1], 0.1)
    high = curves(tmp_path / "b.png", [0.1, 0.2, 0.29], 0.1)
    assert low.shape == high.shape
    assert (low != high).mean() > 0.005
    assert (curves(tmp_path / "c.png", [0.1, 0.1, 0.1], 0.2) != low).any()
    middle = low.shape[1] // 2
    assert (low[:, :middle] < 250).any()
    assert (low[:, middle:] < 250).any()
