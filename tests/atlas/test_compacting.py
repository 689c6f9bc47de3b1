"""Compaction: what was deleted leaves the files, what is there stays, a kill changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.atlas import EmbeddedAtlas, open_atlas, retract_section
from bleepdb.atlas.folder import SHARD_NAME
from bleepdb.errors import AtlasCorruptError, AtlasError


def raw_files_hold(folder, *texts):
    """Which of these texts stand in any file of a folder."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found |= {t for t in texts if t.encode() in data}
    return found


@pytest.fixture
def two(tmp_path, lab):
    with EmbeddedAtlas(tmp_path / "atlas", create=True) as atlas:
        lab.prepare(atlas)
        lab.publish(atlas, "S1", donor="DONOR-TO-GO", spots=40)
        lab.publish(atlas, "S2", donor="DONOR-TO-STAY", spots=40)
        yield atlas


def test_the_bytes_of_what_was_retracted_are_gone(two, tmp_path, lab):
    gone = lab.joined(lab.section("S1", donor="DONOR-TO-GO", spots=40)[1]).payloads[7]["expr"]
    stays = lab.joined(lab.section("S2", donor="DONOR-TO-STAY", spots=40)[1]).payloads[7]["expr"]
    texts = (gone, stays, "DONOR-TO-GO", "DONOR-TO-STAY")
    assert raw_files_hold(tmp_path, *texts) == set(texts), "the test must be able to see them"
    retract_section(two, lab.COLLECTION, "S1", actor="t")
    assert gone in raw_files_hold(tmp_path, *texts), "else compaction would not be needed"
    two.compact(lab.COLLECTION)
    two.close()
    assert raw_files_hold(tmp_path, *texts) == {stays, "DONOR-TO-STAY"}


def test_answers_stay_the_same(two, tmp_path, lab):
    queries = lab.unit(np.random.default_rng(3), 9)
    before = two.query_batch(lab.COLLECTION, queries, using="image", limit=20)
    records = [r for b in two.scroll(lab.COLLECTION, with_vectors=True) for r in b]
    two.compact(lab.COLLECTION)
    for atlas in (two, None):
        if atlas is None:
            two.close()
            atlas = open_atlas(tmp_path / "atlas")  # noqa: PLW2901 - the same, opened again
        after = atlas.query_batch(lab.COLLECTION, queries, using="image", limit=20)
        assert after.ids == before.ids
        again = [r for b in atlas.scroll(lab.COLLECTION, with_vectors=True) for r in b]
        assert [(r.id, r.payload) for r in again] == [(r.id, r.payload) for r in records]
        for one, other in zip(again, records, strict=True):
            np.testing.assert_array_equal(one.vectors["image"], other.vectors["image"])
    atlas.ensure(lab.spec(fields=(*lab.FIELDS, "scanner")))
    assert atlas.count(lab.COLLECTION) == 80
    atlas.close()


def test_a_compacted_atlas_grows_on(two, tmp_path, lab):
    for version in range(1, 4):
        two.compact(lab.COLLECTION)
        lab.publish(two, "S1", version, donor="DONOR-TO-GO", spots=40)
    folder = tmp_path / "atlas" / "collections" / lab.COLLECTION
    assert len([p for p in folder.iterdir() if SHARD_NAME.fullmatch(p.name)]) == 1
    two.close()
    with open_atlas(tmp_path / "atlas") as atlas:
        assert atlas.facet(lab.COLLECTION, "section") == {"S1": 40, "S2": 40}


@pytest.mark.parametrize("moment", ["create", "upsert", "flush", "close"])
def test_a_failure_on_the_way_leaves_the_old_files(two, tmp_path, lab, moment, monkeypatch):
    from bleepdb.atlas.shard import Shard

    real = getattr(Shard, moment)
    told = []

    def failing(*args, **kwargs):
        told.append(moment)
        if moment == "close":
            real(*args, **kwargs)
        raise AtlasError("made to fail")

    monkeypatch.setattr(Shard, moment, failing)
    with pytest.raises(AtlasError, match="made to fail"):
        two.compact(lab.COLLECTION)
    assert told
    monkeypatch.undo()
    two.close()
    with open_atlas(tmp_path / "atlas") as atlas:
        assert atlas.facet(lab.COLLECTION, "section") == {"S1": 40, "S2": 40}
        folder = tmp_path / "atlas" / "collections" / lab.COLLECTION
        assert len([p for p in folder.iterdir() if SHARD_NAME.fullmatch(p.name)]) == 1


def test_a_half_made_shard_is_swept(two, tmp_path, lab):
    two.close()
    folder = tmp_path / "atlas" / "collections" / lab.COLLECTION
    (folder / "shard-0a1b2c3d" / "segments").mkdir(parents=True)
    with open_atlas(tmp_path / "atlas") as atlas:
        assert not (folder / "shard-0a1b2c3d").exists()
        assert atlas.count(lab.COLLECTION) == 80


@pytest.mark.parametrize("name", ["../shard", "shards", "shard-x", 7, None])
def test_a_pointer_that_names_no_shard(two, tmp_path, lab, name):
    import json

    two.close()
    path = tmp_path / "atlas" / "collections" / lab.COLLECTION / "collection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shard": name}))
    with (
        open_atlas(tmp_path / "atlas") as atlas,
        pytest.raises(AtlasCorruptError, match="is damaged"),
    ):
        atlas.count(lab.COLLECTION)


def test_no_room_for_both(two, lab, monkeypatch):
    from bleepdb.atlas import embedded

    class Full:
        free = 2**20

    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(AtlasError, match="MB are free"):
        two.compact(lab.COLLECTION)
    monkeypatch.undo()
    assert two.count(lab.COLLECTION) == 80
