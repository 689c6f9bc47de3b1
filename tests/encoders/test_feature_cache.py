"""The cache of features: no second forward pass, and another file for whatever differs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.encoders import FeatureSpec, extract, load_backbone
from bleepdb.encoders.backbone import Backbone
from bleepdb.tissue.geometry import TileGeometry

PLACES = np.array([[150.0, 160.0], [300.0, 310.0], [400.0, 200.0]])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def passes(monkeypatch):
    """Count the tiles that go through a backbone."""
    seen = []
    real = Backbone.features

    def counted(self, tiles, levels):
        seen.append(len(tiles))
        return real(self, tiles, levels)

    monkeypatch.setattr(Backbone, "features", counted)
    return seen


def spec_of(backbone, *, scales=(100.0, 180.0), levels="penultimate", px=64):
    return FeatureSpec.of(backbone, levels, TileGeometry(scales, px))


def features(slide, backbone, spec=None, *, places=PLACES, mpp=1.0, **more):
    return extract(
        slide, places, slide_mpp=mpp, spec=spec or spec_of(backbone), backbone=backbone, **more
    )


def test_the_second_call_does_no_forward_pass(slide, backbone, cache, passes):
    heard = []
    first = features(slide, backbone)
    assert first.shape == (3, 2 * 1280)
    assert sum(passes) == 6
    again = features(slide, backbone, progress=lambda *a: heard.append(a))
    assert sum(passes) == 6
    assert heard == [(3, 3)]
    np.testing.assert_array_equal(again, first)
    assert len(list(cache.iterdir())) == 1
    features(slide, backbone, cache=False)
    assert sum(passes) == 12


def test_a_copy_of_the_slide_is_the_same_slide(slide, backbone, cache, passes, tmp_path):
    features(slide, backbone)
    features(shutil.copy(slide, tmp_path / "copy.png"), backbone)
    assert sum(passes) == 6


def test_whatever_differs_has_its_own_file(slide, other_slide, backbone, cache):
    other = load_backbone(backbone.spec, weights="random:1", device="cpu", precision="float32")
    calls = [
        lambda: features(slide, backbone),
        lambda: features(slide, backbone, places=PLACES + 0.25),
        lambda: features(slide, backbone, places=PLACES[::-1]),
        lambda: features(slide, backbone, mpp=1.05),
        lambda: features(slide, backbone, spec_of(backbone, scales=(100.0, 190.0))),
        lambda: features(slide, backbone, spec_of(backbone, px=96)),
        lambda: features(slide, backbone, spec_of(backbone, levels="multilevel")),
        lambda: features(slide, other),
        lambda: features(slide, replace(backbone, mean=(0.4, 0.5, 0.5))),
        lambda: features(slide, replace(backbone, precision="bfloat16")),
        lambda: features(other_slide, backbone),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert len(list(cache.iterdir())) == number


def test_a_damaged_file_is_computed_again(slide, backbone, cache, passes):
    first = features(slide, backbone)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for times, bad in enumerate((bytes(flipped), whole[:-8], b"", b"\x00" * 40), 2):
        path.write_bytes(bad)
        np.testing.assert_array_equal(features(slide, backbone), first)
        assert sum(passes) == 6 * times
        assert path.read_bytes() == whole


def test_batches_do_not_matter_and_no_places_have_the_width(slide, backbone, cache):
    one = features(slide, backbone, cache=False, batch=1)
    np.testing.assert_allclose(one, features(slide, backbone, cache=False), atol=1e-5)
    assert features(slide, backbone, places=PLACES[:0]).shape == (0, 2560)
