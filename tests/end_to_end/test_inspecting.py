"""What bleepdb makes is told for what it is, and the command that is offered next works."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from bleepdb.contracts import faults


@pytest.fixture(scope="module")
def told(cli):
    def ask(path, *words):
        answer = cli("inspect", path, "--json", *words)
        assert answer.code == 0, answer.err
        document = json.loads(answer.out)
        assert faults("inspection", document) == []
        assert len(cli("inspect", path, *words).out.splitlines()) <= 45
        return document

    return ask


@pytest.fixture(scope="module")
def follow(cli):
    """Run the command that an inspection offers, its words in capitals filled in."""

    def run(found, *more, **filled):
        words = shlex.split(found["next"])
        assert words[0] == "bleepdb"
        known = {k: str(v) for k, v in filled.items()}
        words = [known.get(w, w) for w in words[1:]]
        answer = cli(*words, *more)
        assert answer.code == 0, (words, answer.err)
        return answer

    return run


@pytest.fixture(scope="module")
def copies(lab, cli, tmp_path_factory):
    """A snapshot and an export of the lab's atlas."""
    folder = tmp_path_factory.mktemp("copies")
    own = shutil.copytree(lab.atlas, folder / "atlas")  # it notes what was copied out of it
    for words in (
        ("snapshot", "--atlas", own, "--out", folder / "lab.snapshot"),
        ("export", "--atlas", own, "--tissue", "breast", "--out", folder / "export"),
    ):
        answer = cli("atlas", *words)
        assert answer.code == 0, answer.err
    return folder


def everything(folder):
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in (folder, *folder.rglob("*"))
        if p.name != ".lock"
    }


def test_the_sheet_says_train(lab, told, follow, tmp_path):
    found = told(lab.sheet)
    assert found["kind"] == "sample sheet"
    assert found["facts"]["sections"] == 3
    follow(found, "--tile-px", 64, MODEL=tmp_path / "model")
    assert told(tmp_path / "model")["kind"] == "model"


def test_the_model_says_index(lab, told, follow, tmp_path):
    found = told(lab.model)
    assert found["kind"] == "model"
    assert found["facts"]["recipe"] == "linear"
    assert found["facts"]["trained on"] == {
        "sections": ["donor-a-1", "donor-b-1"],
        "donors": ["donor-a", "donor-b"],
    }
    assert found["facts"]["tiles"]["tile_px"] == 64
    follow(found, **{"SHEET.csv": lab.sheet, "ATLAS": tmp_path / "atlas"})


def test_a_section_says_index(lab, told, follow, tmp_path):
    follow(
        told(lab.spots),
        "--slide-mpp",
        1.6,
        MODEL=lab.model,
        ATLAS=tmp_path / "atlas",
        DONOR="donor-c",
        TISSUE="breast",
        IMAGE=lab.slide,
    )


def test_the_atlas_says_query_and_is_not_touched(lab, told, follow, tmp_path):
    before = everything(lab.atlas)
    found = told(lab.atlas)
    assert everything(lab.atlas) == before
    assert found["kind"] == "atlas"
    assert (found["facts"]["sections"], found["facts"]["donors"]) == (2, 2)
    assert found["entries"][0]["state"].startswith("bleepdb_breast; human breast; 2 sections")
    more = ("--slide-mpp", 1.6, "--spots", lab.spots)
    follow(found, *more, **{"SLIDE": lab.slide, "OUT.h5ad": tmp_path / "out.h5ad"})


def test_an_atlas_that_is_held_open_is_told(lab, told):
    from bleepdb.atlas import open_atlas

    with open_atlas(lab.atlas):
        assert told(lab.atlas)["facts"]["sections"] == 2


def test_what_is_inside_an_atlas_is_a_part_of_it(lab, told):
    shard = next(lab.atlas.glob("collections/*/shard*"))
    deepest = max(shard.rglob("*"), key=lambda p: len(p.parts))
    for path in (shard, deepest, deepest.parent, shard.parent / "manifest.json"):
        assert told(path)["kind"] == "part"
        assert told(path)["next"].endswith(str(lab.atlas))
    assert told(shard.parent / "blobs" / "model")["kind"] == "model"


def test_the_slide_says_query(lab, told, follow, tmp_path):
    found = told(lab.slide)
    assert found["kind"] == "image"
    filled = {"ATLAS": lab.atlas, "TISSUE": "breast", "MPP": 1.6, "OUT.h5ad": tmp_path / "o.h5ad"}
    follow(found, **filled)


def test_the_imputed_slide_says_explain(lab, told, follow):
    found = told(lab.imputed)
    assert found["kind"] == "imputed"
    facts = found["facts"]
    assert facts["collection"].startswith("bleepdb_breast_")
    assert facts["donors"] == ["donor-a", "donor-b"]
    assert facts["generation"] >= 2
    assert facts["settings"]["method"] == "softmax"
    import h5py

    with h5py.File(lab.imputed) as file:
        x, y = file["obsm/spatial"][0]
    follow(found, **{"X,Y": f"{x},{y}"})


def test_an_imputed_slide_whose_atlas_is_gone_asks_for_it(lab, told, tmp_path):
    import h5py

    shutil.copy(lab.imputed, tmp_path / "moved.h5ad")
    with h5py.File(tmp_path / "moved.h5ad", "r+") as file:
        text = file["uns/bleepdb/run_card"][()].decode()
        del file["uns/bleepdb/run_card"]
        file["uns/bleepdb/run_card"] = text.replace(str(lab.atlas), "/gone/atlas")
    found = told(tmp_path / "moved.h5ad")
    assert any("/gone/atlas is not there" in m["what"] for m in found["missing"])
    assert found["next"].endswith("--atlas ATLAS")


def test_a_snapshot_says_query(lab, copies, told, follow, tmp_path):
    found = told(copies / "lab.snapshot")
    assert found["kind"] == "snapshot"
    more = ("--slide-mpp", 1.6, "--spots", lab.spots)
    follow(found, *more, **{"SLIDE": lab.slide, "OUT.h5ad": tmp_path / "out.h5ad"})


def test_an_export_says_import(copies, told, follow, tmp_path):
    found = told(copies / "export")
    assert found["kind"] == "export"
    assert [e["name"] for e in found["entries"]] == ["donor-a-1", "donor-b-1"]
    follow(found, ATLAS=tmp_path / "atlas")


def test_a_snapshot_whose_points_break_off_is_told(copies, told, tmp_path):
    shutil.copytree(copies / "lab.snapshot", tmp_path / "cut.snapshot")
    points = next((tmp_path / "cut.snapshot").rglob("points.arrow"))
    points.write_bytes(points.read_bytes()[:-10])
    found = told(tmp_path / "cut.snapshot")
    assert any("points" in m["what"] for m in found["missing"])
    assert found["next"] is None


@pytest.mark.parametrize("change", ["card", "weights"])
def test_a_model_that_was_changed_is_told(lab, told, tmp_path, change):
    model = tmp_path / "model"
    shutil.copytree(lab.model, model)
    if change == "card":
        card = json.loads((model / "model.json").read_text())
        (model / "model.json").write_text(json.dumps({**card, "licence": "other"}))
    else:
        weights = bytearray((model / "weights.safetensors").read_bytes())
        weights[-1] ^= 1
        (model / "weights.safetensors").write_bytes(bytes(weights))
    found = told(model)
    assert found["missing"]
    assert found["next"] is None


def test_cached_features_are_told(lab, own_cache, told):
    kept = list((own_cache / "features").glob("*.safetensors"))
    assert kept
    found = told(kept[0])
    assert found["kind"] == "features"
    assert found["facts"]["places"] > 0


def test_no_network_and_no_engine_is_loaded(lab, copies):
    paths = [lab.model, lab.atlas, lab.imputed, lab.slide, lab.spots, lab.sheet,
             copies / "lab.snapshot", copies / "export"]  # fmt: skip
    code = (
        "import sys\nfrom pathlib import Path\nfrom bleepdb.inspecting import inspect_path\n"
        f"for path in {[str(p) for p in paths]!r}: inspect_path(Path(path))\n"
        "print([m for m in ('torch', 'timm', 'open_clip', 'qdrant_edge', 'qdrant_client') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
