"""Bins of Visium HD pooled: against plain loops, whichever way they are named, stored or read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.errors import SectionError
from bleepdb.tissue import read_section, read_sheet, row_for
from bleepdb.tissue.binning import bins_a_side, pool
from bleepdb.tissue.readers import tenx
from bleepdb.tissue.readers.visium_hd import read_bins

from .section_files import HD


def read(path, *, about=None, **choices):
    return read_section(
        row_for(path, section="s", donor="P", tissue="any", **(about or {})), **choices
    )


@pytest.fixture
def disc():
    row, col = np.mgrid[:30, :40]
    return HD(tissue=(row - 14) ** 2 + (col - 20) ** 2 < 180)


@pytest.mark.parametrize(("bin_um", "side"), [(None, 7), (24, 3), (56, 7), (20, 3), (64, 8)])
def test_blocks_are_sums_over_their_bins(tmp_path, disc, bin_um, side):
    section = read(disc.write(tmp_path), bin_um=bin_um)
    expected = disc.pooled(side)
    edge = 8 * side
    assert section.barcodes.tolist() == [f"s_{edge:03d}um_{r:05d}_{c:05d}" for r, c in expected]
    np.testing.assert_array_equal(section.counts.toarray(), np.stack(list(expected.values())))
    middle = [(c * side + (side - 1) / 2, r * side + (side - 1) / 2) for r, c in expected]
    np.testing.assert_allclose(section.xy_px, disc.at(*np.transpose(middle)), atol=1e-6)
    assert (section.assay, section.pitch_um, section.spot_diameter_um) == ("visium-hd", edge, edge)
    assert (section.slide_mpp, section.mpp_source) == (0.4, "scalefactors")
    assert f"pooled {side} x {side} to {edge} µm: {len(expected)} places" in section.notes[0]
    assert not any(n.startswith("mpp") for n in section.notes)


def test_blocks_with_few_bins_are_left_out_and_their_loss_is_told(tmp_path, disc):
    section = read(disc.write(tmp_path))
    all_blocks, kept = disc.pooled(7, least=0), disc.pooled(7)
    assert 0 < len(kept) < len(all_blocks)
    # Blocks at the array's own edge are judged by the bins that they have: 2 of 7 rows here.
    assert any(r == 4 for r, _ in HD().pooled(7))
    assert f"{len(all_blocks) - len(kept)} blocks with less than half" in section.notes[0]


def test_the_bins_own_size_leaves_them_as_they_are(tmp_path, disc):
    section = read(disc.write(tmp_path), bin_um=8)
    filled = disc.inside
    assert section.barcodes.tolist() == np.array(disc.names)[filled].tolist()
    np.testing.assert_array_equal(section.counts.toarray(), disc.counts[filled])
    np.testing.assert_allclose(section.xy_px, disc.xy[filled])
    assert section.pitch_um == 8


def test_the_sheet_may_say_the_size_and_the_option_goes_before_it(tmp_path, disc):
    disc.write(tmp_path)
    sheet = tmp_path / "s.csv"
    sheet.write_text("section,donor,tissue,expression,bin_um\ns,P,any,.,24\n")
    (row,) = read_sheet(sheet)
    assert read_section(row).pitch_um == 24
    assert read_section(row, bin_um=8).pitch_um == 8


def test_the_options_of_the_commands_reach_the_reader(tmp_path, disc):
    from bleepdb.cli.inputs import load_all, rows_of

    folder = disc.write(tmp_path)
    table = disc.table().drop(index=np.flatnonzero(disc.inside)[::2])
    table = table.drop(index=table.index[:300])
    table.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    rows = rows_of(folder, donor="P", tissue="any")
    asked = {"slide_mpp": None, "min_counts": 1, "min_genes": 1}
    with pytest.raises(SectionError, match=r"pass --allow-loss to go on"):
        load_all(rows, **asked)
    (section,) = load_all(rows, bin_um=8, allow_loss=True, **asked)
    assert section.pitch_um == 8


def test_the_digest_depends_on_the_bins(tmp_path, disc):
    folder = disc.write(tmp_path)
    digests = {read(folder, bin_um=um).digest for um in (8, 24, 56)}
    assert len(digests) == 3
    assert read(folder, bin_um=56).digest == read(folder).digest
    assert read(folder, about={"assay": "visium-hd"}).digest == read(folder).digest


@pytest.mark.parametrize(
    "place", ["", "outs", "outs/binned_outputs", "outs/binned_outputs/square_008um"]
)
def test_a_folder_by_any_of_its_names(tmp_path, disc, place):
    folder = disc.write(tmp_path / "outs")
    HD(rows=8, cols=10, um=16).write(tmp_path / "outs")
    (tmp_path / "outs" / "spatial").mkdir()
    assert read(tmp_path / place).digest == read(folder).digest


def test_the_largest_bins_that_divide_the_target_are_read(tmp_path):
    eight, sixteen = HD(), HD(rows=15, cols=20, um=16, seed=1)
    for bins in (eight, sixteen):
        bins.write(tmp_path)
    assert read(tmp_path, bin_um=48).counts.sum() == sum(sixteen.pooled(3).values()).sum()
    assert read(tmp_path, bin_um=56).counts.sum() == sum(eight.pooled(7).values()).sum()
    assert len(read(tmp_path, bin_um=16)) == 300


@pytest.mark.parametrize("way", ["columns absent", "raw", "shuffled", "csv", "small runs", "mtx"])
def test_the_same_section_however_it_is_written(tmp_path, disc, way, monkeypatch):
    expected = read(disc.write(tmp_path / "plain"))
    folder = disc.write(tmp_path / "other", columns=way != "columns absent", raw=way == "raw")
    table = folder / "spatial" / "tissue_positions.parquet"
    frame = pd.read_parquet(table)
    if way == "shuffled":
        frame.sample(frac=1, random_state=0).to_parquet(table)
    elif way == "csv":
        table.unlink()
        frame.to_csv(table.with_suffix(".csv"), index=False)
    elif way == "small runs":
        monkeypatch.setattr(tenx.OpenMatrix.runs, "__defaults__", (50,))
    elif way == "mtx":
        from .section_files import write_mtx

        (folder / "filtered_feature_bc_matrix.h5").unlink()
        names = np.array(disc.names)[disc.inside].tolist()
        write_mtx(folder / "filtered_feature_bc_matrix", disc.counts[disc.inside], names)
    section = read(folder)
    assert section.barcodes.tolist() == expected.barcodes.tolist()
    assert (section.counts != expected.counts).nnz == 0
    np.testing.assert_allclose(section.xy_px, expected.xy_px)


def test_names_of_another_kind_are_joined_too(tmp_path, disc):
    expected = read(disc.write(tmp_path / "plain"))
    order = np.random.default_rng(0).permutation(len(disc.names))
    disc.names = [f"{'ACGT'[i % 4]}{i:04d}-1" for i in order]
    np.testing.assert_array_equal(
        read(disc.write(tmp_path / "odd")).counts.toarray(), expected.counts.toarray()
    )


def test_the_join_is_told_and_refused_below_half(tmp_path, disc):
    folder = disc.write(tmp_path)
    path = folder / "spatial" / "tissue_positions.parquet"
    table = disc.table()
    counted = int(disc.inside.sum())
    inside = np.flatnonzero(disc.inside)
    few = table.drop(index=inside[: int(0.6 * counted)])
    few.to_parquet(path)
    words = (
        rf"{counted - int(0.6 * counted)} of {counted} bins with counts have a place.*--allow-loss"
    )
    with pytest.raises(SectionError, match=words):
        read(folder)
    section = read(folder, allow_loss=True)
    assert section.notes[0].startswith(f"{counted - int(0.6 * counted)} of {counted} bins")
    table["barcode"] = table["barcode"].str.replace("s_008", "s_016")
    table.to_parquet(path)
    with pytest.raises(SectionError, match=r"0 of .* bins with counts have a place") as caught:
        read(folder, allow_loss=True)
    assert "allow-loss" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(array_col=-1), "negative or out of reach"),
        (lambda t: t.assign(array_row=0), "share their place on the array"),
        (
            lambda t: t.assign(pxl_col_in_fullres=np.nan),
            "pxl_col_in_fullres is not a number in 1200",
        ),
        (lambda t: t.assign(pxl_col_in_fullres="far"), "pxl_col_in_fullres is not a number"),
        (lambda t: t.assign(in_tissue=3), "in_tissue holds other values"),
        (lambda t: t.drop(columns="in_tissue"), "no column in_tissue"),
        (lambda t: t.iloc[:0], "a table without rows"),
        (lambda t: pd.concat([t, t.iloc[:5]]), "5 barcodes of the positions stand more than once"),
        (lambda t: t.drop(columns="array_row").assign(barcode="odd"), "do not tell them"),
        (
            lambda t: t.assign(pxl_col_in_fullres=np.random.default_rng(0).permutation(1200)),
            "do not follow the array",
        ),
    ],
)
def test_faults_of_the_table(tmp_path, change, words):
    folder = HD().write(tmp_path)
    path = folder / "spatial" / "tissue_positions.parquet"
    change(HD().table()).to_parquet(path)
    with pytest.raises(SectionError, match=words):
        read(folder)


def test_sizes_that_cannot_be_made(tmp_path):
    folder = HD().write(tmp_path)
    with pytest.raises(SectionError, match="bins of 8 µm, which cannot be split into 4 µm"):
        read(folder, bin_um=4)
    for um in (0, -8, float("nan"), 5000):
        with pytest.raises(SectionError, match="name a size up to 1000 µm"):
            read(folder, bin_um=um)


@given(st.sampled_from([2.0, 8.0, 16.0]), st.floats(16, 200))
@settings(max_examples=200)
def test_the_side_is_the_nearest_in_ratio(um, target):
    side = bins_a_side(um, target, None)
    ratio = max(side * um / target, target / (side * um))
    for other in (side - 1, side + 1):
        if other:
            assert ratio <= max(other * um / target, target / (other * um)) + 1e-9


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_pool_is_a_grouped_sum(seed, step):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.5, (30, 5))
    block = rng.integers(-1, 6, 30)
    runs = [(at, sp.csr_matrix(counts[at : at + step])) for at in range(0, 30, step)]
    expected = [counts[block == b].sum(axis=0) for b in range(6)]
    np.testing.assert_array_equal(pool(runs, block, 6, 5).toarray(), expected)


def test_a_table_of_bins_is_read_as_it_was_written(tmp_path, disc):
    bins = read_bins(disc.write(tmp_path) / "spatial" / "tissue_positions.parquet")
    assert bins.names[37].decode() == disc.names[37]
    np.testing.assert_array_equal(bins.array_row, disc.row)
    np.testing.assert_array_equal(bins.in_tissue, disc.inside)


def test_real_bins(real_data):
    hd = real_data / "spaceranger" / "hd_seurat"
    about = {"species": "mouse"}
    pooled = read(hd, about=about)
    assert pooled.counts.shape == (874, 100)
    assert "1368 of 2695 bins with counts have a place" in pooled.notes[0]
    assert "it lists 2 of 49 bins of a block" in pooled.notes[2]
    single = read(hd, about=about, bin_um=8)
    assert single.counts.sum() == 65660
    assert pooled.counts.sum() < 65660
    with pytest.raises(SectionError, match=r"336 of 2695 bins .* pass --allow-loss"):
        read(hd / "binned_outputs" / "square_016um", about=about)
    assert len(read(hd / "binned_outputs" / "square_016um", about=about, allow_loss=True)) == 325
