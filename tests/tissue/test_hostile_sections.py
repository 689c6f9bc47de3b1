"""Files that declare, unpack or nest without end are refused in one line, memory untouched."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bleepdb.errors import BleepdbError, SectionError, SlideError
from bleepdb.tissue import load_section, read_section, row_for
from bleepdb.tissue.readers import elements, positions, tables

from .section_files import HD, visium_adata, write_mtx

MIB = 2**20


def row(path, **about):
    return row_for(path, **{"section": "s", "donor": "P", "tissue": "any", **about})


def refused(path, words, *, most_mib=64):
    """It is refused with these words, in one line, and without taking much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(BleepdbError, match=words) as caught:
            read_section(row(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most_mib * MIB
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def h5ad(tmp_path):
    path = tmp_path / "a.h5ad"
    visium_adata()[0].write_h5ad(path)
    return path


def replace(handle, key, shape, dtype, *, chunks, fill=None):
    """A packed dataset of zeros whose chunks are there, each written once packed."""
    kept = dict(handle[key].attrs) if isinstance(handle[key], h5py.Dataset) else {}
    del handle[key]
    made = handle.create_dataset(key, shape, dtype, chunks=chunks, compression="gzip")
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0", **kept})
    packed = zlib.compress(bytes(int(np.prod(chunks)) * np.dtype(dtype).itemsize), 9)
    for at in range(0, shape[0], chunks[0]):
        made.id.write_direct_chunk((at, *(0 for _ in shape[1:])), packed)
    return made


def test_a_bomb_of_zeros(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        replace(handle, "X", (2**19, 2**10), "f4", chunks=(2**13, 2**10))
    assert h5ad.stat().st_size < 4 * MIB
    refused(h5ad, r"/X declares 2 GiB and stores 2 MiB; no section is packed so")


def test_terabytes_that_are_only_declared(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        del handle["obs/array_row"]
        handle.create_dataset("obs/array_row", (2**42,), "i8", chunks=(2**20,))
    refused(h5ad, r"/obs/array_row declares 32768 GiB and stores 0 bytes")


def test_cells_of_a_gigabyte(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        del handle["obs/_index"]
        handle.create_dataset("obs/_index", (2,), "S100000000", chunks=(1,))
    refused(h5ad, r"/obs/_index has cells of 95 MiB")


def test_strings_that_share_their_bytes(h5ad):
    """One string of a megabyte, named by 20,000 cells: 19 GiB once it is read."""
    with h5py.File(h5ad, "r+") as handle:
        kept = dict(handle["obs/_index"].attrs)
        del handle["obs/_index"]
        names = handle.create_dataset("obs/_index", (20_000,), h5py.string_dtype())
        names.attrs.update(kept)
        names[0] = "A" * MIB
        offset = names.id.get_offset()
    data = bytearray(h5ad.read_bytes())
    reference = data[offset : offset + 16]
    data[offset : offset + 16 * 20_000] = reference * 20_000
    h5ad.write_bytes(data)
    with h5py.File(h5ad) as handle:
        assert len(handle["obs/_index"][19_999]) == MIB
    refused(h5ad, r"the strings of /obs/_index unpack to more than 1 GiB", most_mib=100)


def test_groups_nested_without_end(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        group = handle
        for _ in range(2000):
            group = group.create_group("g")
    refused(h5ad, "groups are nested 32 deep")


def test_a_group_that_holds_itself_ends(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        handle["obs/loop"] = handle["/"]
    assert len(read_section(row(h5ad))) == 80


@pytest.mark.parametrize("target", ["/gone", "/X/../../../etc/passwd"])
def test_soft_links_stay_in_the_file(h5ad, target):
    with h5py.File(h5ad, "r+") as handle:
        del handle["X"]
        handle["X"] = h5py.SoftLink(target)
    refused(h5ad, "no raw counts: no X|cannot be read as AnnData")


@pytest.mark.parametrize(
    ("part", "value"), [("indices", 2**31 - 1), ("indices", -5), ("indptr", 2**30), ("indptr", -1)]
)
def test_indices_that_point_out_of_memory(h5ad, make_outs, part, value):
    with h5py.File(h5ad, "r+") as handle:
        handle[f"X/{part}"][3] = value
    refused(h5ad, "cannot be read as AnnData")
    outs = make_outs()
    matrix = outs / "filtered_feature_bc_matrix.h5"
    with h5py.File(matrix, "r+") as handle:
        handle[f"matrix/{part}"][3] = value
    refused(matrix, "indices outside its 12 features|indptr, indices and data do not fit together")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("12 80 999999999999", r"declares 999,999,999,999 entries, which a file of"),
        ("12 80 900000000", r"declares 900,000,000 entries, which a file of"),
        ("999999999999 80 1", r"declares a matrix of 999,999,999,999 by 80"),
        ("12 80 -1", "not a readable Matrix Market file"),
        ("12 80", "not a readable Matrix Market file"),
        ("12 81 1", "a matrix of 12 features and 81 barcodes, but 12 features and 80 barcodes"),
    ],
)
def test_a_matrix_market_file_that_declares_what_it_lacks(make_outs, counts, head, words):
    outs = make_outs()
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    folder = outs / "filtered_feature_bc_matrix"
    write_mtx(folder, counts, [f"AC{i:03d}-1" for i in range(80)])
    text = f"%%MatrixMarket matrix coordinate integer general\n%\n{head}\n1 1 1\n"
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(SectionError, match=words):
        read_section(row(outs))


def test_tables_that_unpack_without_end(make_outs, monkeypatch):
    monkeypatch.setattr(tables, "MOST_BYTES", MIB)
    outs = make_outs()
    table = outs / "spatial" / "tissue_positions.csv"
    table.with_name("tissue_positions.csv.gz").write_bytes(gzip.compress(bytes(64 * MIB)))
    table.unlink()
    with pytest.raises(
        SectionError, match="unpacks to more than 1 GiB: not a table of one section"
    ):
        read_section(row(outs))
    bomb = outs / "B.tsv.gz"
    bomb.write_bytes(gzip.compress(b"\tA\n" + b"0x0\t1\n" * MIB))
    refused(bomb, "unpacks to more than 1 GiB")


def test_parquet_without_end(tmp_path, monkeypatch):
    folder = HD().write(tmp_path)
    path = folder / "spatial" / "tissue_positions.parquet"
    monkeypatch.setattr(positions, "MOST_ROWS", 1000)
    with pytest.raises(
        SectionError, match="a table of 1,200 rows, and no array has more than 1,000"
    ):
        read_section(row(folder))
    monkeypatch.setattr(positions, "MOST_ROWS", 10_000)
    monkeypatch.setattr(positions, "MOST_BYTES", 10_000)
    table = pd.read_parquet(path)
    table["barcode"] = pd.Categorical(["N" * 1000] * len(table))
    table.to_parquet(path)
    with pytest.raises(SectionError, match="names of more than 1 GiB"):
        read_section(row(folder))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SectionError, match="not a readable parquet table"):
        read_section(row(folder))


def test_shapes_without_end(real_data, monkeypatch):
    monkeypatch.setattr(elements, "MOST_ROWS", 3)
    with pytest.raises(SectionError, match="a table of 5 rows"):
        elements.read_region(real_data / "spatialdata" / "blobs_v3.zarr", "shapes", "blobs_circles")


def test_a_picture_that_is_a_bomb(make_outs):
    outs = make_outs()
    Image.new("1", (9_000, 9_000)).save(outs / "spatial" / "tissue_hires_image.png")
    section = read_section(row(outs))
    assert section.reference_image is None
    assert "9000 x 9000 px is no small picture of the tissue" in section.notes[0]


@pytest.mark.parametrize("column", ["pxl_row_in_fullres", "pxl_col_in_fullres"])
@pytest.mark.parametrize("value", [-4000, 900_000])
def test_spots_off_the_image(make_outs, column, value):
    outs = make_outs()
    image = outs / "he.png"
    Image.new("RGB", (2400, 1900), "white").save(image)
    path = outs / "spatial" / "tissue_positions.csv"
    table = pd.read_csv(path)
    table.loc[5, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(SlideError, match=r"he\.png: .*1 of 80 (spots|places)") as caught:
        load_section(row(outs, image=image, mpp=0.5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", ""])
def test_positions_that_are_no_numbers(make_outs, value):
    outs = make_outs()
    path = outs / "spatial" / "tissue_positions.csv"
    lines = path.read_text().splitlines()
    lines[4] = f"{lines[4].rsplit(',', 1)[0]},{value}"
    path.write_text("\n".join(lines))
    refused(outs, "column pxl_col_in_fullres is (not a number: line 5|empty in line 5)")
