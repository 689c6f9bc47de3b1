"""Where an AnnData file keeps its places, in which unit, and at which scale."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bleepdb.errors import SectionError
from bleepdb.tissue import read_section, read_spots, row_for

from .section_files import tissue_picture, visium_adata


def read(path, **about):
    return read_section(row_for(path, **{"section": "s", "donor": "P", "tissue": "any", **about}))


@pytest.fixture
def make(tmp_path):
    def write(change, name="a.h5ad"):
        adata, _ = visium_adata()
        change(adata)
        adata.write_h5ad(tmp_path / name)
        return tmp_path / name

    return write


def to_obs(*columns):
    def change(adata):
        xy = adata.obsm["spatial"].copy()
        del adata.obsm["spatial"]
        for name, values in zip(columns, xy.T, strict=True):
            adata.obs[name] = values

    return change


@pytest.mark.parametrize(
    "columns",
    [
        ("x_px", "y_px"),
        ("pxl_col_in_fullres", "pxl_row_in_fullres"),
        ("imagecol", "imagerow"),
        ("pixel_x", "pixel_y"),
        ("x", "y"),
    ],
)
def test_places_in_obs(make, columns):
    expected = visium_adata()[0].obsm["spatial"]
    path = make(to_obs(*columns))
    section = read(path)
    np.testing.assert_array_equal(section.xy_px, expected)
    assert section.slide_mpp == pytest.approx(0.5)
    assert f'places are obs["{columns[0]}"]' in section.notes[0]
    assert ("taken as pixels" in section.notes[0]) == (columns == ("x", "y"))
    np.testing.assert_array_equal(read_spots(path).xy_px, expected)


def test_obsm_goes_before_obs(make):
    def both(adata):
        adata.obs["x_px"] = adata.obs["y_px"] = 1.0

    section = read(make(both))
    np.testing.assert_array_equal(section.xy_px, visium_adata()[0].obsm["spatial"])
    assert not section.notes


def steps(adata):
    to_obs("x", "y")(adata)
    adata.obs["x"], adata.obs["y"] = adata.obs["array_col"] / 2, adata.obs["array_row"]


def microns(adata):
    to_obs("x", "y")(adata)
    adata.obs["x"] *= 0.5
    adata.obs["y"] *= 0.5


def array_alone(adata):
    del adata.obsm["spatial"]


def words(adata):
    to_obs("x_px", "y_px")(adata)
    adata.obs["x_px"] = "left"


def some_missing(adata):
    to_obs("x_px", "y_px")(adata)
    adata.obs.loc[adata.obs_names[3], "x_px"] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (steps, r"may be array steps or thumbnail pixels .*; write the spots' \(x, y\)"),
        (microns, r"may be microns \(adjacent spots are 100 apart\), not pixels"),
        (
            array_alone,
            r'no obsm\["spatial"\], and array_row and array_col tell places on the array',
        ),
        (words, "do not hold numbers"),
        (some_missing, "1 spots have no finite position, the first is AC003-1"),
    ],
)
def test_places_that_are_not_pixels(make, change, said):
    with pytest.raises(SectionError, match=said):
        read(make(change))


def at_hires(*, diameter=True, picture=True, factor=0.1, store=0.1):
    """Places stored at `store` of the full resolution, beside a picture at `factor`."""

    def change(adata):
        adata.obsm["spatial"] = adata.obsm["spatial"] * store
        scalefactors = {"tissue_hires_scalef": factor}
        if diameter:
            scalefactors["spot_diameter_fullres"] = 110.0
        images = {"hires": np.asarray(tissue_picture((230, 170)))} if picture else {}
        adata.uns["spatial"] = {"lib": {"images": images, "scalefactors": scalefactors}}

    return change


@pytest.mark.parametrize("told_by", [{}, {"diameter": False}, {"picture": False}])
def test_places_at_the_scale_of_the_picture_are_found_out(make, told_by):
    section = read(make(at_hires(**told_by)))
    np.testing.assert_allclose(section.xy_px, visium_adata()[0].obsm["spatial"])
    assert section.slide_mpp == pytest.approx(0.5)
    assert "places are stored at the scale of the reduced image (0.1)" in section.notes[0]
    spots = read_spots(section.source)
    np.testing.assert_allclose(spots.xy_px, section.xy_px)


@pytest.mark.parametrize("told_by", [{}, {"diameter": False}, {"picture": False}])
def test_places_at_full_resolution_are_left_alone(make, told_by):
    section = read(make(at_hires(store=1, **told_by)))
    np.testing.assert_array_equal(section.xy_px, visium_adata()[0].obsm["spatial"])
    assert not section.notes


def test_places_at_the_scale_of_the_picture_stay_on_that_picture(make, tmp_path):
    path = make(at_hires())
    tissue_picture((230, 170)).save(tmp_path / "hires.png")
    section = read(path, image=tmp_path / "hires.png")
    np.testing.assert_allclose(section.xy_px, visium_adata()[0].obsm["spatial"] * 0.1)
    assert section.slide_mpp == pytest.approx(5)
    assert section.reference_image.scale == pytest.approx(1)
    Image.new("RGB", (2300, 1700)).save(tmp_path / "full.png")
    full = read(path, image=tmp_path / "full.png")
    np.testing.assert_allclose(full.xy_px, visium_adata()[0].obsm["spatial"])


@pytest.mark.parametrize("stored", ["uint8", "shares"])
def test_the_small_picture_of_the_file(make, stored):
    picture = np.asarray(tissue_picture((230, 170)))

    def change(adata):
        at_hires(store=1)(adata)
        images = adata.uns["spatial"]["lib"]["images"]
        images["hires"] = picture if stored == "uint8" else picture / np.float32(255)

    found = read(make(change)).reference_image
    assert found.scale == 0.1
    np.testing.assert_array_equal(found.load(), picture)


def test_a_dense_matrix_is_read_in_steps(make, monkeypatch):
    from bleepdb.tissue.readers import annotated

    def dense(adata):
        adata.X = adata.X.toarray()

    expected = read(make(lambda _: None, "sparse.h5ad"))
    monkeypatch.setattr(annotated, "DENSE_STEP", 100)
    assert read(make(dense, "dense.h5ad")).digest == expected.digest


def test_in_tissue_as_words(make):
    def change(adata):
        adata.obs["in_tissue"] = ["True", "False"] * 40

    assert len(read(make(change))) == 40
