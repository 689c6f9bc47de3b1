"""Known encoders: the table is whole, its networks have their published size, files are enough.

Nothing is downloaded: where the hub's answer matters, its one function that fetches a file is
replaced by one that gives that answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import httpx
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bleepdb.encoders import FeatureSpec, default_tile_px, known, load_backbone
from bleepdb.encoders.known import KnownEncoder, Pixels, known_encoder, known_encoders, resolve
from bleepdb.encoders.naming import ARGUMENTS, joined_spec, split_spec
from bleepdb.encoders.parts import ConvStem, with_classes
from bleepdb.encoders.presence import presence
from bleepdb.errors import MissingExtraError, ModelError
from bleepdb.tissue import TileGeometry

# Millions of parameters as the LazySlide model registry gives them, each from its model card.
PUBLISHED = {
    "uni": 303.4, "uni2-h": 681.4, "virchow": 631.2, "virchow2": 631.2, "phikon": 85.8,
    "phikon-v2": 303.4, "hibou-b": 85.7, "hibou-l": 303.7, "lunit-dino-s8": 21.7, "lunit-bt": 23.5,
    "ctranspath": 27.5, "prov-gigapath": 1130, "h-optimus-0": 1130, "h-optimus-1": 1130,
    "gpfm": 303,
}  # fmt: skip
TINY = KnownEncoder(
    name="tiny",
    spec="hf-hub:lab/Tiny",
    about="a small transformer with the traits of the large ones",
    library="timm",
    architecture="test_vit",
    arguments={
        "dynamic_img_size": True, "init_values": 1e-5, "mlp_layer": "SwiGLUPacked",
        "act_layer": "SiLU", "mlp_ratio": 5.0, "reg_tokens": 4, "img_size": 64,
    },
    pixels=Pixels((0.7, 0.6, 0.7), (0.2, 0.25, 0.2)),
    input_px=64,
    licence="CC-BY-NC-ND-4.0",
    source="here",
)  # fmt: skip


def tiles(n: int, px: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


@pytest.fixture
def tiny(monkeypatch):
    """A table with one more record."""
    added = {**known_encoders(), "tiny": TINY}
    monkeypatch.setattr(known, "known_encoders", lambda: added)
    return TINY


@pytest.fixture
def no_hub(monkeypatch):
    """Whoever asks the hub for a file has failed."""

    def asked(*words, **more):
        raise AssertionError(f"the hub was asked for {words} {more}")

    monkeypatch.setattr("bleepdb.encoders.hub.hf_hub_download", asked)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", asked)


@pytest.fixture
def weights(tmp_path):
    """A weights file for TINY, and the network that wrote it."""
    torch.manual_seed(3)
    made = timm.create_model("test_vit", num_classes=0, **with_classes("", TINY.arguments)).eval()
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    path = tmp_path / "tiny.safetensors"
    safetensors.torch.save_file(made.state_dict(), path)
    return path, made


def test_the_table_is_whole():
    table = known_encoders()
    assert len(table) >= 25
    for name, one in table.items():
        assert name == one.name == name.lower()
        assert ":" not in name
        assert set(one.arguments) <= ARGUMENTS
        with_classes(one.spec, one.arguments)
        assert one.source.startswith("https://") or one.library == "builtin"
        assert one.access in {"open", "gated", "on request", "package"}
        assert (one.needs is None) == (one.install is None)
        assert one.tried == (name in {"colour", "efficientnet-lite0"})
        if one.library != "builtin":
            assert 0 < min(one.pixels.std) <= max(one.pixels.mean) < 1


def test_a_short_name_stands_for_one_spec_that_stands_for_itself():
    specs = {name: resolve(name)[0] for name in known_encoders()}
    assert len(set(specs.values())) == len(specs)
    for name, spec in specs.items():
        assert resolve(spec) == (spec, known_encoder(name))
        base, arguments = split_spec(spec)
        assert arguments == known_encoder(name).arguments
        assert resolve(base)[0] == spec  # what a person copies from a model card of the hub
    assert resolve("HF-HUB:mahmoodlab/uni".replace("HF-HUB", "hf-hub"))[0] == specs["uni"]
    assert resolve("timm:resnet18") == ("timm:resnet18", None)
    assert split_spec(resolve("uni?img_size=448")[0])[1]["img_size"] == 448


def test_the_table_needs_no_torch():
    code = (
        "import sys; from bleepdb.encoders.known import known_encoders;"
        "from bleepdb.encoders.presence import presence;"
        "[presence(k) for k in known_encoders().values()];"
        "print([m for m in ('torch', 'timm', 'open_clip') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_their_published_size(name):
    """A wrong depth, width or MLP would show in the number of parameters."""
    one = known_encoder(name)
    with torch.device("meta"):  # nothing is allocated
        made = timm.create_model(
            one.architecture, num_classes=0, **with_classes(one.spec, one.arguments)
        )
    count = sum(p.numel() for p in made.parameters()) / 1e6
    told = PUBLISHED[name]
    assert count == pytest.approx(told, abs=6 if told > 1000 else 0.06 if told % 1 else 0.6)
    assert one.width in {made.num_features, 2 * made.num_features}


words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,12}", fullmatch=True)
values = (
    st.booleans()
    | st.integers(0, 4096)
    | st.floats(0, 4096, allow_nan=False)
    | words
    | st.just("")
    | st.lists(st.integers(1, 9), min_size=1, max_size=4)
)


@given(st.dictionaries(st.sampled_from(sorted(ARGUMENTS)), values))
def test_arguments_survive_the_spec(arguments):
    spec = joined_spec("timm:x", arguments)
    base, found = split_spec(spec)
    assert (base, found) == ("timm:x", arguments)
    assert joined_spec(base, found) == spec


@pytest.mark.parametrize(
    "query",
    [
        "checkpoint_path=/etc/passwd", "pretrained=true", "img_size", "depth=1000000000",
        "img_size=-1", "act_layer=os.system%28", "global_pool=a/b", "reg_tokens=null",
        'depths=[1,"../x"]', "img_size=NaN",
    ],
)  # fmt: skip
def test_arguments_that_are_none_are_refused(query):
    """A card comes from elsewhere: what it names is looked at before a library sees it."""
    told = "is no constructor argument|is no number, flag or name|names no layer"
    with pytest.raises(ModelError, match=told) as caught:
        load_backbone(f"timm:test_vit?{query}", weights="random:0", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_file_is_enough_for_a_known_encoder(tiny, no_hub, weights, tmp_path):
    path, network = weights
    as_pth = tmp_path / "tiny.pth"
    torch.save({"state_dict": network.state_dict()}, as_pth)
    for encoder in ("tiny", "hf-hub:lab/tiny"):
        for file in (path, as_pth):
            made = load_backbone(encoder, weights=file, device="cpu", precision="float32")
            assert made.name == "hf-hub:lab/Tiny"
            assert (made.mean, made.std) == tiny.pixels
            assert (made.tile_px, made.tile_step) == (None, 16)
            assert made.licence == "CC-BY-NC-ND-4.0"
            assert made.weights == f"file:{file.name}"
    for px in (64, 96):
        shown = tiles(2, px)
        centred = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
        centred = (centred - torch.tensor(tiny.pixels.mean)[:, None, None]) / torch.tensor(
            tiny.pixels.std
        )[:, None, None]
        with torch.inference_mode():
            want = network(centred)
        np.testing.assert_allclose(made.features(shown, "penultimate"), want, atol=1e-5)
        assert made.features(shown, "multilevel").shape == (2, 3 * 3 * 64)
    with pytest.raises(ModelError, match="multiple of 16 px, not 100; set the tile size to 96 px"):
        made.features(tiles(1, 100), "penultimate")


def test_a_file_of_half_precision_fills_a_network_of_float32(tiny, no_hub, weights, tmp_path):
    _, network = weights
    half = tmp_path / "half.safetensors"
    rounded = {k: v.half() for k, v in network.state_dict().items()}
    safetensors.torch.save_file(rounded, half)
    made = load_backbone("tiny", weights=half, device="cpu", precision="float32")
    for name, value in made.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, rounded[name].float())


def test_a_network_that_computes_tables_of_its_own_is_filled_too(no_hub, tmp_path):
    """Swin's relative positions are in no file: a network that is only filled would lack them."""
    spec = "timm:swin_tiny_patch4_window7_224?embed_dim=24&depths=[1,1,1,1]&embed_layer=ConvStem"
    drawn = load_backbone(spec, weights="random:1", device="cpu", precision="float32")
    path = tmp_path / "swin.safetensors"
    state = {k: v.contiguous() for k, v in drawn.network.state_dict().items()}
    safetensors.torch.save_file(state, path)
    made = load_backbone(spec, weights=path, device="cpu", precision="float32")
    assert made.weights_digest == drawn.weights_digest
    shown = tiles(2, 224)
    for levels in ("penultimate", "multilevel"):
        np.testing.assert_array_equal(made.features(shown, levels), drawn.features(shown, levels))


def test_the_spec_alone_builds_the_same_network_again(tiny, no_hub, weights, monkeypatch):
    """A card keeps the arguments: it does not lean on today's table."""
    path, _ = weights
    made = load_backbone("tiny", weights=path, device="cpu", precision="float32")
    spec = FeatureSpec.of(made, "penultimate", TileGeometry((100.0,), 64))
    document = spec.to_json()
    assert split_spec(document["backbone"]) == ("hf-hub:lab/Tiny", tiny.arguments)
    changed = replace(
        TINY, arguments={"no_embed_class": True}, pixels=Pixels((0.5,) * 3, (0.5,) * 3)
    )
    monkeypatch.setattr(known, "known_encoders", lambda: {"tiny": changed})
    again = FeatureSpec.from_json(document).load_backbone(weights=path, device="cpu")
    assert again.weights_digest == made.weights_digest
    assert (again.spec, again.mean, again.tile_step) == (made.spec, made.mean, made.tile_step)
    # A card of before has the name alone, and is read as it is: its space stays what it was.
    monkeypatch.setattr(known, "known_encoders", lambda: {"tiny": TINY})
    older = FeatureSpec.from_json(document | {"backbone": "hf-hub:lab/Tiny"})
    assert older.to_json()["backbone"] == "hf-hub:lab/Tiny"
    assert older.load_backbone(weights=path, device="cpu").weights_digest == made.weights_digest


def test_tokens_that_are_not_pooled_give_class_token_and_mean_of_patches(tiny, no_hub, weights):
    path, network = weights
    made = load_backbone("tiny?global_pool=", weights=path, device="cpu", precision="float32")
    shown = tiles(2, 64)
    centred = torch.from_numpy(shown).permute(0, 3, 1, 2).float() / 255
    centred -= torch.tensor(tiny.pixels.mean)[:, None, None]
    centred /= torch.tensor(tiny.pixels.std)[:, None, None]
    with torch.inference_mode():
        tokens = network.forward_features(centred)
    assert tokens.shape[1] == 1 + 4 + 16  # class, registers, patches
    want = torch.cat([tokens[:, 0], tokens[:, 5:].mean(dim=1)], dim=1)
    np.testing.assert_allclose(made.features(shown, "penultimate"), want, atol=1e-5)


def test_the_hub_is_asked_once_for_the_files_of_a_known_encoder(
    tiny, weights, monkeypatch, tmp_path
):
    path, _ = weights
    asked = []

    def give(repository, name):
        asked.append((repository, name))
        if name == "model.safetensors":
            raise errors.RemoteEntryNotFoundError("404", response=answer(404))
        return str(path)

    monkeypatch.setattr("bleepdb.encoders.hub.hf_hub_download", give)
    monkeypatch.setattr(
        known, "known_encoders",
        lambda: {"tiny": replace(TINY, files=("model.safetensors", "tiny.safetensors"))},
    )  # fmt: skip
    made = load_backbone("tiny", device="cpu")
    assert asked == [("lab/Tiny", "model.safetensors"), ("lab/Tiny", "tiny.safetensors")]
    assert made.weights == "pretrained"


@pytest.mark.parametrize("files", [(), ("model.safetensors",)], ids=["by timm", "by us"])
def test_the_cache_of_the_hub_is_enough_however_it_spells_the_name(
    tiny, weights, monkeypatch, tmp_path, files
):
    """As another program left it, on a machine without internet."""
    folder = tmp_path / "hub" / "models--LAB--tiny"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    config = {
        "architecture": "test_vit", "num_classes": 0, "num_features": 64,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0,
                           "input_size": [3, 160, 160], "classifier": "head"},
    }  # fmt: skip
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "model.safetensors").write_bytes(weights[0].read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    record = replace(TINY, files=files)
    monkeypatch.setattr(known, "known_encoders", lambda: {"tiny": record})
    assert presence(record).place == "hub cache"
    made = load_backbone("tiny", device="cpu")
    assert (made.weights, made.name) == ("pretrained", "hf-hub:lab/Tiny")
    assert (made.mean, made.std) == tiny.pixels
    assert made.weights_digest == load_backbone("tiny", weights=weights[0]).weights_digest


def answer(code: int) -> httpx.Response:
    return httpx.Response(code, request=httpx.Request("GET", "https://huggingface.co/lab/Tiny"))


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (errors.GatedRepoError("403", response=answer(403)), "gated.*lab/Tiny, then set HF_TOKEN"),
        (errors.RepositoryNotFoundError("401", response=answer(401)), "no such repository"),
        (errors.LocalEntryNotFoundError("not here"), "out of reach; run `hf download lab/Tiny`"),
        (errors.OfflineModeIsEnabled("offline"), "out of reach"),
        (errors.HfHubHTTPError("500\nserver", response=answer(500)), "could not make"),
    ],
    ids=["gated", "unknown", "not here", "offline", "broken"],
)
@pytest.mark.parametrize("files", [(), ("tiny.pth",)], ids=["by timm", "by us"])
def test_what_the_hub_refuses_is_one_line(tiny, monkeypatch, raised, told, files):
    def refuse(*_, **__):
        raise raised

    monkeypatch.setattr("bleepdb.encoders.hub.hf_hub_download", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    monkeypatch.setattr(known, "known_encoders", lambda: {"tiny": replace(TINY, files=files)})
    with pytest.raises(ModelError, match=told) as caught:
        load_backbone("tiny", device="cpu")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("hf-hub:lab/Tiny: ")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("quiltnet-b32", "out of reach; run `hf download wisdomik/QuiltNet-B-32`"),
        ("open_clip:hf-hub:lab/tiny", "out of reach; run `hf download lab/tiny`"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "out of reach; load it once"),
    ],
)
def test_what_open_clip_wraps_is_unwrapped(monkeypatch, tmp_path, caplog, spec, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=told):
        load_backbone(spec, device="cpu")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("uni2", "uni2-h"),
        ("virchov", "virchow"),
        ("hoptimus-0", "h-optimus-0"),
        ("conche", "conch"),
    ],
)
def test_an_unknown_name_is_told_its_neighbours(name, near):
    with pytest.raises(ModelError, match="names no backbone") as caught:
        load_backbone(name, device="cpu")
    assert near in caught.value.hint
    with pytest.raises(ModelError, match="no known encoder"):
        known_encoder(name)


def test_a_model_of_a_library_without_a_record_is_sent_to_the_option():
    with pytest.raises(ModelError, match="--encoder timm:resnet18"):
        known_encoder("timm:resnet18")


@pytest.mark.parametrize(
    ("spec", "near"), [("timm:resnet5", "resnet50"), ("open_clip:ViT-B-33/openai", "ViT-B-32")]
)
def test_an_unknown_model_of_a_library_is_told_its_neighbours(spec, near):
    with pytest.raises(ModelError, match=f"did you mean .*{near}"):
        load_backbone(spec, device="cpu")


def test_the_stem_of_ctranspath_halves_twice():
    stem = ConvStem(embed_dim=16, norm_layer=nn.LayerNorm, strict_img_size=True).eval()
    shown = torch.randn(1, 3, 32, 32)
    made = stem(shown)
    assert made.shape == (1, 8, 8, 16)
    moved = stem(torch.roll(shown, (4, 8), (2, 3)))  # by one row and two columns of the output
    inner = (slice(None), slice(3, 7), slice(4, 7))
    torch.testing.assert_close(torch.roll(made, (1, 2), (1, 2))[inner], moved[inner])


def test_a_package_of_its_own_is_asked_as_its_authors_do(monkeypatch, tmp_path):
    """A stand-in for the package conch: same functions, a small trunk."""
    asked = {}

    class Visual(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = timm.create_model("test_vit", num_classes=0, img_size=448)

        def forward_no_head(self, images):
            return self.trunk(images)[:, :8]

    def create(config, place, *, return_transform):
        asked.update(config=config, place=place, transform=return_transform)
        holder = nn.Module()
        holder.visual = Visual()
        return holder

    package, inner = ModuleType("conch"), ModuleType("conch.open_clip_custom")
    inner.create_model_from_pretrained = create
    monkeypatch.setattr("bleepdb.encoders.adapters.find_spec", lambda _: package)
    monkeypatch.setitem(sys.modules, "conch", package)
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", inner)
    made = load_backbone("conch", device="cpu", precision="float32")
    assert asked == {
        "config": "conch_ViT-B-16", "place": "hf_hub:MahmoodLab/CONCH", "transform": False,
    }  # fmt: skip
    assert default_tile_px(made) == made.tile_px == 448
    assert made.features(tiles(1, 448), "penultimate").shape == (1, 8)
    assert made.features(tiles(1, 448), "multilevel").shape == (1, 3 * 3 * 64)
    file = tmp_path / "conch.bin"
    file.write_bytes(b"")
    load_backbone("conch", weights=file, device="cpu")
    assert asked["place"] == str(file)
    del inner.create_model_from_pretrained
    with pytest.raises(ModelError, match="not the one that is known here"):
        load_backbone("conch", device="cpu")


@pytest.mark.parametrize("name", ["conch", "conch-v1.5", "musk"])
def test_a_package_that_is_absent_is_named(name, monkeypatch):
    monkeypatch.setattr("bleepdb.encoders.adapters.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="is not installed; pip install"):
        load_backbone(name, device="cpu")
    with pytest.raises(ModelError, match="no random weights"):
        load_backbone(name, weights="random:0", device="cpu")


def test_colour_is_always_here():
    made = load_backbone("colour", device="cpu")
    assert made.spec == "builtin:colour"
    assert made.features(tiles(1, 64), "penultimate").shape == (1, known_encoder("colour").width)
    assert presence(known_encoder("colour")).usable


def test_what_is_here_is_found(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    uni, resnet, gpfm = map(known_encoder, ("uni", "resnet50-imagenet", "gpfm"))
    assert not any(presence(k).usable for k in (uni, resnet, gpfm))
    for path in (
        "hub/models--MahmoodLab--uni/snapshots/a/pytorch_model.bin",
        "hub/models--timm--resnet50.a1_in1k/snapshots/b/model.safetensors",
        "hub/models--timm--resnet50d.ra2_in1k/snapshots/b/model.safetensors",
        "torch/hub/checkpoints/GPFM.pth",
        "torch/hub/checkpoints/resnet50d-1.pth",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    found = {k.name: presence(k) for k in (uni, resnet, gpfm)}
    assert [found[k.name].place for k in (uni, resnet, gpfm)] == [
        "hub cache", "hub cache", "torch cache",
    ]  # fmt: skip
    assert "a1_in1k" in str(found["resnet50-imagenet"].path)
    assert found["uni"].usable
    assert found["uni"].builder.startswith("timm ")
    assert not presence(known_encoder("musk")).usable
