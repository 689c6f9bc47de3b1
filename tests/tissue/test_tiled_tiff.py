"""Tiled TIFF: the same pixels as OpenSlide's, whatever the tiles, colours and marks are."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bleepdb.tissue import open_slide
from bleepdb.tissue.openslide_file import OpenSlideFile
from bleepdb.tissue.planes import planes_of
from bleepdb.tissue.slide import Slide
from bleepdb.tissue.tiled_tiff import TiledTiff

SIZE = (700, 530)


def boxes(size, tile, rng, count=12):
    """Boxes that end at, before and behind tile edges and image edges, then random ones."""
    width, height = size
    for x, y in [(0, 0), (tile - 1, tile - 1), (tile, 0), (width - 3, height - 2)]:
        if x < width and y < height:
            yield x, y, min(tile + 2, width - x), min(tile, height - y)
    yield 0, 0, width, height
    for _ in range(count):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        yield x, y, int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))


def assert_equal_to_openslide(path, tile, *, levels, count=12):
    """Every level, box for box; places of level > 0 are whole in both."""
    rng = np.random.default_rng(3)
    with open_slide(path) as slide, OpenSlideFile(path) as reference:
        assert isinstance(slide, TiledTiff), slide.reader
        assert slide.levels == reference.levels
        assert slide.level_sizes == reference.level_sizes
        assert len(slide.levels) == levels
        for level, size in enumerate(slide.level_sizes):
            whole = np.asarray(
                openslide.OpenSlide(path).read_region((0, 0), level, size).convert("RGB")
            )
            for x, y, w, h in boxes(size, tile, rng, count):
                got = slide.region(level, x, y, w, h)
                np.testing.assert_array_equal(got, whole[y : y + h, x : x + w])
                if float(slide.levels[level]).is_integer():
                    np.testing.assert_array_equal(got, reference.region(level, x, y, w, h))


def test_the_real_svs_all_over(real_data):
    assert_equal_to_openslide(
        real_data / "slides" / "CMU-1-Small-Region.svs", 240, levels=1, count=60
    )


@pytest.mark.parametrize("tile", [64, 240])
@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("marks", ["none", "right", "wrong", "jfif"])
@pytest.mark.parametrize(
    ("colours", "subsampling"),
    [("rgb", "444"), ("ycbcr", "444"), ("ycbcr", "422"), ("ycbcr", "420")],
)
def test_made_svs(slide_files, tmp_path, colours, subsampling, marks, tables, tile):
    base = slide_files.tissue_like(*SIZE)
    path = slide_files.write_svs(
        tmp_path / "a.svs",
        [base, slide_files.halved(base), slide_files.halved(base, 4)],
        tile=tile,
        jpegs=slide_files.Jpegs(colours, subsampling, marks, tables),
    )
    assert_equal_to_openslide(path, tile, levels=3, count=4)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "slide")
        assert slide.reader == "tiled TIFF (aperio, JPEG)"
        # The colours are the tissue's, not merely those of another reader.
        error = np.abs(slide.region(0, 0, 0, *SIZE).astype(int) - base)
        assert error.mean() < 8


def test_colours_without_the_mark_would_be_wrong(slide_files, tmp_path):
    """The test slides need what is tested: a plain decoder shows their tiles in false colours."""
    base = slide_files.tissue_like(64, 64)
    data = slide_files.Jpegs("rgb", "444", "none").encode(base)
    plain = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(plain - base).mean() > 30


@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 150)),
    tile=st.sampled_from([16, 48, 64, 112]),
    colours=st.sampled_from([("rgb", "444"), ("ycbcr", "444"), ("ycbcr", "422"), ("ycbcr", "420")]),
    big=st.booleans(),
    tables=st.booleans(),
    data=st.data(),
)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_size_and_box(slide_files, tmp_path, size, tile, colours, big, tables, data):
    path = slide_files.write_tiff(
        tmp_path / "a.tif",
        [slide_files.tissue_like(*size)],
        tile=tile,
        jpegs=slide_files.Jpegs(*colours, "none", tables),
        bigtiff=big,
    )
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert isinstance(slide, TiledTiff)
        x, y = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
        w, h = data.draw(st.integers(1, size[0] - x)), data.draw(st.integers(1, size[1] - y))
        expected = np.asarray(reference.read_region((x, y), 0, (w, h)).convert("RGB"))
        np.testing.assert_array_equal(slide.region(0, x, y, w, h), expected)
        # A view into a larger buffer is filled, and nothing beside it.
        canvas = np.zeros((h + 2, w + 2, 3), dtype=np.uint8)
        slide.region(0, x, y, w, h, out=canvas[1:-1, 1:-1])
        np.testing.assert_array_equal(canvas[1:-1, 1:-1], expected)
        canvas[1:-1, 1:-1] = 0
        assert not canvas.any()


def test_a_level_of_no_whole_factor_is_read_as_it_is_stored(slide_files, tmp_path):
    """OpenSlide's own answer at such a level is interpolated but for the corner."""
    base = slide_files.tissue_like(701, 533)
    path = slide_files.write_svs(tmp_path / "a.svs", [base, slide_files.halved(base)], tile=128)
    assert_equal_to_openslide(path, 128, levels=2)
    with open_slide(path) as slide:
        assert slide.levels[1] == pytest.approx((701 / 350 + 533 / 266) / 2, abs=1e-12)
        # A 2x level is taken for one, though its factor is 2.003.
        assert slide.level_for(2.0) == 1


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [(None, False), *((c, p) for c in ("lzw", "deflate", "zstd") for p in (False, True))],
)
def test_tiles_without_loss(slide_files, tmp_path, compression, predictor):
    base = slide_files.tissue_like(*SIZE)
    levels = [base, slide_files.halved(base)]
    path = slide_files.write_tiff(
        tmp_path / "a.tif",
        levels,
        tile=128,
        compression=compression,
        **({"predictor": True} if predictor else {}),
    )
    assert_equal_to_openslide(path, 128, levels=2)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.region(0, 0, 0, *SIZE), base)
        np.testing.assert_array_equal(slide.reduced(0, 2, 0, 0, 350, 265), slide_files.halved(base))


@pytest.mark.parametrize("compression", ["jpeg2000", "lzma"])
def test_tiles_that_openslide_refuses(slide_files, tmp_path, compression):
    base = slide_files.tissue_like(*SIZE)
    path = slide_files.write_tiff(
        tmp_path / "a.tif", [base, slide_files.halved(base)], tile=128, compression=compression
    )
    with open_slide(path) as slide:
        assert slide.levels == (1.0, 2.0)
        np.testing.assert_array_equal(slide.region(0, 0, 0, *SIZE), base)


def test_tiles_that_are_left_out_are_white(slide_files, tmp_path, caplog):
    base = slide_files.tissue_like(*SIZE)
    out = {(0, 2), (0, 9)}
    path = slide_files.write_tiff(tmp_path / "a.tif", [base], tile=128, left_out=out)
    with open_slide(path) as slide, OpenSlideFile(path) as reference:
        assert isinstance(slide, TiledTiff)
        whole = slide.region(0, 0, 0, *SIZE)
        assert (whole[:128, 256:384] == 255).all()
        np.testing.assert_array_equal(whole, reference.region(0, 0, 0, *SIZE))
    # Of an SVS OpenSlide makes them from other levels, and so it has the file.
    path = slide_files.write_svs(
        tmp_path / "a.svs", [base, slide_files.halved(base)], tile=128, left_out={(1, 1)}
    )
    with caplog.at_level(logging.INFO), open_slide(path) as slide:
        assert slide.reader == "OpenSlide aperio"
    assert "a.svs: not read tile by tile: level 1 leaves tiles out" in caplog.text


def test_what_differs_from_openslide_is_left_to_it(slide_files, tmp_path, caplog):
    base = slide_files.tissue_like(*SIZE)
    rgba = np.dstack([base, np.full(base.shape[:2], 255, dtype=np.uint8)])
    rgba[:50, :50, 3] = 0
    cases = {
        "4 samples of 8 bits": {"data": rgba, "extrasamples": ["unassalpha"]},
        "1 sample of 8 bits": {"data": base[..., 0], "photometric": "minisblack"},
        "stored apart": {"data": np.moveaxis(base, 2, 0).copy(), "planarconfig": "separate"},
        "stored turned": {"data": base, "extratags": [(274, 3, 1, 3, True)]},
        "PACKBITS is not known": {"data": base, "compression": "packbits"},
    }
    for why, how in cases.items():
        path = tmp_path / "a.tif"
        slide_files.tifffile.imwrite(path, **{"photometric": "rgb", "tile": (128, 128), **how})
        caplog.clear()
        with caplog.at_level(logging.INFO), open_slide(path) as slide:
            assert slide.reader == "OpenSlide generic-tiff"
            assert why in caplog.text
            got = slide.region(0, 60, 60, 300, 300)
        if "turned" not in why and "sample of" not in why:
            np.testing.assert_array_equal(got, base[60:360, 60:360])


def test_resolution_tags_count_where_a_microscope_can_have_meant_them(slide_files, tmp_path):
    base = slide_files.tissue_like(100, 80)
    for name, resolution, unit, expected in [
        ("cm", 40_000, 3, 0.25), ("inch", 101_600, 2, 0.25), ("screen", 72, 2, None),
        ("printer", 300, 2, None), ("none", 40_000, 1, None), ("nonsense", 10**9, 3, None),
    ]:  # fmt: skip
        path = slide_files.write_tiff(
            tmp_path / f"{name}.tif",
            [base],
            tile=64,
            resolution=(resolution, resolution),
            unit=unit,
        )
        with open_slide(path) as slide, OpenSlideFile(path) as reference:
            assert (slide.mpp, reference.mpp) == (expected, expected), name
            said = slide.facts()
            assert said["mpp_from"] == (expected and "TIFF resolution tags")
            assert said["mpp_source"] == (expected and "slide")


def test_threads_read_the_same(slide_files, tmp_path, real_data):
    base = slide_files.tissue_like(*SIZE)
    made = slide_files.write_svs(tmp_path / "a.svs", [base, slide_files.halved(base)], tile=64)
    for path in (
        made,
        real_data / "slides" / "CMU-1-Small-Region.svs",
        real_data / "slides" / "test3-DAPI.ndpi",
        real_data / "slides" / "kidney-48-5.tif",
    ):
        with open_slide(path) as slide:
            rng = np.random.default_rng(5)
            width, height = slide.size_px
            places = rng.integers(0, [width - 300, height - 200], (40, 2)).tolist()

            def read(place, slide=slide):
                return slide.region(0, *place, 300, 200), slide.reduced(
                    0, 4, *place_of(place), 9, 9
                )

            expected = [read(place) for place in places]
            with ThreadPoolExecutor(8) as pool:
                for got, alone in zip(pool.map(read, places * 4), expected * 4, strict=True):
                    np.testing.assert_array_equal(got[0], alone[0])
                    np.testing.assert_array_equal(got[1], alone[1])


def place_of(place):
    """The same place on a level four times smaller."""
    return place[0] // 4, place[1] // 4


@pytest.mark.parametrize("subsampling", ["444", "420"])
@pytest.mark.parametrize("by", [2, 4, 8])
def test_smaller_tiles_are_near_to_the_mean(slide_files, tmp_path, by, subsampling):
    base = slide_files.tissue_like(701, 533)
    path = slide_files.write_svs(
        tmp_path / "a.svs", [base], tile=240, jpegs=slide_files.Jpegs("ycbcr", subsampling)
    )
    with open_slide(path) as slide:
        width, height = -(-701 // by), -(-533 // by)
        got = slide.reduced(0, by, 0, 0, width, height)
        mean = Slide.reduced(slide, 0, by, 0, 0, width, height)
        assert_near(got, mean)
        # The last column and row are of the image alone, not of what fills its tiles up.
        last = slide.region(0, (width - 1) * by, 0, 701 - (width - 1) * by, by)
        assert np.abs(got[0, -1] - last.mean(axis=(0, 1))).max() <= 1
        # Whoever asks for a part gets that part.
        np.testing.assert_array_equal(slide.reduced(0, by, 5, 7, 40, 31), got[7:38, 5:45])


def test_smaller_tiles_of_the_real_svs(real_data):
    with open_slide(real_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        for by in (2, 4, 8):
            box = (0, by, 0, 0, -(-2220 // by), -(-2967 // by))
            assert_near(slide.reduced(*box), Slide.reduced(slide, *box))


def assert_near(got, mean):
    """Within a grey level in the mean, and within 20 anywhere; no shift of the brightness."""
    difference = got.astype(int) - mean
    assert np.abs(difference).mean() < 1
    assert np.abs(difference).max() <= 20
    assert abs(difference.mean()) < 0.2


def test_the_mean_of_fewer_pixels_at_the_edges_is_exact(slide_files, tmp_path):
    base = slide_files.tissue_like(301, 203)
    Image.fromarray(base).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        for by in (2, 4, 8):
            got = slide.reduced(0, by, 0, 0, -(-301 // by), -(-203 // by))
            expected = np.asarray(Image.fromarray(base).reduce(by))
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(slide.reduced(0, by, 3, 2, 20, 9), got[2:11, 3:23])


def test_scaled_resampling_makes_the_level_that_a_slide_lacks(slide_files, tmp_path):
    base = slide_files.tissue_like(*SIZE)
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    half = slide_files.halved(base)
    with_it = slide_files.write_svs(tmp_path / "with" / "a.svs", [base, half], tile=64)
    without = slide_files.write_svs(tmp_path / "without" / "a.svs", [base], tile=64)
    box = (100, 60, 448, 448)
    with open_slide(without) as slide:
        area = slide.read(*box, out_px=(224, 224))
        scaled = slide.read(*box, out_px=(224, 224), resampling="scaled")
        assert 0 < np.abs(area.astype(int) - scaled).mean() < 1
        np.testing.assert_array_equal(scaled, slide.reduced(0, 2, 50, 30, 224, 224))
        # A place between pixels, a factor that is none of the decoder's, over the edge.
        for x, y, w in [(-40.3, -10.7, 500.5), (350.2, 330.9, 700.0)]:
            area = slide.read(x, y, w, w, out_px=(224, 224)).astype(int)
            scaled = slide.read(x, y, w, w, out_px=(224, 224), resampling="scaled")
            assert np.abs(area - scaled).mean() < 4
        # Nothing is made where the tile is as fine as the slide, or finer.
        np.testing.assert_array_equal(
            slide.read(10, 10, 230, 230, out_px=(224, 224)),
            slide.read(10, 10, 230, 230, out_px=(224, 224), resampling="scaled"),
        )
    with open_slide(with_it) as slide:
        np.testing.assert_array_equal(
            slide.read(*box, out_px=(224, 224)),
            slide.read(*box, out_px=(224, 224), resampling="scaled"),
        )
        window = slide.window(0, 0, 400, 400, out_px=(100, 100), resampling="scaled")
        assert slide.pixels(window).shape == (100, 100, 3)


def test_levels_that_are_made_lie_between_those_of_the_slide():
    """Twice, four and eight times each level, where the next one is not as coarse or coarser."""
    sizes = ((1001, 800), (250, 200), (62, 50))
    planes = planes_of((1.0, 4.002, 16.07), sizes)
    assert [(p.level, p.by) for p in planes] == [
        (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (2, 4), (2, 8),
    ]  # fmt: skip
    assert [p.size for p in planes] == [
        *sizes, (501, 400), (125, 100), (31, 25), (16, 13), (8, 7),
    ]  # fmt: skip
    assert [p.factor for p in planes[3:5]] == [2.0, 8.004]
    # A level of 7.95 is not made again as 8.
    assert [(p.level, p.by) for p in planes_of((1.0, 7.95), ((800, 800), (100, 100)))][2:] == [
        (0, 2), (0, 4), (1, 2), (1, 4), (1, 8),
    ]  # fmt: skip


def test_facts_of_a_tiled_tiff(slide_files, tmp_path):
    base = slide_files.tissue_like(*SIZE)
    path = slide_files.write_svs(tmp_path / "a.svs", [base, slide_files.halved(base)], tile=128)
    with open_slide(path) as slide:
        assert slide.facts() == {
            "reader": "tiled TIFF (aperio, JPEG)",
            "size_px": [700, 530],
            "levels": [
                {
                    "factor": 1.0,
                    "size_px": [700, 530],
                    "tile_px": [128, 128],
                    "compression": "JPEG",
                },
                {
                    "factor": 2.0,
                    "size_px": [350, 265],
                    "tile_px": [128, 128],
                    "compression": "JPEG",
                },
            ],
            "mpp": 0.25,
            "mpp_source": "slide",
            "mpp_from": "slide header",
            "vendor": "aperio",
            "objective_power": 40.0,
            "notes": [],
        }
