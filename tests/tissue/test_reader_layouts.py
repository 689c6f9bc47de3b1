"""A section is found under the names that folders and archives give it, and told what it is."""

from __future__ import annotations

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest

from bleepdb.errors import SectionError
from bleepdb.tissue import read_section, row_for
from bleepdb.tissue.readers.layout import look

from .section_files import write_matrix, write_mtx


def read(path, **about):
    return read_section(row_for(path, **{"section": "s", "donor": "P", "tissue": "any", **about}))


def pack(path):
    """Replace a file by its packed twin."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def rename_all(folder, prefix):
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.rename(path.with_name(f"{prefix}{path.name}"))


def given_outs(outs):
    return outs


def given_parent(outs):
    return outs.parent


def given_matrix(outs):
    return outs / "filtered_feature_bc_matrix.h5"


def given_matrix_folder(outs):
    to_mtx(outs)
    return outs / "filtered_feature_bc_matrix"


def given_matrix_market(outs):
    return given_matrix_folder(outs) / "matrix.mtx.gz"


def to_mtx(outs, prefix="", folder=None):
    """Replace the h5 by a Matrix Market folder."""
    from bleepdb.tissue.readers.tenx import read_h5

    matrix = read_h5(outs / "filtered_feature_bc_matrix.h5")
    write_mtx(
        folder or outs / "filtered_feature_bc_matrix",
        matrix.counts.toarray(),
        matrix.barcodes,
        prefix,
    )
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    return outs


def archive_prefixed(outs):
    """As on GEO: a prefix before each name, tables packed, spatial/ kept."""
    pack(outs / "spatial" / "tissue_positions.csv")
    pack(outs / "spatial" / "scalefactors_json.json")
    rename_all(outs, "GSM123_A1_")
    return outs / "GSM123_A1_filtered_feature_bc_matrix.h5"


def archive_folder(outs):
    archive_prefixed(outs)
    return outs


def archive_flat(outs):
    """All files in one folder, the positions as a packed list without header."""
    table = pd.read_csv(outs / "spatial" / "tissue_positions.csv")
    table.to_csv(outs / "tissue_positions_list.csv", header=False, index=False)
    pack(outs / "tissue_positions_list.csv")
    shutil.move(outs / "spatial" / "scalefactors_json.json", outs)
    shutil.rmtree(outs / "spatial")
    to_mtx(outs, folder=outs)
    rename_all(outs, "GSM123_A1_")
    return outs


def archive_of_two(outs):
    """Two sections in one folder; the matrix that is given tells which."""
    archive_flat(outs)
    for path in list(outs.iterdir()):
        other = path.with_name(path.name.replace("GSM123_A1", "GSM124_B1"))
        other.write_bytes(b"" if "positions" in path.name else path.read_bytes())
    return outs / "GSM123_A1_matrix.mtx.gz"


def website(outs):
    """As downloaded from 10x: the matrix has a prefix, spatial/ is unpacked beside it."""
    path = outs / "filtered_feature_bc_matrix.h5"
    return path.rename(path.with_name(f"V1_Human_Lymph_Node_{path.name}"))


@pytest.mark.parametrize(
    "given",
    [
        given_outs, given_parent, given_matrix, given_matrix_folder, given_matrix_market, to_mtx,
        archive_prefixed,
        archive_folder, archive_flat, archive_of_two, website,
    ],
)  # fmt: skip
def test_the_same_section_by_every_name(make_outs, given):
    outs = make_outs()
    expected = read(outs)
    path = given(outs)
    seen = look(path)
    assert (seen.kind, seen.fault) == ("spaceranger", None)
    section = read(path)
    assert section.digest == expected.digest


def test_two_sections_in_a_folder_are_named(make_outs):
    outs = archive_of_two(make_outs()).parent
    with pytest.raises(SectionError, match=r"holds the matrices of 2 sections; give one of them"):
        read(outs)
    assert look(outs).kind is None


def test_a_raw_matrix_serves_where_there_is_no_other(make_outs, counts):
    outs = make_outs(in_tissue=(np.arange(80) >= 50).astype(int))
    filtered = outs / "filtered_feature_bc_matrix.h5"
    filtered.rename(outs / "raw_feature_bc_matrix.h5")
    section = read(outs)
    np.testing.assert_array_equal(section.counts.toarray(), counts[50:])
    assert section.notes == ("raw_feature_bc_matrix.h5 is read, since there is no filtered matrix",)
    write_matrix(filtered, counts[50:], [f"AC{i:03d}-1" for i in range(50, 80)])
    assert read(outs).digest == section.digest
    assert not read(outs).notes


def test_hires_of_an_archive(make_outs):
    outs = make_outs()
    expected = read(outs, image="hires")
    section = read(archive_prefixed(outs), image="hires")
    assert section.slide_path == outs / "spatial" / "GSM123_A1_tissue_hires_image.png"
    assert section.slide_mpp == expected.slide_mpp
    np.testing.assert_array_equal(section.xy_px, expected.xy_px)


def test_the_small_picture_is_kept_with_its_scale(make_outs):
    from PIL import Image

    outs = make_outs()
    section = read(outs)
    assert section.reference_image.scale == 0.25
    assert section.reference_image.load().shape == (500, 560, 3)
    assert read(outs, image="hires").reference_image.scale == 1.0
    # A hires picture of one colour says nothing where a lowres one shows the tissue.
    spatial = outs / "spatial"
    noise = np.random.default_rng(0).integers(0, 255, (50, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(spatial / "tissue_lowres_image.png")
    (spatial / "scalefactors_json.json").write_text(
        '{"tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.025}'
    )
    found = read(outs).reference_image
    assert (found.where, found.scale) == (str(spatial / "tissue_lowres_image.png"), 0.025)
    np.testing.assert_array_equal(found.load(), noise)
    (spatial / "tissue_hires_image.png").write_bytes(b"none")
    assert "tissue_hires_image.png is left out" in read(outs).notes[0]


def test_what_is_near_to_a_section_is_told_apart(tmp_path, make_outs):
    from .section_files import visium_adata

    adata, _ = visium_adata()
    adata.write_h5ad(tmp_path / "a.h5")
    with pytest.raises(SectionError, match=r"not a 10x matrix, but AnnData; name the file \.h5ad"):
        read(tmp_path / "a.h5")
    for part in ("obs", "var", "X"):
        (tmp_path / "a.zarr" / part).mkdir(parents=True)
    assert look(tmp_path / "a.zarr").fault == "AnnData in Zarr is not read"
    outs = make_outs()
    shutil.copytree(outs / "spatial", outs / "segmented_outputs" / "spatial")
    assert "segmented cells" in look(outs / "segmented_outputs").fault
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(SectionError, match=r"neither filtered_feature_bc_matrix\.h5 nor"):
        read(outs)


def test_antibodies_and_probes_beside_genes(make_outs, counts):
    types = ["Gene Expression"] * 9 + ["Antibody Capture"] * 3
    outs = make_outs(types=types, genomes=["GRCh38"] * 9 + [""] * 3)
    np.testing.assert_array_equal(read(outs).counts.toarray(), counts[:, :9])


def test_symbols_may_repeat_where_ids_differ(make_outs):
    section = read(make_outs(symbols=["TBCE", "TBCE", *(f"G{i}" for i in range(10))]))
    assert section.panel.symbols[:2] == ("TBCE", "TBCE")


@pytest.mark.parametrize(
    ("path", "kind", "fault"),
    [
        ("h5ad/squidpy_spatial.h5ad", "h5ad", None),
        ("her2st/C2.tsv.gz", "legacy st", None),
        ("her2st/C2.jpg", None, "not a kind of section"),
        ("her2st/C2_selection.tsv", None, "a table of spots, not of counts"),
        ("her2st", None, "a folder without spatial/"),
        ("spaceranger/v1_seurat", "spaceranger", None),
        ("spaceranger/v1_scanpy/filtered_feature_bc_matrix.h5", "spaceranger", None),
        ("spaceranger/v2_mtx", "spaceranger", None),
        ("spaceranger/hd_seurat", "visium hd", None),
        ("spaceranger/hd_seurat/binned_outputs", "visium hd", None),
        ("spaceranger/hd_seurat/binned_outputs/square_008um", "visium hd", None),
        ("spatialdata/blobs_v2.zarr", "spatialdata", None),
        ("spatialdata/blobs_v3.zarr/tables/table", "spatialdata", None),
        ("tenx_h5/scanpy/3.0.0", None, "a folder without spatial/"),
        ("tenx_h5/scanpy/3.0.0/filtered_feature_bc_matrix.h5", "spaceranger", None),
        ("tenx_h5/scanpy/int-ids", None, "a folder without spatial/"),
        ("nowhere", None, "no such file or folder"),
    ],
)
def test_what_real_paths_look_like(real_data, path, kind, fault):
    seen = look(real_data / path)
    assert seen.kind == kind
    assert (seen.fault is None) == (fault is None)
    if fault:
        assert fault in seen.fault
        assert seen.hint
