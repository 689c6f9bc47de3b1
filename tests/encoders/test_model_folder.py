"""The model folder: whole or refused, the same on every reading, and never half-written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bleepdb.contracts import check
from bleepdb.encoders import (
    Context,
    load_backbone,
    load_model,
    model_from_blobs,
    model_to_blobs,
    save_model,
)
from bleepdb.errors import ModelError
from bleepdb.files import canonical_json, digest

CARD, WEIGHTS = "model.json", "weights.safetensors"


@pytest.fixture
def folder(model, tmp_path):
    save_model(model, tmp_path / "model")
    return tmp_path / "model"


def signed(card):
    rest = {k: v for k, v in card.items() if k != "checksum"}
    return json.dumps(rest | {"checksum": digest("model", canonical_json(rest))}).encode()


def test_a_model_comes_back_as_it_was(model, folder):
    again = load_model(folder)
    assert again.space_id == model.space_id
    rng = np.random.default_rng(0)
    x, places = rng.random((5, 2560)).astype(np.float32), rng.random((5, 2)) * 300
    y = rng.random((5, 30)).astype(np.float32)
    np.testing.assert_array_equal(again.embed_images(x, places), model.embed_images(x, places))
    np.testing.assert_array_equal(again.embed_profiles(y), model.embed_profiles(y))
    np.testing.assert_array_equal(again.components, model.components)
    np.testing.assert_array_equal(again.readout, model.readout)
    np.testing.assert_array_equal(again.profile_mean, model.profile_mean)
    assert again.retrieval == model.retrieval
    assert again.training == model.training
    assert again.feature_spec == model.feature_spec
    assert again.context == model.context
    assert again.panel.digest == model.panel.digest


def test_blobs_are_the_same_again_and_the_card_keeps_its_contract(model):
    blobs = model_to_blobs(model)
    assert model_to_blobs(model_from_blobs(blobs)) == blobs
    card = json.loads(blobs[CARD])
    check("model_card", card, where="here", error=ModelError, hint="none")
    with pytest.raises(ModelError):
        check("model_card", card | {"extra": 1}, where="here", error=ModelError, hint="none")


def test_one_flipped_byte_anywhere_in_the_weights_is_found(model, folder):
    whole = (folder / WEIGHTS).read_bytes()
    for place in [0, 9, *np.linspace(20, len(whole) - 1, 15).astype(int)]:
        data = bytearray(whole)
        data[place] ^= 1
        (folder / WEIGHTS).write_bytes(data)
        with pytest.raises(ModelError, match=WEIGHTS):
            load_model(folder, check_here=False)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("key",), "expression"),
        (("licence",), "mit"),
        (("training", "seed"), 5),
        (("retrieval", "k"), 21),
        (("context", "weight"), 0.6),
        (("made", "versions"), {}),
        (("features", "geometry", "tile_px"), 96),
        (("scores",), {"about": {}}),
        (("version",), 2),
        (("format",), "other"),
        (("dimension",), 0),
    ],
)
def test_an_edited_card_is_refused(folder, path, value):
    card = json.loads((folder / CARD).read_text())
    at = card
    for name in path[:-1]:
        at = at[name]
    assert at[path[-1]] != value
    at[path[-1]] = value
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(ModelError, match=CARD):
        load_model(folder, check_here=False)


def test_a_card_that_fits_another_model_is_refused_even_where_its_checksum_is_right(model):
    blobs = model_to_blobs(model)
    card = json.loads(blobs[CARD])
    card["key"] = "expression"
    with pytest.raises(ModelError, match="do not fit each other"):
        model_from_blobs(blobs | {CARD: signed(card)})


@pytest.mark.parametrize("kind", ["nan", "shape", "name"])
def test_calibration_that_cannot_be_compared_is_refused(model, kind):
    image = model.calibration["image"]
    wrong = {
        "nan": {"image": np.full_like(image, np.nan)},
        "shape": {"image": image[:3]},
        "name": {"sound": image},
    }[kind]
    blobs = model_to_blobs(replace(model, calibration=wrong))
    with pytest.raises(ModelError):
        model_from_blobs(blobs)


def test_a_readout_without_its_components_is_refused(model):
    for wrong in (replace(model, components=None), replace(model, readout=model.readout[:, :2])):
        with pytest.raises(ModelError, match="fit"):
            model_from_blobs(model_to_blobs(wrong))


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_card_that_is_none_is_refused(folder, text):
    (folder / CARD).write_bytes(text)
    with pytest.raises(ModelError, match=CARD):
        load_model(folder)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="absent"):
        load_model(tmp_path / "absent")


def test_weights_of_another_seed_are_refused(model, backbone):
    other = load_backbone(backbone.spec, weights="random:1", device="cpu", precision="float32")
    with pytest.raises(ModelError, match="other embeddings"):
        model.check_against(other)
    foreign = replace(model, feature_spec=replace(model.feature_spec, weights="random:1"))
    with pytest.raises(ModelError, match="not those"):
        foreign.backbone()
    with pytest.raises(ModelError, match="not those"):
        replace(foreign, calibration={}).backbone()
    model.check_against(backbone)


def test_weights_from_a_file_are_asked_for(model):
    lost = replace(model, feature_spec=replace(model.feature_spec, weights="file:w.pth"))
    with pytest.raises(ModelError, match=r"w\.pth"):
        lost.backbone()


def test_calibration_bears_rounding_and_not_another_order(model, backbone):
    def rounded(x):  # as bfloat16 has 8 bits of mantissa
        noise = np.random.default_rng(0).uniform(-1, 1, x.shape) * 2.0**-9
        made = x * (1 + noise)
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    near = {k: rounded(v) for k, v in model.calibration.items()}
    replace(model, calibration=near).check_against(backbone)
    for name in ("image", "expression"):
        shuffled = dict(model.calibration) | {name: np.roll(model.calibration[name], 1, axis=0)}
        with pytest.raises(ModelError, match=name):
            replace(model, calibration=shuffled).check_against(backbone)
    broken = {"image": np.full_like(model.calibration["image"], np.nan)}
    with pytest.raises(ModelError, match="image"):
        replace(model, calibration=broken).check_against(backbone)


def test_the_space_is_weights_and_preprocessing_and_nothing_else(model):
    same = [
        replace(model, scores={"about": {}}),
        replace(model, retrieval={**model.retrieval, "k": 3}),
        replace(model, licence="mit", hyper={}, recipe="x"),
        replace(model, training={**model.training, "seed": 4}),
        replace(model, calibration={}),
        replace(model, components=None),
        replace(model, feature_spec=replace(model.feature_spec, weights="file:a")),
    ]
    assert {m.space_id for m in same} == {model.space_id}
    spec, tower = model.feature_spec, model.profile_tower
    nudged = tower.matrix.copy()
    nudged[0, 0] = np.nextafter(nudged[0, 0], np.float32(9))
    other = [
        replace(model, profile_tower=replace(tower, matrix=nudged)),
        replace(model, image_tower=replace(model.image_tower, mean=model.image_tower.mean + 1)),
        replace(model, panel=model.panel.take(np.arange(30)[::-1])),
        replace(model, context=Context(50.0, 151.0, 0.5)),
        replace(model, context=None),
        replace(model, key="expression"),
        replace(model, feature_spec=replace(spec, weights_digest="b" * 64)),
        replace(model, feature_spec=replace(spec, levels="multilevel")),
        replace(model, feature_spec=replace(spec, mean=(0.1, 0.1, 0.1))),
        replace(
            model,
            feature_spec=replace(spec, geometry=replace(spec.geometry, scales_um=(100.0, 201.0))),
        ),
    ]
    assert len({m.space_id for m in [model, *other]}) == len(other) + 1


def test_nothing_is_overwritten_unless_asked(model, folder, tmp_path):
    before = (folder / CARD).read_bytes()
    newer = replace(model, licence="mit")
    with pytest.raises(ModelError, match="already"):
        save_model(newer, folder)
    assert (folder / CARD).read_bytes() == before
    save_model(newer, folder, overwrite=True)
    assert load_model(folder, check_here=False).licence == "mit"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"notes\.txt"):
        save_model(model, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / WEIGHTS).write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(ModelError):
            save_model(model, foreign, overwrite=overwrite)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="file"):
        save_model(model, tmp_path / "file")


@pytest.mark.parametrize("step", ["open", "first rename", "second rename"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failing_disk_leaves_what_was_there(model, tmp_path, monkeypatch, step, earlier):
    folder = tmp_path / "lab" / "model"
    if earlier:
        save_model(model, folder)
    else:
        folder.parent.mkdir()
    calls = []
    real_open, real_rename = Path.open, Path.rename

    def opened(self, mode="r", *a, **k):
        if step == "open" and self.name == WEIGHTS and "w" in mode:
            raise OSError(28, "No space left on device", str(self))
        return real_open(self, mode, *a, **k)

    def renamed(self, target):
        calls.append(self)
        if step != "open" and len(calls) == (1 if step == "first rename" or not earlier else 2):
            raise OSError(5, "Input/output error", str(self))
        return real_rename(self, target)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(OSError, match=r"No space|Input/output"):
        save_model(replace(model, licence="mit"), folder, overwrite=True)
    monkeypatch.undo()
    assert [p.name for p in folder.parent.iterdir()] == (["model"] if earlier else [])
    if earlier:
        assert load_model(folder, check_here=False).licence == "unknown"


def test_the_weights_file_is_plain_safetensors_whose_digest_the_card_names(folder):
    data = (folder / WEIGHTS).read_bytes()
    card = json.loads((folder / CARD).read_text())
    assert hashlib.sha256(data).hexdigest() == card["weights_sha256"]
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {"image.matrix", "profile.matrix", "calibration.image"} <= set(header)
