"""Every file and folder of the real material is told for what it is, on one screen."""

from __future__ import annotations

import re

import pytest

from bleepdb.contracts import faults
from bleepdb.inspecting import inspect_path

SCREEN = 45

# What each path is, by hand: the first pattern that fits the path from the top of the material.
# Paths inside a Zarr store are parts of it, whatever they hold.
KINDS = [
    (r"her2st/C\d\.jpg", "image"),
    (r"her2st/C\d\.tsv\.gz", "legacy st"),
    (r"her2st/C\d_selection\.tsv", "spots"),
    (r"slides/kidney-48-5\.tif", "image"),
    (r"slides/.+\.(svs|ndpi|dcm)", "slide"),
    (r"spatialdata/blobs_v[23]\.zarr", "spatialdata"),
    (r"spatialdata/blobs_v[23]\.zarr/.+", "part"),
    (r"h5ad/squidpy_spatial\.h5ad", "h5ad"),
    (r".*\.md", "text"),
    (r"(spaceranger|tenx_h5)/.*\.h5", "10x matrix"),
    (r".*/(filtered_feature_bc_matrix|hg19_chr21|int-ids)", "10x matrix"),
    (r".*/(matrix|features|genes|barcodes)\.(mtx|tsv)(\.gz)?", "part"),
    (r".*/scalefactors_json\.json", "part"),
    (r".*/tissue_positions(_list)?\.(csv|parquet)", "spots"),
    (r".*/spatial", "part"),
    (r".*/spatial/.+\.(png|jpg)", "image"),
    (r".*/spatial/.+\.csv", "table"),
    (r"spaceranger/hd_seurat(/binned_outputs)?", "visium hd"),
    (r"spaceranger/hd_seurat/binned_outputs/square_0(08|16)um", "visium hd bin"),
    (r"spaceranger/(v1_seurat|v1_scanpy|v2_mtx)(/outs)?", "spaceranger"),
    (r"[a-z0-9_]+|tenx_h5/scanpy(/[0-9.]+(/filtered_gene_bc_matrices)?)?", "folder"),
]


def expected(name: str) -> str | None:
    return next((kind for pattern, kind in KINDS if re.fullmatch(pattern, name)), None)


def paths_of(folder):
    return [p for p in sorted(folder.rglob("*")) if "/." not in str(p.relative_to(folder))]


def test_every_file_and_folder_is_what_it_is(real_data):
    wrong = {}
    paths = paths_of(real_data)
    assert len(paths) > 100
    for path in paths:
        name = path.relative_to(real_data).as_posix()
        wanted = expected(name)
        if wanted is None:
            continue  # material that came later: told without failing, which is tested below
        made = inspect_path(path)
        if made.kind != wanted or faults("inspection", made.to_json()):
            wrong[name] = made.kind
    assert wrong == {}


@pytest.mark.parametrize("part", ["her2st", "slides", "spaceranger", "tenx_h5", "h5ad", "."])
def test_the_command_tells_each_on_one_screen(real_data, command, part):
    paths = [real_data] if part == "." else [real_data / part, *paths_of(real_data / part)]
    for path in paths:
        answer = command(path)
        assert answer.code in {0, 2}, path
        if answer.code == 0:
            assert len(answer.out.splitlines()) <= SCREEN, path
            assert answer.out.startswith(str(path))
        else:
            assert len(answer.err.splitlines()) == 1, path
        assert "Traceback" not in answer.err + answer.out


def test_the_svs(real_data, told):
    found = told(real_data / "slides" / "CMU-1-Small-Region.svs")
    facts = found["facts"]
    assert facts["size px"] == [2220, 2967]
    assert facts["mpp"] == pytest.approx(0.499)
    assert facts["stored in"] == [240, 240]
    assert facts["compression"] == "jpeg, rgb"
    assert facts["pictures"] == ["label", "macro", "thumbnail"]
    assert any("patient" in n for n in found["notes"])
    # 176 µm at 0.499 µm a pixel are 353 px: finer than a tile of 224 px.
    assert facts["tiles of 224 px"]["176"] == pytest.approx(224 * 0.499 / 176)
    assert 40 <= facts["tiles at 100 µm"] <= 12 * 15
    assert found["missing"] == []


def test_a_dark_slide_is_no_slide_to_query(real_data, told):
    found = told(real_data / "slides" / "test3-DAPI.ndpi")
    assert found["next"] is None
    assert "dark" in found["missing"][0]["what"]


def test_a_tiff_without_microns_asks_for_them(real_data, told):
    path = real_data / "slides" / "kidney-48-5.tif"
    found = told(path)
    assert found["missing"][0]["what"].startswith("the microns per pixel")
    assert "--slide-mpp MPP" in found["next"]
    given = told(path, "--slide-mpp", "0.5")
    assert given["missing"] == []
    assert "--min-tissue SHARE" in given["next"]  # one speck of tissue, as the picture shows
    assert given["facts"]["size mm"] == pytest.approx([1493 * 0.0005, 901 * 0.0005])


def test_a_slide_too_coarse_for_any_tile_is_not_sent_to_query(real_data, told):
    found = told(real_data / "slides" / "camelyon_lowlevel.dcm")
    assert found["next"] is None
    assert any("outside 0.05 to 20" in m["what"] for m in found["missing"])
    found = told(real_data / "slides" / "camelyon_lowlevel.dcm", "--slide-mpp", "10")
    assert found["next"] is None
    assert any("fine enough" in m["what"] for m in found["missing"])


def test_a_space_ranger_folder_tells_mpp_of_each_source(real_data, told):
    found = told(real_data / "spaceranger" / "v1_scanpy")
    facts = found["facts"]
    # 65 µm over 89.43 px; the array's own pitch is fitted from 4,992 places.
    assert facts["mpp"]["spot diameter"] == pytest.approx(65 / 89.42751063343188)
    assert facts["mpp"]["spot pitch"] == pytest.approx(facts["mpp"]["spot diameter"], rel=0.01)
    assert facts["spots"] == {"placed": 4992, "under tissue": 4235}
    assert facts["join"]["share"] == 1
    assert "spaceranger-1.0.0" in facts["written by"]
    assert facts["genes"] == 100
    assert any("blank" in p for p in facts["pictures"])


def test_the_loss_of_a_join_is_told_and_index_not_offered(real_data, told):
    found = told(real_data / "spaceranger" / "hd_seurat" / "binned_outputs" / "square_016um")
    assert found["facts"]["join"]["placed"] == 336  # under tissue; 642 have any place
    assert found["facts"]["join"]["counted"] == 2695
    assert any("12%" in m["what"] and "--allow-loss" in m["remedy"] for m in found["missing"])
    assert found["next"] is None


def test_visium_hd_names_its_bins(real_data, told):
    found = told(real_data / "spaceranger" / "hd_seurat")
    assert [e["name"] for e in found["entries"]] == ["square_008um", "square_016um"]
    assert found["facts"]["index reads"] == "square_008um"


def test_bins_whose_pitch_is_not_their_size_are_doubted(real_data, told):
    found = told(real_data / "spaceranger" / "hd_seurat" / "binned_outputs" / "square_008um")
    assert any("disagree" in n and "bin pitch" in n for n in found["notes"])


def test_normalised_values_are_no_counts(real_data, told):
    found = told(real_data / "h5ad" / "squidpy_spatial.h5ad")
    assert "normalised" in found["facts"]["matrices"]["X"]
    assert found["facts"]["counts in"] is None
    assert found["facts"]["mpp"]["spot pitch"] == pytest.approx(
        found["facts"]["mpp"]["spot diameter"], rel=0.02
    )
    assert found["facts"]["genes are"]["species"] == ["mouse"]
    assert found["next"] is None


def test_two_genomes_are_told(real_data, told):
    found = told(real_data / "tenx_h5" / "scanpy" / "1.2.0" / "multiple_genomes.h5")
    assert found["facts"]["genomes"] == ["another_genome", "hg19_chr21"]
    assert any("2 genomes" in m["what"] for m in found["missing"])
    assert any("positions" in m["what"] for m in found["missing"])


def test_legacy_counts_find_their_spots_and_image(her2st, told):
    found = told(her2st / "C2.tsv.gz")
    assert found["facts"]["join"] == {"counted": 187, "placed": 187}
    assert found["facts"]["image"] == "C2.jpg"
    assert found["facts"]["mpp"]["array pitch"] == pytest.approx(0.689, rel=0.01)
    assert "--image" not in found["next"]


@pytest.mark.parametrize("version", [2, 3])
def test_spatialdata_of_both_versions(real_data, told, version):
    found = told(real_data / "spatialdata" / f"blobs_v{version}.zarr")
    table = found["facts"]["table table"]
    assert found["facts"]["zarr"] == version
    assert table["shape"] == [10, 3]
    assert (table["regions"], table["region_key"]) == (["blobs_labels"], "region")
    assert table["counts"] is False
    assert found["next"] is None
