"""`bleepdb evaluate` from the command line: folds of a job array, their merge, pages, refusals."""

from __future__ import annotations

import csv
import json

import anndata as ad
import numpy as np
import pytest
from PIL import Image

SMALL = ("--encoder", "timm:test_efficientnet", "--weights", "random:0", "--scale-um", 400)
QUICK = (*SMALL, "--recipe", "linear", "--methods", "mean profile", "--methods",
         "ridge, our features, all equal", "--permutations", 3)  # fmt: skip


def errors(answer):
    return [line for line in answer.err.splitlines() if line.startswith("error:")]


def test_folds_run_apart_and_merged_are_one_run(sections, tmp_path, cli):
    parts = []
    for index in range(3):
        parts.append(tmp_path / f"fold{index}.json")
        answer = cli("evaluate", sections, *QUICK, "--fold", index, "-o", parts[-1])
        assert answer.code == 0, answer.err
        assert "held out: donor (3 donors: each is held out whole)" in answer.err
    page, picture = tmp_path / "summary.html", tmp_path / "summary.png"
    answer = cli("evaluate", "--merge", *parts, "-o", tmp_path / "m.json", "--html", page,
                 "--figure", picture)  # fmt: skip
    assert answer.code == 0, answer.err
    merged = json.loads((tmp_path / "m.json").read_text())
    assert merged["summary"] in answer.out
    whole = cli("evaluate", sections, *QUICK, "--json")
    assert whole.code == 0, whole.err
    one = json.loads(whole.out)
    assert {k: v for k, v in one.items() if k != "run_card"} == {
        k: v for k, v in merged.items() if k != "run_card"
    }
    assert [f["name"] for f in one["folds"]] == ["donor-a", "donor-b", "donor-c"]
    assert max(map(len, answer.out.splitlines()[:-1])) <= 105 or "bootstrap" in answer.out
    assert "linear" in page.read_text(encoding="utf-8")
    assert (np.asarray(Image.open(picture).convert("L")) < 128).any()
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"fold0.json", "fold1.json", "fold2.json", "m.json", page.name, picture.name}


def test_all_faults_of_lists_are_one_line(sections, cli):
    answer = cli("evaluate", sections, "--train", "donor-a-1", "--train", "nobody", "--test",
                 "donor-a-1", "--test", "someone")  # fmt: skip
    assert answer.code == 2
    (line,) = errors(answer)
    for part in ("3 faults", "nobody: no such section", "someone: no such", "is in training too"):
        assert part in line


def test_a_copy_under_another_name_is_refused_before_it_is_encoded(sections, tmp_path, cli):
    """With other barcodes, fewer spots and genes, and of a donor of its own."""
    with sections.open(encoding="utf-8") as handle:
        first, *rest = csv.DictReader(handle)
    made = ad.read_h5ad(sections.parent / first["expression"])
    copy = made[: made.n_obs * 3 // 4, 5:].copy()
    copy.obs_names = [f"spot{i}" for i in range(copy.n_obs)]
    copy.write_h5ad(tmp_path / "copy.h5ad")
    renamed = first | {"section": "copied", "donor": "x", "expression": str(tmp_path / "copy.h5ad")}
    rows = [first, *rest]
    for row in rows:
        row["expression"] = str(sections.parent / row["expression"])
    for row in (*rows, renamed):
        row["image"] = str(sections.parent / row["image"])
    sheet = tmp_path / "samples.csv"
    with sheet.open("w", encoding="utf-8", newline="") as handle:
        table = csv.DictWriter(handle, list(first))
        table.writeheader()
        table.writerows([*rows, renamed])
    answer = cli("evaluate", sheet, *QUICK, "-o", tmp_path / "o.json")
    assert answer.code == 2
    (line,) = errors(answer)
    assert f"{first['section']} and copied (" in line
    assert f"--allow-twins {first['section']}=copied" in line
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "slide"), "cannot hold out by 'slide'"),
        (("--fold", 7), "no fold 7"),
        (("--methods", "magic"), "no method magic"),
        (("--recipe", "magic"), "no recipe 'magic'"),
        (("--allow-twins", "a"), "names no two sections"),
        (("--by", "donor", "--test", "donor-a-1"), "so does 'donor'"),
        (("--allow-donor", "donor-a"), "lists only"),
        (("--html", "x.pdf"), "is no .html"),
        (("--figure", "x.jpg"), "is no .png"),
        (("-o", "x.html", "--html", "x.html"), "for the report and for the page"),
        (("--merge", "--by", "donor"), "--by cannot be given with --merge"),
        (("more.csv",), "one sample sheet is read"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    sections, cli, words, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    answer = cli("evaluate", sections, *words)
    assert answer.code == 2, answer.err
    (line,) = errors(answer)
    assert said in line
    assert "Spots (kept" not in answer.err
