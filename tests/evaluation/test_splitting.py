"""Folds: donors where there are two, lists that say all their faults at once, names and indices."""

from __future__ import annotations

import pytest

from bleepdb.errors import InputError, SheetError
from bleepdb.evaluation import Settings, folds_of
from bleepdb.evaluation.splitting import chosen, fold_of_lists, folds_of_file, resolve

DONORS = {"a1": "A", "a2": "A", "b1": "B", "c1": "C"}


def test_donors_are_held_out_where_there_are_two_and_the_reason_is_said():
    assert resolve("auto", DONORS) == ("donor", "3 donors: each is held out whole")
    held, why = resolve("auto", {"a1": "A", "a2": "A"})
    assert held == "section"
    assert "one donor" in why
    assert resolve("auto", DONORS, least=4)[0] == "section"
    assert resolve("section", DONORS)[0] == "section"
    assert [f.name for f in folds_of(DONORS, Settings())] == ["A", "B", "C"]
    with pytest.raises(InputError, match="hold out by 'slide'"):
        resolve("slide", DONORS)


def test_folds_are_named_or_counted_from_0_and_a_name_goes_first():
    folds = folds_of(DONORS, Settings(by="section"))
    assert [f.name for f in chosen(folds, ["2", "a1"])] == ["a1", "b1"]
    numbered = folds_of({"1": "A", "0": "B"}, Settings(by="section"))
    assert [f.name for f in chosen(numbered, ["0"])] == ["0"]
    with pytest.raises(InputError, match=r"no fold 4, x.*0 to 3"):
        chosen(folds, ["4", "a1", "x"])


def test_lists_take_the_rest_where_one_side_is_not_named():
    fold = fold_of_lists([], ["c1", "b1"], DONORS)
    assert (fold.train, fold.test, fold.name) == (("a1", "a2"), ("b1", "c1"), "c1+b1")
    assert fold.held_out == "lists"
    fold = fold_of_lists(["a1", "a2"], [], DONORS)
    assert fold.test == ("b1", "c1")
    assert fold_of_lists(["b1"], ["c1"], DONORS).train == ("b1",)


def test_all_faults_of_lists_are_told_in_one_line():
    with pytest.raises(InputError) as raised:
        fold_of_lists(["a1", "zz", "a1", "b1"], ["a2", "b1", "yy"], DONORS, allow_donors=["Q"])
    text = str(raised.value)
    for part in (
        "6 faults", "zz: no such section", "a1: stands 2 times", "yy: no such section",
        "b1: is in training too", "donor A stands on both sides (a1 and a2)",
        "--allow-donor Q: no such donor",
    ):  # fmt: skip
        assert part in text
    assert "\n" not in text
    assert "b1 and b1" not in text
    with pytest.raises(InputError, match="train has no section"):
        fold_of_lists([], list(DONORS), DONORS)


def test_a_donor_on_both_sides_is_allowed_by_name_alone():
    with pytest.raises(InputError, match="--allow-donor A"):
        fold_of_lists(["a1"], ["a2"], DONORS)
    with pytest.raises(InputError, match="donor A"):
        fold_of_lists(["a1"], ["a2"], DONORS, allow_donors=["B"])
    assert fold_of_lists(["a1"], ["a2"], DONORS, allow_donors=["A"]).test == ("a2",)


def test_a_table_of_folds_is_read_with_all_its_faults(tmp_path):
    sheet = tmp_path / "folds.csv"
    sheet.write_text("fold,section,role\none,a1,train\none,a2,train\none,b1,test\ntwo,c1,test\n")
    first, second = folds_of_file(sheet, DONORS)
    assert (first.name, first.train, first.test) == ("one", ("a1", "a2"), ("b1",))
    assert (second.train, second.test) == (("a1", "a2", "b1"), ("c1",))
    sheet.write_text(
        "fold,section,role\none,a1,train\none,a2,test\none,zz,test\ntwo,c1,tset\n,b1,test\nx,y\n"
    )
    with pytest.raises(SheetError) as raised:
        folds_of_file(sheet, DONORS)
    text = str(raised.value)
    for part in (
        "5 faults", "donor A stands on both sides", "zz: no such section",
        "line 5, column role: 'tset'", "line 6, column fold: is empty", "line 7: 2 cells",
    ):  # fmt: skip
        assert part in text
    sheet.write_text("section,role\na1,train\n")
    with pytest.raises(SheetError, match="column fold: missing"):
        folds_of_file(sheet, DONORS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"by": "donor", "test": ("a1",)}, "so does 'donor'"),
        ({"allow_donors": ("A",)}, "lists only"),
        ({"recipes": ()}, "no recipe"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        Settings(**words)


def test_a_table_and_lists_contradict_each_other(tmp_path):
    with pytest.raises(InputError, match="both say"):
        Settings(splits=tmp_path / "x.csv", train=("a1",))


def test_a_table_of_folds_is_read_once(tmp_path):
    """It may be a pipe, and nobody should lose hours to a file that was moved meanwhile."""
    sheet = tmp_path / "folds.csv"
    sheet.write_text("fold,section,role\nx,b1,test\n")
    settings = Settings(splits=sheet)
    first = folds_of(DONORS, settings)
    sheet.unlink()
    assert folds_of(DONORS, settings) == first
    assert [f.test for f in first] == [("b1",)]
