"""Microns per pixel: who says them, who is believed, and that disagreement is told once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bleepdb.errors import SectionError, SlideError
from bleepdb.tissue import load_section, open_slide, read_section, row_for
from bleepdb.tissue.readers.scale import choose_mpp, mpp_of_diameter
from bleepdb.tissue.tiles import refuse_scales

from . import made_tissue as made
from .conftest import MPP


def said(section):
    return [note for note in section.notes if note.startswith("mpp")]


@pytest.mark.parametrize("folder", ["v1_seurat", "v1_scanpy", "v2_mtx/outs"])
def test_the_spot_diameter_of_real_folders_agrees_with_their_pitch(real_data, folder):
    outs = real_data / "spaceranger" / folder
    factors = json.loads((outs / "spatial" / "scalefactors_json.json").read_text())
    species = "mouse" if folder == "v1_seurat" else "human"
    section = read_section(row_for(outs, section="s", donor="P", tissue="x", species=species))
    assert section.mpp_source == "spot pitch"
    by_diameter = mpp_of_diameter(factors["spot_diameter_fullres"], None)
    assert by_diameter == pytest.approx(section.slide_mpp, rel=0.005)
    assert not said(section)


def test_a_diameter_of_the_spots_themselves_is_taken_for_one():
    assert mpp_of_diameter(None, 0.5) is None
    assert mpp_of_diameter(130.0, None) == 0.5
    assert mpp_of_diameter(110.0, 0.5) == 0.5  # 55 µm: as other tools write it
    assert mpp_of_diameter(110.0, 0.9) == pytest.approx(65 / 110)


def test_a_diameter_that_disagrees_is_told_once(make_outs):
    factors = {"tissue_hires_scalef": 0.25, "spot_diameter_fullres": 65 / (2 * MPP)}
    section = read_section(row_for(make_outs(factors=factors), donor="P", tissue="x"))
    assert (section.slide_mpp, section.mpp_source) == (pytest.approx(MPP, rel=0.01), "spot pitch")
    assert said(section) == ["mpp 0.5 from spot pitch is used; spot diameter says 1"]


def test_each_source_that_disagrees_is_told_once_and_the_used_one_is_named(make_h5ad, real_data):
    svs = real_data / "slides" / "CMU-1-Small-Region.svs"  # 0.499 µm a pixel
    row = row_for(make_h5ad(), donor="P", tissue="x", image=str(svs), mpp=0.8)
    section = read_section(row)
    assert (section.slide_mpp, section.mpp_source) == (0.8, "sheet")
    notes = said(section)
    assert len(notes) == len(set(notes))
    assert all(note.startswith("mpp 0.8 from sheet is used; ") for note in notes)
    assert sum("slide says 0.499" in note for note in notes) == 1
    same = read_section(row, slide_mpp=0.51)
    assert (same.slide_mpp, same.mpp_source) == (0.51, "--slide-mpp")
    assert said(same) == ["mpp 0.51 from --slide-mpp is used; sheet says 0.8"]


def test_five_percent_is_no_disagreement(tmp_path):
    assert choose_mpp([("sheet", 0.5), ("slide", 0.524)], tmp_path).notes == ()
    (note,) = choose_mpp([("sheet", 0.5), ("slide", 0.53), ("pitch", None)], tmp_path).notes
    assert note == "mpp 0.5 from sheet is used; slide says 0.53"


def test_unknown_microns_are_refused(make_h5ad, tmp_path):
    def far(adata):
        """Leave no pitch: places at random."""
        adata.obsm["spatial"] = np.random.default_rng(0).uniform(100, 900, (adata.n_obs, 2))
        adata.obs = adata.obs[["in_tissue"]]

    pixels, _ = made.made_slide()
    row = row_for(
        make_h5ad(far), donor="P", tissue="x", image=str(made.saved(pixels, tmp_path / "a.png"))
    )
    with pytest.raises(SectionError, match=r"\(mpp\) of section made are unknown; fill in"):
        load_section(row, min_counts=1, min_genes=1)


def test_upsampling_beyond_what_still_helps_is_refused_unless_asked_for(tmp_path):
    from bleepdb.tissue import TileGeometry

    Image.new("RGB", (500, 400)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        refuse_scales(slide, 0.5, TileGeometry((66.0,)))  # 1.697 times
        with pytest.raises(SlideError, match=r"enlarge it 1\.72 times.*--allow-upsampling"):
            refuse_scales(slide, 0.5, TileGeometry((65.0,)))
        refuse_scales(slide, 0.5, TileGeometry((65.0,)), max_upsampling=float("inf"))
