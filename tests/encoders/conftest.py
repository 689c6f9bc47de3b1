"""A small model with a random backbone, and a made slide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bleepdb.encoders import Affine, Context, FeatureSpec, Model, load_backbone
from bleepdb.panel import Panel
from bleepdb.tissue.geometry import TileGeometry

LITE0 = "timm:tf_efficientnet_lite0"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def backbone():
    return load_backbone(LITE0, weights="random:0", device="cpu", precision="float32")


@pytest.fixture(scope="session")
def model(backbone):
    """A calibrated model whose towers are drawn; its features are of two scales."""
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0, 200.0), 64))
    rng = np.random.default_rng(0)

    def tower(inputs):
        mean = rng.normal(size=inputs).astype(np.float32) * np.float32(0.01)
        return Affine(mean, rng.normal(size=(inputs, 12)).astype(np.float32))

    made = Model(
        recipe="linear",
        hyper={"alpha": 1.0},
        feature_spec=spec,
        context=Context(50.0, 150.0, 0.5),
        image_tower=tower(2 * 2 * 1280),
        profile_tower=tower(30),
        panel=Panel(tuple(f"G{i}" for i in range(30)), ("",) * 30),
        profile_mean=rng.random(30).astype(np.float32),
        components=np.linalg.qr(rng.normal(size=(30, 5)))[0].astype(np.float32),
        key="image",
        retrieval={
            "method": "softmax", "k": 20, "temperature": 0.1,
            "smoothing": {"inner_um": 50.0, "outer_um": 150.0, "weight": 0.3},
        },
        training={
            "sections": [{"section": "s", "donor": "d", "digest": "a" * 64, "spots": 4}],
            "pitch_um": 100.0, "seed": 0,
        },
        readout=rng.normal(size=(30, 5)).astype(np.float32),
    )  # fmt: skip
    return made.calibrated(backbone)


def draw(path, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 240, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((600, 600), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def slide(tmp_path):
    """A made image of 600 x 600 px."""
    return draw(tmp_path / "slide.png", 1)


@pytest.fixture
def other_slide(tmp_path):
    return draw(tmp_path / "other.png", 2)
