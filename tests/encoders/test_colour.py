"""`builtin:colour`: against NumPy and SciPy, and sane where the stain is stronger or weaker."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from bleepdb.encoders import FeatureSpec, colour, load_backbone
from bleepdb.errors import ModelError
from bleepdb.tissue.geometry import TileGeometry

H, E = (np.array(v) / np.linalg.norm(v) for v in (colour.HAEMATOXYLIN, colour.EOSIN))


@pytest.fixture(scope="module")
def colours():
    return load_backbone("builtin:colour", device="cpu", precision="float32")


def stained(nuclei, *, px=96, radius=5, strength=1.0, ground=0.05, eosin=0.3, noise=0.0, seed=0):
    """A tile of dark discs on eosin, by Lambert and Beer."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:px, :px]
    haematoxylin = np.full((px, px), ground)
    for cx, cy in nuclei:
        haematoxylin[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = 0.6
    density = strength * (haematoxylin[..., None] * H + eosin * E)
    density = density + noise * rng.normal(size=(px, px, 1))
    return np.clip(np.rint(255 * 10.0**-density), 0, 255).astype(np.uint8)


def grid_of(n, px=96):
    step = px // n
    return [(step // 2 + step * i, step // 2 + step * j) for i in range(n) for j in range(n)]


def by_numpy(tile):
    """The same features by NumPy and SciPy, with a loop over pixels for the counting."""
    rgb = tile.astype(np.float64) / 255
    vectors = np.stack([H, E, np.cross(H, E) / np.linalg.norm(np.cross(H, E))])
    stains = -np.log10(np.maximum(rgb, 0.5 / 255)) @ np.linalg.inv(vectors)
    found = []
    for channel in (*np.moveaxis(rgb, 2, 0), stains[..., 0], stains[..., 1]):
        found += [channel.mean(), channel.std(), *np.percentile(channel, colour.PERCENTILES)]
    smooth = ndimage.gaussian_filter(
        stains[..., 0], colour.BLUR_SD_PX, mode="mirror", radius=colour.BLUR_REACH_PX
    )
    low, high = np.percentile(smooth, [10, 99])
    dark = smooth > (low + high) / 2 if high - low >= 0.1 else np.zeros(smooth.shape, bool)
    tops = 0
    for i, j in np.argwhere(dark):
        around = smooth[max(i - 3, 0) : i + 4, max(j - 3, 0) : j + 4]
        tops += smooth[i, j] >= around.max()
    return np.array([*found, dark.mean(), tops * 1e4 / smooth.size])


def test_equals_numpy(colours):
    rng = np.random.default_rng(0)
    tiles = np.stack([
        ndimage.gaussian_filter(rng.integers(0, 256, (40, 40, 3)).astype(float), (2, 2, 0)),
        rng.integers(0, 256, (40, 40, 3)),
        stained(grid_of(2, 40), px=40, noise=0.02, seed=1),
    ]).astype(np.uint8)  # fmt: skip
    found = colours.features(tiles, "penultimate")
    assert found.shape == (3, len(colour.FEATURES)) == (3, 37)
    assert found.dtype == np.float32
    for one, tile in zip(found, tiles, strict=True):
        np.testing.assert_allclose(one, by_numpy(tile), atol=2e-5, rtol=1e-5)


def test_nuclei_are_counted(colours):
    share, count = (colour.FEATURES.index(n) for n in ("nuclear share", "nuclei per 10,000 px"))
    for n in (2, 3, 5):
        one = colours.features(stained(grid_of(n))[None], "penultimate")[0]
        assert one[count] == pytest.approx(n * n * 1e4 / 96**2, rel=1e-6)
        assert one[share] == pytest.approx(n * n * np.pi * 25 / 96**2, rel=0.2)
    for empty in (stained([]), stained([], eosin=0.8), np.full((96, 96, 3), 250, np.uint8)):
        assert (colours.features(empty[None], "penultimate")[0, [share, count]] == 0).all()


@pytest.mark.parametrize("strength", [0.7, 1.3])
def test_another_strength_of_stain_finds_the_same_nuclei_and_tells_the_stain(colours, strength):
    names = list(colour.FEATURES)
    plain, other = (
        colours.features(stained(grid_of(4), strength=s)[None], "penultimate")[0]
        for s in (1.0, strength)
    )
    count = names.index("nuclei per 10,000 px")
    assert other[count] == plain[count] > 0
    share = names.index("nuclear share")
    assert other[share] == pytest.approx(plain[share], rel=0.1)
    for stain in ("haematoxylin mean", "eosin mean", "haematoxylin SD"):
        at = names.index(stain)
        assert other[at] == pytest.approx(strength * plain[at], rel=0.05)


def test_stains_are_told_apart(colours):
    names = list(colour.FEATURES)
    h, e = names.index("haematoxylin mean"), names.index("eosin mean")
    for eosin, ground in ((0.0, 0.4), (0.4, 0.0), (0.2, 0.3)):
        one = colours.features(stained([], eosin=eosin, ground=ground)[None], "penultimate")[0]
        assert one[h] == pytest.approx(ground, abs=0.01)
        assert one[e] == pytest.approx(eosin, abs=0.01)


def test_it_is_a_backbone_like_any_other(colours):
    spec = FeatureSpec.of(colours, "penultimate", TileGeometry((100.0,), 64))
    again = spec.load_backbone(device="cpu")
    assert again.weights_digest == colours.weights_digest
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    whole = colours.features(tiles, "penultimate")
    np.testing.assert_array_equal(again.features(tiles, "penultimate"), whole)
    single = np.concatenate([colours.features(t[None], "penultimate") for t in tiles])
    np.testing.assert_allclose(single, whole, atol=1e-6)
    turned = colours.features(np.rot90(tiles, axes=(1, 2)).copy(), "penultimate")
    np.testing.assert_allclose(turned, whole, atol=1e-4)
    half = load_backbone("builtin:colour", device="cpu", precision="bfloat16")
    np.testing.assert_array_equal(half.features(tiles, "penultimate"), whole)


def test_its_digest_is_that_of_its_definition(colours, monkeypatch):
    monkeypatch.setattr(colour, "LEAST_CONTRAST", 0.2)
    assert load_backbone("builtin:colour").weights_digest != colours.weights_digest


def test_what_it_has_not_is_refused(colours):
    tiles = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ModelError, match="intermediate"):
        colours.features(tiles, "multilevel")
    for spec, weights in (
        ("builtin:texture", None),
        ("builtin:", None),
        ("builtin:colour?img_size=224", None),
        ("builtin:colour", "random:0"),
    ):
        with pytest.raises(ModelError):
            load_backbone(spec, weights=weights)
