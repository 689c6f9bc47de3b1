"""Many slides: as one by one, the next on its way meanwhile, one bad slide beside good ones."""

from __future__ import annotations

import errno
import json
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
from PIL import Image

from bleepdb import contracts, names
from bleepdb.atlas import ExactAtlas
from bleepdb.errors import AtlasError, AtlasLockedError, EmptyAtlasError, ModelError
from bleepdb.indexing import index_section
from bleepdb.querying import Query, QuerySettings, query_slide
from bleepdb.querying import many as running
from bleepdb.querying.ahead import ENCODING, OPENING, Watch
from bleepdb.querying.estimate import foresee
from bleepdb.querying.many import SEARCHING, WRITING, Many
from bleepdb.querying.resuming import read_card
from bleepdb.tissue.slide_sheet import SlideRow, shard_of

WAIT_S = 60
MPP = 1.6


@pytest.fixture(scope="module")
def slides(small, tmp_path_factory):
    """Four slides cut from the made sections, small enough to be encoded at once."""
    folder = tmp_path_factory.mktemp("slides")
    made = []
    for name, section, box in (
        ("a", 2, (0, 0, 700, 700)), ("b", 2, (200, 200, 900, 900)), ("c", 1, (0, 0, 600, 800)),
        ("d", 0, (100, 0, 800, 600)),
    ):  # fmt: skip
        path = folder / f"{name}.png"
        Image.open(small.sections[section].slide_path).convert("RGB").crop(box).save(path)
        made.append(SlideRow(path, name, mpp=MPP))
    return made


class Log(Watch):
    """Keeps what happens, in order."""

    def __init__(self):
        self.seen = []
        self.lock = threading.Lock()

    def begins(self, stage, name):
        with self.lock:
            self.seen.append((stage, name))
        return super().begins(stage, name)

    def ended(self, entry):
        with self.lock:
            self.seen.append((entry.status, entry.name))

    def names_of(self, stage):
        return [name for s, name in self.seen if s == stage]


def job(small, rows, out, **more):
    (collection,) = small.atlas.collections()
    given = {
        "rows": rows, "model": small.model, "borrow": lambda: nullcontext(small.atlas),
        "collection": collection, "out": out, "settings": QuerySettings(genes="model", k=10),
        "watch": Log(),
    }  # fmt: skip
    return Many(**{**given, **more})


def document(out, name="report.json"):
    made = json.loads((out / name).read_text())
    assert contracts.faults("query_report", made) == []
    return made


def same(one, other):
    """Two imputed files hold the same, but for when they were made."""
    a, b = ad.read_h5ad(one), ad.read_h5ad(other)
    np.testing.assert_array_equal(a.X, b.X)
    np.testing.assert_array_equal(a.obsm[names.WEIGHTS_KEY], b.obsm[names.WEIGHTS_KEY])
    assert a.obs.equals(b.obs)
    assert a.var.equals(b.var)
    cards = [json.loads(x.uns["bleepdb"]["run_card"])["facts"] for x in (a, b)]
    assert cards[0] == cards[1]


@pytest.fixture(scope="module")
def together(small, slides, tmp_path_factory):
    """All four slides in one run."""
    out = tmp_path_factory.mktemp("together")
    one = job(small, slides, out)
    report = one.run()
    assert report.exit_code == 0, report.document()
    return out, report, one.watch


def test_together_as_one_by_one(small, slides, together, tmp_path):
    out, _, _ = together
    (collection,) = small.atlas.collections()
    for row in slides:
        made = query_slide(
            Query.of(row), small.model, small.atlas, collection,
            settings=QuerySettings(genes="model", k=10),
        )  # fmt: skip
        made.write(tmp_path / "alone.h5ad")
        same(out / f"{row.name}.h5ad", tmp_path / "alone.h5ad")
    written = document(out)
    assert written["counts"] == {"done": 4, "skipped": 0, "failed": 0, "left": 0}
    for entry, row in zip(written["slides"], slides, strict=True):
        assert entry["status"] == "done"
        assert entry["places"] == ad.read_h5ad(out / entry["output"]).n_obs
        assert set(entry["seconds"]) == {OPENING, ENCODING, SEARCHING, WRITING}
        assert entry["slide_mpp"] == MPP
        assert entry["mpp_source"]
        assert entry["slide"] == str(row.slide)
    assert written["stopped"] is None
    assert written["finished"]
    assert {p.name for p in out.iterdir()} == {
        "a.h5ad", "b.h5ad", "c.h5ad", "d.h5ad", "report.json", "cohort.parquet",
    }  # fmt: skip


def test_a_slide_is_encoded_and_the_next_opened_while_one_is_written(small, slides, tmp_path):
    """Writing waits until the others are on their way: if nothing ran ahead, it waited in vain."""
    arrived = {(s, n): threading.Event() for s in (OPENING, ENCODING) for n in "abcd"}

    class Waits(Log):
        kept = True

        def begins(self, stage, name):
            move = super().begins(stage, name)
            if (stage, name) in arrived:
                arrived[stage, name].set()
            if (stage, name) == (WRITING, "a"):
                self.kept = arrived[ENCODING, "b"].wait(WAIT_S)
                self.kept &= arrived[OPENING, "c"].wait(WAIT_S)
                self.kept &= not arrived[OPENING, "d"].is_set()  # no more than that
                self.kept &= not arrived[ENCODING, "c"].is_set()
            return move

    watch = Waits()
    assert job(small, slides, tmp_path, watch=watch).run().exit_code == 0
    assert watch.kept
    assert watch.names_of(SEARCHING) == list("abcd")
    assert watch.names_of(ENCODING) == list("abcd")
    assert watch.names_of("done") == list("abcd")


def bad_rows(slides, folder):
    """Good slides with bad ones between them."""
    (folder / "empty.svs").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    Image.new("RGB", (600, 600), (250, 250, 250)).save(folder / "blank.png")
    return [
        SlideRow(folder / "empty.svs", "empty", mpp=MPP),
        slides[0],
        SlideRow(folder / "text.png", "text", mpp=MPP),
        SlideRow(folder / "none.svs", "none", mpp=MPP),
        replace(slides[1], name="unknown", mpp=None),
        SlideRow(folder / "blank.png", "blank", mpp=MPP),
        slides[1],
    ]


def test_bad_slides_among_good_ones(small, slides, together, tmp_path):
    out = tmp_path / "out"
    one = job(small, bad_rows(slides, tmp_path), out)
    report = one.run()
    assert report.exit_code == 1
    written = document(out)
    assert [e["status"] for e in written["slides"]] == [
        "failed", "done", "failed", "failed", "failed", "failed", "done",
    ]  # fmt: skip
    for entry, words in zip(
        written["slides"],
        ("empty", None, "text.png", "no such image", "microns per pixel", "no tissue", None),
        strict=True,
    ):
        assert words is None or words in entry["reason"], entry
        assert (entry["error"] == "SlideError") == (words is not None)
        assert (entry["output"] is None) == (words is not None)
    for name in ("a", "b"):
        same(out / f"{name}.h5ad", together[0] / f"{name}.h5ad")
    assert sorted(p.name for p in out.glob("*.h5ad")) == ["a.h5ad", "b.h5ad"]
    plan = foresee(job(small, bad_rows(slides, tmp_path), out, force=True))
    assert [s.status for s in plan.slides] == [
        "ready" if e["status"] == "done" else "refused" for e in written["slides"]
    ]
    assert [s.reason for s in plan.slides] == [e["reason"] for e in written["slides"]]


def test_an_error_that_nobody_foresaw_is_listed_with_its_kind(small, slides, tmp_path, monkeypatch):
    real = running.locate

    def breaks(query, *given, **more):
        if query.library_id == "b":
            raise ZeroDivisionError("by nought\nin line 3")
        return real(query, *given, **more)

    monkeypatch.setattr(running, "locate", breaks)
    (tmp_path / "b.h5ad").write_text("an older one")
    report = job(small, slides[:3], tmp_path).run()
    assert report.exit_code == 1
    entry = document(tmp_path)["slides"][1]
    assert (entry["status"], entry["error"]) == ("failed", "ZeroDivisionError")
    assert entry["reason"] == "by nought in line 3"
    assert entry["warnings"] == ["b.h5ad is of an earlier run"]
    assert report.count("done") == 2


@pytest.mark.parametrize(
    "error",
    [
        AtlasError("the server is gone"),
        ModelError("other weights"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
@pytest.mark.parametrize("at", ["answer", "locate"])
def test_what_concerns_all_slides_ends_the_run(small, slides, tmp_path, monkeypatch, error, at):
    real = getattr(running, at)

    def breaks(query, *given, **more):
        if query.library_id == "b":
            raise error
        return real(query, *given, **more)

    monkeypatch.setattr(running, at, breaks)
    with pytest.raises(type(error)):
        job(small, slides, tmp_path).run()
    made = document(tmp_path)
    assert [e["status"] for e in made["slides"]] == ["done", "left", "left", "left"]
    assert made["stopped"] in str(error)
    assert (tmp_path / "cohort.parquet").is_file()
    assert threading.active_count() < 20


def test_faults_of_the_whole_are_raised_before_a_slide_is_opened(small, slides, tmp_path):
    from bleepdb.errors import GeneError, InputError

    for wrong, kind in (
        ({"genes": ("NOPE",)}, GeneError),
        ({"exclude_donors": ("nobody",)}, InputError),
    ):
        one = job(small, slides, tmp_path / "out", settings=QuerySettings(**wrong))
        with pytest.raises(kind):
            one.run()
        assert one.watch.seen == []
        assert not (tmp_path / "out").exists()


def test_a_slide_whose_donor_alone_answers_fails_alone(small, slides, tmp_path):
    atlas = ExactAtlas()
    index_section(small.sections[0], small.model, atlas, actor="test")
    rows = [replace(slides[0], donor=small.sections[0].donor), slides[1]]
    one = job(small, rows, tmp_path, borrow=lambda: nullcontext(atlas))
    report = one.run()
    assert [e.status for e in report.entries] == ["failed", "done"]
    assert report.entries[0].error == "EmptyAtlasError"
    foreseen = foresee(job(small, rows, tmp_path / "other", borrow=lambda: nullcontext(atlas)))
    assert [f.status for f in foreseen.slides] == ["refused", "ready"]
    assert "nothing is left to search" in foreseen.slides[0].reason
    assert one.watch.names_of(ENCODING) == [slides[1].name]  # nothing was encoded in vain


def test_an_atlas_that_is_emptied_meanwhile_ends_the_run(small, slides, tmp_path):
    from bleepdb.atlas import retract_section

    atlas = ExactAtlas()
    index_section(small.sections[0], small.model, atlas, actor="test")
    (collection,) = atlas.collections()

    class Empties(Log):
        def ended(self, entry):
            retract_section(atlas, collection, small.sections[0].section, actor="test")

    with pytest.raises(EmptyAtlasError, match="no section is live"):
        job(small, slides, tmp_path, borrow=lambda: nullcontext(atlas), watch=Empties()).run()
    assert [e["status"] for e in document(tmp_path)["slides"]] == ["done", "left", "left", "left"]


def test_the_atlas_is_let_go_between_slides_and_waited_for(small, slides, tmp_path, monkeypatch):
    held, busy = [], [2]

    @contextmanager
    def borrow():
        held.append("open")
        yield small.atlas
        held.append("closed")

    def lend():
        if len(held) >= 4 and busy[0]:
            busy[0] -= 1
            raise AtlasLockedError("process 7 holds it")
        return borrow()

    assert job(small, slides[:3], tmp_path, borrow=lend).run().exit_code == 0
    assert held == ["open", "closed"] * 4  # once before the slides
    assert busy == [0]
    monkeypatch.setattr(running, "LOCK_PATIENCE_S", -1.0)
    busy[0] = 1
    held.clear()
    with pytest.raises(AtlasLockedError):
        job(small, slides[:3], tmp_path / "again", borrow=lend).run()


def test_shards_together_are_the_whole(small, slides, together, tmp_path):
    import pyarrow.parquet as pq

    from bleepdb.querying.cohort import merge_cohort

    for i in (1, 2, 3):
        one = job(small, shard_of(slides, i, 3), tmp_path, shard=(i, 3))
        assert one.run().exit_code == 0
    parts = [document(tmp_path, f"report-{i}-of-3.json") for i in (1, 2, 3)]
    done = [e["name"] for p in parts for e in p["slides"]]
    assert sorted(done) == list("abcd")
    assert [p["shard"] for p in parts] == [{"index": i, "of": 3} for i in (1, 2, 3)]
    for name in "abcd":
        same(tmp_path / f"{name}.h5ad", together[0] / f"{name}.h5ad")
    merge_cohort(tmp_path, tmp_path / "cohort.parquet")
    found, wanted = (
        pq.read_table(f / "cohort.parquet").to_pandas().drop(columns="run")
        for f in (tmp_path, together[0])
    )
    assert found.equals(wanted)


def test_more_shards_than_slides(small, slides, tmp_path):
    report = job(small, shard_of(slides[:1], 2, 2), tmp_path, shard=(2, 2)).run()
    assert report.exit_code == 0
    assert document(tmp_path, "report-2-of-2.json")["slides"] == []
    assert list(tmp_path.iterdir()) == [tmp_path / "report-2-of-2.json"]


def test_a_second_run_skips_what_holds_and_makes_the_rest(small, slides, tmp_path):
    rows = slides[:2]
    job(small, rows, tmp_path).run()
    before = {n: read_card(tmp_path / f"{n}.h5ad") for n in "ab"}

    def again(**more):
        one = job(small, more.pop("rows", rows), tmp_path, **more)
        report = one.run()
        assert report.exit_code == 0, report.document()
        document(tmp_path)
        return "".join(e.status[0] for e in report.entries), one.watch

    told, watch = again()
    assert told == "ss"
    assert watch.names_of(ENCODING) == watch.names_of(SEARCHING) == []
    assert {n: read_card(tmp_path / f"{n}.h5ad") for n in "ab"} == before
    entry = document(tmp_path)["slides"][0]
    assert entry["places"] == before["a"]["facts"]["places"]
    assert entry["output_digest"]
    assert again(force=True)[0] == "dd"
    assert again(settings=QuerySettings(genes="model", k=11))[0] == "dd"
    assert again(settings=QuerySettings(genes="model", k=11))[0] == "ss"
    assert again()[0] == "dd"
    assert again(rows=[rows[0], replace(rows[1], mpp=1.7)])[0] == "sd"
    assert again(rows=[rows[0], replace(rows[1], donor="donor-a")])[0] == "sd"
    # Another slide under the same name.
    moved = replace(rows[0], slide=slides[2].slide)
    assert again(rows=[moved, rows[1]])[0] == "dd"
    # Half a file is no output.
    whole = (tmp_path / "b.h5ad").read_bytes()
    (tmp_path / "b.h5ad").write_bytes(whole[: len(whole) // 2])
    assert again(rows=[moved, rows[1]])[0] == "sd"
    # The model retrieves otherwise.
    other = replace(small.model, retrieval={**small.model.retrieval, "k": 7})
    assert again(rows=[moved, rows[1]], model=other)[0] == "dd"


def test_another_atlas_or_another_live_section_makes_all_again(small, slides, tmp_path):
    atlas = ExactAtlas()
    for section in small.sections[:2]:
        index_section(section, small.model, atlas, actor="test")

    def told():
        one = job(small, slides[:2], tmp_path, borrow=lambda: nullcontext(atlas))
        return [e.status for e in one.run().entries]

    assert told() == ["done", "done"]
    assert told() == ["skipped", "skipped"]
    index_section(small.sections[2], small.model, atlas, actor="test")
    assert told() == ["done", "done"]


def test_ctrl_c_keeps_what_is_whole_and_the_next_run_goes_on(small, slides, tmp_path):
    class Stops(Log):
        def begins(self, stage, name):
            if (stage, name) == (SEARCHING, "c"):
                raise KeyboardInterrupt
            return super().begins(stage, name)

    with pytest.raises(KeyboardInterrupt):
        job(small, slides, tmp_path, watch=Stops()).run()
    made = document(tmp_path)
    assert [e["status"] for e in made["slides"]] == ["done", "done", "left", "left"]
    assert made["stopped"] == "interrupted"
    assert {p.name for p in tmp_path.iterdir()} == {
        "a.h5ad", "b.h5ad", "report.json", "cohort.parquet",
    }  # fmt: skip
    one = job(small, slides, tmp_path)
    assert [e.status for e in one.run().entries] == ["skipped", "skipped", "done", "done"]
    assert one.watch.names_of(ENCODING) == ["c", "d"]


def test_a_dry_run_tells_what_the_run_does_and_writes_nothing(small, slides, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("BLEEPDB_CACHE", str(cache))
    out = tmp_path / "out"
    plan = foresee(job(small, slides, out))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not out.exists()
    assert plan.exit_code == 0
    assert plan.tiles_per_second > 0
    assert all(not s.cached and s.hours > 0 and s.cache_gb > 0 for s in plan.slides)
    job(small, slides[:3], out).run()
    for seen, row in zip(plan.slides[:3], slides, strict=False):
        path = out / f"{row.name}.h5ad"
        made = ad.read_h5ad(path)
        assert seen.places == made.n_obs
        assert plan.genes == made.n_vars
        assert path.stat().st_size < 1e9 * seen.output_gb
    features = sum(p.stat().st_size for p in (cache / "features").glob("*.safetensors"))
    wanted = 1e9 * sum(s.cache_gb for s in plan.slides[:3])
    assert wanted <= features < wanted + 3 * 1024
    again = foresee(job(small, slides, out))
    assert [s.status for s in again.slides] == ["skipped"] * 3 + ["ready"]
    forced = foresee(job(small, slides, out, force=True))
    assert [s.cached for s in forced.slides] == [True] * 3 + [False]
    assert [s.hours for s in forced.slides[:3]] == [0.0] * 3
    total = forced.document()["total"]
    assert total["to_encode"] == forced.slides[3].places
    assert total["places"] == sum(s.places for s in plan.slides)


def test_a_dry_run_tells_of_a_disk_that_is_too_small(small, slides, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from bleepdb.querying import estimate

    room = SimpleNamespace(total=2**40, used=0, free=1000)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda _: room)
    plan = foresee(job(small, slides[:1], tmp_path / "out"))
    assert plan.exit_code == 2
    assert any("are free" in text for text in plan.refusals)


def test_a_slide_that_is_of_another_kind_than_the_atlas_is_warned_of(small, slides, tmp_path):
    rows = [
        replace(slides[0], fields={"assay": "Visium", "species": "Human", "scanner": "X"}),
        replace(slides[1], fields={"assay": "simulated"}),
    ]
    report = job(small, rows, tmp_path).run()
    said = [t for t in report.entries[0].warnings if "is of" in t]
    assert len(said) == 1
    assert "assay 'Visium'" in said[0]
    assert "simulated" in said[0]
    assert not [t for t in report.entries[1].warnings if "is of" in t]
    assert document(tmp_path)["slides"][0]["fields"]["scanner"] == "X"


def test_a_measured_section_is_not_replaced_by_an_output_of_its_name(small, slides, tmp_path):
    ad.AnnData(np.ones((3, 2), np.float32)).write_h5ad(tmp_path / "a.h5ad")
    before = (tmp_path / "a.h5ad").read_bytes()
    for force in (False, True):
        report = job(small, slides[:2], tmp_path, force=force).run()
        assert report.entries[0].status == "failed"
        assert "was not written by" in report.entries[0].reason
        assert (tmp_path / "a.h5ad").read_bytes() == before
        plan = foresee(job(small, slides[:2], tmp_path, force=force))
        assert plan.slides[0].reason == report.entries[0].reason


def drawn(path, x0, x1):
    """A mask that lets the columns from x0 to x1 be tissue."""
    ring = [[x0, 0], [x1, 0], [x1, 700], [x0, 700], [x0, 0]]
    path.write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [
                    {
                        "type": "Feature",
                        "properties": {},
                        "geometry": {"type": "Polygon", "coordinates": [ring]},
                    }
                ],
            }
        )
    )
    return str(path)


def test_tissue_is_as_a_file_draws_it_and_another_drawing_makes_the_slide_again(
    small, slides, tmp_path
):
    path, out = tmp_path / "left.geojson", tmp_path / "out"
    rows = [replace(slides[0], mask=drawn(path, 0, 350)), replace(slides[1], mask="HSV")]

    def told():
        return [e.status for e in job(small, rows, out).run().entries]

    assert told() == ["done", "done"]
    left = ad.read_h5ad(out / "a.h5ad").obs["x_px"]
    assert 0 < left.max() < 350 + 40
    assert told() == ["skipped", "skipped"]
    drawn(path, 350, 700)
    assert told() == ["done", "skipped"]
    assert ad.read_h5ad(out / "a.h5ad").obs["x_px"].min() > 350 - 40
    path.write_text("{")
    assert told() == ["failed", "skipped"]


def test_an_overlay_shows_the_slide_with_its_tiles(small, slides, tmp_path):
    out = tmp_path / "out"
    assert job(small, slides[:1], out).run().exit_code == 0
    one = job(small, slides[:1], out, overlay=True)
    assert one.run().entries[0].status == "done", "there is no overlay yet"
    assert document(out)["slides"][0]["overlay"] == "a.overlay.png"
    picture = np.asarray(Image.open(out / "a.overlay.png").convert("RGB")).astype(int)
    slide = np.asarray(Image.open(slides[0].slide).convert("RGB"))
    assert picture.shape[0] > slide.shape[0]
    green = (abs(picture - np.array([0, 130, 60])).sum(axis=2) < 60).sum()
    orange = (abs(picture - np.array([220, 90, 0])).sum(axis=2) < 60).sum()
    assert green > 100
    assert orange > 500
    assert one.run().entries[0].status == "skipped"
