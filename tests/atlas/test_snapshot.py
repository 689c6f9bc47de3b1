"""A snapshot: read-only, mapped, opened by many at once, and damaged in every way."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from bleepdb.atlas import (
    Atlas,
    EmbeddedAtlas,
    ExactAtlas,
    SnapshotAtlas,
    Where,
    fetch_profiles,
    get_panel,
    live_where,
    publish_section,
    put_panel,
    resolve,
    write_snapshot,
)
from bleepdb.atlas.arrow_message import is_compressed
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, PayloadError
from bleepdb.files import canonical_json, digest, file_digest

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "bleepdb-snapshot.json"


@pytest.fixture
def source(lab):
    """An exact atlas of three sections, one of which replaced another."""
    atlas = ExactAtlas()
    lab.prepare(atlas)
    lab.publish(atlas, "S1", spots=40, donor="D1", stage="I")
    lab.publish(atlas, "S2", spots=30, donor="D2")
    lab.publish(atlas, "S2", 1, spots=35, donor="D2", batch=7)
    atlas.put_blob(lab.COLLECTION, "model/model.json", b"{}")
    return atlas


@pytest.fixture
def path(source, tmp_path):
    made = tmp_path / "lab.snapshot"
    write_snapshot(source, made, actor="test").close()
    return made


def files(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_it_holds_what_is_live_and_nothing_else(source, path, lab):
    with SnapshotAtlas(path) as atlas:
        assert isinstance(atlas, Atlas)
        assert atlas.kind == "snapshot"
        assert atlas.facet(lab.COLLECTION, "rev") == {
            lab.revision("S1", 0): 40,
            lab.revision("S2", 1): 35,
        }
        assert resolve(atlas, "breast") == lab.COLLECTION
        assert atlas.list_blobs(lab.COLLECTION) == source.list_blobs(lab.COLLECTION)
        assert get_panel(atlas, lab.COLLECTION, lab.panel().digest) == lab.panel()
        made, live = atlas.read_manifest(lab.COLLECTION), source.read_manifest(lab.COLLECTION)
        assert made.live == live.live
        assert live.generation == made.generation + 1
        assert [c.kind for c in live.copies] == ["snapshot"]
        assert live.copies[0].where.endswith(str(path))


def test_every_bit_and_every_answer_is_that_of_the_source(source, path, lab):
    with SnapshotAtlas(path) as atlas:
        where = live_where(source.read_manifest(lab.COLLECTION))
        queries = lab.unit(np.random.default_rng(0), 50)
        ours = atlas.query_batch(lab.COLLECTION, queries, using="image", limit=20, where=where)
        truth = source.query_batch(lab.COLLECTION, queries, using="image", limit=20, where=where)
        assert ours.ids == truth.ids
        np.testing.assert_array_equal(ours.scores, truth.scores)
        (a,) = atlas.scroll(lab.COLLECTION, with_vectors=True)
        (b,) = source.scroll(lab.COLLECTION, where=where, with_vectors=True)
        assert [(r.id, r.payload) for r in a] == [(r.id, r.payload) for r in b]
        profiles = [fetch_profiles(x, lab.COLLECTION, ours.ids[0]) for x in (atlas, source)]
        assert (profiles[0].counts[0] != profiles[1].counts[0]).nnz == 0


def test_opening_and_asking_changes_no_file(path, lab):
    for p in path.rglob("*"):
        p.chmod(0o555 if p.is_dir() else 0o444)
    before = files(path)
    with SnapshotAtlas(path) as atlas, SnapshotAtlas(path) as other:
        assert atlas.count(lab.COLLECTION) == other.count(lab.COLLECTION) == 75
    assert files(path) == before
    for p in path.rglob("*"):
        p.chmod(0o755 if p.is_dir() else 0o644)


WRITES = {
    "set_alias": lambda a, lab: a.set_alias("bleepdb_x", lab.COLLECTION),
    "ensure": lambda a, lab: a.ensure(lab.spec()),
    "drop": lambda a, lab: a.drop(lab.COLLECTION),
    "upsert": lambda a, lab: a.upsert(lab.COLLECTION, lab.section("S9")[1][0]),
    "delete": lambda a, lab: a.delete(lab.COLLECTION, Where({"donor": ["D1"]})),
    "swap": lambda a, lab: a.swap_manifest(lab.COLLECTION, 3, lab.manifest(generation=4)),
    "put_blob": lambda a, lab: a.put_blob(lab.COLLECTION, "x", b""),
    "drop_blob": lambda a, lab: a.drop_blob(lab.COLLECTION, "x"),
    "publish": lambda a, lab: lab.publish(a, "S9"),
    "prepare": lambda a, lab: lab.prepare(a),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_is_refused(path, lab, write):
    before = files(path)
    with SnapshotAtlas(path) as atlas, pytest.raises(AtlasError, match="a snapshot is read-only"):
        WRITES[write](atlas, lab)
    assert files(path) == before


def test_many_processes_open_it_at_once(path, lab):
    code = (
        "import sys, numpy as np\n"
        "from bleepdb.atlas import SnapshotAtlas\n"
        "atlas = SnapshotAtlas(sys.argv[1])\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "eye = np.eye(8, dtype=np.float32)\n"
        "hits = atlas.query_batch(sys.argv[2], eye, using='image', limit=9)\n"
        "print(hits.ids)\n"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), lab.COLLECTION],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(5)
    ]  # fmt: skip
    try:
        assert [j.stdout.readline() for j in jobs] == ["open\n"] * 5  # all hold it now
        answers = {j.communicate("go\n", timeout=60)[0] for j in jobs}
    finally:
        for job in jobs:
            job.kill()
            job.wait()
            job.stdout.close()
            job.stdin.close()
    assert len(answers) == 1
    assert [j.returncode for j in jobs] == [0] * 5


def test_a_large_one_opens_without_its_vectors_and_counts(tmp_path, lab):
    # What opening takes must not grow with what is stored: 20,000 points of 64 dimensions.
    atlas = ExactAtlas()
    spots = 20_000
    atlas.ensure(lab.spec(dimension=64))
    atlas.swap_manifest(lab.COLLECTION, -1, lab.manifest(vectors={"image": 64, "expression": 64}))
    put_panel(atlas, lab.COLLECTION, lab.panel())
    live, batches = lab.section("S1", spots=spots, dimension=64, batch=spots)
    publish_section(atlas, lab.COLLECTION, live, batches, actor="test")
    write_snapshot(atlas, tmp_path / "large.snapshot", actor="test").close()
    code = (
        "import sys, tracemalloc\n"
        "import pyarrow, jsonschema\n"
        "from bleepdb.atlas import SnapshotAtlas\n"
        "SnapshotAtlas(sys.argv[1]).count(sys.argv[2])\n"
        "tracemalloc.start()\n"
        "atlas = SnapshotAtlas(sys.argv[1]); atlas.count(sys.argv[2])\n"
        "print(tracemalloc.get_traced_memory()[1], pyarrow.total_allocated_bytes())\n"
    )
    words = [sys.executable, "-c", code, tmp_path / "large.snapshot", lab.COLLECTION]
    python, arrow = map(int, subprocess.check_output(words, text=True).split())
    assert python < 200 * spots  # 20,000 payloads as dicts would take ten times as much
    assert arrow < 100 * spots
    with SnapshotAtlas(tmp_path / "large.snapshot") as made:
        assert made.count(lab.COLLECTION) == spots
        image = made._held(lab.COLLECTION)[1].vectors["image"]
        assert not image.flags.owndata
        assert not image.flags.writeable


def test_fields_that_no_index_names_are_kept(tmp_path, lab):
    atlas = ExactAtlas()
    lab.prepare(atlas)
    live, batches = lab.section("S1", batch=30)
    for i, payload in enumerate(batches[0].payloads):
        payload.update({"scanner": "X"} if i % 2 else {})
    publish_section(atlas, lab.COLLECTION, live, batches, actor="test")
    with write_snapshot(atlas, tmp_path / "a.snapshot", actor="test") as made:
        truth = [r.payload for b in atlas.scroll(lab.COLLECTION) for r in b]
        assert [r.payload for b in made.scroll(lab.COLLECTION) for r in b] == truth
        ids = [r.id for b in atlas.scroll(lab.COLLECTION) for r in b]
        some = [r.payload for r in made.retrieve(lab.COLLECTION, ids, fields=["scanner", "nnz"])]
        assert {tuple(sorted(p)) for p in some} == {("nnz",), ("nnz", "scanner")}


def test_a_snapshot_of_a_snapshot_and_of_a_folder(path, folder, tmp_path, lab):
    with (
        SnapshotAtlas(path) as atlas,
        write_snapshot(atlas, tmp_path / "again.snapshot", actor="t") as again,
    ):
        assert again.count(lab.COLLECTION) == 75
    points = "points.arrow"
    one, two = (p / lab.COLLECTION / points for p in (path, tmp_path / "again.snapshot"))
    assert one.read_bytes() == two.read_bytes()
    with (
        EmbeddedAtlas(folder) as atlas,
        write_snapshot(atlas, tmp_path / "folder.snapshot", actor="t") as made,
    ):
        assert made.facet(lab.COLLECTION, "section") == {"S1": 60, "S2": 50}


# --- written whole or not at all --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("plain", AtlasError, r"ends in \.snapshot; name it .*plain\.snapshot"),
        ("taken.snapshot", AtlasError, "is there already"),
    ],
)
def test_names_that_cannot_be_taken(source, tmp_path, name, error, match):
    (tmp_path / "taken.snapshot").mkdir()
    (tmp_path / "taken.snapshot" / "mine").write_text("x")
    with pytest.raises(error, match=match):
        write_snapshot(source, tmp_path / name, actor="test")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken.snapshot"]
    assert (tmp_path / "taken.snapshot" / "mine").read_text() == "x"


def test_a_full_disk_is_seen_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(AtlasError, match=r"1 MB are free .* nothing was written"):
        write_snapshot(source, tmp_path / "a.snapshot", actor="test")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_half_way_leaves_nothing(source, tmp_path, lab, monkeypatch):
    identity = source._get(lab.COLLECTION).rows.ids[-1]
    source._get(lab.COLLECTION).rows.vectors["image"][-1, 0] += 1
    with pytest.raises(AtlasCorruptError, match=identity):
        write_snapshot(source, tmp_path / "a.snapshot", actor="test")
    assert list(tmp_path.iterdir()) == []
    assert source.read_manifest(lab.COLLECTION).copies == ()


def test_nothing_live_is_no_snapshot(tmp_path, lab):
    atlas = ExactAtlas()
    lab.prepare(atlas)
    with pytest.raises(EmptyAtlasError, match="no section is live"):
        write_snapshot(atlas, tmp_path / "a.snapshot", actor="test")
    with pytest.raises(EmptyAtlasError, match="no collection 'nowhere'"):
        write_snapshot(atlas, tmp_path / "a.snapshot", ["nowhere"], actor="test")


# --- damage -----------------------------------------------------------------------------------


def change_marker(path, change):
    """Change the marker, and its checksum with it."""
    document = json.loads((path / MARKER).read_text())
    change(document)
    del document["checksum"]
    document["checksum"] = digest("snapshot", canonical_json(document))
    (path / MARKER).write_text(json.dumps(document))


def truncate(file, keep):
    with file.open("r+b") as handle:
        handle.truncate(int(file.stat().st_size * keep))


def points_of(path) -> Path:
    (found,) = path.glob("*/points.arrow")
    return found


def shorter(path):
    """A file cut off, and a marker that says so."""
    truncate(points_of(path), 0.7)
    size = points_of(path).stat().st_size
    change_marker(
        path, lambda d: next(iter(d["collections"].values()))["points"].update(bytes=size)
    )


def swapped_ids(path):
    """The first id becomes one that stands far behind."""
    with SnapshotAtlas(path) as atlas:
        (name,) = atlas.collections()
        first = next(atlas.scroll(name))[0].id
    data = points_of(path).read_bytes()
    points_of(path).write_bytes(data.replace(first.encode(), b"f" + first[1:].encode(), 1))


def rewritten(path, change=lambda _: [], **options):
    """Another Arrow file of the same schema, and a marker that fits it."""
    file = points_of(path)
    table = pa.ipc.open_file(file.read_bytes())
    batches = change(table.get_batch(0)) or [table.get_batch(0)]
    with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    about = {"bytes": file.stat().st_size, "sha256": file_digest(file)}
    change_marker(path, lambda d: next(iter(d["collections"].values()))["points"].update(about))


def bomb(batch):
    """Counts of gigabytes, if there were more points."""
    at = batch.schema.get_field_index("expr")
    text = pa.array(["A" * 2**20] * len(batch), pa.large_string())
    return [batch.set_column(at, batch.schema[at], text)]


DAMAGES = {
    "compressed": (lambda p: rewritten(p, bomb, compression="zstd"), "it is compressed"),
    "cut in two": (lambda p: rewritten(p, lambda b: [b[:9], b[9:]]), "more than one batch"),
    "no Arrow file": (
        lambda p: points_of(p).write_bytes(b"x" * points_of(p).stat().st_size),
        "it is no Arrow file",
    ),
    "gone": (lambda p: p.rename(p.with_name("x")), "there is no snapshot here"),
    "foreign": (lambda p: (p / MARKER).unlink(), "this is no snapshot"),
    "garbage": (lambda p: (p / MARKER).write_text("{"), "cannot be read"),
    "newer": (lambda p: change_marker(p, lambda d: d.update(version=9)), "format version 9"),
    "no schema": (
        lambda p: change_marker(p, lambda d: d.update(aliases=3)),
        "breaks the snapshot schema",
    ),
    "changed": (
        lambda p: (p / MARKER).write_text((p / MARKER).read_text().replace("breast", "kidney")),
        "checksum is wrong",
    ),
    "cut off": (lambda p: truncate(points_of(p), 0.7), r"has \d+ of its \d+ bytes"),
    "cut off and hidden": (shorter, "is damaged"),
    "points gone": (lambda p: points_of(p).unlink(), "cannot be read"),
    "blob gone": (lambda p: next(p.glob("*/blobs/model/*")).unlink(), r"model\.json: cannot be"),
    "ids": (swapped_ids, "its ids do not rise"),
    "manifest of another": (
        lambda p: change_marker(
            p, lambda d: d["collections"].update(other=d["collections"].popitem()[1])
        ),
        "has the manifest of",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_clear_line(path, lab, damage):
    spoil, match = DAMAGES[damage]
    spoil(path)
    with pytest.raises(AtlasError, match=match) as caught, SnapshotAtlas(path) as atlas:
        atlas.count(lab.COLLECTION)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_flipped_byte_of_a_vector_is_seen_when_it_is_read(path, lab):
    with SnapshotAtlas(path) as atlas:
        record = next(atlas.scroll(lab.COLLECTION, with_vectors=True))[9]
        assert atlas.check_files(lab.COLLECTION) == []
    data = bytearray(points_of(path).read_bytes())
    data[data.find(record.vectors["image"].tobytes()) + 2] ^= 8
    points_of(path).write_bytes(data)
    with SnapshotAtlas(path) as atlas:
        with pytest.raises(AtlasCorruptError, match=f"vectors of point {record.id}"):
            atlas.retrieve(lab.COLLECTION, [record.id], with_vectors=True)
        (said,) = atlas.check_files(lab.COLLECTION)
        assert "points.arrow" in said


def test_a_changed_blob_is_seen_when_it_is_read(path, lab):
    file = next(path.glob("*/blobs/panels/*"))
    file.write_bytes(file.read_bytes().replace(b"GENE1", b"GENE9", 1))
    with SnapshotAtlas(path) as atlas, pytest.raises(AtlasCorruptError, match="not what was"):
        atlas.get_blob(lab.COLLECTION, f"panels/{lab.panel().digest}.json")


def test_every_file_flipped_anywhere_is_seen_by_its_digest(path, lab):
    rng = np.random.default_rng(0)
    file = points_of(path)
    whole = file.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(data)
        with SnapshotAtlas(path) as atlas:
            assert atlas.check_files(lab.COLLECTION)
            try:  # and whatever is asked of it ends in an answer or in an error of ours
                for batch in atlas.scroll(lab.COLLECTION, with_vectors=True):
                    assert isinstance(batch, list)
            except AtlasError:
                pass


def test_nothing_is_unpacked_before_it_is_refused(path, lab, monkeypatch):
    rewritten(path, bomb, compression="zstd")
    monkeypatch.setattr(pa.ipc, "open_stream", pytest.fail)
    with SnapshotAtlas(path) as atlas, pytest.raises(AtlasCorruptError, match="compressed"):
        atlas.count(lab.COLLECTION)


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_each_message_says_whether_it_is_compressed(path, compression):
    rewritten(path, compression=compression)
    found = {}
    with pa.memory_map(str(points_of(path))) as file:
        file.seek(8)
        with suppress(EOFError):
            while True:
                message = pa.ipc.read_message(file)
                found[message.type] = is_compressed(message.metadata.to_pybytes())
    packed = compression is not None
    assert found == {"schema": False, "dictionary": packed, "record batch": packed}


def test_metadata_of_a_message_that_is_none_is_an_error(path):
    with pa.memory_map(str(points_of(path))) as file:
        file.seek(8)
        data = pa.ipc.read_message(file).metadata.to_pybytes()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        spoilt = bytearray(data)
        for at in rng.integers(0, 40, 3):
            spoilt[at] = rng.integers(256)
        with suppress(PayloadError):
            is_compressed(bytes(spoilt))
    with pytest.raises(PayloadError):
        is_compressed(b"")
