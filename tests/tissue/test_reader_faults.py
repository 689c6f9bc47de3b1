"""What is wrong in a section is told by name, and nothing outside the file is read."""

from __future__ import annotations

import csv
import gzip
import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

from bleepdb.errors import BleepdbError, GeneError, SectionError, SlideError
from bleepdb.tissue import read_section, row_for


def read(path, **about):
    return read_section(row_for(path, **{"donor": "P", "tissue": "any", **about}))


# --- AnnData ---------------------------------------------------------------------------------


def test_h5ad(make_h5ad, counts):
    section = read(make_h5ad(), species="human")
    np.testing.assert_array_equal(section.counts.toarray(), counts)
    assert section.panel.symbols[3] == "GENE3"
    assert section.panel.gene_ids[3] == "ENSG00000000003"
    assert section.barcodes[:2].tolist() == ["spot000", "spot001"]
    assert (section.slide_mpp, section.mpp_source) == (pytest.approx(0.5), "spot pitch")
    assert (section.assay, section.pitch_um, section.spot_diameter_um) == ("visium", 100, 55)


@pytest.mark.parametrize("place", ["metadata", "scalefactors"])
@pytest.mark.parametrize("key", ["mpp", "microns_per_pixel"])
def test_h5ad_states_its_mpp(make_h5ad, place, key):
    def change(adata):
        adata.uns["spatial"] = {"lib": {place: {key: 0.51}}}

    section = read(make_h5ad(change))
    assert (section.slide_mpp, section.mpp_source) == (0.51, "h5ad")


def test_h5ad_pitch_without_array_columns(make_h5ad):
    def change(adata):
        del adata.obs["array_row"], adata.obs["array_col"]

    assert read(make_h5ad(change)).slide_mpp == pytest.approx(0.5, rel=1e-6)


def test_h5ad_of_another_assay_or_thinned_has_no_pitch(make_h5ad):
    def thin(adata):
        del adata.obs["array_row"], adata.obs["array_col"]
        return adata[np.random.default_rng(0).permutation(len(adata))[:7]].copy()

    path = make_h5ad(thin)
    section = read(path)
    assert (section.slide_mpp, section.mpp_source) == (None, None)
    with pytest.raises(SectionError, match=r"mpp.* unknown; fill in the sheet's mpp column"):
        _ = section.xy_um
    assert read(make_h5ad(), assay="stereo-seq").slide_mpp is None


def test_h5ad_takes_mpp_from_the_image_last(make_h5ad, real_data):
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    section = read(make_h5ad(), assay="other", image=slide)
    assert (section.slide_mpp, section.mpp_source) == (0.499, "slide")
    assert read(make_h5ad(), image=slide).mpp_source == "spot pitch"


def test_h5ad_counts_in_a_layer_or_in_raw(make_h5ad, counts):
    def layer(adata):
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X * 0.37

    def raw(adata):
        adata.raw = adata.copy()
        adata = adata[:, :5].copy()
        adata.X = np.log1p(adata.X.toarray())
        return adata

    np.testing.assert_array_equal(read(make_h5ad(layer)).counts.toarray(), counts)
    section = read(make_h5ad(raw))
    np.testing.assert_array_equal(section.counts.toarray(), counts)
    assert len(section.panel) == 12


def test_h5ad_ensembl_ids_as_names(make_h5ad):
    def change(adata):
        adata.var["feature_name"] = pd.Categorical(adata.var_names)
        adata.var_names = adata.var.pop("gene_ids").to_numpy()

    section = read(make_h5ad(change))
    assert section.panel.symbols[3] == "GENE3"
    assert section.panel.gene_ids[3] == "ENSG00000000003"


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_symbols_may_repeat_where_ids_differ_but_not_alone(make_h5ad):
    def same_symbols(adata):
        adata.var["feature_name"] = "SAME"
        adata.var_names = adata.var.pop("gene_ids").to_numpy()

    def no_ids(adata):
        del adata.var["gene_ids"]
        adata.var_names = ["SAME", "SAME", *adata.var_names[2:]]

    assert set(read(make_h5ad(same_symbols)).panel.symbols) == {"SAME"}
    path = make_h5ad(no_ids)
    with pytest.raises(GeneError, match=r"made.h5ad: 1 genes stand more than once: SAME"):
        read(path)


def test_h5ad_keeps_spots_under_tissue(make_h5ad):
    def change(adata):
        adata.obs["in_tissue"] = (np.arange(80) % 4 != 0).astype(int)

    section = read(make_h5ad(change))
    assert len(section) == 60
    assert section.notes == ("20 of 80 spots are not under tissue",)
    assert section.barcodes[0] == "spot001"


def spoil_nan(adata):
    adata.X.data[5] = np.nan


def spoil_negative(adata):
    adata.X.data[5] = -2


def spoil_fraction(adata):
    adata.X.data[5] = 1.5


def spoil_zero(adata):
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)


def spoil_position(adata):
    adata.obsm["spatial"][7, 0] = np.inf


def spoil_no_spatial(adata):
    del adata.obsm["spatial"]


def spoil_libraries(adata):
    adata.uns["spatial"] = {"a": {"images": {}}, "b": {"images": {}}}


def spoil_library_column(adata):
    adata.obs["library_id"] = ["a", "b"] * 40


def spoil_one_column(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"][:, :1]


def spoil_species(adata):
    adata.var["gene_ids"] = [f"ENSMUSG{i:011d}" for i in range(12)]


def spoil_mixed(adata):
    adata.var["gene_ids"] = [f"ENS{'MUS' * (i % 2)}G{i:011d}" for i in range(12)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil_nan, "not finite"),
        (spoil_negative, r"negative values \(least -2\)"),
        (spoil_fraction, r"X looks normalised: .*such as 1\.5.*; write the raw counts to layers"),
        (spoil_zero, "zero counts in all of its 80 spots"),
        (spoil_position, "1 spots have no finite position, the first is spot007"),
        (spoil_no_spatial, r'no obsm\["spatial"\]'),
        (spoil_libraries, "holds 2 libraries; write one file a section"),
        (spoil_library_column, "holds 2 libraries"),
        (spoil_one_column, r"shape \(80, 1\) for 80 spots"),
        (spoil_species, "are of mouse, the section is said to be human"),
        (spoil_mixed, "several species in one panel: human, mouse"),
    ],
)
def test_faults_of_an_h5ad(make_h5ad, change, words):
    path = make_h5ad(change)
    with pytest.raises(BleepdbError, match=words) as caught:
        read(path)
    assert caught.value.where == str(path)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_duplicate_barcodes_of_an_h5ad(make_h5ad):
    def change(adata):
        adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]

    with pytest.raises(SectionError, match="1 barcodes stand more than once: twin"):
        read(make_h5ad(change))


def test_external_links_are_refused(make_h5ad, tmp_path):
    path = make_h5ad()
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as handle:
        handle["x"] = np.ones((80, 12))
    with h5py.File(path, "r+") as handle:
        del handle["X"]
        handle["X"] = h5py.ExternalLink(str(secret), "x")
    with pytest.raises(SectionError, match=r"X is an external link to .*secret\.h5"):
        read(path)


@pytest.mark.parametrize("way", ["external", "virtual"])
def test_storage_outside_the_file_is_refused(make_h5ad, tmp_path, way):
    path = make_h5ad()
    outside = tmp_path / "outside.bin"
    outside.write_bytes(np.ones((80, 12), dtype=np.float32).tobytes())
    with h5py.File(path, "r+") as handle:
        kept = dict(handle["X"].attrs)
        del handle["X"]
        if way == "external":
            made = handle.create_dataset(
                "X", (80, 12), "f4", external=[(str(outside), 0, h5py.h5f.UNLIMITED)]
            )
        else:
            layout = h5py.VirtualLayout((80, 12), "f4")
            layout[:] = h5py.VirtualSource(str(outside), "x", (80, 12))
            made = handle.create_virtual_dataset("X", layout)
        made.attrs.update({**kept, "encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(SectionError, match="/X is stored outside the file"):
        read(path)


def test_declared_sizes_are_not_believed(make_h5ad):
    path = make_h5ad()
    with h5py.File(path, "r+") as handle:
        del handle["X"]
        made = handle.create_dataset("X", (80, 10**10), "f4", chunks=(80, 1000))
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    with pytest.raises(SectionError, match=r"/X declares 2980 GiB and stores 0 bytes"):
        read(path)


def test_damaged_h5ad_never_ends_otherwise_than_in_a_clear_error(make_h5ad, tmp_path):
    whole = make_h5ad().read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.h5ad"
    refused = 0
    for attempt in range(60):
        data = bytearray(whole)
        if attempt % 3 == 0:
            data = data[: rng.integers(len(data))]
        for at in rng.integers(0, max(len(data), 1), 8 * (attempt % 3)):
            data[at] = rng.integers(256)
        damaged.write_bytes(data)
        try:
            read(damaged, section="s")
        except BleepdbError as error:
            refused += str(damaged) in str(error)
    # Bytes that no section needs may change unseen; every other error would end this test.
    assert refused > 30


def test_a_file_that_is_no_hdf5(tmp_path):
    path = tmp_path / "a.h5ad"
    path.write_text("not at all")
    with pytest.raises(
        SectionError, match=r"a\.h5ad: cannot be read as AnnData, it may be damaged"
    ):
        read(path)


def test_kinds_that_are_not_read(tmp_path):
    (tmp_path / "a.loom").write_text("x")
    with pytest.raises(SectionError, match="not a kind of section that can be read; give an Ann"):
        read(tmp_path / "a.loom")


# --- Space Ranger ------------------------------------------------------------------------------


def test_outs(make_outs, counts):
    outs = make_outs()
    section = read(outs, image="hires")
    np.testing.assert_array_equal(section.counts.toarray(), counts)
    assert section.slide_mpp == pytest.approx(0.5 / 0.25, rel=1e-3)
    assert not section.notes
    by_matrix = read(outs / "filtered_feature_bc_matrix.h5")
    assert by_matrix.slide_mpp == pytest.approx(0.5, rel=1e-3)


def test_scalefactors_go_before_the_pitch(make_outs):
    outs = make_outs(factors={"microns_per_pixel": 0.4})
    section = read(outs)
    assert (section.slide_mpp, section.mpp_source) == (0.4, "scalefactors")
    assert "spot pitch says 0.5" in section.notes[0]
    with pytest.raises(SectionError, match="no tissue_hires_scalef"):
        read(outs, image="hires")


def test_only_genes_and_only_spots_under_tissue(make_outs, counts):
    outs = make_outs(
        types=["Gene Expression"] * 10 + ["Antibody Capture"] * 2,
        in_tissue=(np.arange(80) >= 20).astype(int),
    )
    section = read(outs)
    np.testing.assert_array_equal(section.counts.toarray(), counts[20:, :10])
    assert section.notes == (
        (
            "60 of 80 spots with counts have a place under tissue; "
            "0 of 60 places under tissue have no counts"
        ),
    )


def test_the_join_of_barcodes_follows_names_not_order(make_outs, counts):
    names = [f"AC{i:03d}-1" for i in range(80)]
    turned = names[::-1]
    section = read(make_outs(barcodes=names, placed=turned))
    np.testing.assert_array_equal(section.counts.toarray(), counts)
    positions = pd.read_csv(section.source / "spatial" / "tissue_positions.csv", index_col=0)
    np.testing.assert_array_equal(
        section.xy_px,
        positions.loc[section.barcodes, ["pxl_col_in_fullres", "pxl_row_in_fullres"]],
    )


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"placed": [f"XX{i:03d}-1" for i in range(80)]}, "0 of 80 spots with counts"),
        (
            {"placed": [f"{'AC' if i < 39 else 'XX'}{i:03d}-1" for i in range(80)]},
            "do not belong together: 39 of 80",
        ),
        ({"barcodes": ["B"] * 80}, "1 barcodes of the counts stand more than once: B"),
        (
            {"genomes": ["GRCh38"] * 6 + ["mm10"] * 6},
            "holds 2 genomes: GRCh38, mm10; give a section",
        ),
        ({"types": ["Antibody Capture"] * 12}, 'no features of type "Gene Expression"'),
        ({"values": np.zeros((80, 12), dtype=np.int32)}, "zero counts in all"),
        ({"values": np.full((80, 12), -1)}, "negative values"),
        ({"in_tissue": 0}, "0 of 80 spots with counts"),
        ({"in_tissue": 7}, "column in_tissue holds other values than 0 and 1"),
        ({"factors": {"microns_per_pixel": -1}}, "microns_per_pixel is -1, not a positive"),
        ({"factors": ["no object"]}, "not a JSON object"),
    ],
)
def test_faults_of_outs(make_outs, parts, words):
    outs = make_outs(**parts)
    with pytest.raises(BleepdbError, match=words) as caught:
        read(outs)
    assert caught.value.where.startswith(str(outs))


def test_positions_with_a_fault_name_line_and_column(make_outs):
    outs = make_outs()
    path = outs / "spatial" / "tissue_positions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3].rsplit(",", 1)[0] + ",far", *lines[4:]]))
    with pytest.raises(
        SectionError, match=r"column pxl_col_in_fullres is not a number: line 4 has 'far'"
    ):
        read(outs)
    path.write_text("\n".join([*lines[:3], lines[3] + ",1", *lines[4:]]))
    with pytest.raises(
        SectionError, match=r"1 rows do not have the header's 6 cells: line 4 has 7"
    ):
        read(outs)


@pytest.mark.parametrize("shape", ["headerless", "parquet"])
def test_positions_in_every_shape(make_outs, shape):
    outs = make_outs()
    expected = read(outs)
    path = outs / "spatial" / "tissue_positions.csv"
    frame = pd.read_csv(path)
    path.unlink()
    if shape == "parquet":
        frame.to_parquet(path.with_suffix(".parquet"))
    else:
        frame.to_csv(path.with_name("tissue_positions_list.csv"), header=False, index=False)
    assert read(outs).digest == expected.digest


def test_parts_that_are_missing(make_outs):
    outs = make_outs()
    (outs / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(SectionError, match="no spot positions"):
        read(outs)
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    with pytest.raises(SectionError, match=r"neither filtered_feature_bc_matrix\.h5 nor"):
        read(outs)


def test_damaged_matrices(make_outs, real_data, tmp_path):
    outs = make_outs()
    path = outs / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SectionError, match="cannot be read as a 10x matrix, it may be damaged"):
        read(outs)
    copy = tmp_path / "v2"
    shutil.copytree(real_data / "spaceranger" / "v2_mtx", copy)
    matrix = copy / "outs" / "filtered_feature_bc_matrix" / "matrix.mtx"
    text = matrix.read_text()
    matrix.write_text(text[: len(text) // 2])
    with pytest.raises(SectionError, match=r"matrix\.mtx: not a readable Matrix Market file"):
        read(copy, section="s")
    matrix.unlink()
    packed = gzip.compress(text.encode())
    (matrix.parent / "matrix.mtx.gz").write_bytes(packed)
    assert read(copy, section="s").counts.sum() == 2951
    (matrix.parent / "matrix.mtx.gz").write_bytes(packed[:-40])
    with pytest.raises(SectionError, match="not a readable Matrix Market file"):
        read(copy, section="s")
    (matrix.parent / "matrix.mtx.gz").write_bytes(packed)
    (matrix.parent / "barcodes.tsv").write_text("a\nb\n")
    with pytest.raises(SectionError, match="12 barcodes, but 5 features and 2 barcodes are named"):
        read(copy, section="s")


# --- legacy ST -----------------------------------------------------------------------------------


@pytest.fixture
def legacy(tmp_path):
    """Write a legacy section of 4 x 5 spots; arguments replace its tables."""

    def make(counts=None, spots=None):
        at = [(x, y) for x in range(4) for y in range(5)]
        rows = "".join(f"{x}x{y}\t{x + 1}\t{y}\n" for x, y in at)
        (tmp_path / "L1.tsv").write_text(counts or f"\tA\tB\n{rows}")
        table = "x\ty\tpixel_x\tpixel_y\tselected\n" + "".join(
            f"{x}\t{y}\t{100 + 400 * y}\t{2000 - 400 * x}\t1\n" for x, y in at
        )
        (tmp_path / "L1_selection.tsv").write_text(spots(table) if spots else table)
        return tmp_path / "L1.tsv"

    return make


def test_legacy_turned_array(legacy):
    section = read(legacy())
    assert section.counts.shape == (20, 2)
    assert section.slide_mpp == pytest.approx(0.5)
    assert section.slide_path is None
    assert section.xy_px[section.barcodes.tolist().index("3x1")].tolist() == [500, 800]


def test_legacy_selected_spots_only(legacy):
    section = read(legacy(spots=lambda t: t.replace("2000\t1\n", "2000\t0\n")))
    assert len(section) == 15
    assert section.notes[0].startswith("15 of 20 spots with counts have a place")


@pytest.mark.parametrize(
    ("counts", "spots", "words"),
    [
        ("\tA\tA\n0x0\t1\t2\n", None, "1 genes stand more than once: A"),
        ("\tA\tB\n0x0\t1\t2\n0x0\t1\t2\n", None, "1 barcodes of the counts stand more .*0x0"),
        ("\tA\tB\n0x0\t1.5\t2\n", None, "the table looks normalised"),
        ("\tA\tB\n0x0\tmany\t2\n", None, "column A does not hold numbers"),
        ("\tA\tB\n0x0\t0\t0\n", None, "zero counts"),
        ("\tA\tB\n9x9\t1\t1\n", None, "do not belong together: 0 of 1"),
        (None, lambda t: t.replace("pixel_x", "px"), "no column pixel_x"),
        (None, lambda t: t + "1\t1\t5\t5\t1\n", "1 spots stand more than once: 1x1"),
        (None, lambda t: t.replace("\t1\n", "\t0\n"), "no spot is selected"),
        (None, lambda t: t.splitlines()[0], "a table without rows"),
    ],
)
def test_faults_of_a_legacy_section(legacy, counts, spots, words):
    with pytest.raises(BleepdbError, match=words):
        read(legacy(counts, spots))


def test_legacy_without_its_spot_table(legacy, tmp_path):
    path = legacy()
    (tmp_path / "L1_selection.tsv").unlink()
    with pytest.raises(SectionError, match=r"no spot table for L1; put L1_selection\.tsv beside"):
        read(path)


def test_legacy_tables_as_other_archives_keep_them(legacy, tmp_path):
    """Commas, packed, spots as columns, and a table that names its spots."""
    expected = read(legacy())
    counts = pd.read_csv(tmp_path / "L1.tsv", sep="\t", index_col=0)
    spots = pd.read_csv(tmp_path / "L1_selection.tsv", sep="\t")
    other = tmp_path / "other"
    other.mkdir()
    counts.T.to_csv(other / "L1_stdata.csv.gz")
    named = spots[["pixel_x", "pixel_y"]].set_axis(["X", "Y"], axis=1)
    named.index = [f"{x}x{y}" for x, y in zip(spots.x, spots.y, strict=True)]
    named.to_csv(other / "spots_L1.csv.gz")
    Image.new("RGB", (2500, 2500)).save(other / "HE_L1.jpg")
    section = read(other / "L1_stdata.csv.gz", section="L1")
    assert section.digest == expected.digest
    assert section.slide_path == other / "HE_L1.jpg"
    counts.to_csv(other / "L1_stdata.csv", quoting=csv.QUOTE_ALL)
    assert read(other / "L1_stdata.csv", section="L1").digest == expected.digest
    named.index = ["first", *named.index[1:]]
    named.to_csv(other / "spots_L1.csv.gz")
    with pytest.raises(SectionError, match="line 2 does not name a spot such as 10x12"):
        read(other / "L1_stdata.csv.gz", section="L1")


def test_a_truncated_counts_table(her2st, tmp_path):
    packed = (her2st / "C2.tsv.gz").read_bytes()
    (tmp_path / "C2.tsv.gz").write_bytes(packed[: len(packed) // 2])
    shutil.copy(her2st / "C2_selection.tsv", tmp_path)
    with pytest.raises(
        SectionError, match=r"C2\.tsv\.gz: cannot be read, it may be damaged or inc"
    ):
        read(tmp_path / "C2.tsv.gz")


def test_an_image_that_is_none(legacy, tmp_path):
    path = legacy()
    (tmp_path / "L1.jpg").write_text("no image")
    with pytest.raises(SlideError, match=r"L1\.jpg: no reader opens it"):
        read(path)
    Image.new("RGB", (10, 10)).save(tmp_path / "L1.jpg")
    assert read(path).slide_path == tmp_path / "L1.jpg"


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("a.tsv", "\tERBB2\tESR1\n10x12\t3\t0\n", True),
        ("a.csv", "gene,10x12,11x12\nERBB2,3,0\n", True),
        ("a.csv", "section,donor,tissue,expression\nA,P,breast,A.h5ad\n", False),
        ("a.csv", "slide,mpp\na.svs,0.5\n", False),
        ("a.tsv", "spot\tpixel_x\tpixel_y\n10x12\t5\t5\n", False),
        ("a.csv", "", False),
    ],
)
def test_counts_are_told_from_sheets_by_their_names_of_spots(tmp_path, name, text, counts):
    from bleepdb.tissue.readers.legacy_st import is_counts

    (tmp_path / name).write_text(text)
    assert is_counts(tmp_path / name) == counts


@pytest.mark.parametrize(("name", "content"), [("e.h5ad", b""), ("e.tsv", b""), ("e.tsv", b"\n")])
def test_an_empty_file_is_called_so(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SectionError, match="the file is empty"):
        read(tmp_path / name)
    if not content:
        packed = tmp_path / f"{name}.tsv.gz"
        packed.write_bytes(gzip.compress(b""))
        with pytest.raises(SectionError, match="the file is empty"):
            read(packed)
