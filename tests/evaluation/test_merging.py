"""Folds that were run apart and merged say what one run says, and nothing foreign gets in."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bleepdb.errors import InputError
from bleepdb.evaluation import Report, Settings, merge_documents, methods, run
from bleepdb.evaluation.document import text_of, write_document
from bleepdb.evaluation.merging import read_document

HOW = Settings(
    by="section", permutations=5, epochs=2, seeds=2, recipes=("linear",),
    methods=("mean profile", methods.RIDGE_EQUAL, methods.BLEEP_PUBLISHED),
)  # fmt: skip


def bare(document):
    return {k: v for k, v in document.items() if k != "run_card"}


@pytest.fixture(scope="module")
def parts(three, tmp_path_factory):
    """Each fold run by itself, by index, as the tasks of a job array."""
    folder = tmp_path_factory.mktemp("parts")
    made = []
    for index in range(3):
        settings = replace(HOW, only=(str(index),))
        report = Report.of(run(*three, settings), settings, *three)
        made.append(folder / f"fold{index}.json")
        write_document(made[-1], report.to_json())
    return made


@pytest.fixture(scope="module")
def whole(three):
    """All folds in one run."""
    return Report.of(run(*three, HOW), HOW, *three)


def test_merged_folds_are_what_one_run_says(parts, whole):
    merged = merge_documents([parts[2], parts[0], parts[1]])
    assert text_of(bare(merged.to_json())) == text_of(bare(whole.to_json()))
    assert merged.summary() == whole.summary()


def test_a_merge_of_a_merge_is_the_same(parts, whole, tmp_path):
    write_document(tmp_path / "two.json", merge_documents(parts[:2]).to_json())
    merged = merge_documents([tmp_path / "two.json", parts[2]])
    assert bare(merged.to_json()) == bare(whole.to_json())


def test_what_is_missing_is_said(parts, three):
    merged = merge_documents(parts[:2])
    assert any("2 of 3 folds; without S2" in note for note in merged.notes())
    settings = replace(HOW, only=("0", "1"))
    alone = Report.of(run(*three, settings), settings, *three)
    assert bare(merged.to_json()) == bare(alone.to_json())


def changed(path, folder, name, change):
    document = json.loads(path.read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))
    return folder / name


def test_what_does_not_belong_together_is_refused_in_one_line(parts, tmp_path):
    other = changed(parts[1], tmp_path, "other.json", lambda d: d.update(seeds=[7, 8]))
    with pytest.raises(InputError) as raised:
        merge_documents([parts[0], other, parts[0]])
    text = str(raised.value)
    assert "other.json is of another evaluation" in text
    assert "(seeds)" in text
    assert "fold S0 stands in" in text
    assert "\n" not in text
    fewer = changed(parts[1], tmp_path, "f.json", lambda d: d["genes"]["symbol"].pop())
    with pytest.raises(InputError, match=r"\(genes\)"):
        merge_documents([parts[0], fewer])


def test_files_that_are_no_evaluation_are_all_named(parts, tmp_path):
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    old = changed(parts[0], tmp_path, "old.json", lambda d: d.update(version=1))
    with pytest.raises(InputError) as raised:
        merge_documents([parts[0], tmp_path / "text.json", tmp_path / "list.json", old,
                         tmp_path / "none.json"])  # fmt: skip
    text = str(raised.value)
    for part in ("text.json: cannot be read", "list.json: is no document", "of version 1",
                 "none.json: no such file"):  # fmt: skip
        assert part in text
    with pytest.raises(InputError, match="nothing to merge"):
        merge_documents([])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["scores"].pop("linear"), "scores is not of all methods"),
        (lambda f: f["per_gene"]["pcc"].pop(), "columns of different lengths"),
        (lambda f: f["samples"]["linear"]["HEG"].pop(), "samples are not 500"),
        (lambda f: f["samples"]["linear"].update(HEG=["1"] * 500), "no number"),
        (lambda f: f.update(name="S9"), "not among those planned"),
        (lambda f: f.pop("moran"), "breaks the evaluation schema"),
        (lambda f: f["scores"]["linear"].pop("HEG"), "scores is not of all gene sets"),
        (lambda f: f["sections"][0]["scores"]["linear"].pop("HEG"), "0 is not of all gene sets"),
        (lambda f: f["samples"]["linear"]["HEG"].__setitem__(3, None), "samples holds what is no"),
        (lambda f: f["samples"]["linear"]["HEG"].__setitem__(3, float("nan")), "cannot be read"),
        (lambda f: f["by_seed"].clear(), "by_seed is not of 2 seeds"),
        (lambda f: f["by_seed"][methods.BLEEP_PUBLISHED]["HEG"].pop(), "by_seed is not of 2 seeds"),
        (lambda f: f["null_samples"]["HEG"].pop(), "null_samples are not 5 each"),
        (lambda f: f["null_observed"].pop("HEG"), "a null that is not of its gene sets"),
        (lambda f: f["structure"]["agreement"].pop("linear"), "structure is not of all methods"),
        (lambda f: f["structure"]["measured"][0].pop(), "no matrix of its genes"),
        (lambda f: f["pseudobulk"]["imputed"].pop("linear"), "pseudobulk is not of all methods"),
    ],
)
def test_a_part_that_was_changed_by_hand_is_refused(parts, tmp_path, change, said):
    broken = changed(parts[0], tmp_path, "broken.json", lambda d: change(d["folds"][0]))
    with pytest.raises(InputError, match=said):
        merge_documents([broken, parts[1]])


@pytest.mark.parametrize("text", ["section,donor\n", "[]", "{}"])
def test_what_is_no_evaluation_is_told_what_to_give(tmp_path, text):
    path = tmp_path / "samples.csv"
    path.write_text(text)
    for wrong in (path, tmp_path / "none.json"):
        with pytest.raises(InputError, match="--json-out") as caught:
            read_document(wrong)
        assert str(wrong) in str(caught.value)
