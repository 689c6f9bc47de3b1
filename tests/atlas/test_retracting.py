"""Retraction: nothing of it is left in any result, file or cache; what stays elsewhere is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bleepdb import ledger
from bleepdb.atlas import (
    EmbeddedAtlas,
    ExactAtlas,
    SnapshotAtlas,
    copy_collection,
    export_collection,
    fetch_profiles,
    live_where,
    publish_section,
    put_panel,
    tidy,
    verify,
    write_snapshot,
)
from bleepdb.atlas.entries import Condemned, Staging, now
from bleepdb.atlas.sweeping import swap
from bleepdb.encoders.feature_cache import write_features
from bleepdb.errors import AtlasError, EmptyAtlasError, InputError
from bleepdb.files import digest
from bleepdb.panel import Panel
from bleepdb.retracting import plan_retraction, retract

SLIDE = digest("slide of S1")
OTHER = Panel(tuple(f"ONLY-HERE-{i}" for i in range(30)))
BARCODES = ("TTGACCGATTACAGGCA-9", "GGCATTACCGATAGACA-9")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("BLEEPDB_CACHE", str(folder))
    return folder


def fill(atlas, lab):
    """S1 and S2 of donor D1, S3 of D2; S1 alone is measured on a panel of its own."""
    lab.prepare(atlas)
    put_panel(atlas, lab.COLLECTION, OTHER)
    live, batches = lab.section("S1", spots=40, donor="D1", on=OTHER, batch=40)
    live = replace(live, provenance={"slide_digest": SLIDE})
    points = batches[0]
    for i, barcode in enumerate(BARCODES):
        points.payloads[i]["barcode"] = barcode
        points.ids[i] = lab.point_id("S1", live.revision, barcode)
    publish_section(atlas, lab.COLLECTION, live, batches, actor="test")
    lab.publish(atlas, "S2", spots=30, donor="D1")
    lab.publish(atlas, "S3", spots=35, donor="D2")
    card = {"training": {"sections": [
        {"section": "S1", "donor": "D1"}, {"section": "S9", "donor": "D9"},
    ]}}  # fmt: skip
    atlas.put_blob(lab.COLLECTION, "model/model.json", json.dumps(card).encode())
    return points


def traces(folder, words):
    """Which of these words stand in any file below a folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            hits = [w for w in words if w.encode() in data or w.encode("utf-32-le") in data]
            if hits:
                found[path] = hits
    return found


def test_no_byte_is_left_in_the_atlas_and_in_the_cache(tmp_path, cache, lab):
    with EmbeddedAtlas(tmp_path / "atlas", create=True) as atlas:
        points = fill(atlas, lab)
        atlas.optimize(lab.COLLECTION)
        fetch_profiles(atlas, lab.COLLECTION, points.ids, cache=True)
        words = [*BARCODES, "ONLY-HERE-7", *(p["expr"] for p in points.payloads[:5])]
        vectors = [points.vectors["image"][i].tobytes() for i in range(5)]
        atlas.flush(lab.COLLECTION)
        before = traces(tmp_path / "atlas", words)
        assert {w for hits in before.values() for w in hits} == set(words)
        assert traces(cache, BARCODES)
        plan = plan_retraction(atlas, section="S1")
        seen = []
        done = retract(atlas, plan, actor="test", progress=lambda *a: seen.append(a))
        assert (done.points, done.panels, done.cached_spots) == (40, 1, 40)
        assert seen[-1] == (3, 3)
        for folder in (tmp_path / "atlas", cache):
            assert traces(folder, words) == {}
            for path in folder.rglob("*"):
                if path.is_file():
                    data = path.read_bytes()
                    assert not any(v in data for v in vectors), path
        log = atlas.read_manifest(lab.COLLECTION).log
        assert any("retracted section S1: 40 spots" in e.what and e.who == "test" for e in log)
    assert traces(tmp_path / "atlas", words) == {}
    with EmbeddedAtlas(tmp_path / "atlas") as atlas:
        assert atlas.facet(lab.COLLECTION, "section") == {"S2": 30, "S3": 35}
        assert {f.where for f in verify(atlas, lab.COLLECTION).faults} == {"model"}  # half a card


def test_no_later_result_holds_it(atlas, lab):
    points = fill(atlas, lab)
    queries = points.vectors["image"][:5]
    where = live_where(atlas.read_manifest(lab.COLLECTION))
    ask = {"using": "image", "limit": 200}
    hits = atlas.query_batch(lab.COLLECTION, queries, where=where, **ask)
    assert set(points.ids) & {i for ids in hits.ids for i in ids}
    done = retract(atlas, plan_retraction(atlas, donor="D1"), actor="test")
    assert done.points == 70
    for where in (None, live_where(atlas.read_manifest(lab.COLLECTION))):
        hits = atlas.query_batch(lab.COLLECTION, queries, where=where, **ask)
        assert not set(points.ids) & {i for ids in hits.ids for i in ids}
    assert atlas.facet(lab.COLLECTION, "donor") == {"D2": 35}
    manifest = atlas.read_manifest(lab.COLLECTION)
    assert [s.section for s in manifest.live] == ["S3"]
    assert manifest.panels == (lab.panel().digest,)
    assert atlas.list_blobs(lab.COLLECTION) == [
        "model/model.json",
        f"panels/{lab.panel().digest}.json",
    ]


def test_a_plan_changes_nothing_and_names_all_sections_in_all_collections(lab):
    atlas = ExactAtlas()
    fill(atlas, lab)
    other = "bleepdb_lung_1234"
    spec = replace(lab.spec(), name=other, alias="bleepdb_lung")
    atlas.ensure(spec)
    atlas.swap_manifest(other, -1, lab.manifest(collection=other, tissue="lung"))
    put_panel(atlas, other, lab.panel())
    live, batches = lab.section("L1", donor="D1", batch=30)
    for payload in batches[0].payloads:
        payload["tissue"] = "lung"
    publish_section(atlas, other, live, batches, actor="t")
    atlas.ensure(replace(spec, name="bleepdb_lung_empty"))
    before = [atlas.read_manifest(n) for n in (lab.COLLECTION, other)]
    plan = plan_retraction(atlas, donor="D1")
    assert [(t.collection, t.section, t.spots) for t in plan.targets] == [
        (lab.COLLECTION, "S1", 40),
        (lab.COLLECTION, "S2", 30),
        (other, "L1", 30),
    ]
    assert [atlas.read_manifest(n) for n in (lab.COLLECTION, other)] == before
    one = plan_retraction(atlas, donor="D1", collections=[other])
    assert one.collections == (other,)
    json.dumps(plan.to_json())


def test_what_cannot_be_reached_is_named(tmp_path, lab):
    atlas = ExactAtlas()
    fill(atlas, lab)
    write_snapshot(atlas, tmp_path / "a.snapshot", actor="anna").close()
    export_collection(atlas, lab.COLLECTION, tmp_path / "out", actor="bert")
    copy_collection(atlas, ExactAtlas("http://elsewhere:6333"), lab.COLLECTION, actor="cem")
    for name, donors, sections in (
        ("mine.h5ad", ["D1", "D2"], ["S1", "S3"]),
        ("other.h5ad", ["D2"], ["S3"]),
        ("namesake.h5ad", ["D7"], ["S1"]),
    ):
        ledger.record(tmp_path / name, atlas="x", collection="c", donors=donors, sections=sections)
    found = plan_retraction(atlas, section="S1").beyond
    kinds = [b.kind for b in found]
    assert kinds == ["model", "snapshot", "export", "copy", "output", "cache"]
    where = {b.kind: b.where for b in found}
    assert where["model"] == f"memory:/{lab.COLLECTION}/model"
    assert where["snapshot"].endswith(str(tmp_path / "a.snapshot"))
    assert where["export"].endswith(str(tmp_path / "out"))
    assert where["copy"] == "http://elsewhere:6333"
    assert where["output"] == str(tmp_path / "mine.h5ad")
    assert "trained on S1;" in next(b.why for b in found if b.kind == "model")
    assert "made by anna" in next(b.why for b in found if b.kind == "snapshot")


def test_a_server_says_what_it_keeps(atlas, lab):
    fill(atlas, lab)
    kinds = [b.kind for b in plan_retraction(atlas, section="S3").beyond]
    assert kinds == (["server", "cache"] if atlas.kind == "server" else ["cache"])


def test_the_refit_is_offered_where_a_model_was_trained_on_it(lab):
    atlas = ExactAtlas("my atlas")
    fill(atlas, lab)
    assert plan_retraction(atlas, donor="D1").refit == (
        "bleepdb train SHEET --out NEW_MODEL --exclude-donor D1",
        "bleepdb index SHEET --model NEW_MODEL --atlas 'my atlas' --exclude-donor D1",
        "bleepdb atlas alias --atlas 'my atlas' --tissue breast --to NEW_COLLECTION",
    )
    assert plan_retraction(atlas, section="S1").refit[0].endswith("--exclude-section S1")
    assert plan_retraction(atlas, section="S2").refit == ()  # trained on S1 alone
    assert plan_retraction(atlas, donor="D2").refit == ()


def test_names_that_are_not_there_list_those_that_are(lab):
    atlas = ExactAtlas()
    fill(atlas, lab)
    with pytest.raises(EmptyAtlasError, match="there is: D1, D2"):
        plan_retraction(atlas, donor="nobody")
    with pytest.raises(EmptyAtlasError, match="there is: S1, S2, S3"):
        plan_retraction(atlas, section="D1")
    for given in ({}, {"section": "S1", "donor": "D1"}):
        with pytest.raises(InputError, match="section or a donor"):
            plan_retraction(atlas, **given)


def test_a_snapshot_is_not_changed(tmp_path, lab):
    atlas = ExactAtlas()
    fill(atlas, lab)
    write_snapshot(atlas, tmp_path / "a.snapshot", actor="t").close()
    with SnapshotAtlas(tmp_path / "a.snapshot") as made:
        plan = plan_retraction(made, section="S1")
        with pytest.raises(AtlasError, match=r"read-only; .*write a new one"):
            retract(made, plan, actor="t")


def test_cached_features_of_its_slide_go(lab, cache):
    atlas = ExactAtlas()
    fill(atlas, lab)
    folder = cache / "features"
    folder.mkdir(parents=True)
    for name, slide in (("a", SLIDE), ("b", digest("another"))):
        write_features(
            folder / f"{name}.safetensors", iter([np.ones((2, 3), np.float32)]), 2, slide
        )
    done = retract(atlas, plan_retraction(atlas, section="S1"), actor="t")
    assert done.cached_features == 1
    assert [p.name for p in folder.glob("*.safetensors")] == ["b.safetensors"]


# --- tidying ----------------------------------------------------------------------------------


def test_tidying_removes_what_no_reader_sees(atlas, lab):
    fill(atlas, lab)
    put_panel(atlas, lab.COLLECTION, Panel(tuple("XYZ")))
    atlas.upsert(lab.COLLECTION, lab.section("S8", spots=9)[1][0])
    done = tidy(atlas, lab.COLLECTION, actor="t", abandoned_after_s=0)
    assert (done.points, done.panels) == (9, 1)
    assert (done.bytes is None) == (atlas.kind != "embedded")
    assert atlas.count(lab.COLLECTION) == 105
    notes = verify(atlas, lab.COLLECTION).notes
    assert not any("orphans" in n or "panels" in n for n in notes), notes
    again = tidy(atlas, lab.COLLECTION, actor="t", abandoned_after_s=0)
    assert (again.points, again.panels) == (0, 0)


def test_dead_points_that_stay_are_counted(atlas, lab):
    fill(atlas, lab)
    # Whoever began to delete these may be at work still.
    condemned = Condemned("f" * 32, "S7", now())
    swap(atlas, lab.COLLECTION, lambda present: present.with_condemned([condemned]))
    live, batches = lab.section("S7", spots=9)
    points = batches[0]
    for payload in points.payloads:
        payload["rev"] = condemned.revision
    atlas.upsert(lab.COLLECTION, points)
    done = tidy(atlas, lab.COLLECTION, actor="t")
    if atlas.kind == "server":
        assert (done.points, done.kept) == (0, 9)
    else:
        assert (done.points, done.kept) == (9, 0)
    done = tidy(atlas, lab.COLLECTION, actor="t", abandoned_after_s=-1)
    assert done.kept == 0
    assert live.section not in atlas.facet(lab.COLLECTION, "section")


def test_panels_stay_while_others_stage(lab):
    atlas = ExactAtlas()
    fill(atlas, lab)
    put_panel(atlas, lab.COLLECTION, Panel(tuple("XYZ")))
    kept = atlas._get(lab.COLLECTION)
    kept.manifest = kept.manifest.with_staging(Staging("f" * 32, "S7", "x", now(), "0" * 32))
    assert tidy(atlas, lab.COLLECTION, actor="t").panels == 0


def test_the_panel_of_what_a_thread_stages_stays(atlas, lab):
    fill(atlas, lab)
    panel = Panel(tuple("XYZ"))
    live, batches = lab.section("S7", on=panel)

    def tidied_meanwhile():
        put_panel(atlas, lab.COLLECTION, panel)
        yield batches[0]
        assert tidy(atlas, lab.COLLECTION, actor="t").panels == 0
        yield from batches[1:]

    publish_section(atlas, lab.COLLECTION, live, tidied_meanwhile(), actor="t")
    (report,) = verify(atlas, lab.COLLECTION, ["S7"]).sections
    assert (report.digest, report.faults) == ("equal", 0)


def test_a_panel_that_somebody_begins_to_use_is_put_back(lab, monkeypatch):
    atlas = ExactAtlas()
    fill(atlas, lab)
    name = f"panels/{put_panel(atlas, lab.COLLECTION, Panel(tuple('XYZ')))}.json"
    drop = atlas.drop_blob

    def racing(collection, blob):
        drop(collection, blob)
        kept = atlas._get(collection)
        kept.manifest = kept.manifest.with_staging(Staging("f" * 32, "S7", "x", now(), "0" * 32))

    monkeypatch.setattr(atlas, "drop_blob", racing)
    assert tidy(atlas, lab.COLLECTION, actor="t").panels == 0
    assert atlas.get_blob(lab.COLLECTION, name) is not None


# --- the ledger -------------------------------------------------------------------------------


def test_the_ledger_keeps_what_it_is_told_for_its_owner_alone(cache, tmp_path):
    assert ledger.outputs() == []
    for i in range(3):
        ledger.record(
            Path(f"out{i}.h5ad"), atlas="a", collection="c", donors=["B", "A", "B"], sections=["S"]
        )
    file = cache / "outputs.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    made = ledger.outputs()
    assert [Path(m.path).name for m in made] == ["out0.h5ad", "out1.h5ad", "out2.h5ad"]
    assert all(Path(m.path).is_absolute() for m in made)
    assert made[0].donors == ("A", "B")


def test_a_damaged_ledger_loses_only_what_is_damaged(cache, caplog):
    ledger.record(Path("a.h5ad"), atlas="a", collection="c", donors=["A"], sections=["S"])
    with (cache / "outputs.jsonl").open("ab") as file:
        file.write(b'{"path": 1\n\xff\n[]\n')
    ledger.record(Path("b.h5ad"), atlas="a", collection="c", donors=["A"], sections=["S"])
    assert [Path(m.path).name for m in ledger.outputs()] == ["a.h5ad", "b.h5ad"]
    assert "3 lines cannot be read" in caplog.text


def test_a_ledger_that_cannot_be_written_is_a_warning(cache, caplog):
    cache.mkdir()
    (cache / "outputs.jsonl").mkdir()
    ledger.record(Path("a.h5ad"), atlas="a", collection="c", donors=["A"], sections=["S"])
    assert "will not know of a.h5ad" in caplog.text
    assert ledger.outputs() == []
