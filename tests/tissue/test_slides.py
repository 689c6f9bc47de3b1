"""Pixels: right ones, at the right place, at the right level, or a clear error."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bleepdb.errors import InputError, SlideError
from bleepdb.tissue import Slide, open_slide
from bleepdb.tissue.slide import BAND_PX


class Numbers(Slide):
    """A slide over arrays, one a level, that counts what is read."""

    def __init__(self, *arrays, levels, mpp=None):
        sizes = tuple((a.shape[1], a.shape[0]) for a in arrays)
        super().__init__("numbers", levels=levels, level_sizes=sizes, file_mpp=None, mpp=mpp)
        self.arrays = arrays
        self.largest = 0

    def region(self, level, x, y, width, height, *, out=None):
        assert x >= 0
        assert y >= 0
        assert x + width <= self.level_sizes[level][0]
        assert y + height <= self.level_sizes[level][1]
        self.largest = max(self.largest, width * height)
        pixels = self.arrays[level][y : y + height, x : x + width]
        if out is None:
            return pixels
        out[...] = pixels
        return out

    def close(self):
        pass


def test_svs_regions_equal_openslide(real_data):
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.size_px == reference.dimensions == (2220, 2967)
        assert (slide.mpp, slide.mpp_source, slide.levels) == (0.499, "slide", (1.0,))
        assert slide.digest == hashlib.sha256(path.read_bytes()).hexdigest()
        for x, y, w, h in [(0, 0, 300, 200), (1000, 1500, 224, 224), (2000, 2800, 220, 167)]:
            expected = np.asarray(reference.read_region((x, y), 0, (w, h)).convert("RGB"))
            np.testing.assert_array_equal(slide.read(x, y, w, h, out_px=(w, h)), expected)


def test_ndpi_reads_the_level_that_is_fine_enough(real_data):
    path = real_data / "slides" / "test3-DAPI.ndpi"
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.levels == (1, 2, 4, 8, 16, 32, 64)
        assert slide.mpp == pytest.approx(0.22818, abs=1e-5)
        expected = np.asarray(reference.read_region((1024, 2048), 2, (200, 100)).convert("RGB"))
        got = slide.read(1024, 2048, 800, 400, out_px=(200, 100))
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("name", "size"), [("camelyon_lowlevel.dcm", (1152, 700)), ("sm_image.dcm", (50, 50))]
)
def test_dicom(real_data, name, size):
    path = real_data / "slides" / name
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert (slide.reader, slide.size_px) == ("OpenSlide dicom", size)
        assert len(slide.digest) == 64
        assert slide.thumbnail(40).shape[1] == 40
        whole = np.asarray(reference.read_region((0, 0), 0, size).convert("RGB"))
        x, y, w, h = size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2
        np.testing.assert_array_equal(slide.region(0, x, y, w, h), whole[y : y + h, x : x + w])
        # As the file's PixelSpacing says, in mm.
        assert slide.mpp == pytest.approx({"sm_image.dcm": 0.499}.get(name, slide.mpp))


def test_ndpi_regions_of_every_level(real_data):
    path = real_data / "slides" / "test3-DAPI.ndpi"
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.facts()["objective_power"] == 40
        assert slide.facts()["notes"] == [
            "its scanner says that it is a fluorescence scan, not H&E"
        ]
        for level, (width, height) in enumerate(slide.level_sizes):
            w, h = max(1, width // 3), max(1, height // 3)
            at = (w * 2**level, h * 2**level)
            expected = np.asarray(reference.read_region(at, level, (w, h)).convert("RGB"))
            np.testing.assert_array_equal(slide.region(level, w, h, w, h), expected)


def test_mrxs(slide_files, tmp_path):
    pixels = slide_files.tissue_like(1024, 512)
    path = slide_files.write_mrxs(tmp_path / "a.mrxs", pixels, left_out={(3, 1)})
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert (slide.reader, slide.mpp, slide.levels) == ("OpenSlide mirax", 0.25, (1, 2, 4))
        for level, size in enumerate(slide.level_sizes):
            whole = slide.region(level, 0, 0, *size)
            assert (
                np.abs(whole[:32].astype(int) - slide_files.halved(pixels, 2**level)[:32]).mean()
                < 5
            )
            rgba = reference.read_region((64, 32), level, (100, 60))
            white = Image.new("RGBA", rgba.size, "white")
            expected = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
            got = slide.region(level, 64 >> level, 32 >> level, 100, 60)
            np.testing.assert_array_equal(got, expected)
        # What the scanner did not take is white.
        assert (slide.region(0, 3 * 128, 128, 128, 128) == 255).all()
        digest = slide.digest
    # The pixels lie in other files than the one that is named, and belong to the digest.
    data = tmp_path / "a" / "Data0000.dat"
    changed = bytearray(data.read_bytes())
    changed[-20] ^= 1
    data.write_bytes(changed)
    with open_slide(path) as slide:
        assert slide.digest != digest
    (tmp_path / "a" / "Index.dat").unlink()
    with pytest.raises(SlideError, match=r"a\.mrxs: no reader opens it \(OpenSlide: .*Index\.dat"):
        open_slide(path)


def test_philips_is_read_by_openslide(slide_files, tmp_path):
    pixels = slide_files.tissue_like(1024, 512)
    path = slide_files.write_philips(
        tmp_path / "a.tiff", [pixels, slide_files.halved(pixels)], left_out={(0, 3)}
    )
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp, slide.levels) == ("OpenSlide philips", 0.25, (1, 2))
        got = slide.region(0, 0, 0, 1024, 512).astype(int)
        assert (got[:128, 384:512] == 255).all()
        assert np.abs(got - pixels)[128:].mean() < 8


@pytest.mark.parametrize(
    "name",
    ["CMU-1-Small-Region.svs", "test3-DAPI.ndpi", "camelyon_lowlevel.dcm", "kidney-48-5.tif"],
)
def test_facts_are_json_and_are_what_is_read(real_data, name):
    with open_slide(real_data / "slides" / name) as slide:
        facts = json.loads(json.dumps(slide.facts()))
        assert facts["reader"] == slide.reader
        assert (facts["size_px"], facts["mpp"]) == (list(slide.size_px), slide.mpp)
        assert [level["factor"] for level in facts["levels"]] == list(slide.levels)
        assert {"vendor", "objective_power", "mpp_source", "mpp_from"} <= set(facts)


def test_plain_tiff_without_mpp(real_data):
    path = real_data / "slides" / "kidney-48-5.tif"
    with open_slide(path) as slide:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
        assert slide.size_px == expected.shape[1::-1]
        np.testing.assert_array_equal(
            slide.read(300, 500, 120, 80, out_px=(120, 80)), expected[500:580, 300:420]
        )
        with pytest.raises(SlideError, match=r"kidney.*microns per pixel.*pass --slide-mpp"):
            _ = slide.known_mpp
    with open_slide(path, mpp=0.4) as slide:
        assert (slide.known_mpp, slide.mpp_source) == (0.4, "given")


def test_the_stated_mpp_goes_before_the_file_and_is_told(real_data, caplog):
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    with open_slide(path, mpp=0.25) as slide:
        assert slide.mpp == 0.25
    assert "mpp 0.25 is used; the file says 0.499" in caplog.text
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(SlideError, match="not a positive number"):
            open_slide(path, mpp=bad)


@given(
    x=st.integers(-3, 20),
    y=st.integers(-3, 12),
    out=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    factor=st.integers(1, 6),
)
@settings(deadline=None, max_examples=60)
def test_area_resampling_is_the_mean_of_the_pixels(x, y, out, factor):
    pixels = np.random.default_rng(2).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    slide = Numbers(pixels, levels=(1.0,))
    w, h = out[0] * factor, out[1] * factor
    canvas = np.full((200, 200, 3), 255.0)
    canvas[50:110, 50:120] = pixels
    box = canvas[50 + y : 50 + y + h, 50 + x : 50 + x + w]
    expected = box.reshape(out[1], factor, out[0], factor, 3).mean(axis=(1, 3))
    got = slide.read(x, y, w, h, out_px=out)
    assert got.shape == (out[1], out[0], 3)
    # PIL rounds after each of its two passes, so half a grey level twice.
    assert np.abs(got - expected).max() <= 1.0 + 1e-9
    if factor == 1:
        np.testing.assert_array_equal(got, box)


def test_padding_is_white_all_around(noise_image):
    path, pixels = noise_image
    with open_slide(path) as slide:
        got = slide.read(-10, -20, 330, 250, out_px=(330, 250))
        np.testing.assert_array_equal(got[20:220, 10:310], pixels)
        assert (got[:20] == 255).all()
        assert (got[220:] == 255).all()
        assert (got[:, :10] == 255).all()
        assert (got[:, 310:] == 255).all()
        assert (slide.read(1000, 1000, 8, 8, out_px=(4, 4)) == 255).all()


def test_levels_are_chosen_within_one_percent():
    fine = np.zeros((400, 400, 3), dtype=np.uint8)
    coarse = np.full((200, 200, 3), 100, dtype=np.uint8)
    slide = Numbers(fine, coarse, levels=(1.0, 2.00003))
    assert [slide.level_for(f) for f in (0.5, 1.0, 1.97, 1.99, 2.0, 2.5, 9.0)] == [
        0, 0, 0, 1, 1, 1, 1,
    ]  # fmt: skip
    assert (slide.read(0, 0, 100, 100, out_px=(50, 50)) == 100).all()
    assert (slide.read(0, 0, 100, 100, out_px=(60, 60)) == 0).all()
    # Edges of a level that is not quite half as large stay inside it.
    assert slide.read(300, 300, 100, 100, out_px=(50, 50)).shape == (50, 50, 3)


def test_enlarging_is_bilinear_and_knows_the_pixels_beyond_the_box():
    ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], 20, axis=0)
    slide = Numbers(np.repeat(ramp, 3, axis=2), levels=(1.0,))
    got = slide.read(5, 5, 8, 8, out_px=(16, 16))
    expected = 50 + (np.arange(16) + 0.5) / 2 * 10 - 5
    assert np.abs(got[:, :, 0] - expected).max() <= 1


def test_large_reads_go_in_bands_and_agree():
    side = 512
    tile = np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)
    pixels = np.lib.stride_tricks.as_strided(
        np.tile(tile, (1, 20, 1)),
        (side * 30, side * 20, 3),
        strides=(0, 3, 1),
    )
    slide = Numbers(pixels, levels=(1.0,))
    assert pixels.shape[0] * pixels.shape[1] > 2 * BAND_PX
    whole = slide.read(0, 0, side * 20, side * 30, out_px=(200, 300))
    assert slide.largest <= BAND_PX
    assert whole.shape == (300, 200, 3)
    assert (np.ptp(whole.astype(int), axis=0) <= 1).all()  # all lines are alike
    np.testing.assert_array_equal(whole, slide.read(0, 0, side * 20, side * 30, out_px=(200, 300)))


def test_thumbnail_keeps_proportions_and_never_enlarges(noise_image):
    path, pixels = noise_image
    with open_slide(path) as slide:
        assert slide.thumbnail(150).shape == (100, 150, 3)
        np.testing.assert_array_equal(slide.thumbnail(5000), pixels)
        np.testing.assert_array_equal(slide.thumbnail(60), slide.thumbnail(60))


def test_alpha_lies_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (0, 0, 0, 128)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    with open_slide(tmp_path / "alpha.png") as slide:
        got = slide.read(0, 0, 4, 4, out_px=(4, 4))
    assert got[0, 0].tolist() == [10, 20, 30]
    assert got[0, 1].tolist() == [127, 127, 127]
    assert (got[1:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK"])
def test_modes_become_rgb(tmp_path, mode):
    grey = Image.linear_gradient("L")
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    grey.convert("RGB").convert(mode).save(path)
    with open_slide(path) as slide, Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(slide.read(0, 0, 256, 256, out_px=(256, 256)), expected)


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SlideError, match=r"deep\.png: pixels of mode I;16 are not 8 bits"):
        open_slide(tmp_path / "deep.png")


def test_what_no_reader_opens_says_what_each_said(tmp_path, real_data):
    path = tmp_path / "a.svs"
    path.write_text("nothing")
    with pytest.raises(SlideError, match=r"OpenSlide: not a format of its own; PIL: cannot ident"):
        open_slide(path)
    svs = (real_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path.write_bytes(svs[:5000])
    with pytest.raises(SlideError, match=r"a\.svs: "), open_slide(path) as slide:
        slide.thumbnail(100)
    with pytest.raises(SlideError, match="no such image"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match="no reader opens it"):
        open_slide(real_data / "h5ad" / "squidpy_spatial.h5ad")


@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
def test_a_truncated_image(noise_image, tmp_path, kind):
    path = tmp_path / f"cut.{kind}"
    Image.fromarray(noise_image[1]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        pytest.raises(SlideError, match=rf"cut\.{kind}: .*(damaged or incomplete|no reader opens)"),
        open_slide(path) as slide,
    ):
        slide.read(0, 0, 10, 10, out_px=(10, 10))


def test_a_truncated_svs_is_found_when_it_is_read(real_data, tmp_path):
    path = tmp_path / "cut.svs"
    data = bytearray((real_data / "slides" / "CMU-1-Small-Region.svs").read_bytes())
    data[20_000:900_000] = bytes(880_000)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"cut\.svs: "), open_slide(path) as slide:
        slide.thumbnail(500)


def test_large_plain_images_are_refused_by_name(noise_image, monkeypatch):
    path, _ = noise_image
    with pytest.raises(SlideError, match=r"300 x 200 pixels are above the limit of 59,999; make"):
        open_slide(path, max_pixels=59_999)
    monkeypatch.setenv("BLEEPDB_MAX_IMAGE_PIXELS", "100")
    with pytest.raises(SlideError, match=r"above the limit of 100; .*BLEEPDB_MAX_IMAGE_PIXELS"):
        open_slide(path)
    with open_slide(path, max_pixels=60_000) as slide:
        assert slide.size_px == (300, 200)
    monkeypatch.setenv("BLEEPDB_MAX_IMAGE_PIXELS", "many")
    with pytest.raises(InputError, match="is 'many', not a positive whole number"):
        open_slide(path)


def test_pils_own_limit_is_left_as_it_was(her2st):
    before = Image.MAX_IMAGE_PIXELS
    with open_slide(her2st / "C2.jpg") as slide:
        assert slide.size_px == (9274, 9911)
    assert before == Image.MAX_IMAGE_PIXELS
