"""The picture is drawn, and shows what it says."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bleepdb.view import measured_beside_imputed


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
