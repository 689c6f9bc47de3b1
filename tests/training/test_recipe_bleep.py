"""The bleep recipe: its NumPy tower is the torch head, its seed decides, its genes are scanpy's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bleepdb.encoders import model_from_blobs, model_to_blobs
from bleepdb.errors import InputError
from bleepdb.training import fit
from bleepdb.training import loss as losses
from bleepdb.training.recipes import bleep

QUICK = {"epochs": 3, "batch": 32, "dimension": 16, "variable_genes": 12}


def settings(**changes):
    return bleep.BleepSettings(**(QUICK | changes))


def test_the_numpy_tower_is_the_head_in_evaluation_mode():
    torch.manual_seed(4)
    head = bleep.Head(9, 16, 0.5).eval()
    with torch.no_grad():
        head.norm.weight.mul_(1.7)
        head.norm.bias.add_(0.3)
    columns = np.array([0, 2, 3, 5, 6, 7, 9, 10, 11])
    zero, one = np.zeros(9, np.float32), np.ones(9, np.float32)
    tower = bleep._tower(head, columns, zero, one, zero, 12)
    x = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
    with torch.inference_mode():
        want = head(torch.from_numpy(x[:, columns])).numpy()
    np.testing.assert_allclose(tower(x), want, atol=1e-5)


def test_the_seed_decides_and_the_global_generator_is_left_alone(pairs_of):
    pairs = pairs_of("a", "b")
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = fit(pairs, "bleep", hyper=QUICK, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert fit(pairs, "bleep", hyper=QUICK, seed=1).space_id == first.space_id
    assert fit(pairs, "bleep", hyper=QUICK, seed=2).space_id != first.space_id


def test_variable_genes_are_the_union_that_scanpy_chooses(pairs_of, tmp_path):
    pairs = pairs_of("a", "b")
    np.save(tmp_path / "profiles.npy", pairs.profiles)
    np.save(tmp_path / "section.npy", pairs.section_of_spot)
    script = """
import sys, warnings
warnings.simplefilter("ignore")
import anndata, numpy as np, scanpy
x, s = np.load("profiles.npy"), np.load("section.npy")
kept = np.zeros(x.shape[1], bool)
for i in np.unique(s):
    table = anndata.AnnData(x[s == i])
    kept |= scanpy.pp.highly_variable_genes(
        table, n_top_genes=11, flavor="seurat", inplace=False)["highly_variable"].to_numpy()
np.save("want.npy", np.flatnonzero(kept))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    if "No module named 'scanpy'" in done.stderr:
        pytest.skip("scanpy is not installed")
    assert done.returncode == 0, done.stderr
    want = np.load(tmp_path / "want.npy")
    assert 11 < len(want) < 22  # 11: where the dispersions of neither section tie
    np.testing.assert_array_equal(bleep.variable_columns(pairs, 11), want)


def test_the_last_incomplete_batch_is_dropped(pairs_of, monkeypatch):
    pairs = pairs_of("a", "b")  # 98 spots
    seen = []
    real = losses.bleep_loss

    def counted(images, profiles, **given):
        seen.append(len(images))
        return real(images, profiles, **given)

    monkeypatch.setattr(losses, "bleep_loss", counted)
    fit(pairs, "bleep", hyper=QUICK)
    assert seen == [32] * 3 * 3
    seen.clear()
    fit(pairs, "bleep", hyper=QUICK | {"batch": 500, "epochs": 2})
    assert seen == [98, 98]  # fewer spots than a batch: all of them are one


def test_the_last_epoch_is_kept(monkeypatch):
    rng = np.random.default_rng(0)
    images, profiles = (torch.tensor(rng.normal(size=(64, 6)), dtype=torch.float32) for _ in "ab")
    after = []
    made = []
    real = bleep.Head.__init__

    def kept(self, *given):
        real(self, *given)
        made.append(self)

    monkeypatch.setattr(bleep.Head, "__init__", kept)

    def note(done, spots):
        assert spots == 3 * 64
        if done % 64 == 0:
            after.append(made[0].fc.weight.detach().clone())

    heads = bleep.train_heads(images, profiles, settings(), seed=0, progress=note)
    assert len(after) == 3
    assert not torch.equal(after[1], after[2])
    assert torch.equal(heads[0].fc.weight, after[2])
    assert not heads[0].training
    assert not heads[1].training


def test_only_features_of_several_levels_are_standardised_unless_told(pairs_of):
    flat = fit(pairs_of("a", levels="penultimate"), "bleep", hyper=QUICK)
    assert not flat.hyper["standardise"]
    assert (flat.image_tower.scale == 1).all()
    several = pairs_of("a")
    model = fit(several, "bleep", hyper=QUICK)
    x = (several.features - model.image_tower.mean) * model.image_tower.scale
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-4)


def test_a_constant_feature_says_nothing(pairs_of):
    pairs = pairs_of("a")
    dull = pairs.sections[0].features.copy()
    dull[:, 3] = 7
    model = fit(replace(pairs, sections=(replace(pairs.sections[0], features=dull),)), "bleep",
                hyper=QUICK)  # fmt: skip
    moved = dull.copy()
    moved[:, 3] = 1e6
    where = pairs.sections[0].positions_um
    np.testing.assert_array_equal(model.embed_images(moved, where), model.embed_images(dull, where))


@pytest.mark.parametrize(
    "hyper",
    [
        {"epoch": 3}, {"epochs": 0}, {"epochs": 1.5}, {"dropout": 1.0}, {"batch": True},
        {"targets": "stabel"}, {"targets": 1}, {"train_backbone": "some"}, {"stain": 1.0},
    ],
)  # fmt: skip
def test_hyperparameters_that_cannot_be_are_refused(pairs_of, hyper):
    with pytest.raises(InputError, match="bleep"):
        fit(pairs_of("a"), "bleep", hyper=hyper)


def test_the_card_keeps_the_loss_of_each_epoch_which_falls(pairs_of):
    model = fit(pairs_of("a", "b"), "bleep", hyper=QUICK | {"epochs": 12})
    curve = model.training["loss"]
    assert len(curve) == 12
    assert curve[-1] < 0.8 * curve[0]
    assert check_card(model)


def check_card(model):
    blobs = model_to_blobs(model)
    assert model_to_blobs(model_from_blobs(blobs)) == blobs
    return True


def test_stable_targets_train_another_model(pairs_of):
    pairs = pairs_of("a", "b")
    published = fit(pairs, "bleep", hyper=QUICK)
    stable = fit(pairs, "bleep", hyper=QUICK | {"targets": "stable"})
    assert published.hyper["targets"] == "published"
    assert stable.space_id != published.space_id
    assert check_card(stable)


def test_a_loss_that_is_no_number_ends_the_training(pairs_of):
    with pytest.raises(InputError, match="learning rate"):
        fit(pairs_of("a"), "bleep", hyper=QUICK | {"learning_rate": 1e30})


def test_training_the_backbone_on_features_is_refused(pairs_of):
    with pytest.raises(InputError, match="tiles"):
        fit(pairs_of("a"), "bleep", hyper={"train_backbone": "all"})
