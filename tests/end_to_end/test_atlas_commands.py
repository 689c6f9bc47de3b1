"""`bleepdb atlas ...` as a person types it: what is shown, what changes, exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

from bleepdb import ledger
from bleepdb.cli.connecting import same_place

SLIDE_MPP = 1.6  # as in conftest.py
TISSUE = "breast"


@pytest.fixture
def atlas(lab, tmp_path):
    """A copy of the lab's atlas, to change."""
    return shutil.copytree(lab.atlas, tmp_path / "atlas")


def ok(answer):
    assert answer.code == 0, (answer.out, answer.err)
    return answer


def said(answer):
    return json.loads(ok(answer).out)


def collection_of(cli, atlas):
    return said(cli("atlas", "list", "--atlas", atlas, "--json"))[0]["collection"]


def impute(cli, lab, atlas, out):
    ok(
        cli(
            "query", lab.slide, "--atlas", atlas, "--tissue", TISSUE, "--slide-mpp", SLIDE_MPP,
            "--spots", lab.spots, "--genes", "all", "--out", out, "--search", "exact",
        )
    )  # fmt: skip
    return anndata.read_h5ad(out)


def test_list_and_info(cli, lab, atlas):
    (listed,) = said(cli("atlas", "list", "--atlas", atlas, "--json"))
    assert listed["kind"] == "embedded"
    assert "embedded)" in ok(cli("atlas", "list", "--atlas", atlas)).out
    about = said(cli("atlas", "info", "--atlas", atlas, "--tissue", TISSUE, "--json"))
    assert about["spots"] == sum(s["spots"] for s in listed["live"])
    assert set(about["donors"]) == {"donor-a", "donor-b"}
    assert about["model"]["training_donors"] == ["donor-a", "donor-b"]
    assert about["model"]["recipe"] == "linear"
    assert about["model"]["scores"] is None
    assert about["bytes"] > about["spots"]
    assert "stain" in about["fields"]
    assert [len(p["sections"]) for p in about["panels"]] == [len(listed["live"])]
    shown = ok(cli("atlas", "info", "--atlas", atlas, "--tissue", TISSUE)).out
    for text in (
        "donor-a",
        "linear on",
        "bytes a spot",
        "filterable",
        "added section",
        "panel",
        "no scores in its card",
    ):
        assert text in shown
    other = cli("atlas", "info", "--atlas", atlas, "--tissue", "lung")
    assert other.code == 2
    assert "there is: breast" in other.err


def test_verify_says_what_is_wrong_with_its_exit_code(cli, atlas):
    (report,) = said(cli("atlas", "verify", "--atlas", atlas, "--json"))
    assert report["sound"]
    assert {s["digest"] for s in report["sections"]} == {"equal"}
    assert "sound" in ok(cli("atlas", "verify", "--atlas", atlas, "--tissue", TISSUE)).out
    (path,) = atlas.glob("collections/*/blobs/model/weights.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    answer = cli("atlas", "verify", "--atlas", atlas)
    assert answer.code == 1
    assert "not the model that the manifest names" in answer.out
    answer = cli("atlas", "verify", "--atlas", atlas, "--json")
    assert answer.code == 1
    assert not json.loads(answer.out)[0]["sound"]
    assert cli("atlas", "verify", "--atlas", atlas / "nowhere").code == 2


def test_a_snapshot_answers_as_its_atlas_and_is_read_only(cli, lab, atlas, tmp_path):
    made = tmp_path / "lab.snapshot"
    spots = said(cli("atlas", "snapshot", "--atlas", atlas, "--out", made, "--json"))["spots"]
    assert list(spots) == [collection_of(cli, atlas)]
    (listed,) = said(cli("atlas", "list", "--atlas", made, "--json"))
    assert (listed["kind"], listed["alias"]) == ("snapshot", "bleepdb_breast")
    ours, theirs = (
        impute(cli, lab, place, tmp_path / f"{i}.h5ad") for i, place in enumerate((atlas, made))
    )
    np.testing.assert_allclose(ours.X, theirs.X, atol=1e-5)
    assert cli("atlas", "verify", "--atlas", made).code == 0
    for words in (
        ("atlas", "vacuum", "--atlas", made),
        ("atlas", "retract", "--atlas", made, "--donor", "donor-a", "--yes"),
        ("atlas", "alias", "--atlas", made, "--tissue", TISSUE, "--to", listed["collection"]),
        ("atlas", "copy", "--atlas", atlas, "--to", made),
        ("index", lab.sheet, "--model", lab.model, "--atlas", made),
    ):
        answer = cli(*words)
        assert answer.code == 2, words
        assert "read-only" in answer.err, words
    again = cli("atlas", "snapshot", "--atlas", atlas, "--out", made)
    assert again.code == 2
    assert "is there already" in again.err


def test_copy_export_and_import_keep_every_digest(cli, lab, atlas, tmp_path):
    name = collection_of(cli, atlas)
    copied = said(cli("atlas", "copy", "--atlas", atlas, "--to", tmp_path / "copy", "--json"))
    assert copied[0]["collection"] == name
    assert copied[0]["verified"] == copied[0]["written"] > 0
    out = tmp_path / "export"
    ok(cli("atlas", "export", "--atlas", tmp_path / "copy", "--tissue", TISSUE, "--out", out))
    ok(cli("atlas", "import", out, "--atlas", tmp_path / "new"))
    places = (atlas, tmp_path / "copy", tmp_path / "new")
    digests = [
        [s["points_digest"] for s in said(cli("atlas", "list", "--atlas", p, "--json"))[0]["live"]]
        for p in places
    ]
    assert digests[0] == digests[1] == digests[2]
    assert all(digests[0])
    # A colleague who has nothing but the imported atlas gets the same answer.
    ours, theirs = (impute(cli, lab, p, tmp_path / f"{p.name}.h5ad") for p in (atlas, places[2]))
    np.testing.assert_allclose(ours.X, theirs.X, atol=1e-5)
    again = ok(cli("atlas", "copy", "--atlas", atlas, "--to", tmp_path / "copy"))
    assert "unchanged" in again.out
    assert "added" not in again.out
    tampered = next((out / "sections").iterdir())
    tampered.write_bytes(tampered.read_bytes()[:-1])
    refused = cli("atlas", "import", out, "--atlas", tmp_path / "third")
    assert refused.code == 2
    assert "is not what was written" in refused.err
    assert said(cli("atlas", "list", "--atlas", tmp_path / "third", "--json")) == []


def test_an_atlas_is_not_copied_onto_itself(cli, atlas, monkeypatch):
    monkeypatch.chdir(atlas.parent)
    for there in (atlas, atlas.name, f"{atlas}/../{atlas.name}/"):
        refused = cli("atlas", "copy", "--atlas", atlas, "--to", there, "--lock-timeout", 0)
        assert refused.code == 2
        assert "source and target at once" in refused.err
    url = "http://127.0.0.1:6333"
    assert same_place(url, f"{url}/")
    assert same_place(url, "http://127.0.0.1")
    assert not same_place(url, "http://127.0.0.1:6334")
    assert not same_place(url, str(atlas))


def test_what_is_interrupted_says_so_in_one_line(cli, atlas, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bleepdb.atlas.open_atlas", stop)
    answer = cli("atlas", "list", "--atlas", atlas)
    assert (answer.code, answer.out, answer.err.strip()) == (130, "", "interrupted")


def test_titles_are_not_broken_by_tables_of_few_columns(cli, atlas):
    name = collection_of(cli, atlas)
    generation = said(cli("atlas", "info", "--tissue", TISSUE, "--atlas", atlas, "--json"))[
        "generation"
    ]
    title = f"{name} (bleepdb_breast, embedded), generation {generation}"
    for words in (("list",), ("info", "--tissue", TISSUE)):
        assert title in ok(cli("atlas", *words, "--atlas", atlas)).out.splitlines()


def test_alias_shows_and_switches(cli, lab, atlas):
    name = collection_of(cli, atlas)
    assert said(cli("atlas", "alias", "--atlas", atlas, "--json")) == {"bleepdb_breast": name}
    for given in (("--tissue", TISSUE), ("--to", name)):
        assert "belong together" in cli("atlas", "alias", "--atlas", atlas, *given).err
    other = cli("atlas", "alias", "--atlas", atlas, "--tissue", "lung", "--to", name)
    assert other.code == 2
    assert "holds breast, not lung" in other.err
    missing = cli("atlas", "alias", "--atlas", atlas, "--tissue", TISSUE, "--to", "nowhere")
    assert missing.code == 2
    shown = ok(cli("atlas", "alias", "--atlas", atlas, "--tissue", TISSUE, "--to", name))
    assert name in shown.out


def test_vacuum_says_what_went(cli, atlas):
    (done,) = said(cli("atlas", "vacuum", "--atlas", atlas, "--json")).values()
    assert (done["points"], done["panels"]) == (0, 0)
    assert isinstance(done["bytes"], int)
    assert "freed" in ok(cli("atlas", "vacuum", "--atlas", atlas, "--tissue", TISSUE)).out
    assert cli("atlas", "verify", "--atlas", atlas).code == 0


def test_nothing_is_retracted_without_a_yes(cli, lab, atlas, monkeypatch):
    before = said(cli("atlas", "list", "--atlas", atlas, "--json"))
    asked = ("atlas", "retract", "--atlas", atlas, "--donor", "donor-a")
    refused = cli(*asked)
    assert refused.code == 2
    assert "without a yes" in refused.err
    dry = ok(cli(*asked, "--dry-run"))
    assert "nothing was changed" in dry.err
    assert "donor-a" in dry.out
    assert "bleepdb train SHEET --out NEW_MODEL --exclude-donor donor-a" in dry.out
    assert said(cli(*asked, "--dry-run", "--json"))["done"] is None

    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return "n\n"

    monkeypatch.setattr(sys, "stdin", Terminal())
    declined = cli(*asked)
    assert declined.code == 130
    assert "nothing was changed" in declined.err
    unseen = cli(*asked, "--json")  # shows no plan, so nobody could say yes to it
    assert (unseen.code, unseen.out) == (2, "")
    assert "without a yes" in unseen.err
    monkeypatch.undo()
    assert said(cli("atlas", "list", "--atlas", atlas, "--json")) == before
    for wrong in ((), ("--donor", "x", "--section", "y"), ("--donor", "nobody")):
        assert cli("atlas", "retract", "--atlas", atlas, *wrong, "--yes").code == 2


def test_a_retracted_donor_is_in_no_later_answer_and_its_traces_elsewhere_are_named(
    cli, lab, atlas, tmp_path
):
    early = impute(cli, lab, atlas, tmp_path / "early.h5ad")
    assert "donor-a" in set(early.uns["bleepdb"]["references"]["donor"])
    ok(cli("atlas", "snapshot", "--atlas", atlas, "--out", tmp_path / "old.snapshot"))
    assert any(Path(e.path).name == "early.h5ad" for e in ledger.outputs())
    asked = ("atlas", "retract", "--atlas", atlas, "--donor", "donor-a", "--yes", "--json")
    done = said(cli(*asked))
    assert done["done"]["points"] == sum(t["spots"] for t in done["targets"]) > 0
    beyond = {b["kind"]: b["where"] for b in done["beyond_reach"] if "early" in b["where"]
              or b["kind"] != "output"}  # fmt: skip
    assert beyond["output"] == str(tmp_path / "early.h5ad")
    assert beyond["snapshot"].endswith("old.snapshot")
    assert beyond["model"].endswith("/model")
    assert done["refit"]
    late = impute(cli, lab, atlas, tmp_path / "late.h5ad")
    assert set(late.uns["bleepdb"]["references"]["donor"]) == {"donor-b"}
    (listed,) = said(cli("atlas", "list", "--atlas", atlas, "--json"))
    assert {s["donor"] for s in listed["live"]} == {"donor-b"}
    assert any("retracted section" in e["what"] for e in listed["log"])
    assert cli("atlas", "verify", "--atlas", atlas).code == 0
    gone = cli("explain", tmp_path / "early.h5ad", "--atlas", atlas, "--at", "0,0", "--gene",
               early.var_names[0])  # fmt: skip
    assert gone.code in {0, 2}
    assert "Traceback" not in gone.err
