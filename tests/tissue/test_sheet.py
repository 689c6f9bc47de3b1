"""The sample sheet: what it takes, and that all of its faults come at once."""

from __future__ import annotations

import pytest

from bleepdb.errors import BleepdbError, InputError, SheetError
from bleepdb.tissue import read_sheet, row_for


@pytest.fixture
def folder(tmp_path):
    for name in ("a.h5ad", "b.h5ad", "a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "outs" / "spatial").mkdir(parents=True)
    (tmp_path / "outs" / "spatial" / "tissue_hires_image.png").write_bytes(b"x")
    return tmp_path


def sheet(folder, text, name="samples.csv", encoding="utf-8"):
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


def faults_of(path):
    with pytest.raises(SheetError) as caught:
        read_sheet(path)
    return caught.value.faults


def test_the_size_of_bins(folder):
    text = "section,donor,tissue,expression,bin_um\nA,P,x,a.h5ad,{}\n"
    (row,) = read_sheet(sheet(folder, text.format("24")))
    assert (row.bin_um, row.fields) == (24.0, {})
    assert read_sheet(sheet(folder, text.format("")))[0].bin_um is None
    for cell in ("0", "-8", "nan", "5000"):
        (fault,) = faults_of(sheet(folder, text.format(cell)))
        assert fault.startswith("line 2, column bin_um: ")
    (fault,) = faults_of(sheet(folder, text.format("small")))
    assert "'small' is not a number" in fault


def test_a_good_sheet(folder):
    rows = read_sheet(
        sheet(
            folder,
            "Sample_ID,patient,tissue,species,assay,expression,image,mpp,Stain\n"
            "A1,P1,Breast Tumour,Mouse,Visium,a.h5ad,a.jpg,0.5,H&E\n"
            "\n"
            "A2,P2,breast,,,outs,hires,,\n",
        )
    )
    first, second = rows
    assert (first.section, first.donor, first.tissue, first.species) == (
        "A1",
        "P1",
        "breast-tumour",
        "mouse",
    )
    assert first.expression == folder / "a.h5ad"
    assert first.image == folder / "a.jpg"
    assert (first.mpp, first.assay, first.fields, first.line) == (
        0.5,
        "Visium",
        {"stain": "H&E"},
        2,
    )
    assert (second.species, second.assay, second.mpp, second.fields, second.line) == (
        "human",
        None,
        None,
        {},
        4,
    )
    assert second.image == folder / "outs" / "spatial" / "tissue_hires_image.png"


@pytest.mark.parametrize(
    ("name", "mark", "encoding"),
    [
        ("s.tsv", "\t", "utf-8"),
        ("s.csv", ",", "utf-8-sig"),
        ("s.csv", ";", "utf-8"),
        ("s.csv", "\t", "utf-8"),
        ("s.txt", "\t", "utf-8-sig"),
    ],
)
def test_delimiters_and_byte_order_mark(folder, name, mark, encoding):
    text = "section,donor,tissue,expression\nA1,P1,breast,a.h5ad\n".replace(",", mark)
    (row,) = read_sheet(sheet(folder, text, name, encoding))
    assert (row.section, row.expression.name) == ("A1", "a.h5ad")


def test_every_fault_at_once_with_line_and_column(folder):
    faults = faults_of(
        sheet(
            folder,
            "section,donor,tissue,species,expression,image,mpp,rev,bad name\n"
            "A 1,P1,breast,human,a.h5ad,,0.5,,\n"
            "A2,,???,yeti,b.h5ad,none.jpg,zero,,\n"
            "A3,P1,breast,human,a.h5ad,,50,,\n"
            "A3,P1,breast,human,gone.h5ad,hires,-1,,\n"
            "A5,P1,breast\n"
            "A6,P1,breast,human,b.h5ad,hires,,,\n",
        )
    )
    expected = [
        ("line 1, column rev", "reserved"),
        ("line 1, column bad name", "letters, digits or _"),
        ("line 2, column section", "'A 1'"),
        ("line 3, column donor", "empty"),
        ("line 3, column tissue", "'???'"),
        ("line 3, column species", "'yeti' is not known"),
        ("line 3, column image", "none.jpg does not exist"),
        ("line 3, column mpp", "'zero' is not a number"),
        ("line 4, column mpp", "50 µm a pixel is outside 0.05 to 20"),
        ("line 4, column expression", "a.h5ad stands in line 2 too"),
        ("line 5, column expression", "gone.h5ad does not exist"),
        ("line 5, column mpp", "-1 is not a positive number"),
        ("line 5, column section", "A3 stands in line 4 too"),
        ("line 6", "3 cells where the header has 9"),
        ("line 7, column image", "hires needs a Space Ranger folder"),
        ("line 7, column expression", "b.h5ad stands in line 3 too"),
    ]
    for place, text in expected:
        assert any(f.startswith(place) and text in f for f in faults), (place, text, faults)
    assert len(faults) == len(expected)


def test_missing_columns_are_told_beside_faults_of_rows(folder):
    faults = faults_of(sheet(folder, "section,tissue,mpp,mpp\nA 1,breast,1,1\n"))
    assert len(faults) == 4
    assert any("column donor: missing (may be named patient)" in f for f in faults)
    assert any("column expression: missing" in f for f in faults)
    assert any("column mpp: stands more than once" in f for f in faults)
    assert any("line 2, column section" in f for f in faults)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_sheet(folder, text):
    assert faults_of(sheet(folder, text)) == ["an empty sheet"]


def test_a_sheet_with_a_header_alone(folder):
    assert faults_of(sheet(folder, "section,donor,tissue,expression\n")) == [
        "no rows below the header"
    ]


def test_the_same_folder_by_two_names(folder):
    text = "section,donor,tissue,expression\nA1,P1,breast,outs\nA2,P1,breast,../{}/outs/\n"
    (fault,) = faults_of(sheet(folder, text.format(folder.name)))
    assert "stands in line 2 too" in fault


def test_what_is_not_a_sheet(folder):
    (folder / "latin.csv").write_bytes("section,donor\nA1,Müller\n".encode("latin-1"))
    assert faults_of(folder / "latin.csv") == ["not UTF-8 text"]
    assert faults_of(folder / "none.csv") == ["no such file"]
    assert "not a readable table" in faults_of(sheet(folder, 'a,b\n"x,y\n'))[0]


def test_control_characters_are_refused(folder):
    text = 'section,donor,tissue,expression\nA1,"P\n1",breast,a.h5ad\nA2,P2,breast,gone\n'
    faults = faults_of(sheet(folder, text))
    assert "line 2, column donor: holds control characters" in faults
    assert any(f.startswith("line 4, column expression") for f in faults)


def test_a_row_without_a_sheet(folder):
    row = row_for(folder / "outs", donor="P1", tissue="Breast", image="hires", mpp=0.5)
    assert (row.section, row.tissue, row.mpp) == (folder.name.replace(" ", ""), "breast", 0.5)
    assert row.image is not None
    assert row_for(folder / "a.h5ad", donor="P1", tissue="x").section == "a"


def test_a_row_without_a_sheet_tells_all_faults(folder):
    with pytest.raises(InputError) as caught:
        row_for(folder / "none", section="a b", donor="", tissue="x", species="cat", mpp=0.0)
    for text in ("section:", "donor: empty", "species:", "expression:", "mpp: 0 is not"):
        assert text in str(caught.value)
    assert not isinstance(caught.value, SheetError)
    assert isinstance(caught.value, BleepdbError)
