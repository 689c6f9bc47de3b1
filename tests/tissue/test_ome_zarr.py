"""OME-Zarr images as slides: levels, chunks, microns, and what is refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from bleepdb.errors import SlideError
from bleepdb.tissue import open_slide


@pytest.fixture
def pixels(slide_files):
    return slide_files.tissue_like(300, 200)


@pytest.fixture
def make_zarr(tmp_path, pixels, slide_files):
    """Write an image of two levels into a store; `change(metadata)` spoils what it says."""

    def make(*, version=3, axes="cyx", unit=None, scale=0.5, dtype=np.uint8, change=None):
        root = tmp_path / "store.zarr"
        group = zarr.open_group(root, mode="w", zarr_format=version)
        image = group.create_group("images/slide")
        levels = [pixels, slide_files.halved(pixels)]
        for i, level in enumerate(levels):
            stored = np.moveaxis(level, -1, 0) if axes == "cyx" else level
            chunks = (3, 64, 64) if axes == "cyx" else (64, 64, 3)
            array = image.create_array(str(i), shape=stored.shape, dtype=dtype, chunks=chunks)
            array[:] = stored
        kinds = {"c": "channel", "x": "space", "y": "space"}
        named = [
            {"name": a, "type": kinds[a], **({"unit": unit} if unit and a != "c" else {})}
            for a in axes
        ]
        steps = [[1.0 if a == "c" else scale * 2**i for a in axes] for i in range(len(levels))]
        scales = [
            {
                "axes": named,
                "datasets": [
                    {
                        "path": str(i),
                        "coordinateTransformations": [{"type": "scale", "scale": step}],
                    }
                    for i, step in enumerate(steps)
                ],
            }
        ]
        if change is not None:
            change(scales[0])
        image.attrs.update(
            {"ome": {"multiscales": scales}} if version == 3 else {"multiscales": scales}
        )
        return root / "images" / "slide"

    return make


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["cyx", "yxc"])
def test_levels_and_pixels(make_zarr, pixels, slide_files, version, axes):
    path = make_zarr(version=version, axes=axes)
    with open_slide(path) as slide:
        assert (slide.reader, slide.levels) == ("OME-Zarr", (1.0, 2.0))
        assert slide.level_sizes == ((300, 200), (150, 100))
        assert slide.mpp is None
        np.testing.assert_array_equal(slide.region(0, 0, 0, 300, 200), pixels)
        np.testing.assert_array_equal(
            slide.region(1, 60, 30, 70, 50), slide_files.halved(pixels)[30:80, 60:130]
        )
        canvas = np.zeros((54, 74, 3), dtype=np.uint8)
        slide.region(0, 60, 30, 70, 50, out=canvas[2:-2, 2:-2])
        np.testing.assert_array_equal(canvas[2:-2, 2:-2], pixels[30:80, 60:130])
        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(lambda x: slide.region(0, x, 0, 9, 200), range(0, 290, 9)):
                assert got.std() > 1
        facts = json.loads(json.dumps(slide.facts()))
        assert [level["tile_px"] for level in facts["levels"]] == [[64, 64], [64, 64]]
        digest = slide.digest
    with open_slide(make_zarr(version=version, axes=axes)) as slide:
        assert slide.digest == digest
    changed = next(p for p in path.rglob("*") if p.is_file() and p.stat().st_size > 2000)
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.digest != digest


@pytest.mark.parametrize(
    ("unit", "scale", "expected"),
    [("micrometer", 0.5, 0.5), ("nanometer", 500, 0.5), ("unit", 0.5, None), (None, 0.5, None)],
)
def test_microns_of_the_axes(make_zarr, unit, scale, expected):
    with open_slide(make_zarr(unit=unit, scale=scale)) as slide:
        assert (slide.mpp, slide.facts()["mpp_from"]) == (
            expected,
            "OME-Zarr axes" if expected else None,
        )


def test_what_is_no_picture_is_refused(make_zarr, tmp_path, real_data):
    with pytest.raises(SlideError, match=r"slide: its pixels are float32, not 8-bit; write"):
        open_slide(make_zarr(dtype=np.float32))
    for why, change in [
        ("not those of an OME-Zarr image", lambda scales: scales.clear()),
        ("not those of an OME-Zarr image", lambda scales: scales.update(datasets=[{}])),
        ("a level lies at '../../../x'", lambda s: s["datasets"][0].update(path="../../../x")),
        ("its axes are z, y, x", lambda scales: scales["axes"][0].update(name="z")),
    ]:
        with pytest.raises(SlideError, match=r"slide: ") as said:
            open_slide(make_zarr(change=change))
        assert why in str(said.value)
        assert "\n" not in str(said.value)
    store = real_data / "spatialdata" / "blobs_v3.zarr"
    for part, why in [
        ("", "no image that is read; give the folder of one image, such as STORE.zarr/images/NAME"),
        ("images/blobs_image", "its pixels are float64"),
        ("labels/blobs_labels", "its axes are y, x"),
    ]:
        with pytest.raises(SlideError, match=why):
            open_slide(store / part)
    with pytest.raises(SlideError, match="is a folder, not an image"):
        open_slide(tmp_path)


def test_links_out_of_a_store_are_not_followed(make_zarr, tmp_path):
    path = make_zarr()
    (tmp_path / "elsewhere").mkdir()
    (path / "0" / "c").rename(tmp_path / "elsewhere" / "c")
    (path / "0" / "c").symlink_to(tmp_path / "elsewhere" / "c")
    with pytest.raises(SlideError, match="is a link"):
        open_slide(path)
