"""Things made here, one fault or feature at a time: what each is told to be."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
import tifffile
import zarr
from PIL import Image
from safetensors.numpy import save_file

from bleepdb.cli.inspect import SCREEN
from bleepdb.errors import BleepdbError
from bleepdb.inspecting import Entry, Fact, Inspection, Missing, inspect_path
from bleepdb.inspecting.findings import text_of
from bleepdb.tissue import read_section, row_for

RNG = np.random.default_rng(4)


def picture(path, *, size=(600, 400)):
    """An image with a stained patch on a bright ground."""
    pixels = np.full((size[1], size[0], 3), 240, np.uint8)
    pixels[100:300, 100:400] = RNG.integers(90, 190, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def section(path, change=None):
    """A Visium-like AnnData section; `change` spoils it."""
    row, step = np.divmod(np.arange(80), 10)
    col = 2 * step + row % 2
    xy_px = np.column_stack([col * 50, row * 100 * np.sqrt(3) / 2]) / 0.5 + 120
    adata = ad.AnnData(
        sp.csr_matrix(RNG.poisson(2.0, (80, 12)).astype(np.float32)),
        obs=pd.DataFrame(
            {"in_tissue": 1, "array_row": row, "array_col": col},
            index=[f"spot{i}" for i in range(80)],
        ),
        var=pd.DataFrame(
            {"gene_ids": [f"ENSG{i:011d}" for i in range(12)]}, index=[f"G{i}" for i in range(12)]
        ),
        obsm={"spatial": xy_px},
    )
    adata = (change(adata) if change else None) or adata
    adata.write_h5ad(path)
    return path


# --- AnnData ----------------------------------------------------------------------------------


def test_a_sound_section_is_ready_for_index(tmp_path, told):
    found = told(section(tmp_path / "one.h5ad"))
    assert found["kind"] == "h5ad"
    assert found["facts"]["spots"] == 80
    assert found["facts"]["genes"] == 12
    assert found["facts"]["counts in"] == "X"
    assert found["facts"]["mpp"] == {"spot pitch": pytest.approx(0.5)}
    assert found["next"].startswith("bleepdb index ")


def normalised(adata):
    adata.X = adata.X.multiply(0.37).tocsr()


def normalised_with_counts(adata):
    adata.layers["counts"] = adata.X.copy()
    normalised(adata)


def under_a_converters_name(adata):
    adata.obsm["X_spatial"] = adata.obsm.pop("spatial")


def part_of_several(adata):
    adata.uns["spatial"] = {name: {"scalefactors": {}} for name in ("a", "b")}
    adata.obs["library_id"] = pd.Categorical(["a"] * 80, categories=["a", "b"])


def counts_in_raw(adata):
    adata.layers["raw"] = adata.X.copy()
    adata.X = np.log1p(adata.X)


def in_obs(adata):
    adata.obs["x_px"], adata.obs["y_px"] = adata.obsm.pop("spatial").T


def placeless(adata):
    del adata.obsm["spatial"]


def two_libraries(adata):
    adata.obs["library_id"] = pd.Categorical(["a", "b"] * 40)


def of_a_mouse(adata):
    adata.var["gene_ids"] = [f"ENSMUSG{i:011d}" for i in range(12)]


def without_ids(adata):
    del adata.var["gene_ids"]


@pytest.mark.parametrize(
    ("change", "lacks", "ready"),
    [
        (normalised, "raw counts", False),
        (normalised_with_counts, None, True),
        (in_obs, None, True),
        (under_a_converters_name, None, True),
        (part_of_several, None, True),
        (counts_in_raw, None, True),
        (placeless, "coordinates", False),
        (two_libraries, "one section", False),
        (of_a_mouse, None, True),
    ],
)
def test_what_an_h5ad_lacks(tmp_path, told, change, lacks, ready):
    path = section(tmp_path / "one.h5ad", change)
    found = told(path)
    assert (found["next"] is not None) == ready
    if ready:  # what is offered is taken
        species = "mouse" if change is of_a_mouse else "human"
        assert len(read_section(row_for(path, donor="P", tissue="any", species=species))) == 80
    else:
        with pytest.raises(BleepdbError):
            read_section(row_for(path, donor="P", tissue="any"))
    assert lacks is None or any(lacks in m["what"] for m in found["missing"])


def test_a_section_of_a_mouse_is_offered_as_one(tmp_path, told):
    assert "--species mouse" in told(section(tmp_path / "one.h5ad", of_a_mouse))["next"]
    assert "--species" not in told(section(tmp_path / "two.h5ad"))["next"]


def test_counts_in_a_layer_are_found(tmp_path, told):
    found = told(section(tmp_path / "one.h5ad", normalised_with_counts))
    assert found["facts"]["counts in"] == "layers/counts"
    assert "normalised" in found["facts"]["matrices"]["X"]


def test_pictures_of_one_colour_are_told(tmp_path, told):
    def add(adata):
        blank = np.full((40, 50, 3), 255, np.uint8)
        adata.uns["spatial"] = {"lib": {"images": {"hires": blank}, "scalefactors": {}}}

    found = told(section(tmp_path / "one.h5ad", add))
    assert found["facts"]["pictures"] == ["hires 50 x 40, blank"]
    assert any("registration cannot be checked" in n for n in found["notes"])


def test_anndata_under_another_name_is_told(tmp_path, told):
    section(tmp_path / "one.h5ad").rename(tmp_path / "one.hdf5")
    found = told(tmp_path / "one.hdf5")
    assert found["kind"] == "h5ad"
    assert found["next"] is None
    assert any(".h5ad" in m["what"] for m in found["missing"])


# --- sheets -----------------------------------------------------------------------------------


def test_each_row_of_a_sheet_is_told(tmp_path, told):
    section(tmp_path / "a.h5ad")
    picture(tmp_path / "a.png")
    sheet = tmp_path / "samples.csv"
    sheet.write_text(
        "section,donor,tissue,expression,image,mpp,stain\n"
        "A,P1,breast,a.h5ad,a.png,0.5,HE\n"
        "B,P2,breast,a.h5ad,,,HE\n"
    )
    assert "a.h5ad stands in line 2 too" in told(sheet)["entries"][0]["state"]
    sheet.write_text(sheet.read_text().replace("B,P2,breast,a.h5ad", "B,P2,breast,b.h5ad"))
    section(tmp_path / "b.h5ad")
    found = told(sheet)
    assert found["facts"]["sections"] == 2
    assert found["facts"]["donors"] == 2
    assert "600 x 400 px, 0.5 µm/px" in found["entries"][0]["state"]
    assert "no image" in found["entries"][1]["state"]
    assert found["next"] == f"bleepdb train {sheet} --out MODEL"


def test_all_faults_of_a_sheet_are_told(tmp_path, told, command):
    sheet = tmp_path / "samples.tsv"
    sheet.write_text(
        "sample\tpatient\ttissue\texpression\tmpp\n"
        "A b\tP1\tbreast\tnothing.h5ad\t-1\n"
        "C\t\tbreast\tnothing.h5ad\tx\n"
    )
    found = told(sheet)
    states = " ".join(e["state"] for e in found["entries"])
    assert len(found["entries"]) >= 6
    for fault in ("'A b'", "does not exist", "-1 is not a positive", "column donor: empty"):
        assert fault in states
    assert found["next"] is None
    assert "faults" in command(sheet).out


def test_a_sheet_of_slides(tmp_path, told):
    picture(tmp_path / "a.png")
    (tmp_path / "b.svs").write_text("no slide")
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide,mpp,donor\na.png,0.5,P1\n")
    found = told(sheet)
    assert found["kind"] == "slide sheet"
    assert found["next"].startswith(f"bleepdb query {sheet} ")
    picture(tmp_path / "c.png")
    sheet.write_text("slide,mpp,donor\na.png,0.5,P1\nb.svs,,P2\nc.png,,P4\n")
    found = told(sheet)
    assert [("µm/px" in e["state"]) for e in found["entries"]] == [True, False, False]
    assert "2 of 3" in found["missing"][0]["what"]
    assert found["next"] is None


def test_faults_of_a_sheet_of_slides(tmp_path, told):
    picture(tmp_path / "a.png")
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide,mpp,mask\na.png,-1,magic\nb.svs,0.5,\n")
    found = told(sheet)
    states = " ".join(e["state"] for e in found["entries"])
    for fault in ("line 2, column mpp", "line 2, column mask", "line 3, column slide"):
        assert fault in states
    assert found["next"] is None
    sheet.write_text("slide,mpp\na.png,0.5\na.png,0.4\n")
    assert "stands twice" in told(sheet)["missing"][0]["what"]


# --- tables and lists -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("genes.txt", "ERBB2\nESR1\nMKI67\n", "gene list"),
        ("barcodes.tsv", "AAACAAGTATCTCCCA-1\nAAACAATCTACTAGCA-1\n", "barcodes"),
        ("spots.csv", "barcode,x_px,y_px\na,1,2\n", "spots"),
        ("spots.tsv", "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\n1\t1\t1\t1\t9\t9\n", "spots"),
        ("table.csv", "when,what\n1,2\n", "table"),
        ("notes.txt", "We stained it on Monday.\nIt was fine.\n", "text"),
        ("poem", "a text without an ending\nof two lines\n", "text"),
        ("run.json", '{"command": [], "versions": {}, "facts": {}}', "json"),
        ("list.json", "[1, 2]", "json"),
        ("broken.json", '{"a": ', "text"),
    ],
)
def test_texts(tmp_path, told, name, text, kind):
    (tmp_path / name).write_text(text)
    assert told(tmp_path / name)["kind"] == kind


def test_legacy_counts_without_their_spot_table(tmp_path, told):
    path = tmp_path / "A1_stdata.tsv.gz"
    with gzip.open(path, "wt") as handle:
        handle.write("\tERBB2\tESR1\n10x12\t3\t0\n11x12\t1\t4\n")
    found = told(path)
    assert found["kind"] == "legacy st"
    assert found["facts"]["spots"] == 2
    assert found["facts"]["genes"] == 2
    assert any("spot table" in m["what"] for m in found["missing"])
    assert found["next"] is None
    (tmp_path / "A1_selection.tsv").write_text("x\ty\tpixel_x\tpixel_y\n30\t30\t5\t5\n")
    assert any("0 of 2" in m["what"] for m in told(path)["missing"])


def test_legacy_values_that_are_no_counts(tmp_path, told):
    path = tmp_path / "A1.tsv"
    path.write_text("\tERBB2\tESR1\n10x12\t3.5\t0\n11x12\t1\t4\n")
    assert any("whole numbers" in m["what"] for m in told(path)["missing"])


def test_parquet_is_told_by_its_columns(tmp_path, told, refused):
    cohort = pa.table({"slide": ["a"], "gene": ["G"], "mean": [1.0]})
    pq.write_table(cohort, tmp_path / "cohort.parquet")
    assert told(tmp_path / "cohort.parquet")["kind"] == "cohort table"
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    assert told(tmp_path / "other.parquet")["kind"] == "table"
    whole = (tmp_path / "other.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-40])
    assert "Parquet" in refused(tmp_path / "cut.parquet")


# --- masks ------------------------------------------------------------------------------------


def square(x):
    return [[[x, 10], [x + 50, 10], [x + 50, 60], [x, 60], [x, 10]]]


def test_geojson_is_told_with_its_bounds(tmp_path, told):
    path = tmp_path / "tissue.geojson"
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": square(x)},
            "properties": {"classification": {"name": "Tumour"}},
        }
        for x in (0, 100, 200)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = told(path)
    assert found["kind"] == "mask"
    assert found["facts"]["features"] == 3
    assert found["facts"]["bounds px"] == [0, 250, 10, 60]
    assert found["facts"]["classes"] == {"Tumour": 3}
    assert "--mask" in found["next"]


def test_geojson_of_points_is_no_mask(tmp_path, told):
    path = tmp_path / "cells.geojson"
    points = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [points]}))
    found = told(path)
    assert found["next"] is None
    assert any("polygons" in m["what"] for m in found["missing"])


def test_trident_tiles(tmp_path, told):
    path = tmp_path / "slide_patches.h5"
    with h5py.File(path, "w") as handle:
        handle["coords"] = np.array([[0, 0], [512, 0]])
        handle["coords"].attrs["patch_size"] = 256
        handle["coords"].attrs["patch_size_level0"] = 512
    found = told(path)
    assert found["kind"] == "mask"
    assert found["facts"]["tiles"] == 2
    assert found["facts"]["tile px"] == 512


def test_patches_of_hest(tmp_path, told):
    path = tmp_path / "patches.h5"
    with h5py.File(path, "w") as handle:
        handle["coords"] = np.zeros((3, 2), int)
        handle["img"] = np.zeros((3, 4, 4, 3), np.uint8)
        handle["barcode"] = np.array([b"a", b"b", b"c"])
    assert told(path)["kind"] == "patches"


def test_wsidata_with_tissue_outlines(tmp_path, told):
    root = tmp_path / "slide.zarr"
    group = zarr.open_group(root, mode="w", zarr_format=2)
    group.create_group("shapes/tissues")
    group.create_group("images/wsi_thumbnail")
    found = told(root)
    assert found["kind"] == "mask"
    assert found["facts"]["mask"] == ["tissues"]


# --- stores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_a_spatialdata_store_with_counts_is_ready(tmp_path, told, version):
    root = tmp_path / "section.zarr"
    group = zarr.open_group(root, mode="w", zarr_format=version)
    group.create_group("shapes/spots")
    table = group.create_group("tables/table")
    table.attrs.update({"region": "spots", "region_key": "region", "instance_key": "id"})
    x = table.create_group("X")
    x.attrs.update({"encoding-type": "csr_matrix", "shape": [4, 3]})
    x.create_array("data", data=np.array([1.0, 2.0, 7.0]))
    found = told(root)
    assert found["facts"]["table table"]["counts"] is True
    assert found["facts"]["table table"]["shape"] == [4, 3]
    assert found["next"].startswith(f"bleepdb index {root} ")
    assert told(root / "tables" / "table" / "X")["kind"] == "part"
    x["data"][:] = np.array([0.5, 2.0, 7.0])
    assert told(root)["next"] is None


def test_a_table_whose_region_is_not_there(tmp_path, told):
    root = tmp_path / "section.zarr"
    group = zarr.open_group(root, mode="w", zarr_format=2)
    table = group.create_group("tables/table")
    table.attrs.update({"region": "gone", "region_key": "region", "instance_key": "id"})
    found = told(root)
    assert any("gone" in m["what"] for m in found["missing"])
    assert found["next"] is None


def test_an_ome_zarr_and_an_anndata_zarr_are_named(tmp_path, told):
    image = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2)
    image.attrs["multiscales"] = []
    assert "OME-Zarr" in told(tmp_path / "image.zarr")["title"]
    table = zarr.open_group(tmp_path / "table.zarr", mode="w", zarr_format=3)
    table.attrs["encoding-type"] = "anndata"
    found = told(tmp_path / "table.zarr")
    assert "AnnData" in found["title"]
    assert ".h5ad" in found["missing"][0]["remedy"]


def test_a_folder_of_hest_layout(tmp_path, told):
    for name in ("st", "wsis", "metadata"):
        (tmp_path / name).mkdir()
    section(tmp_path / "st" / "TENX1.h5ad")
    section(tmp_path / "st" / "TENX2.h5ad")
    tifffile.imwrite(tmp_path / "wsis" / "TENX1.tif", np.zeros((64, 64, 3), np.uint8))
    about = {"species": "Homo sapiens", "st_technology": "Visium", "pixel_size_um_estimated": 0.5}
    (tmp_path / "metadata" / "TENX1.json").write_text(json.dumps(about))
    found = told(tmp_path)
    assert found["kind"] == "hest"
    assert "slide TENX1.tif, visium, human, 0.5 µm/px" in found["entries"][0]["state"]
    assert "no slide" in found["entries"][1]["state"]
    assert "1 of 2" in found["missing"][0]["what"]
    assert str(tmp_path / "st" / "TENX1.h5ad") in found["next"]
    assert told(tmp_path / "st" / "TENX1.h5ad")["facts"]["image"] == "TENX1.tif"
    assert "--image" not in told(tmp_path / "st" / "TENX1.h5ad")["next"]
    assert "--image IMAGE" in told(tmp_path / "st" / "TENX2.h5ad")["next"]


def test_metadata_of_hest_tell_a_mouse_where_symbols_do_not(tmp_path, told):
    for name in ("st", "wsis", "metadata"):
        (tmp_path / name).mkdir()
    one = section(tmp_path / "st" / "M1.h5ad", without_ids)
    tifffile.imwrite(tmp_path / "wsis" / "M1.tif", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "metadata" / "M1.json").write_text(json.dumps({"species": "Mus musculus"}))
    assert "--species mouse" in told(tmp_path)["next"]
    assert "--species mouse" in told(one)["next"]


# --- Space Ranger -----------------------------------------------------------------------------


def test_a_space_ranger_folder_without_positions(tmp_path, told):
    (tmp_path / "spatial").mkdir()
    found = told(tmp_path)
    assert found["kind"] == "spaceranger"
    whats = " ".join(m["what"] for m in found["missing"])
    for part in ("matrix", "positions", "scale factors", "pictures"):
        assert part in whats
    assert found["next"] is None


# --- files that are no data -------------------------------------------------------------------


def test_archives_are_not_looked_into(tmp_path, told):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz"):
        pass
    assert told(tmp_path / "a.zip")["kind"] == "archive"
    assert told(tmp_path / "a.tar.gz")["kind"] == "archive"


def test_weights_and_features_are_told_by_their_headers(tmp_path, told):
    save_file({"conv.weight": np.zeros((2, 3), np.float32)}, tmp_path / "w.safetensors")
    assert told(tmp_path / "w.safetensors")["kind"] == "weights"
    save_file(
        {"features": np.zeros((5, 7), np.float32)},
        tmp_path / "f.safetensors",
        metadata={"slide": "ab" * 32, "digest": "cd" * 32},
    )
    found = told(tmp_path / "f.safetensors")
    assert found["kind"] == "features"
    assert (found["facts"]["places"], found["facts"]["features"]) == (5, 7)


def test_an_empty_folder(tmp_path, told):
    assert told(tmp_path)["title"] == "an empty folder"


def test_a_folder_of_slides_is_sent_to_query(tmp_path, told):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    found = told(tmp_path)
    assert found["facts"]["kinds"] == {"image": 2}
    assert found["next"].startswith(f"bleepdb query {tmp_path}/* ")


# --- the value and its picture ----------------------------------------------------------------


def test_a_value_of_any_shape_becomes_json_that_holds_the_schema():
    from bleepdb.contracts import faults

    made = Inspection(
        path="x\udcff",
        kind="folder",
        title="t" * 5000,
        facts=(Fact("n", float("nan")), Fact("deep", {"a": [np.int64(3), (1.5, None)]})),
        missing=(Missing("w", "n", "r"),),
        entries=(Entry("e", "unknown", ""),),
    ).to_json()
    assert faults("inspection", made) == []
    assert json.loads(json.dumps(made))["facts"] == {"n": None, "deep": {"a": ["3", [1.5, None]]}}
    assert text_of("\udcff") == "?"


def test_a_long_list_is_cut_to_the_screen(tmp_path, command, told):
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide\n" + "".join(f"missing-{n}.svs\n" for n in range(300)))
    lines = command(sheet).out.splitlines()
    assert len(lines) <= SCREEN
    assert any("more entries" in line for line in lines)
    assert len(told(sheet)["entries"]) + told(sheet)["further"] == 300


def test_paths_with_blanks_are_quoted_in_the_next_command(tmp_path):
    path = section(tmp_path / "my section.h5ad")
    assert f"'{path}'" in inspect_path(path).next


@pytest.mark.parametrize("turned", [False, True])
def test_legacy_counts_with_their_spot_table_in_other_shapes(tmp_path, told, turned):
    """Spots as rows or as columns; the spot table with names and X, Y."""
    counts = pd.DataFrame([[3, 0, 1], [1, 4, 2]], ["10x12", "11x12"], ["ERBB2", "ESR1", "MKI67"])
    path = tmp_path / "A1.csv.gz"
    (counts.T if turned else counts).to_csv(path)
    (tmp_path / "spots_A1.csv").write_text("spot,X,Y\n10x12,100,100\n11x12,300,100\n")
    found = told(path)
    assert found["kind"] == "legacy st"
    assert (found["facts"]["spots"], found["facts"]["genes"]) == (2, 3)
    assert found["facts"]["join"] == {"counted": 2, "placed": 2}
    assert told(tmp_path / "spots_A1.csv")["kind"] == "spots"


@pytest.mark.parametrize(
    ("cells", "said"), [("-5,10", "negative"), ("nan,10", "not a number"), ("x,10", "not a number")]
)
def test_places_that_no_image_has(tmp_path, told, cells, said):
    path = tmp_path / "spots.csv"
    path.write_text(f"barcode,x_px,y_px\na,{cells}\nb,7,9\n")
    found = told(path)
    assert any(said in m["what"] for m in found["missing"])
    assert found["next"] is None


def test_places_are_told_with_their_bounds(tmp_path, told):
    path = tmp_path / "spots.csv"
    path.write_text("barcode,x_px,y_px\na,5,10\nb,7,9\n")
    found = told(path)
    assert found["facts"]["bounds px"] == [5, 7, 9, 10]
    assert found["facts"]["spots"] == 2


def test_plain_counts_are_no_sheet(tmp_path, told):
    (tmp_path / "A1.tsv").write_text("\tERBB2\tESR1\n10x12\t3\t0\n11x12\t1\t4\n")
    spots = "x\ty\tpixel_x\tpixel_y\n10\t12\t5\t5\n11\t12\t9\t5\n"
    (tmp_path / "A1_selection.tsv").write_text(spots)
    found = told(tmp_path / "A1.tsv")
    assert found["kind"] == "legacy st"
    assert found["next"].startswith("bleepdb index")


def test_tiles_that_do_not_say_their_size_are_no_mask(tmp_path, told):
    path = tmp_path / "coords.h5"
    with h5py.File(path, "w") as handle:
        handle["coords"] = np.array([[0, 0], [512, 0]])
    found = told(path)
    assert found["next"] is None
    assert any("how large its tiles are" in m["what"] for m in found["missing"])
