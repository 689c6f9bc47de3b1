"""The cache of decoded spots: the same profiles, nothing decoded twice, nothing kept too long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid

import numpy as np
import pytest

from bleepdb.atlas import (
    EmbeddedAtlas,
    fetch_profiles,
    open_atlas,
    put_panel,
    retract_section,
)
from bleepdb.atlas import cache as caching
from bleepdb.atlas.cache import ProfileCache, purge
from bleepdb.errors import AtlasCorruptError
from bleepdb.panel import Panel

OTHER = Panel(tuple(f"OTHER{i}" for i in range(25)))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "profiles"


@pytest.fixture
def filled(tmp_path, lab, root):
    with open_atlas(tmp_path / "atlas", create=True) as atlas:
        lab.prepare(atlas)
        put_panel(atlas, lab.COLLECTION, OTHER)
        lab.publish(atlas, "S1", donor="D1")
        lab.publish(atlas, "S2", donor="D2", on=OTHER)
        yield atlas


@pytest.fixture
def asked(filled, monkeypatch):
    """Ids that the atlas was asked for, one list a call."""
    calls = []
    real = EmbeddedAtlas.retrieve

    def watched(self, collection, ids, **more):
        calls.append(list(ids))
        return real(self, collection, ids, **more)

    monkeypatch.setattr(EmbeddedAtlas, "retrieve", watched)
    return calls


def ids_of(lab, name, **more):
    return list(lab.joined(lab.section(name, **more)[1]).ids)


def both(lab):
    one, two = ids_of(lab, "S1"), ids_of(lab, "S2", on=OTHER)
    return [two[3], *one[:20], two[0], *two[10:], *one[25:]]


def same(found, wanted):
    assert found.ids == wanted.ids
    assert found.panel_digests == wanted.panel_digests
    for name in ("section", "donor", "barcode", "rev", "xy_px", "library_total", "total",
                 "panel", "row"):  # fmt: skip
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for a, b in zip(found.counts, wanted.counts, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.toarray(), b.toarray())


def files(root):
    return sorted(root.glob("*/*"))


def content(root):
    return b"".join(path.read_bytes() for path in files(root))


def test_a_second_fetch_asks_the_atlas_for_nothing(filled, lab, root, asked):
    ids = both(lab)
    wanted = fetch_profiles(filled, lab.COLLECTION, ids)
    asked.clear()
    same(fetch_profiles(filled, lab.COLLECTION, ids, cache=True), wanted)
    assert sum(map(len, asked)) == len(ids)
    assert len(files(root)) == 2  # a segment a panel
    same(fetch_profiles(filled, lab.COLLECTION, ids, cache=True), wanted)
    assert sum(map(len, asked)) == len(ids)
    heard = []
    some = [*ids[5:9], *ids_of(lab, "S1")[20:25], ids[0]]
    found = fetch_profiles(
        filled, lab.COLLECTION, some, cache=True, progress=lambda *a: heard.append(a)
    )
    assert asked[-1] == some[4:9]
    assert heard == [(5, 10), (10, 10)]
    same(found, fetch_profiles(filled, lab.COLLECTION, some))


def test_only_its_owner_reads_it(filled, lab, root):
    before = os.umask(0)
    try:
        fetch_profiles(filled, lab.COLLECTION, both(lab), cache=True)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (root, *root.glob("*"))} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in files(root)} == {0o600}


def test_each_atlas_has_a_cache_of_its_own(filled, lab, root, asked, tmp_path):
    ids = ids_of(lab, "S1")
    fetch_profiles(filled, lab.COLLECTION, ids, cache=True)
    with open_atlas(tmp_path / "other", create=True) as other:
        lab.prepare(other)
        lab.publish(other, "S1")
        asked.clear()
        fetch_profiles(other, lab.COLLECTION, ids, cache=True)
    assert sum(map(len, asked)) == len(ids)
    assert len(list(root.glob("*"))) == 2


def test_what_is_no_longer_live_leaves_the_disk(filled, lab, root):
    gone, kept = ids_of(lab, "S2", on=OTHER), ids_of(lab, "S1")
    fetch_profiles(filled, lab.COLLECTION, [*gone, *kept], cache=True)
    assert uuid.UUID(gone[0]).bytes in content(root)
    retract_section(filled, lab.COLLECTION, "S2", actor="t")
    fetch_profiles(filled, lab.COLLECTION, kept[:1], cache=True)
    left = content(root)
    assert not any(uuid.UUID(i).bytes in left for i in gone)
    assert all(uuid.UUID(i).bytes in left for i in kept)
    assert b"S2" not in left
    with pytest.raises(AtlasCorruptError, match="ask again"):
        fetch_profiles(filled, lab.COLLECTION, gone[:1], cache=True)


def test_a_revision_that_shares_a_segment_with_others_is_cut_out(filled, lab, root, asked):
    lab.publish(filled, "S3", donor="D3")
    gone, kept = ids_of(lab, "S3", donor="D3"), ids_of(lab, "S1")
    wanted = fetch_profiles(filled, lab.COLLECTION, kept)
    fetch_profiles(filled, lab.COLLECTION, [*kept, *gone], cache=True)
    assert len(files(root)) == 1
    assert purge([lab.revision("S3", 0)]) == len(gone)
    left = content(root)
    assert not any(uuid.UUID(i).bytes in left for i in gone)
    assert b"D3" not in left
    asked.clear()
    same(fetch_profiles(filled, lab.COLLECTION, kept, cache=True), wanted)
    assert not asked
    assert purge([lab.revision("S3", 0)]) == 0


def test_what_a_killed_process_had_half_written_is_purged(filled, lab, root):
    fetch_profiles(filled, lab.COLLECTION, ids_of(lab, "S1"), cache=True)
    (segment,) = files(root)
    left = segment.with_name(".0011.part")
    left.write_bytes(segment.read_bytes())
    assert purge([lab.revision("S1", 0)]) == 30
    assert content(root) == b""
    assert not left.exists()


def test_a_writer_whose_file_is_purged_keeps_nothing(filled, lab, root, monkeypatch):
    ids = ids_of(lab, "S1")
    real = caching.write_segment

    def meanwhile(file, tables):
        real(file, tables)
        purge([lab.revision("S1", 0)])

    monkeypatch.setattr(caching, "write_segment", meanwhile)
    assert len(fetch_profiles(filled, lab.COLLECTION, ids, cache=True)) == len(ids)
    assert content(root) == b""


def test_spots_retracted_on_their_way_are_not_kept(filled, lab, root, monkeypatch):
    ids = ids_of(lab, "S2", on=OTHER)
    real = caching.write_segment

    def meanwhile(file, tables):
        retract_section(filled, lab.COLLECTION, "S2", actor="t")
        real(file, tables)

    monkeypatch.setattr(caching, "write_segment", meanwhile)
    assert len(fetch_profiles(filled, lab.COLLECTION, ids, cache=True)) == len(ids)
    assert content(root) == b""


def damaged(whole, how):
    if how == "cut":
        return whole[:-40]
    if how == "empty":
        return b""
    if how == "foreign":
        return b"something else entirely" * 20
    at = {"magic": 3, "header": 40, "checksum": 13, "ids": len(whole) // 3, "last": len(whole) - 1}
    bad = bytearray(whole)
    bad[at[how]] ^= 4
    return bytes(bad)


@pytest.mark.parametrize(
    "how", ["cut", "empty", "foreign", "magic", "header", "checksum", "ids", "last"]
)
def test_a_damaged_segment_is_fetched_again(filled, lab, root, asked, how, caplog):
    ids = ids_of(lab, "S1")
    wanted = fetch_profiles(filled, lab.COLLECTION, ids, cache=True)
    (path,) = files(root)
    path.write_bytes(damaged(path.read_bytes(), how))
    asked.clear()
    same(fetch_profiles(filled, lab.COLLECTION, ids, cache=True), wanted)
    assert sum(map(len, asked)) == len(ids)
    assert "fetched again" in caplog.text
    (new,) = files(root)
    assert new != path


def test_forged_places_are_refused_and_not_followed(filled, lab, root, asked):
    """A header with a right checksum may still say anything."""
    import zlib

    ids = ids_of(lab, "S1")
    wanted = fetch_profiles(filled, lab.COLLECTION, ids, cache=True)
    for name, change in (
        ("genes", ["<u2", [10**9], 0]),
        ("genes", ["<u2", [3], 1]),
        ("run_start", ["<i8", [31], 8]),
        ("row", ["<i4", [-1], 0]),
        ("barcode", ["|O", [30], 0]),
        ("total", ["<i8", "x", 0]),
        ("total", None),
        ("total", ["<i8", [2**63], 0]),
        (None, {"names": {"rev": [[1]], "section": ["S1"], "donor": ["D1"]}}),
        (None, {"names": {"rev": 7, "section": ["S1"], "donor": ["D1"]}}),
        (None, {"spots": float("inf")}),
    ):
        (path,) = files(root)
        data = path.read_bytes()
        room = int.from_bytes(data[8:12], "little")
        about = json.loads(data[16 : 16 + room])
        (about if name is None else about["arrays"]).update(
            change if name is None else {name: change}
        )
        header = json.dumps(about).encode()[:room].ljust(room)
        path.write_bytes(
            data[:12] + zlib.crc32(header).to_bytes(4, "little") + header + data[16 + room :]
        )
        asked.clear()
        same(fetch_profiles(filled, lab.COLLECTION, ids, cache=True), wanted)
        assert sum(map(len, asked)) == len(ids), (name, change)


def test_no_cache_where_none_is_wanted_or_possible(filled, lab, root, monkeypatch, tmp_path):
    ids = ids_of(lab, "S1")
    monkeypatch.setenv("BLEEPDB_CACHE_GB", "0")
    assert ProfileCache.of(filled, lab.COLLECTION) is None
    fetch_profiles(filled, lab.COLLECTION, ids, cache=True)
    assert not root.exists()
    monkeypatch.delenv("BLEEPDB_CACHE_GB")
    with open_atlas("memory:") as exact:
        lab.prepare(exact)
        lab.publish(exact, "S1")
        fetch_profiles(exact, lab.COLLECTION, ids, cache=True)
    assert not root.exists()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("BLEEPDB_CACHE", str(blocked / "cache"))
    assert len(fetch_profiles(filled, lab.COLLECTION, ids, cache=True)) == len(ids)


def test_the_oldest_segments_go_first(filled, lab, root, monkeypatch):
    ids = ids_of(lab, "S1")
    for i, part in enumerate((ids[:10], ids[10:20], ids[20:])):
        fetch_profiles(filled, lab.COLLECTION, part, cache=True)
        for path in files(root):
            if path.stat().st_mtime > 10_000:
                os.utime(path, (1000 + i, 1000 + i))
    sizes = {path: path.stat().st_size for path in files(root)}
    assert len(sizes) == 3
    room = sum(sizes.values()) - 1
    monkeypatch.setattr(caching, "most_bytes", lambda: room)
    oldest = min(sizes, key=lambda p: p.stat().st_mtime)
    caching._bound(root)
    assert set(files(root)) == set(sizes) - {oldest}


def test_many_small_segments_become_few(filled, lab, root, asked, monkeypatch):
    monkeypatch.setattr(caching, "MOST_SEGMENTS", 4)
    ids = ids_of(lab, "S1")
    wanted = fetch_profiles(filled, lab.COLLECTION, ids)
    for i in ids:
        fetch_profiles(filled, lab.COLLECTION, [i], cache=True)
        assert len(files(root)) <= 5
    asked.clear()
    same(fetch_profiles(filled, lab.COLLECTION, ids, cache=True), wanted)
    assert not asked


CHILD = """
import sys
import numpy as np
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("lab", sys.argv[1]); lab = module_from_spec(spec)
spec.loader.exec_module(lab)
from pathlib import Path
from bleepdb.atlas import ExactAtlas, cache, fetch_profiles
class Named(ExactAtlas):
    kind = "shared"
atlas = Named(); atlas.location = sys.argv[2]
lab.prepare(atlas); lab.publish(atlas, "S1", spots=300, batch=300)
ids = lab.joined(lab.section("S1", spots=300)[1]).ids
truth = lab.counts_of("S1", 0, 300)
rng = np.random.default_rng(int(sys.argv[3]))
cache.MOST_SEGMENTS = 3
for turn in range(25):
    rows = rng.permutation(300)[:40]
    found = fetch_profiles(atlas, lab.COLLECTION, [ids[i] for i in rows], cache=True)
    np.testing.assert_array_equal(found.counts[0].toarray(), truth[rows])
    if turn % 8 == 7:
        cache.purge([lab.revision("S1", 0)])
"""


def test_processes_share_it(lab, root, tmp_path):
    command = [sys.executable, "-W", "error", "-c", CHILD, lab.__file__, str(tmp_path / "shared")]
    children = [
        subprocess.Popen([*command, str(i)], stderr=subprocess.PIPE, text=True) for i in range(3)
    ]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said
        assert "dropped" not in said
    assert len(list(root.glob("*"))) == 1
    assert not list(root.glob("*/.*.part"))
