"""`bleepdb train` with the backbone: the folder that it writes is enough for all that follows."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from bleepdb.encoders import load_backbone, load_model

ENCODER = ("--encoder", "timm:test_efficientnet", "--weights", "random:0", "--accelerator", "cpu")
TILES = ("--scale-um", 400, "--tile-px", 64)
QUICK = tuple(
    word
    for value in ("epochs=3", "batch=16", "dimension=16", "variable_genes=30",
                  "backbone_rate=0.001", "stain=0.05", "brightness=0.05")
    for word in ("--set", value)
)  # fmt: skip


def training(sections, out, *words):
    return ("train", sections, "--out", out, "--exclude-donor", "donor-c", "--recipe", "bleep",
            *ENCODER, *TILES, *QUICK, *words)  # fmt: skip


@pytest.fixture(scope="module")
def trained(sections, tmp_path_factory, cli):
    """The model folder, and what the command said."""
    out = tmp_path_factory.mktemp("trained") / "model"
    answer = cli(*training(sections, out, "--set", "train_backbone=last", "--json"))
    assert answer.code == 0, answer.err
    return out, json.loads(answer.out)


@pytest.fixture(scope="module")
def asked(sections, trained, tmp_path_factory, cli):
    """An atlas of the trained model, and the words of a query of the held-out donor's slide."""
    atlas = tmp_path_factory.mktemp("atlas") / "atlas"
    answer = cli(
        "index", sections, "--model", trained[0], "--atlas", atlas, "--exclude-donor", "donor-c"
    )
    assert answer.code == 0, answer.err
    slide = sections.parent / "donor-c-1.jpg"
    return atlas, ("query", slide, "--atlas", atlas, "--tissue", "breast", "--slide-mpp", 1.6,
                   "--spots", slide.with_suffix(".h5ad"), "--genes", "all")  # fmt: skip


def test_card_and_picture_keep_the_loss(trained):
    folder, told = trained
    card = json.loads((folder / "model.json").read_text())
    assert card["training"]["loss"] == told["loss"]
    assert len(told["loss"]) == 3
    assert all(np.isfinite(told["loss"]))
    assert told["spots_per_s"] > 0
    picture = np.asarray(Image.open(folder / "loss.png").convert("L"))
    assert min(picture.shape) > 200
    assert (picture < 128).any()
    assert not list(folder.parent.glob("*checkpoint*"))


def test_only_the_last_stage_moved_and_no_statistics_did(trained):
    folder, _ = trained
    card = json.loads((folder / "model.json").read_text())
    assert card["features"]["weights"] == "trained:random:0"
    start = load_backbone("timm:test_efficientnet", weights="random:0", device="cpu")
    before = {k: v.numpy() for k, v in start.network.state_dict().items()}
    after = load_file(folder / "backbone.safetensors")
    assert before.keys() == after.keys()
    moved = {k for k in before if not np.array_equal(before[k], after[k])}
    last = max(int(k.split(".")[1]) for k in before if k.startswith("blocks."))
    assert any(k.startswith(f"blocks.{last}.") for k in moved)
    assert not [k for k in moved if "running" in k or "tracked" in k]
    assert not [k for k in moved if k.startswith(("conv_stem", "bn1"))]
    assert not [k for k in moved if k.startswith("blocks.") and int(k.split(".")[1]) < last]
    assert load_model(folder).feature_spec.weights_digest != start.weights_digest


def test_index_query_and_explain_work_with_the_folder(trained, asked, tmp_path, cli):
    atlas, query = asked
    folder, _ = trained
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)  # nothing points back to where it was trained
    out = tmp_path / "imputed.h5ad"
    answer = cli(*query, "--out", out, "--model", moved)
    assert answer.code == 0, answer.err
    found = ad.read_h5ad(out)
    assert np.isfinite(found.X).all()
    assert set(found.uns["bleepdb"]["references"]["donor"]) <= {"donor-a", "donor-b"}
    answer = cli("explain", out, "--atlas", atlas, "--tile", found.obs_names[0], "--gene",
                 found.var_names[0], "--json")  # fmt: skip
    assert answer.code == 0, answer.err


def test_the_atlas_alone_says_what_to_pass(asked, tmp_path, cli):
    _, query = asked
    out = tmp_path / "imputed.h5ad"
    answer = cli(*query, "--out", out)
    assert answer.code == 2
    (line,) = [text for text in answer.err.splitlines() if text.startswith("error:")]
    assert "trained" in line
    assert "--model" in line
    assert not out.exists()


def test_weights_of_another_training_are_refused(trained, asked, tmp_path, cli):
    folder, _ = trained
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    data = bytearray((copy / "backbone.safetensors").read_bytes())
    data[-3] ^= 0x40
    (copy / "backbone.safetensors").write_bytes(data)
    answer = cli(*asked[1], "--out", tmp_path / "x.h5ad", "--model", copy)
    assert answer.code == 2
    assert "is not the backbone that the model was trained with" in answer.err
    (copy / "backbone.safetensors").unlink()
    answer = cli(*asked[1], "--out", tmp_path / "x.h5ad", "--model", copy)
    assert answer.code == 2
    assert "backbone.safetensors" in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "train_backbone=some"), "train_backbone"),
        (("--set", "train_backbone=last", "--set", "context=0.5"), "context"),
        (("--set", "train_backbone=last", "--precision", "8"), "no precision '8'"),
        (("--set", "train_backbone=last", "--resume"), "no such checkpoint"),
        (("--resume",), "for training the backbone"),
        (("--devices", 2), "for training the backbone"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(sections, tmp_path, cli, words, said):
    answer = cli(*training(sections, tmp_path / "model", *words))
    assert answer.code == 2, answer.err
    (line,) = [text for text in answer.err.splitlines() if text.startswith("error:")]
    assert said in line
    assert not (tmp_path / "model").exists()
