"""Sheets of slides, names, and shards: all faults at once, no two names alike, no slide lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.errors import InputError, SheetError
from bleepdb.tissue.slide_sheet import (
    LONGEST_NAME,
    SlideRow,
    parse_shard,
    read_slide_sheet,
    rows_of_paths,
    safe_name,
    shard_of,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.svs", "b.svs", "places.csv", "drawn.geojson"):
        (tmp_path / name).write_text("x")
    return tmp_path


def sheet(folder, text):
    path = folder / "slides.csv"
    path.write_text(text)
    return path


def test_a_sheet_is_read_with_what_it_says_of_each_slide(folder):
    rows = read_slide_sheet(
        sheet(
            folder,
            "image,mpp,patient,section,spots,mask,preservation,species\n"
            "a.svs,0.5,P1,first,places.csv,HSV,FFPE,human\n"
            "b.svs,,,,,drawn.geojson,,\n",
        ),
        masks=("otsu", "hsv"),
    )
    assert rows == [
        SlideRow(
            folder / "a.svs", "first", 0.5, "P1", folder / "places.csv", "hsv",
            {"preservation": "FFPE", "species": "human"}, 2,
        ),
        SlideRow(folder / "b.svs", "b", mask=str(folder / "drawn.geojson"), line=3),
    ]  # fmt: skip


def test_all_faults_are_told_at_once_with_line_and_column(folder):
    path = sheet(
        folder,
        "slide,mpp,library_id,spots,mask,barcode,species\n"
        "a.svs,half,ok,none.csv,otsu,x,human\n"
        "gone.svs,-1,bad name,,blue,x,elf\n"
        ",0.5,OK,,,x,\n"
        "a.svs,0.5\n"
        "b.svs,0.5,x,,,x,\n"
        "b.svs,0.5,X,,,x,\n",
    )
    with pytest.raises(SheetError) as caught:
        read_slide_sheet(path, masks=("otsu",))
    said = caught.value.faults
    for place, words in (
        ("line 1, column barcode", "reserved"),
        ("line 2, column mpp", "not a number"),
        ("line 2, column spots", "no file"),
        ("line 3, column slide", "no file"),
        ("line 3, column mpp", ""),
        ("line 3, column library_id", "no blanks"),
        ("line 3, column mask", "is none of otsu"),
        ("line 3, column species", "not known"),
        ("line 4, column slide", "empty"),
        ("line 5", "2 cells where the header has 7"),
        ("line 7, column library_id", "stands in line 6 too"),
    ):
        assert any(text.startswith(place) and words in text for text in said), (place, said)
    assert len(said) == 11
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty sheet"),
        ("slide\n", "no rows"),
        ("name,mpp\nx,1\n", "column slide: missing"),
        ("slide,image\na.svs,b.svs\n", "more than once"),
        ("slide,2nd\na.svs,x\n", "a letter, then letters"),
    ],
)
def test_sheets_without_slides_are_refused(folder, text, words):
    with pytest.raises(SheetError, match=words):
        read_slide_sheet(sheet(folder, text))


def test_names_are_those_of_files_and_where_they_are_alike_of_folders_too(tmp_path):
    paths = ["x/one.svs", "y/one.svs", "y/two.ndpi", "z/w/two.svs", "z/TWO.svs", "ü ber/-.svs"]
    names = [r.name for r in rows_of_paths([tmp_path / p for p in paths])]
    assert names == ["x_one", "y_one", "y_two", "w_two", "z_TWO", "_"]
    twins = rows_of_paths([tmp_path / p for p in ("a/s.svs", "a/s.tif", "a/t.tif")])
    assert [r.name for r in twins] == ["s.svs", "s.tif", "t"]


def test_one_slide_twice_is_refused_and_so_is_a_folder(tmp_path):
    with pytest.raises(InputError, match="stands twice"):
        rows_of_paths([tmp_path / "a.svs", tmp_path / "." / "a.svs"])
    with pytest.raises(InputError, match="is a folder"):
        rows_of_paths([tmp_path])


def test_an_unnamed_slide_does_not_take_the_name_of_a_named_one(folder):
    (folder / "first.svs").write_text("x")
    rows = read_slide_sheet(sheet(folder, "slide,library_id\na.svs,first\nfirst.svs,\n"))
    assert rows[0].name == "first"
    assert rows[1].name == safe_name(f"{folder.name}_first")


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1, max_size=200))
def test_names_are_safe_whatever_a_file_is_called(text):
    name = safe_name(text)
    assert 0 < len(name) <= LONGEST_NAME
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    assert name[0] not in ".-"
    assert Path("folder", f"{name}.h5ad").parent == Path("folder")
    assert safe_name(name) == name


rows_strategy = st.lists(
    st.text("abcdefgh0123456789", min_size=1, max_size=5), min_size=0, max_size=30, unique=True
).map(lambda names: [SlideRow(Path(n), n) for n in names])


@settings(deadline=None, max_examples=80)
@given(rows_strategy, st.integers(1, 12), st.randoms(use_true_random=False))
def test_shards_are_disjoint_complete_even_and_the_same_in_any_order(rows, of, rng):
    parts = [shard_of(rows, i, of) for i in range(1, of + 1)]
    names = [r.name for part in parts for r in part]
    assert sorted(names) == sorted(r.name for r in rows)
    assert len(set(names)) == len(names)
    sizes = [len(p) for p in parts]
    assert max(sizes) - min(sizes) <= 1
    mixed = list(rows)
    rng.shuffle(mixed)
    for i, part in enumerate(parts, start=1):
        assert {r.name for r in shard_of(mixed, i, of)} == {r.name for r in part}


def test_shards_are_read():
    assert parse_shard("2/8", {}) == (2, 8)
    assert parse_shard("1/1", {}) == (1, 1)
    for wrong in ("0/8", "9/8", "2", "2/", "a/b", "-1/3", "1/0", "2/8/9", ""):
        with pytest.raises(InputError, match="is no shard"):
            parse_shard(wrong, {})


def slurm(number, first, last, count):
    names = ("ID", "MIN", "MAX", "COUNT")
    values = map(str, (number, first, last, count))
    return {f"SLURM_ARRAY_TASK_{k}": v for k, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    "array", [range(8), range(1, 9), range(1, 10, 4), range(5, 6), range(0, 100, 7)]
)
def test_a_slurm_array_is_split_whatever_its_ids_are(array):
    ids = list(array)
    told = [parse_shard("auto", slurm(i, ids[0], ids[-1], len(ids))) for i in ids]
    assert told == [(k, len(ids)) for k in range(1, len(ids) + 1)]


def test_an_uneven_array_and_no_array_are_refused():
    with pytest.raises(InputError, match="even steps"):
        parse_shard("auto", slurm(3, 1, 7, 3))
    with pytest.raises(InputError, match="no job of a Slurm array"):
        parse_shard("auto", {})
    with pytest.raises(InputError, match="no job of a Slurm array"):
        parse_shard("auto", {"SLURM_ARRAY_TASK_ID": "x"})


def test_the_image_of_a_zarr_store_is_a_slide_although_it_is_a_folder(tmp_path):
    store = tmp_path / "image.zarr"
    store.mkdir()
    (store / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    assert rows_of_paths([store])[0].name == "image"
    assert read_slide_sheet(sheet(tmp_path, "slide\nimage.zarr\n"))[0].slide == store
    (tmp_path / "plain").mkdir()
    with pytest.raises(SheetError, match="line 2, column slide"):
        read_slide_sheet(sheet(tmp_path, "slide\nplain\n"))
