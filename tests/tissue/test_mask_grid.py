"""Tissue found on real sections as their annotators saw it, and a grid that keeps to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bleepdb.errors import InputError, SlideError
from bleepdb.tissue import TissueMask, open_slide, read_spots, tile_centres, tissue_mask


def sites_off_tissue(spots, size_px):
    """Places of the 32 x 34 array that no annotator called tissue, inside the image."""
    at = np.array([[float(v) for v in name.split("x")] for name in spots.names])
    affine = np.linalg.lstsq(np.c_[at, np.ones(len(at))], spots.xy_px, rcond=None)[0]
    taken = set(spots.names)
    grid = [(x, y, 1) for x in range(1, 33) for y in range(1, 35) if f"{x}x{y}" not in taken]
    places = np.array(grid) @ affine
    return places[((places > 0) & (places < np.array(size_px) - 1)).all(axis=1)]


@pytest.fixture(scope="module")
def real_masks(her2st):
    """For each section: spots under tissue, other sites of the array, and the mask."""
    made = {}
    for name in ("C2", "C3", "C4", "C5"):
        spots = read_spots(her2st / f"{name}_selection.tsv")
        with open_slide(her2st / f"{name}.jpg") as slide:
            made[name] = spots.xy_px, sites_off_tissue(spots, slide.size_px), tissue_mask(slide)
    return made


def test_annotated_spots_are_kept_and_the_rest_of_the_array_is_not(real_masks):
    hits = [mask.covers(on).mean() for on, _, mask in real_masks.values()]
    false = [mask.covers(off).mean() for _, off, mask in real_masks.values()]
    assert all(len(off) > 800 for _, off, _ in real_masks.values())
    assert np.mean(hits) >= 0.996
    assert min(hits) >= 0.98
    assert np.mean(false) <= 0.005
    assert max(false) <= 0.01


def test_a_grid_on_a_real_section(real_masks):
    _, _, mask = real_masks["C3"]
    options = {"size_px": (9270, 9936), "slide_mpp": 0.686, "tile_um": 150.0}
    coarse = tile_centres(mask, stride_um=200.0, **options)
    fine = tile_centres(mask, stride_um=100.0, **options)
    assert 150 < len(coarse) < 260
    assert len(fine) == pytest.approx(4 * len(coarse), rel=0.1)


def painted(shape, blobs, background=235, tissue=(180, 90, 150), noise=3.0):
    rng = np.random.default_rng(0)
    image = np.full((*shape, 3), float(background))
    y, x = np.indices(shape)
    truth = np.zeros(shape, dtype=bool)
    for cx, cy, radius in blobs:
        truth |= (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
    image[truth] = tissue
    image += rng.normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), truth


def test_painted_tissue_is_found(tmp_path):
    pixels, truth = painted((800, 1000), [(300, 300, 150), (700, 500, 200), (60, 700, 3)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        mask = tissue_mask(slide)
    assert mask.mask.shape == (800, 1000)
    assert mask.scale == 1.0
    overlap = (mask.mask & truth).sum() / (mask.mask | truth).sum()
    assert overlap > 0.94
    assert not mask.mask[690:710, 50:70].any()  # a speck is no tissue
    assert mask.covers(np.array([(300, 300), (500, 100), (-1, 5), (1000, 5)])).tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_tissue_that_reaches_the_edge_is_kept_to_the_edge(tmp_path):
    pixels, _ = painted((400, 400), [(0, 0, 200)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        mask = tissue_mask(slide)
    assert mask.mask[0, :150].all()
    assert mask.mask[:150, 0].all()


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_an_empty_scan_has_no_tissue(tmp_path, noise):
    pixels, _ = painted((600, 600), [], noise=noise)
    Image.fromarray(pixels).save(tmp_path / "empty.png")
    with (
        open_slide(tmp_path / "empty.png") as slide,
        pytest.raises(SlideError, match=r"empty\.png: no tissue found"),
    ):
        tissue_mask(slide)


masks = st.integers(0, 10_000).map(
    lambda seed: np.kron(np.random.default_rng(seed).random((6, 8)) < 0.5, np.ones((7, 7))) > 0
)


@given(mask=masks, x=st.floats(-40, 220), y=st.floats(-40, 190), edge=st.floats(2, 150))
@settings(deadline=None, max_examples=60)
def test_fraction_is_the_mean_of_the_mask(mask, x, y, edge):
    tissue = TissueMask(mask, 0.25)
    n = 300
    offsets = (np.arange(n) + 0.5) / n * edge - edge / 2
    grid = np.stack(np.meshgrid(x + offsets, y + offsets), axis=-1).reshape(-1, 2)
    got = tissue.fraction(np.array([(x, y)]), edge)[0]
    assert got == pytest.approx(tissue.covers(grid).mean(), abs=0.02)


@given(
    mask=masks,
    stride_um=st.floats(5, 60),
    tile_um=st.floats(5, 80),
    mpp=st.floats(0.3, 2),
    least=st.floats(0.01, 1),
)
@settings(deadline=None, max_examples=80)
def test_a_grid_keeps_to_its_rule(mask, stride_um, tile_um, mpp, least):
    tissue = TissueMask(mask, 0.25)
    size = (mask.shape[1] * 4, mask.shape[0] * 4)
    options = {"size_px": size, "slide_mpp": mpp, "stride_um": stride_um, "tile_um": tile_um}
    stride = stride_um / mpp
    columns, lines = (np.arange(int(n / stride) + 2) for n in size)
    everywhere = np.stack(np.meshgrid(columns, lines), axis=-1).reshape(-1, 2)
    everywhere = everywhere[((everywhere + 0.5) * stride < size).all(axis=1)]
    shares = tissue.fraction((everywhere + 0.5) * stride, tile_um / mpp)
    wanted = {tuple(k) for k in everywhere[shares >= least + 1e-6].tolist()}
    allowed = {tuple(k) for k in everywhere[shares >= least - 1e-6].tolist()}
    try:
        got = tile_centres(tissue, min_tissue=least, **options)
    except SlideError:
        assert not wanted
        return
    steps = got / stride - 0.5
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    keys = [tuple(k) for k in np.rint(steps).astype(int).tolist()]
    assert wanted <= set(keys) <= allowed
    assert keys == sorted(set(keys), key=lambda k: (k[1], k[0]))
    assert (got >= 0).all()
    assert (got < size).all()
    np.testing.assert_array_equal(got, tile_centres(tissue, min_tissue=least, **options))


def test_grids_that_make_no_sense():
    tissue = TissueMask(np.ones((10, 10), dtype=bool), 0.1)
    options = {"size_px": (100, 100), "slide_mpp": 0.5, "tile_um": 10.0}
    assert len(tile_centres(tissue, stride_um=5.0, **options)) == 100
    with pytest.raises(InputError, match="must be positive"):
        tile_centres(tissue, stride_um=0.0, **options)
    with pytest.raises(InputError, match="more than 20,000,000 tiles; choose a larger stride"):
        tile_centres(tissue, stride_um=0.001, **options)
    with pytest.raises(SlideError, match="none of 100 tiles of 10 µm is tissue to 50%"):
        tile_centres(TissueMask(~tissue.mask, 0.1), stride_um=5.0, **options)


def test_a_fluorescence_image_is_no_stained_slide(real_data):
    with (
        open_slide(real_data / "slides" / "test3-DAPI.ndpi") as slide,
        pytest.raises(SlideError, match="background is dark") as caught,
    ):
        tissue_mask(slide)
    assert "DAPI" in str(caught.value)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_ink_and_black_frames_do_not_hide_pale_tissue(share, tmp_path):
    pixels = np.full((400, 500, 3), 238, dtype=np.uint8)
    pixels[100:300, 100:350] = (222, 196, 214)
    pixels[: round(share * 400)] = 4
    pixels += np.random.default_rng(0).integers(0, 4, pixels.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "inked.png")
    with open_slide(tmp_path / "inked.png") as slide:
        mask = tissue_mask(slide)
    y, x = np.mgrid[110:290:20, 110:340:20]
    assert mask.covers(np.column_stack([x.ravel(), y.ravel()]).astype(float)).all()
    assert not mask.covers(np.array([(430.0, 200.0), (50.0, 350.0)])).any()
