"""The embedded atlas as files: exact answers, damage, full disks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bleepdb.atlas import Points, open_atlas, resolve, vector_crc
from bleepdb.errors import AtlasCorruptError, AtlasError


def snapshot(path):
    """All files and their bytes, without the engine's log, which it opens to look into."""
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in path.rglob("*")
        if p.is_file() and "shard" not in p.parts
    }


def test_what_was_written_is_there_again(folder, lab):
    with open_atlas(folder) as atlas:
        assert atlas.facet(lab.COLLECTION, "section") == {"S1": 60, "S2": 50}
        assert atlas.read_manifest(lab.COLLECTION).generation == 2
        assert resolve(atlas, "breast") == lab.COLLECTION


def test_the_layout(folder, lab):
    home = folder / "collections" / lab.COLLECTION
    assert json.loads((folder / "bleepdb-atlas.json").read_text())["format"] == "bleepdb-atlas"
    assert json.loads((folder / "aliases.json").read_text()) == {lab.ALIAS: lab.COLLECTION}
    assert sorted(p.name for p in home.iterdir()) == [
        "blobs",
        "collection.json",
        "manifest.json",
        "shard",
    ]
    assert (home / "blobs" / "panels" / f"{lab.panel().digest}.json").is_file()


# --- the oracle -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimised", [False, True])
def test_top_one_and_mean_of_fifty_equal_brute_force(embedded, lab, optimised):
    spots, dimension = 3000, 64
    embedded.ensure(lab.spec(dimension=dimension))
    points = lab.joined(lab.section("S1", spots=spots, dimension=dimension)[1])
    embedded.upsert(lab.COLLECTION, points)
    if optimised:
        embedded.optimize(lab.COLLECTION)
    rng = np.random.default_rng(4)
    queries = lab.unit(rng, 200, dimension)
    profiles = rng.poisson(1.0, size=(spots, 20)).astype(np.float64)
    row = {identity: i for i, identity in enumerate(points.ids)}
    hits = embedded.query_batch(lab.COLLECTION, queries, using="image", limit=50)
    scores = queries.astype(np.float64) @ points.vectors["image"].astype(np.float64).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :50]
    found = np.array([[row[i] for i in ids] for ids in hits.ids])
    np.testing.assert_array_equal(found[:, 0], best[:, 0])
    np.testing.assert_allclose(profiles[found].mean(1), profiles[best].mean(1), atol=1e-5)
    np.testing.assert_allclose(
        np.stack(hits.scores), np.take_along_axis(scores, best, axis=1), atol=1e-5
    )


def test_an_hnsw_graph_finds_what_exact_finds(embedded, lab):
    # Enough points that the engine builds its graph (above 20 MB of vectors).
    spots, dimension = 5500, 1024
    embedded.ensure(replace(lab.spec(), vectors={"image": dimension}))
    rng = np.random.default_rng(8)
    vectors = lab.unit(rng, spots, dimension)
    template = lab.section("S1", spots=1)[1][0].payloads[0]
    ids = [f"{i:08x}-0000-4000-8000-000000000000" for i in range(spots)]
    payloads = [{**template, "vcrc": vector_crc({"image": v})} for v in vectors]
    embedded.upsert(lab.COLLECTION, Points(ids, {"image": vectors}, payloads))
    embedded.optimize(lab.COLLECTION)
    queries = vectors[:50] + rng.normal(scale=0.02, size=(50, dimension)).astype(np.float32)
    exact = embedded.query_batch(lab.COLLECTION, queries, using="image", limit=20)
    graph = embedded.query_batch(lab.COLLECTION, queries, using="image", limit=20, exact=False)
    shared = [len(set(a) & set(b)) / 20 for a, b in zip(exact.ids, graph.ids, strict=True)]
    assert np.mean(shared) > 0.95
    assert [i[0] for i in graph.ids] == ids[:50]


# --- damage -----------------------------------------------------------------------------------


def shard_file(folder, lab, pattern):
    (found,) = (folder / "collections" / lab.COLLECTION / "shard").glob(pattern)
    return found


def test_a_truncated_shard_is_reported_and_nothing_changes(folder, lab):
    path = shard_file(folder, lab, "segments/*/mutable_id_tracker.mappings")
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size // 3)
    # The engine replays its log where it can; what it flushed it does not replay.
    before = snapshot(folder)
    with open_atlas(folder) as atlas:
        for ask in (
            lambda: atlas.count(lab.COLLECTION),
            lambda: lab.publish(atlas, "S3"),
            lambda: atlas.query_batch(
                lab.COLLECTION, np.eye(1, 8, dtype=np.float32), using="image", limit=1
            ),
        ):
            with pytest.raises(
                AtlasCorruptError, match=rf"{lab.COLLECTION}: section S\d has \d+ of its \d+ spots"
            ) as caught:
                ask()
            assert "bleepdb index" in caught.value.hint
        atlas.drop(lab.COLLECTION)
        lab.prepare(atlas)
        assert lab.publish(atlas, "S1").status == "added"
    assert before["bleepdb-atlas.json"] == (folder / "bleepdb-atlas.json").read_bytes()


def test_a_flipped_byte_in_the_manifest(folder, lab):
    path = folder / "collections" / lab.COLLECTION / "manifest.json"
    data = bytearray(path.read_bytes())
    at = data.index(b'"spots": 60') + 9
    data[at] ^= 1
    path.write_bytes(data)
    with open_atlas(folder) as atlas:
        for ask in (atlas.read_manifest, atlas.count):
            with pytest.raises(AtlasCorruptError, match=r"manifest\.json: .*checksum"):
                ask(lab.COLLECTION)


DAMAGES = {
    "segments gone": lambda home: shutil.rmtree(home / "shard" / "segments"),
    "shard gone": lambda home: shutil.rmtree(home / "shard"),
    "config garbage": lambda home: (home / "shard" / "edge_config.json").write_text("{"),
    "spec gone": lambda home: (home / "collection.json").unlink(),
    "spec garbage": lambda home: (home / "collection.json").write_text('{"name": 1}'),
    "spec of another": lambda home: (home / "collection.json").write_text(
        json.dumps({"name": "x", "alias": "x", "vectors": {"image": 8}, "keyword_fields": []})
    ),
    "manifest of another": lambda home: (home / "manifest.json").write_text("{}"),
    "ids garbage": lambda home: next(
        home.glob("shard/segments/*/mutable_id_tracker.mappings")
    ).write_bytes(b"\xf3" * 4096),
    # The engine's Rust side panics on this one.
    "index garbage": lambda home: next(
        home.glob("shard/segments/*/payload_index/*-rev-map/tracker.dat")
    ).write_bytes(np.random.default_rng(0).bytes(2**20)),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_an_error_of_ours(folder, lab, name):
    DAMAGES[name](folder / "collections" / lab.COLLECTION)
    with open_atlas(folder) as atlas, pytest.raises(AtlasCorruptError) as caught:
        atlas.count(lab.COLLECTION)
    assert str(folder) in caught.value.where
    assert caught.value.hint


def test_aliases_garbage(folder):
    (folder / "aliases.json").write_text('{"a": 1}')
    with open_atlas(folder) as atlas, pytest.raises(AtlasCorruptError, match=r"aliases\.json"):
        resolve(atlas, "breast")


def test_changed_vector_bytes_are_noticed_when_read(folder, lab):
    path = shard_file(folder, lab, "segments/*/vector_storage-image/vectors/chunk_0.mmap")
    with path.open("r+b") as handle:
        handle.seek(64)
        byte = handle.read(1)
        handle.seek(64)
        handle.write(bytes([byte[0] ^ 1]))
    with open_atlas(folder) as atlas:
        assert sum(len(b) for b in atlas.scroll(lab.COLLECTION)) == 110
        with pytest.raises(AtlasCorruptError, match="are not what was written"):
            list(atlas.scroll(lab.COLLECTION, with_vectors=True))


def test_leftovers_of_killed_work_are_swept(folder, lab):
    home = folder / "collections"
    leftovers = [
        home / lab.COLLECTION / "shard" / "temp_segments" / "x",
        home / ".new-0011" / "blobs",
        home / ".old-0011" / "shard",
    ]
    for path in leftovers:
        path.mkdir(parents=True)
        (path / "data").write_bytes(b"x")
    # Files whose writer was killed before it renamed them.
    for name in (
        ".aliases.json.00112233.part.json",
        f"collections/{lab.COLLECTION}/.manifest.json.00112233.part.json",
        f"collections/{lab.COLLECTION}/blobs/panels/.a.json.00112233.part.json",
        f"collections/{lab.COLLECTION}/blobs/.b.00112233.part",
    ):
        leftovers.append(folder / name)
        leftovers[-1].write_text("D1")
    with open_atlas(folder) as atlas:
        assert atlas.collections() == [lab.COLLECTION]
        assert atlas.count(lab.COLLECTION) == 110
    assert not any(path.exists() for path in leftovers)


# --- the disk ---------------------------------------------------------------------------------


def test_a_disk_nearly_full_is_refused_before_writing(embedded, lab, monkeypatch):
    lab.prepare(embedded)
    lab.publish(embedded, "S1")
    free = 200 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(AtlasError, match=r"200 MB are free .*nothing was written"):
        lab.publish(embedded, "S2")
    with pytest.raises(AtlasError, match="are free"):
        embedded.optimize(lab.COLLECTION)
    with pytest.raises(AtlasError, match="are free"):
        embedded.ensure(lab.spec().__class__("other", "other", {"image": 4}, ("rev",)))
    monkeypatch.undo()
    assert embedded.facet(lab.COLLECTION, "section") == {"S1": 30}
    assert embedded.collections() == [lab.COLLECTION]


def test_writes_that_fail_are_errors_of_ours(folder, lab):
    home = folder / "collections" / lab.COLLECTION
    shutil.rmtree(home / "blobs")
    (home / "blobs").write_text("in the way")
    (folder / "aliases.json").unlink()
    (folder / "aliases.json").mkdir()
    (folder / "collections" / "stray.txt").write_text("not a collection")
    with open_atlas(folder) as atlas:
        with pytest.raises(AtlasError, match=r"model\.json: cannot be written"):
            atlas.put_blob(lab.COLLECTION, "model.json", b"{}")
        with pytest.raises(AtlasError, match=r"aliases\.json: cannot be written"):
            atlas.set_alias("bleepdb_lung", lab.COLLECTION)
        assert atlas.collections() == [lab.COLLECTION]
