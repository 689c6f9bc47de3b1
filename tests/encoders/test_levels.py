"""Levels of convolutional networks and transformers, and where their weights may come from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from bleepdb.encoders import FeatureSpec, default_tile_px, load_backbone
from bleepdb.errors import ModelError
from bleepdb.tissue import TileGeometry


def tiles(n: int, px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


def untrained(spec: str, seed: int = 0):
    return load_backbone(spec, weights=f"random:{seed}", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def tiny():
    return untrained("timm:test_convnext")


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> str:
    """A CLIP model of open_clip's own architecture, small enough to make in a moment."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "head_width": 32,
                       "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("open_clip") / "bleepdb-test-clip.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return "open_clip:bleepdb-test-clip"


@pytest.mark.parametrize(
    ("spec", "px", "penultimate", "multilevel"),
    [
        ("timm:tf_efficientnet_lite0", 224, 1280, 2 * (40 + 80 + 112 + 192 + 320)),
        ("timm:test_resnet", 64, 96, 2 * (48 + 192 + 96)),
        ("timm:test_convnext", 64, 64, 2 * (32 + 48 + 64)),
        ("timm:test_vit", 160, 64, 3 * 3 * 64),
        ("timm:vit_tiny_patch16_224", 224, 192, 3 * 3 * 192),
        ("timm:test_efficientnet", 64, 256, 2 * (32 + 48 + 64)),
        ("timm:convnextv2_atto", 64, 320, 2 * (80 + 160 + 320)),
        ("timm:mobilenetv3_small_050", 64, 1024, 2 * (16 + 24 + 24 + 48 + 288)),
        ("timm:regnetx_002", 64, 368, 2 * (56 + 152 + 368)),
        ("timm:swin_tiny_patch4_window7_224", 224, 768, 2 * (192 + 384 + 768)),
        ("timm:deit_tiny_distilled_patch16_224", 224, 192, 3 * 3 * 192),
        ("timm:xcit_nano_12_p16_224", 224, 128, 2 * 12 * 128),
        ("timm:test_vit?reg_tokens=4&dynamic_img_size=true&img_size=64", 96, 64, 3 * 3 * 64),
    ],
)
def test_levels_have_the_stated_widths(spec, px, penultimate, multilevel):
    backbone = untrained(spec)
    shown = tiles(2, px)
    for levels, width in (("penultimate", penultimate), ("multilevel", multilevel)):
        made = backbone.features(shown, levels)
        assert made.shape == (2, width)
        assert made.dtype == np.float32
        assert np.isfinite(made).all()
        assert not np.array_equal(made[0], made[1])


def test_an_open_clip_tower_gives_both_levels(tiny_clip):
    backbone = untrained(tiny_clip)
    assert backbone.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert backbone.tile_px == 64
    assert backbone.features(tiles(2, 64), "penultimate").shape == (2, 32)
    assert backbone.features(tiles(2, 64), "multilevel").shape == (2, 3 * 3 * 64)


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> None:
    """Small models of open_clip's other image towers: ResNet, CoCa, and one of timm."""
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    seen = {"image_size": 64, "layers": 4, "width": 64, "head_width": 32, "patch_size": 16}
    timm_tower = {
        "timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "avg",
        "timm_proj": "linear", "image_size": 64,
    }  # fmt: skip
    coca = seen | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    heads = {"dim_head": 16, "heads": 2}
    folder = tmp_path_factory.mktemp("towers")
    for name, config in {
        "resnet": {"vision_cfg": seen | {"layers": [1, 1, 1, 1], "width": 16}, "text_cfg": text},
        "coca": {
            "vision_cfg": coca,
            "text_cfg": text | {"embed_cls": True, "output_tokens": True},
            "multimodal_cfg": text | {"attn_pooler_heads": 2} | heads,
            "custom_text": True,
        },
        "timm": {"vision_cfg": timm_tower, "text_cfg": text},
    }.items():
        path = folder / f"bleepdb-test-{name}.json"
        path.write_text(json.dumps({"embed_dim": 32, **config}))
        open_clip.add_model_config(path)


@pytest.mark.parametrize(
    ("name", "multilevel"),
    [
        ("resnet", 2 * (16 * 8 + 16 * 16 + 16 * 32)),
        ("coca", 3 * 3 * 64),
        ("timm", 2 * (32 + 48 + 64)),
    ],
)
def test_other_towers_of_open_clip_give_both_levels(towers, name, multilevel):
    backbone = untrained(f"open_clip:bleepdb-test-{name}")
    shown = tiles(2, backbone.tile_px)
    for levels, width in (("penultimate", 32), ("multilevel", multilevel)):
        made = backbone.features(shown, levels)
        assert made.shape == (2, width)
        assert np.isfinite(made).all()
        assert not np.array_equal(made[0], made[1])


def test_a_transformer_of_any_size_gives_at_its_own_size_what_the_fixed_one_gives():
    fixed = untrained("timm:test_vit")
    free = untrained("timm:test_vit?dynamic_img_size=true")
    assert (fixed.tile_px, free.tile_px, free.tile_step) == (160, None, 16)
    assert fixed.weights_digest == free.weights_digest
    shown = tiles(2, 160)
    for levels in ("penultimate", "multilevel"):
        np.testing.assert_allclose(
            free.features(shown, levels), fixed.features(shown, levels), rtol=1e-5, atol=1e-6
        )
        assert free.features(tiles(2, 96), levels).shape == free.features(shown, levels).shape
    with pytest.raises(ModelError, match="multiple of 16 px, not 100; set the tile size to 96 px"):
        FeatureSpec.of(free, "penultimate", TileGeometry((100.0,), 100))
    padded = untrained("timm:test_vit?dynamic_img_size=true&dynamic_img_pad=true")
    assert padded.features(tiles(1, 100), "penultimate").shape == (1, 64)


def test_tiles_have_the_encoder_s_own_size_else_224():
    specs = ("timm:test_vit", "timm:test_resnet", "timm:test_vit?dynamic_img_size=true")
    assert [default_tile_px(untrained(spec)) for spec in specs] == [160, 224, 224]
    larger = untrained("timm:test_vit?img_size=64")
    assert default_tile_px(larger) == 64


def test_levels_of_lite0_are_means_and_spreads_of_blocks_2_to_6():
    backbone = untrained("timm:tf_efficientnet_lite0")
    seen = {}
    handles = [
        backbone.network.blocks[i].register_forward_hook(
            lambda _m, _a, made, i=i: seen.__setitem__(i, made.double())
        )
        for i in range(2, 7)
    ]
    made = backbone.features(tiles(3, 96), "multilevel")
    for handle in handles:
        handle.remove()
    maps = [seen[i].flatten(2) for i in range(2, 7)]
    means = [m.mean(dim=2) for m in maps]
    spreads = [m.std(dim=2, correction=0) for m in maps]
    np.testing.assert_allclose(made, torch.cat(means + spreads, dim=1), rtol=1e-4, atol=1e-5)


def test_levels_of_a_transformer_are_the_normed_tokens():
    backbone = untrained("timm:test_vit")
    shown = tiles(2, 160)
    made = backbone.features(shown, "multilevel")
    images = (torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        last = backbone.network.forward_features(images)
    token, patches = last[:, 0], last[:, 1:]
    want = torch.cat([token, patches.mean(dim=1), patches.std(dim=1, correction=0)], dim=1)
    np.testing.assert_allclose(made[:, -3 * 64 :], want, rtol=1e-4, atol=1e-5)


def test_bfloat16_comes_close_to_float32(tiny):
    shown = tiles(4, 64)
    exact = tiny.features(shown, "multilevel")
    rough = replace(tiny, precision="bfloat16").features(shown, "multilevel")
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_an_open_clip_weights_file_gives_back_the_tower(tmp_path, tiny_clip):
    torch.manual_seed(1)
    whole = open_clip.create_model(tiny_clip.removeprefix("open_clip:"))
    path = tmp_path / "clip.safetensors"
    safetensors.torch.save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, path)
    made = load_backbone(tiny_clip, weights=path, device="cpu", precision="float32")
    for name, value in whole.visual.state_dict().items():
        assert torch.equal(value, made.network.state_dict()[name])


def test_a_hub_model_is_read_from_the_local_copy(tmp_path, monkeypatch):
    """What a cluster without internet has: the hub's cache, filled elsewhere."""
    source = untrained("timm:test_vit", 9)
    folder = tmp_path / "models--lab--encoder"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    config = {
        "architecture": "test_vit", "num_classes": 0, "num_features": 64,
        "pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.2, 0.2], "num_classes": 0,
                           "input_size": [3, 160, 160], "fixed_input_size": True,
                           "classifier": "head", "license": "cc-by-nc-4.0"},
    }  # fmt: skip
    (snapshot / "config.json").write_text(json.dumps(config))
    state = {k: v.contiguous() for k, v in source.network.state_dict().items()}
    safetensors.torch.save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    made = load_backbone("hf-hub:lab/encoder", device="cpu", precision="float32")
    assert (made.weights, made.licence) == ("pretrained", "cc-by-nc-4.0")
    assert made.mean == (0.7, 0.6, 0.7)
    assert made.weights_digest == source.weights_digest


@pytest.mark.parametrize(
    ("spec", "weights", "told"),
    [
        ("resnet50", None, "names no backbone"),
        ("timm:", None, "names no backbone"),
        ("timm:no_such_net", None, "timm has no model 'no_such_net'"),
        ("open_clip:no-such-net/x", None, "open_clip has no model"),
        ("open_clip:RN50", None, "names no pretrained weights.*openai"),
        ("open_clip:RN50", "nowhere.pt", "nowhere.pt: no such weights file"),
        ("timm:test_vit", "random:x", "gives no seed"),
        ("timm:test_vit", "nowhere.pth", "nowhere.pth: no such weights file"),
    ],
)
def test_what_cannot_be_had_is_one_line(spec, weights, told):
    with pytest.raises(ModelError, match=told) as caught:
        load_backbone(spec, weights=weights, device="cpu")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_download_that_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"timm:test_vit\S*: its weights are not on") as caught:
        load_backbone("timm:test_vit.r160_in1k", device="cpu")
    assert "\n" not in str(caught.value)
    assert "weights file" in str(caught.value)


def test_tiles_that_do_not_fit_are_refused(tiny):
    vit = untrained("timm:test_vit")
    with pytest.raises(ModelError, match="takes tiles of 160 px, not 64"):
        vit.features(tiles(1, 64), "penultimate")
    with pytest.raises(ModelError, match="no levels are named"):
        tiny.features(tiles(1, 64), "all")
    with pytest.raises(ValueError, match="uint8"):
        tiny.features(tiles(1, 64).astype(np.float32), "penultimate")


def test_a_feature_spec_survives_its_json(tiny):
    spec = FeatureSpec.of(tiny, "penultimate", TileGeometry((100.0,), 64))
    again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    loaded = again.load_backbone(device="cpu")
    assert loaded.weights_digest == tiny.weights_digest
    with pytest.raises(ModelError, match="features are of version 99"):
        FeatureSpec.from_json(spec.to_json() | {"version": 99})
    with pytest.raises(ModelError, match=r"came from the file mine\.pth"):
        replace(spec, weights="file:mine.pth").load_backbone(device="cpu")


def test_the_card_owns_the_pixel_statistics(tiny):
    spec = replace(
        FeatureSpec.of(tiny, "penultimate", TileGeometry((100.0,), 64)), mean=(0.1, 0.2, 0.3)
    )
    assert spec.load_backbone(device="cpu").mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("spec", "px", "widths"),
    [("timm:test_convnext", 64, [32, 48, 64]), ("timm:test_vit", 160, [64, 64, 64])],
)
def test_each_feature_knows_its_level(spec, px, widths):
    backbone = untrained(spec)
    found = backbone.level_of_columns("multilevel", px)
    assert len(found) == backbone.features(tiles(1, px), "multilevel").shape[1]
    each = 3 if "vit" in spec else 2  # class token, mean and SD; or mean and SD
    assert np.bincount(found).tolist() == [each * w for w in widths]
    assert not backbone.level_of_columns("penultimate", px).any()


def test_the_means_and_spreads_of_a_level_are_one_block(tiny):
    found = tiny.level_of_columns("multilevel", 64).tolist()
    one = [0] * 32 + [1] * 48 + [2] * 64
    assert found == one * 2
