"""What is written is what a lab would have, whole, and the same bytes each time."""

from __future__ import annotations

import csv
import time

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from PIL import Image

from bleepdb.errors import InputError
from bleepdb.simulation import SimulationSettings, ceiling, read_truth, simulate, write
from bleepdb.simulation.settings import COMPARTMENTS
from bleepdb.tissue import open_slide, read_section, read_sheet, tissue_mask

TINY = SimulationSettings.tiny()


@pytest.fixture(scope="module")
def tiny():
    return simulate(TINY, seed=5)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    made = tmp_path_factory.mktemp("simulated") / "new" / "folder"
    assert write(tiny, made) == made / "samples.csv"
    return made


def test_the_sheet_names_every_file(tiny, folder):
    with (folder / "samples.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = [
        "section",
        "donor",
        "tissue",
        "species",
        "assay",
        "expression",
        "image",
        "mpp",
        "stain",
    ]
    assert list(rows[0]) == columns
    assert [r["section"] for r in rows] == [s.section for s in tiny.sections]
    assert [r["donor"] for r in rows] == ["donor-a", "donor-b", "donor-c"]
    named = {r[c] for r in rows for c in ("expression", "image")}
    truths = {f"{r['section']}.truth.h5" for r in rows}
    assert {p.name for p in folder.iterdir()} == named | truths | {"samples.csv"}


def test_anndata_reads_the_counts(tiny, folder):
    for s in tiny.sections:
        data = ad.read_h5ad(folder / f"{s.section}.h5ad")
        assert sp.issparse(data.X)
        assert np.issubdtype(data.X.dtype, np.integer)
        assert (s.counts != data.X).nnz == 0
        assert data.obs_names.tolist() == s.barcodes.tolist()
        assert data.var_names.tolist() == list(s.symbols)
        assert np.array_equal(data.obsm["spatial"], s.xy_px)
        scales = data.uns["spatial"][s.section]["scalefactors"]
        assert scales["microns_per_pixel"] == TINY.mpp
        assert scales["spot_diameter_fullres"] == TINY.spot_diameter_um / TINY.mpp


def test_the_image_is_the_one_that_was_drawn(tiny, folder):
    for s in tiny.sections:
        with Image.open(folder / f"{s.section}.jpg") as image:
            assert image.mode == "RGB"
            got = np.asarray(image).astype(int)
        assert got.shape == s.image.shape
        assert np.abs(got - s.image).mean() < 4


def test_the_truth_comes_back_and_gives_the_same_ceiling(tiny, folder):
    for s in tiny.sections:
        truth = read_truth(folder / f"{s.section}.truth.h5")
        assert np.array_equal(truth.rates, s.rates)
        assert np.array_equal(truth.shares, s.shares)
        assert truth.barcodes == tuple(s.barcodes.tolist())
        assert truth.symbols == s.symbols
        assert truth.compartments == COMPARTMENTS
        data = ad.read_h5ad(folder / f"{s.section}.h5ad")
        assert np.array_equal(
            ceiling(truth.rates, data.X), ceiling(s.rates, s.counts), equal_nan=True
        )


def test_the_readers_of_real_sections_read_them(tiny, folder):
    for row, s in zip(read_sheet(folder / "samples.csv"), tiny.sections, strict=True):
        section = read_section(row)
        assert section.section == s.section
        assert section.donor == s.donor.name
        assert (section.counts != s.counts).nnz == 0
        assert np.array_equal(section.xy_px, s.xy_px)
        assert section.known_mpp == TINY.mpp
        assert section.panel.symbols == s.symbols


def test_the_tissue_mask_finds_the_tissue(tiny, folder):
    for s in tiny.sections:
        with open_slide(folder / f"{s.section}.jpg", mpp=TINY.mpp) as slide:
            mask = tissue_mask(slide)
        assert mask.fraction(s.xy_px, TINY.spot_diameter_um / TINY.mpp).mean() > 0.9
        assert not mask.mask[[0, -1]].any()
        assert not mask.mask[:, [0, -1]].any()


def test_the_same_simulation_gives_the_same_files(tiny, folder, tmp_path):
    time.sleep(1.1)  # clocks in file formats tick in seconds
    write(tiny, tmp_path)
    for path in sorted(folder.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_write_that_fails_leaves_nothing_half_made(tiny, tmp_path, monkeypatch):
    def broken(self, path, **options):
        path.write_bytes(b"half an image")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="no space"):
        write(tiny, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["donor-a-1.h5ad"]


def test_what_is_no_truth_is_refused_in_one_line(folder, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_truth(tmp_path / "none.truth.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(InputError, match="not the truth"):
        read_truth(tmp_path / "text.h5")
    with pytest.raises(InputError, match="not the truth"):
        read_truth(folder / "donor-a-1.h5ad")
    cut = tmp_path / "cut.h5"
    cut.write_bytes((folder / "donor-a-1.truth.h5").read_bytes()[:3000])
    with pytest.raises(InputError, match="not the truth"):
        read_truth(cut)
    with h5py.File(tmp_path / "less.h5", "w") as file:
        file.attrs["format"] = "bleepdb-truth-1"
    with pytest.raises(InputError, match="not the truth"):
        read_truth(tmp_path / "less.h5")
