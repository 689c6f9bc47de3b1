"""Tiles: the fields asked for, in order, and nothing where something is wrong."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bleepdb.errors import InputError, SlideError
from bleepdb.tissue import (
    TileGeometry,
    edge_fraction,
    open_slide,
    read_section,
    read_spots,
    read_tiles,
    row_for,
)
from bleepdb.tissue.tiles import refuse_scales


def tiles_of(slide, xy, **options):
    return np.concatenate(list(read_tiles(slide, np.asarray(xy, float), **options)))


def test_native_tiles_are_direct_crops(noise_image):
    path, pixels = noise_image
    xy = [(50, 60), (100, 100), (250, 150)]
    with open_slide(path) as slide:
        tiles = tiles_of(slide, xy, slide_mpp=0.5, geometry=TileGeometry((16.0,), tile_px=32))
    assert tiles.shape == (3, 1, 32, 32, 3)
    for (x, y), tile in zip(xy, tiles, strict=True):
        np.testing.assert_array_equal(tile[0], pixels[y - 16 : y + 16, x - 16 : x + 16])


def test_scales_and_batches(noise_image):
    path, pixels = noise_image
    xy = np.random.default_rng(0).uniform((64, 64), (230, 130), (11, 2))
    geometry = TileGeometry((32.0, 64.0, 20.7), tile_px=16)
    with open_slide(path) as slide:
        batches = list(read_tiles(slide, xy, slide_mpp=1.0, geometry=geometry, batch=4))
        one = tiles_of(slide, xy, slide_mpp=1.0, geometry=geometry, batch=100)
    assert [len(b) for b in batches] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(batches), one)
    image = Image.fromarray(pixels)
    for (x, y), tiles in zip(xy, one, strict=True):
        for scale, tile in zip(geometry.scales_um, tiles, strict=True):
            box = (x - scale / 2, y - scale / 2, x + scale / 2, y + scale / 2)
            expected = np.asarray(image.resize((16, 16), Image.Resampling.BOX, box=box))
            # A pixel whose centre lies on the rim of a field may fall on either side of it.
            assert (tile == expected).mean() > 0.98


def test_fields_over_the_edge_are_white_there(noise_image):
    path, pixels = noise_image
    geometry = TileGeometry((40.0,), tile_px=40)
    with open_slide(path) as slide:
        tile = tiles_of(slide, [(0, 0)], slide_mpp=1.0, geometry=geometry)[0, 0]
        share = edge_fraction(np.array([(0, 0)]), slide.size_px, slide_mpp=1.0, geometry=geometry)
    np.testing.assert_array_equal(tile[20:, 20:], pixels[:20, :20])
    assert (tile[:20] == 255).all()
    assert (tile[:, :20] == 255).all()
    assert share.tolist() == [[0.75]]


@given(
    x=st.floats(0, 99),
    y=st.floats(0, 59),
    scales=st.lists(st.floats(1, 300), min_size=1, max_size=3),
    mpp=st.floats(0.2, 4),
)
@settings(deadline=None, max_examples=50)
def test_edge_fraction_is_the_share_outside(x, y, scales, mpp):
    got = edge_fraction(
        np.array([(x, y)]), (100, 60), slide_mpp=mpp, geometry=TileGeometry(tuple(scales))
    )
    for scale, share in zip(scales, got[0], strict=True):
        n = 400
        at = (np.arange(n) + 0.5) / n * scale / mpp - scale / mpp / 2
        inside_x = ((x + at >= 0) & (x + at < 100)).mean()
        inside_y = ((y + at >= 0) & (y + at < 60)).mean()
        assert share == pytest.approx(1 - inside_x * inside_y, abs=0.01)


def test_places_outside_are_refused_before_anything_is_read(noise_image, monkeypatch):
    path, _ = noise_image
    with open_slide(path) as slide:
        monkeypatch.setattr(slide, "region", None)
        with pytest.raises(
            SlideError,
            match=r"2 of 3 spots lie outside the image of 300 x 200 px, the first is "
            r"number 2 at \(300, 10\); is it the image",
        ):
            read_tiles(
                slide,
                np.array([(299.9, 10), (300, 10), (5, -0.1)]),
                slide_mpp=1.0,
                geometry=TileGeometry((300.0,)),
            )


def test_enlarging_beyond_what_still_helps_is_refused(noise_image):
    path, _ = noise_image
    xy = np.array([(100.0, 100.0)])
    with open_slide(path) as slide:

        def made(scale, **more):
            geometry = TileGeometry((scale,), tile_px=64)
            return tiles_of(slide, xy, slide_mpp=1.0, geometry=geometry, **more)

        assert made(38.0).shape == (1, 1, 64, 64, 3)
        with pytest.raises(SlideError, match=r"enlarge it 1\.73 times; .*--allow-upsampling"):
            made(37.0)
        assert made(37.0, max_upsampling=2).shape == (1, 1, 64, 64, 3)


@pytest.mark.parametrize(
    ("mpp", "told"),
    [
        (0.5, None), (0.7, None), (0.8, None),
        (1.0, "field of 112 .*train with --scale-um 176 --scale-um 400 alone"),
        (2.0, "field of 112 .*train with --scale-um 400 alone"),
        (4.0, r"field of 112 .*train with fields of 528 µm or more \(--scale-um\)"),
    ],
)  # fmt: skip
def test_a_slide_too_coarse_for_a_field_is_told_which_fields_it_is_fine_enough_for(
    noise_image, mpp, told
):
    path, _ = noise_image
    geometry = TileGeometry((112.0, 176.0, 400.0), tile_px=224)
    with open_slide(path) as slide:
        refused = nullcontext() if told is None else pytest.raises(SlideError, match=told)
        with refused:
            refuse_scales(slide, mpp, geometry)
        if told is not None:
            fine = [um for um in (176.0, 400.0, 528.0) if f"{um:g}" in told]
            refuse_scales(slide, mpp, TileGeometry(tuple(fine), tile_px=224))


@pytest.mark.filterwarnings("ignore:Image size")
def test_the_same_field_at_two_resolutions_is_nearly_the_same(her2st, tmp_path):
    with Image.open(her2st / "C5.jpg") as image:
        part = image.crop((1000, 2000, 3000, 4000))
    part.save(tmp_path / "fine.png")
    part.reduce(2).save(tmp_path / "coarse.png")
    xy = np.array([(700.3, 900.7), (1400.0, 1000.0)])
    geometry = TileGeometry((300.0,), tile_px=64)
    with open_slide(tmp_path / "fine.png") as fine, open_slide(tmp_path / "coarse.png") as coarse:
        one = tiles_of(fine, xy, slide_mpp=0.7, geometry=geometry).astype(float)
        two = tiles_of(coarse, xy / 2, slide_mpp=1.4, geometry=geometry).astype(float)
    assert np.abs(one - two).mean() < 4


@pytest.mark.filterwarnings("ignore:Image size")
def test_real_spots_equal_crops(her2st):
    section = read_section(row_for(her2st / "C5.tsv.gz", donor="C", tissue="breast"))
    spots = read_spots(her2st / "C5_selection.tsv")
    assert set(section.barcodes) <= set(spots.names)
    geometry = TileGeometry((224 * section.known_mpp,), tile_px=224)
    with open_slide(section.slide_path) as slide:
        xy = np.rint(section.xy_px[:20])
        tiles = tiles_of(slide, xy, slide_mpp=section.known_mpp, geometry=geometry)
    with Image.open(section.slide_path) as image:
        pixels = np.asarray(image.convert("RGB"))
    for (x, y), tile in zip(xy.astype(int), tiles, strict=True):
        np.testing.assert_array_equal(tile[0], pixels[y - 112 : y + 112, x - 112 : x + 112])


def test_geometry():
    geometry = TileGeometry((150.0, 350.0), tile_px=112, resampling="bilinear")
    assert TileGeometry.from_json(geometry.to_json()) == geometry
    for bad in (
        {"scales_um": ()},
        {"scales_um": (0.0,)},
        {"scales_um": (float("nan"),)},
        {"scales_um": (1.0,), "tile_px": 0},
        {"scales_um": (1.0,), "resampling": "magic"},
    ):
        with pytest.raises(InputError):
            TileGeometry(**bad)
