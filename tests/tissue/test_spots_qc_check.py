"""Places given by hand, spots worth keeping, and whether spots and image belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

import bleepdb.tissue as room
from bleepdb.errors import SectionError, SlideError
from bleepdb.tissue import (
    check_registration,
    open_slide,
    read_section,
    read_spots,
    row_for,
    spot_qc,
)

# --- spots ---------------------------------------------------------------------------------------


def written(tmp_path, text, name="spots.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("column", ["barcode", "name"])
def test_named_places(tmp_path, column):
    names, xy = read_spots(
        written(tmp_path, f"{column}\ty_px\tx_px\na\t2\t1.5\nb\t4\t3\n", "spots.tsv")
    )
    assert names.tolist() == ["a", "b"]
    assert xy.tolist() == [[1.5, 2.0], [3.0, 4.0]]


def test_places_without_names(tmp_path):
    spots = read_spots(written(tmp_path, "x_px,y_px\n1,2\n3,4\n"))
    assert spots.names.tolist() == ["spot-1", "spot-2"]
    assert spots.xy_px.dtype == np.float64


def test_a_legacy_selection_has_the_names_of_its_counts(her2st):
    spots = read_spots(her2st / "C5_selection.tsv")
    section = read_section(row_for(her2st / "C5.tsv.gz", donor="C", tissue="breast"))
    at = {n: i for i, n in enumerate(spots.names.tolist())}
    np.testing.assert_array_equal(
        spots.xy_px[[at[b] for b in section.barcodes.tolist()]], section.xy_px
    )


@pytest.mark.parametrize(
    ("folder", "n"), [("v1_seurat", 2695), ("v1_scanpy", 4235), ("v2_mtx/outs", 12)]
)
def test_space_ranger_positions(real_data, folder, n):
    spatial = real_data / "spaceranger" / folder / "spatial"
    (path,) = spatial.glob("tissue_positions*")
    spots = read_spots(path)
    assert len(spots.names) == n
    section = read_section(
        row_for(
            spatial.parent,
            section="s",
            donor="P",
            tissue="x",
            species="mouse" if folder == "v1_seurat" else "human",
        )
    )
    at = {name: i for i, name in enumerate(spots.names.tolist())}
    np.testing.assert_array_equal(
        spots.xy_px[[at[b] for b in section.barcodes.tolist()]], section.xy_px
    )


def test_parquet_and_h5ad(real_data):
    hd = real_data / "spaceranger" / "hd_seurat" / "binned_outputs" / "square_016um"
    frame = pd.read_parquet(hd / "spatial" / "tissue_positions.parquet")
    spots = read_spots(hd / "spatial" / "tissue_positions.parquet")
    inside = frame[frame.in_tissue == 1]
    assert spots.names.tolist() == inside.barcode.tolist()
    np.testing.assert_array_equal(
        spots.xy_px, inside[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(float)
    )
    adata = read_spots(real_data / "h5ad" / "squidpy_spatial.h5ad")
    assert len(adata.names) == 49
    assert adata.xy_px[0].tolist() == [337, 439]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "an empty table; give a CSV or TSV with the columns x_px and y_px"),
        ("x_px,y_px\n", "a table without rows"),
        ("x,y\n1,2\n", r"no columns x_px and y_px \(there are x, y\)"),
        ("x_px,y_px\n1,2\n\n3,far\n", "column y_px is not a number: line 4 has 'far'"),
        ("x_px,y_px\n1,nan\n", "column y_px is not a number: line 2"),
        ("x_px,y_px\n1,\n", "column y_px is empty in line 2"),
        ("x_px,y_px\n1,2,3\n", "1 rows do not have the header's 2 cells: line 2 has 3"),
        ("name,x_px,y_px\na,1,2\na,3,4\n", "1 spots stand more than once: a"),
        ("name,x_px,y_px\n,1,2\n", "column name is empty in line 2"),
        ("AAC-1,0,1,1,5,5\nAAG-1,0,1,2,5,6\n", "holds no spot under tissue"),
    ],
)
def test_faults_of_places(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(SectionError, match=words) as caught:
        read_spots(path)
    assert caught.value.where == str(path)


def test_places_that_are_not_there(tmp_path):
    with pytest.raises(SectionError, match=r"none\.csv: no such file; give a CSV"):
        read_spots(tmp_path / "none.csv")
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(SectionError, match="not a readable parquet table"):
        read_spots(tmp_path / "a.parquet")
    (tmp_path / "a.h5ad").write_text("x")
    with pytest.raises(SectionError, match="cannot be read as AnnData"):
        read_spots(tmp_path / "a.h5ad")


# --- quality -------------------------------------------------------------------------------------


def test_quality_of_made_spots(make_h5ad):
    def change(adata):
        dense = np.zeros((80, 12), dtype=np.float32)
        dense[:, :6] = 5
        dense[:2] = 0
        dense[1, 0] = 9
        dense[2] = [30] + [0] * 11
        adata.X = sp.csr_matrix(dense)
        adata.var_names = ["MT-CO1", *adata.var_names[1:]]

    section = read_section(row_for(make_h5ad(change), donor="P", tissue="x"))
    kept, seen = spot_qc(section)
    assert (seen.spots, seen.kept, len(kept)) == (80, 77, 77)
    assert dict(seen.dropped) == {"fewer than 10 counts": 2, "fewer than 5 genes": 1}
    assert kept.barcodes[0] == "spot003"
    assert (seen.counts, seen.genes) == ((30, 30, 30), (6, 6, 6))
    assert seen.mitochondrial == pytest.approx(1 / 6)
    assert str(seen) == (
        "made: 77 of 80 spots under tissue kept, 2 dropped (fewer than 10 counts), 1 dropped "
        "(fewer than 5 genes); counts 30 (30 to 30); genes 6 (6 to 6); mitochondrial 16.7%"
    )
    everything, none = spot_qc(section, min_counts=0, min_genes=0)
    assert everything is section
    assert not none.dropped
    with pytest.raises(SectionError, match=r"no spot of section made has 31 counts .*best has 30"):
        spot_qc(section, min_counts=31)


@pytest.mark.parametrize(
    ("name", "lost", "median"),
    [("C2", 1, 8528), ("C3", 1, 9585), ("C4", 0, 10190), ("C5", 2, 10041)],
)
def test_few_real_spots_go(her2st, name, lost, median):
    section = read_section(row_for(her2st / f"{name}.tsv.gz", donor="C", tissue="breast"))
    kept, seen = spot_qc(section)
    assert len(section) - len(kept) == lost
    assert seen.counts[1] == pytest.approx(median, rel=0.01)
    assert seen.mitochondrial is None  # this table leaves mitochondrial genes out


def test_small_panels_keep_their_spots(real_data):
    section = read_section(
        row_for(real_data / "spaceranger" / "v1_seurat", donor="P", tissue="brain", species="mouse")
    )
    kept, seen = spot_qc(section)
    assert len(kept) > 0.95 * len(section)
    assert seen.kept == len(kept)


# --- registration --------------------------------------------------------------------------------


@pytest.fixture
def disc(tmp_path):
    """A 600 x 400 image with tissue in its left half."""
    pixels = np.full((400, 600, 3), 240, dtype=np.uint8)
    y, x = np.indices((400, 600))
    pixels[(x - 150) ** 2 + (y - 200) ** 2 < 100**2] = (170, 80, 150)
    Image.fromarray(pixels).save(tmp_path / "disc.png")
    return tmp_path / "disc.png"


def test_spots_and_image_belong_together(disc):
    on = np.array([(150.0, 200.0), (120, 180), (180, 220), (150, 250)])
    off = np.array([(500.0, 200.0), (450, 100), (550, 300), (450, 350), (500, 50)])
    with open_slide(disc) as slide:
        good = check_registration(on, slide)
        assert (good.on_tissue, good.warning) == (1.0, None)
        poor = check_registration(np.r_[on, off], slide, mask=good.mask)
        assert poor.on_tissue == pytest.approx(4 / 9)
        assert poor.mask is good.mask
        assert "only 44% of 9 spots are on tissue" in poor.warning
        with pytest.raises(SlideError, match="none of 5 spots is on tissue; give the image that"):
            check_registration(off, slide)
        with pytest.raises(SlideError, match="1 of 1 spots lie outside the image of 600 x 400"):
            check_registration(np.array([(10.0, 400.0)]), slide)


def test_real_spots_on_their_own_slide_and_on_a_wrong_one(her2st, real_data):
    section = read_section(row_for(her2st / "C5.tsv.gz", donor="C", tissue="breast"))
    with open_slide(section.slide_path) as slide:
        found = check_registration(section.xy_px, slide)
        assert found.on_tissue > 0.98
        assert found.warning is None
        width, _ = slide.size_px
        flipped = section.xy_px * (-1, 1) + (width, 0)
        with pytest.raises(SlideError, match="the slide looks mirrored left to right: only 69%"):
            check_registration(flipped, slide, mask=found.mask)
    with (
        open_slide(real_data / "slides" / "CMU-1-Small-Region.svs") as other,
        pytest.raises(SlideError, match="spots lie outside the image of 2220 x 2967 px"),
    ):
        check_registration(section.xy_px, other)


# --- the room ------------------------------------------------------------------------------------


def test_public_names_are_all_there():
    for name in room.__all__:
        assert getattr(room, name).__name__ == name
    assert dir(room) == sorted(room.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = room.nothing
