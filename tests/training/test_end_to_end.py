"""Training on tiles: resumed to the bit with augmentation and dropout, and only its own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from PIL import Image

from bleepdb.encoders import FeatureSpec, load_backbone, model_to_blobs
from bleepdb.errors import InputError, ModelError
from bleepdb.panel import Panel
from bleepdb.tissue import Section, TileGeometry
from bleepdb.training.end_to_end import fit_on_tiles
from bleepdb.training.run import Run

HYPER = {
    "epochs": 3, "batch": 12, "dimension": 8, "variable_genes": 20, "dropout": 0.2,
    "train_backbone": "all", "backbone_rate": 1e-3, "brightness": 0.1, "contrast": 0.1,
    "stain": 0.1,
}  # fmt: skip
STEPS = 4  # of 50 spots, 12 at a time


@pytest.fixture(scope="module")
def start():
    return load_backbone(
        "timm:test_efficientnet", weights="random:0", device="cpu", precision="float32"
    )


@pytest.fixture(scope="module")
def sections(tmp_path_factory):
    """Two sections of 25 spots on slides of their own."""
    made = []
    for number in range(2):
        rng = np.random.default_rng(number)
        coarse = rng.integers(60, 240, (12, 12, 3), dtype=np.uint8)
        path = tmp_path_factory.mktemp("slide") / f"{number}.png"
        Image.fromarray(coarse).resize((400, 400), Image.Resampling.BICUBIC).save(path)
        x, y = np.meshgrid(np.arange(60, 341, 70), np.arange(60, 341, 70))
        made.append(
            Section(
                section=f"s{number}",
                donor=f"d{number}",
                tissue="breast",
                species="human",
                assay="visium",
                counts=sp.csr_matrix(rng.poisson(3.0, (25, 30)).astype(np.int64)),
                panel=Panel(tuple(f"G{i}" for i in range(30))),
                barcodes=np.array([f"b{i}" for i in range(25)]),
                xy_px=np.column_stack([x.ravel(), y.ravel()]).astype(float),
                source=path,
                slide_path=path,
                slide_mpp=1.0,
            )
        )
    return made


def trained(start, sections, run, *, stop_after=None, seed=3, **hyper):
    """Train; stop, as if killed, after so many steps."""

    def watch(done, _):
        if stop_after is not None and done >= stop_after * HYPER["batch"]:
            raise KeyboardInterrupt

    spec = FeatureSpec.of(start, "penultimate", TileGeometry((48.0, 96.0), 32))
    return fit_on_tiles(
        sections, spec, start, run.launch(), run, hyper=HYPER | hyper, seed=seed, progress=watch
    )


def run_of(path=None, every=None, *, resume=False):
    return Run(accelerator="cpu", checkpoint=path, checkpoint_steps=every, resume=resume)


@pytest.mark.parametrize("targets", ["published", "stable"])
@pytest.mark.parametrize(("stop_after", "every"), [(STEPS + 2, None), (STEPS + 3, 2)])
def test_resumed_is_uninterrupted_to_the_bit(start, sections, tmp_path, targets, stop_after, every):
    path = tmp_path / "c.safetensors"
    torch.manual_seed(9)
    before = torch.get_rng_state()
    want = trained(start, sections, run_of(), targets=targets)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyboardInterrupt):
        trained(
            start, sections, run_of(path, every), stop_after=stop_after, targets=targets
        )  # fmt: skip
    got = trained(start, sections, run_of(path, every, resume=True), targets=targets)
    assert model_to_blobs(got.model) == model_to_blobs(want.model)
    assert got.backbone.weights_digest == want.backbone.weights_digest
    assert got.history.loss == want.history.loss
    # It went on in the middle; and what is compared is no backbone that nothing happened to.
    assert got.history.spots < want.history.spots
    assert want.backbone.weights_digest != start.weights_digest


def test_the_seed_and_the_strength_of_augmentation_tell(start, sections):
    want = trained(start, sections, run_of()).backbone.weights_digest
    assert trained(start, sections, run_of(), seed=4).backbone.weights_digest != want
    for change in ({"stain": 0.0}, {"brightness": 0.0}, {"contrast": 0.0}, {"flips": False}):
        assert trained(start, sections, run_of(), **change).backbone.weights_digest != want


def test_what_started_is_left_as_it_was(start, sections):
    digest = start.weights_digest
    made = trained(start, sections, run_of(), epochs=1)
    fresh = load_backbone("timm:test_efficientnet", weights="random:0", device="cpu")
    assert start.weights_digest == digest == fresh.weights_digest
    assert not any(w.requires_grad for w in start.network.parameters())
    assert made.backbone.weights == "trained:random:0"
    assert not any(w.requires_grad for w in made.backbone.network.parameters())


def test_a_checkpoint_of_another_training_is_refused(start, sections, tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(start, sections, run_of(path, 1), stop_after=3)
    again = run_of(path, 1, resume=True)
    with pytest.raises(ModelError, match=r"hyper\.stain was 0\.1, is 0\.2"):
        trained(start, sections, again, stain=0.2)
    with pytest.raises(ModelError, match="seed was 3, is 4"):
        trained(start, sections, again, seed=4)
    with pytest.raises(ModelError, match="sections"):
        trained(start, sections[:1], again)


def test_other_weights_to_start_from_are_another_training(start, sections, tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(start, sections, run_of(path, 1), stop_after=3)
    other = load_backbone(
        "timm:test_efficientnet", weights="random:1", device="cpu", precision="float32"
    )
    with pytest.raises(ModelError, match="weights"):
        trained(other, sections, run_of(path, 1, resume=True))


def test_context_cannot_be_trained(start, sections):
    with pytest.raises(InputError, match="context"):
        trained(start, sections, run_of(), context=0.5)
