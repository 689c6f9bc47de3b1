"""`copy`: any kind of atlas into any other, resumed where it broke off, whole by section."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.atlas import (
    EmbeddedAtlas,
    ExactAtlas,
    SnapshotAtlas,
    copy_collection,
    live_where,
    put_panel,
    retract_section,
    verify,
    write_snapshot,
)
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, SpaceMismatchError
from bleepdb.panel import Panel


@pytest.fixture(scope="module")
def source(lab, tmp_path_factory):
    """A folder of three sections on two panels, with a model; closed."""
    path = tmp_path_factory.mktemp("source") / "atlas"
    with EmbeddedAtlas(path, create=True) as atlas:
        lab.prepare(atlas)
        other = Panel(tuple(f"OTHER{i}" for i in range(30)))
        put_panel(atlas, lab.COLLECTION, other)
        atlas.put_blob(lab.COLLECTION, "model/notes.json", b"{}")
        lab.publish(atlas, "S1", spots=600, donor="D1", stage="I", batch=200)
        lab.publish(atlas, "S2", spots=40, donor="D2")
        lab.publish(atlas, "S3", spots=30, donor="D2", on=other)
    return path


@pytest.fixture(params=["embedded", "snapshot", "exact"])
def opened(request, source, lab, tmp_path):
    """The same three sections in each kind of source."""
    with EmbeddedAtlas(source) as folder:
        if request.param == "embedded":
            yield folder
        elif request.param == "snapshot":
            with write_snapshot(folder, tmp_path / "from.snapshot", actor="t") as made:
                yield made
        else:
            exact = ExactAtlas()
            copy_collection(folder, exact, lab.COLLECTION, actor="t")
            yield exact


def content(atlas, lab):
    """Everything that a reader can see."""
    where = live_where(atlas.read_manifest(lab.COLLECTION))
    found = atlas.scroll(lab.COLLECTION, where=where, with_vectors=True)
    points = {
        r.id: (dict(r.payload), {n: v.tobytes() for n, v in r.vectors.items()})
        for batch in found
        for r in batch
    }
    return points, list(atlas.read_manifest(lab.COLLECTION).live)


def test_every_kind_into_every_kind(opened, atlas, lab):
    seen = []
    made = copy_collection(
        opened, atlas, lab.COLLECTION, actor="t", progress=lambda *a: seen.append(a)
    )
    assert {s: o.status for s, o in made.outcomes.items()} == dict.fromkeys(
        ("S1", "S2", "S3"), "added"
    )
    assert made.verified == made.written == 670
    assert made.alias == lab.COLLECTION
    assert seen[-1] == (670, 670)
    assert [a for a, _ in seen] == sorted(a for a, _ in seen)
    assert content(atlas, lab) == content(opened, lab)
    assert verify(atlas, lab.COLLECTION).sound
    assert atlas.get_blob(lab.COLLECTION, "model/notes.json") == b"{}"
    queries = lab.unit(np.random.default_rng(3), 5)
    a, b = (
        x.query_batch(lab.COLLECTION, queries, using="image", limit=9).ids for x in (opened, atlas)
    )
    assert a == b
    again = copy_collection(opened, atlas, lab.COLLECTION, actor="t")
    assert {o.status for o in again.outcomes.values()} == {"unchanged"}
    assert (again.written, again.verified) == (0, 0)


def test_the_source_knows_where_its_points_went(lab):
    source, target = ExactAtlas("memory:"), ExactAtlas("the-other-place")
    lab.prepare(source)
    lab.publish(source, "S1")
    copy_collection(source, target, lab.COLLECTION, actor="someone")
    copy_collection(source, target, lab.COLLECTION, actor="someone")
    (noted,) = source.read_manifest(lab.COLLECTION).copies
    assert (noted.kind, noted.where, noted.who) == ("copy", "the-other-place", "someone")
    log = target.read_manifest(lab.COLLECTION).log
    assert "copied from memory:" in log[0].what


class BrokenOffError(Exception):
    pass


def breaking(atlas, after):
    """Let an atlas fail at its n-th batch of points to read whole."""
    numbers = itertools.count()
    scroll = atlas.scroll

    def broken(*args, with_vectors=False, **kwargs):
        for batch in scroll(*args, with_vectors=with_vectors, **kwargs):
            if with_vectors and next(numbers) == after:
                raise BrokenOffError
            yield batch

    atlas.scroll = broken
    return atlas


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_copy_that_broke_off_goes_on_and_writes_only_what_is_missing(source, lab, atlas, after):
    with EmbeddedAtlas(source) as folder:
        with pytest.raises(BrokenOffError):
            copy_collection(breaking(folder, after), atlas, lab.COLLECTION, actor="t")
        del folder.scroll
        # Batches of 500: S1 is written in two parts and whole only after the second.
        before = [s.section for s in atlas.read_manifest(lab.COLLECTION).live]
        assert before == (["S1"] if after == 2 else [])
        made = copy_collection(folder, atlas, lab.COLLECTION, actor="t")
        there = {0: 0, 1: 500, 2: 600}[after]
        assert made.written == 670 - there
        assert content(atlas, lab) == content(folder, lab)


def test_a_changed_section_replaces_and_foreign_ones_stay(source, lab):
    target = ExactAtlas()
    with EmbeddedAtlas(source) as folder:
        lab.prepare(target)
        lab.publish(target, "S2", 7, donor="D2")
        lab.publish(target, "S9", donor="D9")
        made = copy_collection(folder, target, lab.COLLECTION, actor="t")
    assert {s: o.status for s, o in made.outcomes.items()} == {
        "S1": "added",
        "S2": "replaced",
        "S3": "added",
    }
    names = [s.section for s in target.read_manifest(lab.COLLECTION).live]
    assert names == ["S1", "S2", "S3", "S9"]


def test_damage_in_the_source_does_not_become_visible(lab):
    source, target = ExactAtlas(), ExactAtlas()
    lab.prepare(source)
    lab.publish(source, "S1")
    lab.publish(source, "S2")
    rows = source._get(lab.COLLECTION).rows
    row = next(i for i, p in enumerate(rows.stored) if p["section"] == "S2")
    rows.stored[row]["x_px"] = 3.5
    with pytest.raises(AtlasCorruptError, match="section S2: its points are not those"):
        copy_collection(source, target, lab.COLLECTION, actor="t")
    assert [s.section for s in target.read_manifest(lab.COLLECTION).live] == ["S1"]
    rows.stored[row]["nnz"] = -1
    with pytest.raises(AtlasCorruptError, match=r"'nnz' breaks the point schema"):
        copy_collection(source, target, lab.COLLECTION, actor="t")


def test_a_target_that_reads_back_otherwise_is_said(source, lab, monkeypatch):
    target = ExactAtlas()
    publish = target.swap_manifest

    def swap(*args):
        kept = target._get(lab.COLLECTION).rows
        if len(kept):
            kept.stored[5]["y_px"] = 0.25
        return publish(*args)

    monkeypatch.setattr(target, "swap_manifest", swap)
    with EmbeddedAtlas(source) as folder, pytest.raises(AtlasCorruptError, match="reads back"):
        copy_collection(folder, target, lab.COLLECTION, actor="t")


def test_the_same_revision_with_other_points_is_refused(lab):
    source, target = ExactAtlas(), ExactAtlas()
    for atlas in (source, target):
        lab.prepare(atlas)
        lab.publish(atlas, "S1")
    kept = target._get(lab.COLLECTION)
    live = tuple(replace(s, points_digest="0" * 64) for s in kept.manifest.live)
    kept.manifest = replace(kept.manifest, live=live)
    with pytest.raises(AtlasCorruptError, match="same revision with other points"):
        copy_collection(source, target, lab.COLLECTION, actor="t")


def test_what_cannot_be_copied(source, lab, tmp_path):
    with EmbeddedAtlas(source) as folder:
        with pytest.raises(AtlasError, match="the same atlas"):
            copy_collection(folder, folder, lab.COLLECTION, actor="t")
        with pytest.raises(EmptyAtlasError):
            copy_collection(folder, ExactAtlas(), "nowhere", actor="t")
        write_snapshot(folder, tmp_path / "x.snapshot", actor="t").close()
        with (
            SnapshotAtlas(tmp_path / "x.snapshot") as made,
            pytest.raises(AtlasError, match="a snapshot is read-only"),
        ):
            copy_collection(folder, made, lab.COLLECTION, actor="t")
        target = ExactAtlas()
        lab.prepare(target, model_digest="0" * 64)
        with pytest.raises(SpaceMismatchError, match="model_digest"):
            copy_collection(folder, target, lab.COLLECTION, actor="t")


def test_an_alias_that_points_elsewhere_is_left_alone(source, lab):
    target = ExactAtlas()
    target.ensure(replace(lab.spec(), name="bleepdb_breast_other"))
    target.set_alias(lab.ALIAS, "bleepdb_breast_other")
    with EmbeddedAtlas(source) as folder:
        made = copy_collection(folder, target, lab.COLLECTION, actor="t")
    assert made.alias == "bleepdb_breast_other"


def test_what_was_retracted_is_not_copied(lab):
    source, target = ExactAtlas(), ExactAtlas()
    lab.prepare(source)
    lab.publish(source, "S1")
    lab.publish(source, "S2")
    retract_section(source, lab.COLLECTION, "S1", actor="t")
    copy_collection(source, target, lab.COLLECTION, actor="t")
    assert target.facet(lab.COLLECTION, "section") == {"S2": 30}
