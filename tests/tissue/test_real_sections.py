"""Every real folder is read with the right figures, or refused with the right words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bleepdb.errors import GeneError, SectionError
from bleepdb.tissue import read_section, row_for


def read(path, **about):
    return read_section(row_for(path, **{"donor": "P", "tissue": "any", **about}))


@pytest.mark.parametrize(
    ("name", "spots", "genes", "total", "without_counts"),
    [
        ("C2", 187, 15706, 1926633, 0),
        ("C3", 180, 15821, 2033498, 2),
        ("C4", 184, 15842, 2213922, 3),
        ("C5", 181, 15721, 2014132, 2),
    ],
)
def test_her2st(her2st, name, spots, genes, total, without_counts):
    section = read(her2st / f"{name}.tsv.gz")
    assert section.counts.shape == (spots, genes)
    assert section.counts.sum() == total
    assert section.counts.data.dtype == np.int64
    assert section.counts.has_sorted_indices
    assert (section.assay, section.pitch_um, section.spot_diameter_um) == ("st", 200.0, 100.0)
    assert section.slide_path == her2st / f"{name}.jpg"
    assert section.mpp_source == "array pitch"
    # The scan spans 32 x 34 steps of 200 µm: 6,400 µm over about 9,272 px.
    assert section.slide_mpp == pytest.approx(6400 / 9272, rel=0.01)
    assert len(section.notes) == (without_counts > 0)
    if without_counts:
        assert f"{without_counts} of {spots + without_counts} places" in section.notes[0]
    table = pd.read_csv(her2st / f"{name}_selection.tsv", sep="\t")
    places = {f"{r.x}x{r.y}": (r.pixel_x, r.pixel_y) for r in table.itertuples()}
    np.testing.assert_array_equal(section.xy_px, [places[b] for b in section.barcodes])
    frame = pd.read_csv(her2st / f"{name}.tsv.gz", sep="\t", index_col=0)
    np.testing.assert_array_equal(section.counts.toarray(), frame.loc[section.barcodes])
    assert section.panel.symbols == tuple(frame.columns)


def test_the_users_mpp_goes_first_and_disagreement_is_noted(her2st):
    row = row_for(her2st / "C2.tsv.gz", donor="C", tissue="breast", mpp=0.7)
    stated = read_section(row)
    assert (stated.slide_mpp, stated.mpp_source) == (0.7, "sheet")
    flagged = read_section(row, slide_mpp=1.0)
    assert (flagged.slide_mpp, flagged.mpp_source) == (1.0, "--slide-mpp")
    assert len([n for n in flagged.notes if n.startswith("mpp")]) == 2
    assert "mpp 1 from --slide-mpp is used; array pitch says 0.689" in flagged.notes
    assert not stated.notes


def test_space_ranger_1_without_header(real_data):
    section = read(real_data / "spaceranger" / "v1_seurat", species="mouse")
    assert section.counts.shape == (2695, 100)
    assert section.counts.sum() == 132231
    assert section.assay == "visium"
    assert (section.slide_mpp, section.mpp_source) == (
        pytest.approx(0.7248, abs=1e-4),
        "spot pitch",
    )
    assert section.panel.symbols[0] == "Xkr4"
    assert section.panel.gene_ids[0] == "ENSMUSG00000051951"
    positions = pd.read_csv(
        real_data / "spaceranger" / "v1_seurat" / "spatial" / "tissue_positions_list.csv",
        header=None,
        index_col=0,
    )
    np.testing.assert_array_equal(section.xy_px, positions.loc[section.barcodes, [5, 4]])
    assert section.slide_path is None


def test_space_ranger_hires_image(real_data):
    folder = real_data / "spaceranger" / "v1_seurat"
    full = read(folder, species="mouse")
    hires = read(folder, species="mouse", image="hires")
    factor = 0.17211704
    assert hires.slide_path == folder / "spatial" / "tissue_hires_image.png"
    np.testing.assert_allclose(hires.xy_px, full.xy_px * factor)
    np.testing.assert_allclose(hires.xy_um, full.xy_um)


def test_another_species_than_the_sheet_says(real_data):
    with pytest.raises(GeneError, match="is said to be human; pass --species mouse"):
        read(real_data / "spaceranger" / "v1_seurat")


def test_space_ranger_1_subset(real_data):
    section = read(real_data / "spaceranger" / "v1_scanpy")
    assert (section.counts.shape, section.counts.sum()) == ((100, 100), 932)
    assert section.slide_mpp == pytest.approx(0.7252, abs=1e-4)
    assert section.notes == (
        (
            "100 of 100 spots with counts have a place under tissue; "
            "4135 of 4235 places under tissue have no counts"
        ),
    )


@pytest.mark.parametrize("end", ["", "outs"])
def test_space_ranger_2_with_a_matrix_folder(real_data, end):
    section = read(real_data / "spaceranger" / "v2_mtx" / end)
    assert (section.counts.shape, section.counts.sum()) == ((12, 5), 2951)
    assert section.panel.symbols == ("ACPP", "KLK3", "MSMB", "TGM4", "TAGLN")
    assert section.counts[0].toarray().tolist() == [[38, 54, 46, 5, 22]]
    assert section.slide_mpp == pytest.approx(0.3437, abs=1e-4)
    assert section.xy_px[0].tolist() == [19828, 3932]


def test_visium_hd_whose_positions_are_of_another_run(real_data):
    hd = real_data / "spaceranger" / "hd_seurat"
    with pytest.raises(SectionError, match=r"do not belong together: 336 of 2695 bins"):
        read(hd / "binned_outputs" / "square_016um", species="mouse")
    section = read(hd, species="mouse")
    assert (len(section), section.assay, section.pitch_um) == (874, "visium-hd", 56.0)
    assert (section.slide_mpp, section.mpp_source) == (0.27376126715315274, "scalefactors")


def test_a_normalised_h5ad(real_data):
    with pytest.raises(SectionError, match=r"squidpy_spatial.h5ad: no raw counts: X looks norm"):
        read(real_data / "h5ad" / "squidpy_spatial.h5ad", species="mouse")


def test_matrices_that_are_no_section(real_data):
    folder = real_data / "tenx_h5" / "scanpy"
    with pytest.raises(GeneError, match=r"2 genomes: another_genome, hg19_chr21"):
        read(folder / "1.2.0" / "multiple_genomes.h5")
    with pytest.raises(SectionError, match=r"a Cell Ranger 2 matrix \(group hg19_chr21\)"):
        read(folder / "1.2.0" / "filtered_gene_bc_matrices_h5.h5")
    with pytest.raises(SectionError, match=r"no spatial/ beside the matrix"):
        read(folder / "3.0.0" / "filtered_feature_bc_matrix.h5")
    with pytest.raises(SectionError, match=r"a folder without spatial/"):
        read(folder / "3.0.0")


def test_matrix_shapes_of_several_generations_agree(real_data):
    from bleepdb.tissue.readers.tenx import read_folder, read_h5

    folder = real_data / "tenx_h5" / "scanpy" / "3.0.0"
    table = read_h5(folder / "filtered_feature_bc_matrix.h5")
    text = read_folder(folder / "filtered_feature_bc_matrix")
    assert table.barcodes == text.barcodes
    assert table.symbols == text.symbols
    assert table.gene_ids == text.gene_ids
    assert (table.counts != text.counts).nnz == 0
    old = read_folder(
        real_data / "tenx_h5" / "scanpy" / "1.2.0" / "filtered_gene_bc_matrices" / "hg19_chr21"
    )
    assert old.counts.shape == (len(old.barcodes), len(old.symbols)) == (12, 343)
