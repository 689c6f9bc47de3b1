"""Tiled TIFF: the same pixels as OpenSlide's, whatever the tiles, colours and marks are."""

from __future__ import annotations

import io

import numpy as np
import openslide
import pytest
from PIL import Image

from bleepdb.tissue import open_slide
from bleepdb.tissue.openslide_file import OpenSlideFile
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


@pytest.mark.parametrize("tile", [64, 240, 256])
@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize("marks", ["none", "right", "wrong"])
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
