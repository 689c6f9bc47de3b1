"""`bleepdb query` on many slides and `bleepdb cohort`, as a person would type them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bleepdb import contracts

MPP = 1.6


@pytest.fixture(scope="module")
def slides(lab, tmp_path_factory):
    """Three small slides, cut from the made ones."""
    folder = tmp_path_factory.mktemp("slides")
    picture = Image.open(lab.slide).convert("RGB")
    for name, box in (
        ("one", (0, 0, 700, 700)), ("two", (200, 100, 900, 800)), ("three", (100, 200, 800, 900))
    ):  # fmt: skip
        picture.crop(box).save(folder / f"{name}.png")
    return [folder / f"{n}.png" for n in ("one", "two", "three")]


def words(lab, slides, out, *more):
    return ("query", *slides, "--atlas", lab.atlas, "--tissue", "breast", "--slide-mpp", MPP,
            "--genes", "model", "--out", out, *more)  # fmt: skip


@pytest.fixture(scope="module")
def together(lab, slides, cli, tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "results"
    answer = cli(*words(lab, slides, out))
    assert answer.code == 0, answer.err
    return out, answer


def values(path):
    made = ad.read_h5ad(path)
    return made.to_df(), made.obs


def test_a_folder_holds_what_single_queries_give(lab, slides, cli, together, tmp_path):
    out, answer = together
    assert sorted(p.name for p in out.iterdir()) == [
        "cohort.parquet", "one.h5ad", "report.json", "three.h5ad", "two.h5ad",
    ]  # fmt: skip
    assert answer.out == ""
    assert "3 done" in answer.err
    for slide in slides:
        single = tmp_path / f"{slide.stem}.h5ad"
        assert cli(*words(lab, [slide], single)).code == 0
        for one, other in zip(values(single), values(out / single.name), strict=True):
            assert one.equals(other)
    table = pq.read_table(out / "cohort.parquet").to_pandas()
    assert table.groupby("slide").size().to_dict() == {
        s.stem: ad.read_h5ad(out / f"{s.stem}.h5ad").n_vars for s in slides
    }


def test_one_bad_slide_does_not_stop_the_others(lab, slides, cli, tmp_path):
    bad = tmp_path / "torn.svs"
    bad.write_bytes(b"II*\x00 torn")
    out = tmp_path / "out"
    answer = cli(*words(lab, [slides[0], bad, tmp_path / "gone.svs", slides[1]], out, "--json"))
    assert answer.code == 1
    assert "Traceback" not in answer.err
    report = json.loads(answer.out)
    assert contracts.faults("query_report", report) == []
    assert json.loads((out / "report.json").read_text())["counts"] == report["counts"]
    assert report["counts"] == {"done": 2, "skipped": 0, "failed": 2, "left": 0}
    last = answer.err.splitlines()[-3:]
    assert "torn failed: " in last[0]
    assert "gone failed: " in last[1]
    again = cli(*words(lab, [slides[0], slides[1]], out))
    assert again.code == 0
    assert "2 skipped" in again.err


def test_a_sheet_says_of_each_slide_what_options_say_of_one(lab, slides, cli, tmp_path):
    sheet = tmp_path / "slides.csv"
    with sheet.open("w", newline="") as file:
        made = csv.writer(file)
        made.writerow(["slide", "mpp", "donor", "library_id", "spots", "stain"])
        made.writerow([slides[0], MPP, "donor-a", "first", "", "H&E"])
        made.writerow([lab.slide, MPP, "", "second", lab.spots, ""])
        made.writerow([slides[1], "", "", "", "", ""])
    out = tmp_path / "out"
    base = ("query", sheet, "--atlas", lab.atlas, "--tissue", "breast", "--genes", "all")
    answer = cli(*base, "--out", out, "--json")
    assert answer.code == 1, answer.err  # the third has no mpp
    told = {e["name"]: e for e in json.loads(answer.out)["slides"]}
    assert told["two"]["status"] == "failed"
    assert "microns per pixel" in told["two"]["reason"]
    assert told["first"]["fields"] == {"stain": "H&E"}
    assert told["first"]["line"] == 2
    first = ad.read_h5ad(out / "first.h5ad")
    assert set(first.uns["bleepdb"]["references"]["donor"]) == {"donor-b"}
    measured, imputed = ad.read_h5ad(out / "second.h5ad"), ad.read_h5ad(lab.imputed)
    np.testing.assert_array_equal(measured.X, imputed.X)
    explained = cli("explain", out / "first.h5ad", "--atlas", lab.atlas, "--tile",
                    first.obs_names[0], "--gene", first.var_names[0], "--json")  # fmt: skip
    assert explained.code == 0, explained.err
    sheet.write_text("slide,mpp\nnone.svs,x\n,1\n")
    answer = cli(*base, "--out", tmp_path / "none")
    assert answer.code == 2
    for place in ("line 2, column slide", "line 2, column mpp", "line 3, column slide"):
        assert place in answer.err
    assert not (tmp_path / "none").exists()


def test_shards_of_a_slurm_array_and_their_cohort(
    lab, slides, cli, together, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert cli(*words(lab, slides, out, "--shard", "1/2")).code == 0
    for key, value in (("ID", 1), ("MIN", 0), ("MAX", 1), ("COUNT", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", str(value))
    assert cli(*words(lab, slides, out, "--shard", "auto")).code == 0
    names = {p.name for p in out.iterdir()}
    assert names == {f"{s.stem}.h5ad" for s in slides} | {
        f"{kind}-{i}-of-2.{suffix}"
        for i in (1, 2)
        for kind, suffix in (("report", "json"), ("cohort", "parquet"))
    }
    answer = cli("cohort", out, "--out", out / "cohort.parquet", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["slides"] == sorted(s.stem for s in slides)
    found, wanted = (
        pq.read_table(f / "cohort.parquet").to_pandas().drop(columns="run")
        .sort_values(["slide", "gene"], ignore_index=True)
        for f in (out, together[0])
    )  # fmt: skip
    assert found.equals(wanted)


def test_a_dry_run_writes_nothing_and_tells_what_would_fail(
    lab, slides, cli, tmp_path, monkeypatch
):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    bad = tmp_path / "torn.svs"
    bad.write_bytes(b"")
    answer = cli(*words(lab, [*slides, bad], tmp_path / "out", "--dry-run", "--json"))
    assert answer.code == 1
    plan = json.loads(answer.out)
    assert plan["total"]["ready"] == 3
    assert plan["total"]["refused"] == 1
    assert plan["total"]["to_encode"] == plan["total"]["places"] > 0
    assert plan["tiles_per_second"] > 0
    assert [s["mpp_source"] for s in plan["slides"]][:3] == ["--slide-mpp"] * 3
    assert "torn would fail" in answer.err
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["torn.svs"]
    single = cli(*words(lab, slides[:1], tmp_path / "one.h5ad", "--dry-run", "--json"))
    assert single.code == 0, single.err
    assert json.loads(single.out)["slides"][0]["places"] == plan["slides"][0]["places"]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["torn.svs"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--out", "x.h5ad"), "no folder"),
        (("--spots", "x.csv"), "--spots is for one slide"),
        (("--library-id", "x"), "--library-id is for one slide"),
        (("--shard", "3/2"), "is no shard"),
        (("--genes", "NOPE"), "none of the 1 genes"),
        (("--tissue", "moon"), "nothing is indexed for 'moon'"),
        (("--exclude-donor", "nobody"), "no spot with donor"),
    ],
)
def test_what_concerns_all_slides_is_one_line_and_exit_code_2(
    lab, slides, cli, tmp_path, more, said
):
    out = tmp_path / "out"
    answer = cli(*words(lab, slides, out, *more))
    assert answer.code == 2
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not out.exists()


def test_an_atlas_that_is_gone_and_a_sheet_among_slides(lab, slides, cli, tmp_path):
    answer = cli(*words(lab, slides, tmp_path / "out", "--atlas", tmp_path / "none"))
    assert answer.code == 2
    answer = cli(*words(lab, [*slides, lab.sheet], tmp_path / "out"))
    assert answer.code == 2
    assert "sheet among other slides" in answer.err
    answer = cli("query", tmp_path, "--atlas", lab.atlas, "--tissue", "breast", "--out", tmp_path)
    assert answer.code == 2
    assert "is a folder" in answer.err
    assert cli("cohort", lab.folder, "--out", tmp_path / "c.csv").code == 2
    assert cli("cohort", tmp_path, "--out", tmp_path / "c.parquet").code == 2


# Where tests run in the background, their children would not hear of Ctrl-C.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from bleepdb.cli.main import run
run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_where_it_was(lab, slides, cli, together, tmp_path, how):
    """Stopped when the first output is there; the second run makes the rest."""
    out = tmp_path / "out"
    line = [sys.executable, "-c", START, *map(str, words(lab, slides, out, "--stride-um", 25))]
    process = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    until = time.monotonic() + 120
    while not (out / "one.h5ad").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert (out / "one.h5ad").exists()
    if how == signal.SIGINT:
        assert process.returncode == 130, err
        assert "skips" in err
        assert "Traceback" not in err
        assert not [p for p in out.iterdir() if ".part" in p.name]
    told = json.loads((out / "report.json").read_text())
    assert contracts.faults("query_report", told) == []
    answer = cli(*words(lab, slides, out, "--stride-um", 25, "--json"))
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert report["counts"]["skipped"] >= 1
    assert report["counts"]["skipped"] + report["counts"]["done"] == 3
    whole = tmp_path / "whole"
    assert cli(*words(lab, slides, whole, "--stride-um", 25)).code == 0
    for slide in slides:
        for one, other in zip(
            values(out / f"{slide.stem}.h5ad"), values(whole / f"{slide.stem}.h5ad"), strict=True
        ):
            assert one.equals(other)


@pytest.fixture
def face(running):
    with running.Face(None) as made:
        yield made


@pytest.mark.wire
@pytest.mark.skipif("QDRANT_URL" in os.environ, reason="needs the face's switches")
def test_a_server_answers_many_slides_and_one_that_goes_ends_the_run(
    lab, slides, cli, together, face, tmp_path, monkeypatch
):
    from bleepdb.querying import many

    own = shutil.copytree(lab.atlas, tmp_path / "atlas")  # it notes where it was copied to
    copied = cli("atlas", "copy", "--atlas", own, "--to", face.url)
    assert copied.code == 0, copied.err
    out = tmp_path / "out"
    asked = ("query", *slides, "--atlas", face.url, "--tissue", "breast", "--slide-mpp", MPP,
             "--genes", "model")  # fmt: skip
    answer = cli(*asked, "--out", out)
    assert answer.code == 0, answer.err
    for slide in slides:
        one, other = (ad.read_h5ad(f / f"{slide.stem}.h5ad").obs for f in (out, together[0]))
        for column in ("ood_score", "top_similarity"):
            np.testing.assert_allclose(one[column], other[column], atol=1e-5)
    real = many.answer

    def gone(query, *given, **more):
        if query.library_id == slides[1].stem:
            face.kill()
        return real(query, *given, **more)

    monkeypatch.setattr(many, "answer", gone)
    out = tmp_path / "again"
    answer = cli(*asked, "--timeout", 2, "--out", out)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert len([t for t in answer.err.splitlines() if t.startswith("error:")]) == 1
    report = json.loads((out / "report.json").read_text())
    assert [e["status"] for e in report["slides"]] == ["done", "left", "left"]
    assert report["stopped"]


def test_one_slide_is_drawn_beside_its_output(lab, slides, cli, tmp_path):
    out = tmp_path / "one.h5ad"
    answer = cli(*words(lab, slides[:1], out, "--overlay", "--mask", "hsv"))
    assert answer.code == 0, answer.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.h5ad", "one.overlay.png"]
    answer = cli(*words(lab, slides[:2], tmp_path / "out", "--mask", out))
    assert answer.code == 2
    assert "draws the tissue of one slide" in answer.err
