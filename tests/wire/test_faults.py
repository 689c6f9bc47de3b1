"""Whatever the server and the way to it do: nothing is lost or done twice, and errors say it."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from bleepdb.atlas import Connection, LogEntry, ServerAtlas, Where, open_atlas
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, SpaceMismatchError

pytestmark = pytest.mark.wire
KEY, READ_ONLY_KEY = "full-key-0f5b", "read-only-key-77a1"
WRITE = "PUT /collections/[^/]+/points"
READ = "POST /collections/[^/]+/points"


def says_all(error, *parts):
    """One line, with what and where and what next, and no key."""
    text = str(error)
    assert "\n" not in text
    assert KEY not in text
    assert READ_ONLY_KEY not in text
    assert error.hint
    for part in parts:
        assert re.search(part, text), text
    return text


def asked(face, method):
    return sum(n for what, n in face.state()["asked"].items() if re.fullmatch(method, what))


def entry():
    return LogEntry.now("test", "a change")


# --- not there, gone, silent ----------------------------------------------------------------------


def test_down_at_the_start():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(AtlasError) as caught:
        open_atlas(url, connection=Connection(deadline_s=1.0))
    says_all(caught.value, re.escape(url), "cannot be reached", "attempts", "check that it runs")
    assert time.monotonic() - start < 5


def test_a_host_that_does_not_exist_is_not_asked_again():
    start = time.monotonic()
    with pytest.raises(AtlasError) as caught:
        open_atlas("http://no-such-host.invalid:6333")
    says_all(caught.value, "no-such-host.invalid")
    assert time.monotonic() - start < 12


def test_down_in_the_middle_and_a_rerun_completes(face, open_server, lab):
    server = open_server(deadline_s=1.0)
    lab.prepare(server)
    lab.publish(server, "S1")
    batches = lab.section("S2")[1]
    server.upsert(lab.COLLECTION, batches[0])
    face.kill()
    try:
        with pytest.raises(AtlasError) as caught:
            lab.publish(server, "S2")
    finally:
        face.start()
    says_all(caught.value, "cannot be reached", "check that it runs")
    again = open_server()
    assert again.read_manifest(lab.COLLECTION).spots == 30
    outcome = lab.publish(again, "S2")
    assert (outcome.status, outcome.resumed, outcome.written) == ("added", 10, 20)
    assert again.facet(lab.COLLECTION, "section") == {"S1": 30, "S2": 30}


def test_a_restart_is_waited_for(face, prepared, lab):
    face.set(down=1.0)
    start = time.monotonic()
    assert prepared.count(lab.COLLECTION) == 0
    assert time.monotonic() - start > 0.5


def test_slow_once_is_asked_again(face, open_server, lab):
    server = open_server(timeout_s=0.5, deadline_s=10.0)
    lab.prepare(server)
    face.fail("slow", seconds=2.0, on=f"{READ}/count")
    assert server.count(lab.COLLECTION) == 0
    assert asked(face, f"{READ}/count") == 2


def test_slow_for_ever_ends_at_the_deadline(face, open_server, lab):
    server = open_server(timeout_s=0.4, deadline_s=1.0)
    lab.prepare(server)
    face.fail("slow", seconds=1.5, on=f"{READ}/count", times=99)
    start = time.monotonic()
    with pytest.raises(AtlasError) as caught:
        server.count(lab.COLLECTION)
    says_all(caught.value, "no answer in time", "--timeout", lab.COLLECTION)
    assert time.monotonic() - start < 2.5


# --- busy, broken -----------------------------------------------------------------------------


def test_a_busy_server_is_asked_again_when_it_says(face, prepared, lab):
    face.fail("status", code=429, retry_after="1", times=2, on=WRITE)
    points = lab.joined(lab.section("S1")[1])
    start = time.monotonic()
    prepared.upsert(lab.COLLECTION, points)
    assert time.monotonic() - start >= 2.0
    assert prepared.count(lab.COLLECTION) == 30


def in_a_second():
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize(
    "value", ["0", "nonsense", "", in_a_second], ids=["none", "odd", "empty", "date"]
)
@pytest.mark.parametrize("code", [429, 503])
def test_odd_words_for_how_long(face, prepared, lab, value, code):
    value = value() if callable(value) else value
    face.fail("status", code=code, retry_after=value, on=f"{READ}/count")
    assert prepared.count(lab.COLLECTION) == 0
    assert asked(face, f"{READ}/count") == 2


def test_a_server_that_asks_to_wait_beyond_the_deadline(face, prepared, lab):
    face.fail("status", code=429, retry_after="3600", on=f"{READ}/count")
    start = time.monotonic()
    with pytest.raises(AtlasError) as caught:
        prepared.count(lab.COLLECTION)
    says_all(caught.value, "too busy", "wait 3600 s", "run again later")
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("code", "times"), [(500, 3), (400, 1), (403, 1), (413, 1), (422, 1)])
def test_how_often_a_failure_is_tried(face, prepared, lab, code, times):
    face.fail("status", code=code, times=99, says="why it failed", on=f"{READ}/count")
    with pytest.raises(AtlasError) as caught:
        prepared.count(lab.COLLECTION)
    says_all(caught.value, "why it failed")
    assert asked(face, f"{READ}/count") == times


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_failures_that_pass(face, prepared, lab, code):
    face.fail("status", code=code, times=4, on=f"{READ}/count")
    assert prepared.count(lab.COLLECTION) == 0
    assert asked(face, f"{READ}/count") == 5


# --- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "says"), [("wrong-key-1234", "refuses"), (None, "wants an API")])
def test_a_wrong_key_or_none_is_tried_once(face, open_server, key, says):
    face.set(key=KEY, read_only_key=READ_ONLY_KEY)
    server = open_server(api_key=key)
    with pytest.raises(AtlasError) as caught:
        server.collections()
    text = says_all(caught.value, says, "--api-key", "QDRANT_API_KEY")
    assert str(key) not in text
    assert asked(face, "GET /collections") == 1


WRITES = {
    "upsert": lambda a, lab: a.upsert(lab.COLLECTION, lab.joined(lab.section("S2")[1])),
    "delete": lambda a, lab: a.delete(lab.COLLECTION, Where({"donor": ["D1"]})),
    "alias": lambda a, lab: a.set_alias(lab.ALIAS, lab.COLLECTION),
    "drop": lambda a, lab: a.drop(lab.COLLECTION),
    "document": lambda a, lab: a.put_blob(lab.COLLECTION, "x", b"1"),
    "field": lambda a, lab: a.ensure(lab.spec(fields=("scanner",))),
    "create": lambda a, lab: a.ensure(replace(lab.spec(), name="bleepdb_new")),
    "swap": lambda a, lab: swap(a, lab, lambda m: m.without_section("S1", entry())),
}


def swap(atlas, lab, change):
    present = atlas.read_manifest(lab.COLLECTION)
    return atlas.swap_manifest(lab.COLLECTION, present.generation, change(present))


def test_a_read_only_key_reads_everything_and_writes_nothing(face, open_server, lab):
    face.set(key=KEY, read_only_key=READ_ONLY_KEY)
    writer = open_server(api_key=KEY)
    lab.prepare(writer)
    lab.publish(writer, "S1")
    lab.publish(writer, "S1", 1)
    reader = open_server(api_key=READ_ONLY_KEY)
    for what, write in WRITES.items():
        with pytest.raises(AtlasError) as caught:
            write(reader, lab)
        says_all(caught.value, "the API key may not", "use one that may write")
        assert what
    name = lab.COLLECTION
    assert reader.collections() == [name]
    assert reader.aliases() == {lab.ALIAS: name}
    assert reader.read_manifest(name) == writer.read_manifest(name)
    assert reader.count(name) == 30
    assert reader.facet(name, "section") == {"S1": 30}
    found = [r for part in reader.scroll(name, with_vectors=True) for r in part]
    assert reader.retrieve(name, [found[0].id], with_vectors=True)[0].payload == found[0].payload
    hits = reader.query_batch(
        name, np.eye(1, lab.DIMENSION, dtype=np.float32), using="image", limit=3
    )
    assert len(hits.ids[0]) == 3
    assert reader.get_blob(name, reader.list_blobs(name)[0])
    reader.ensure(lab.spec())  # nothing is missing, so that nothing is written
    reader.flush(name)
    reader.optimize(name)


def test_no_key_crosses_a_network_in_the_clear():
    with pytest.raises(AtlasError) as caught:
        ServerAtlas("http://192.0.2.1:6333", Connection(api_key=KEY))
    says_all(caught.value, "in the clear", "https")


def test_a_key_is_shown_nowhere():
    connection = Connection(api_key=KEY)
    assert KEY not in repr(connection)
    assert KEY not in str(connection)


def test_a_server_that_repeats_the_key_is_not_repeated(face, open_server, lab):
    server = open_server(api_key=KEY)
    lab.prepare(server)
    face.fail("status", code=400, says=f"odd key {KEY} in the request", on=f"{READ}/count")
    with pytest.raises(AtlasError) as caught:
        server.count(lab.COLLECTION)
    says_all(caught.value, r"odd key \*\*\* in")


# --- another server than expected -----------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.15.9", "1.9.0", "0.11.0"])
def test_a_server_that_is_too_old_is_named(face, open_server, version):
    face.set(version=version)
    with pytest.raises(AtlasError) as caught:
        open_server()
    says_all(caught.value, re.escape(version), "too old", r"1\.16", "upgrade")


@pytest.mark.parametrize("version", ["1.16.0", "1.18.3", "2.0.0-dev"])
def test_settings_that_a_version_does_not_know_are_left_out(face, open_server, lab, version):
    face.set(version=version)
    server = open_server()
    lab.prepare(server)
    assert lab.publish(server, "S1").status == "added"
    assert swap(server, lab, lambda m: m.without_section("S1", entry()))


class Website(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, *given):
        pass


def test_something_else_than_qdrant():
    with HTTPServer(("127.0.0.1", 0), Website) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        with pytest.raises(AtlasError) as caught:
            open_atlas(f"http://127.0.0.1:{site.server_port}")
        site.shutdown()
    says_all(caught.value, "no Qdrant server", "host and port")


def test_a_wrong_dimension(prepared, lab):
    with pytest.raises(SpaceMismatchError) as caught:
        prepared.upsert(lab.COLLECTION, lab.joined(lab.section("S1", dimension=9)[1]))
    assert "not float32 (30, 8)" in str(caught.value)
    with pytest.raises(SpaceMismatchError) as caught:
        prepared.ensure(lab.spec(dimension=9))
    says_all(caught.value, "index with the model that made it")
    assert prepared.count(lab.COLLECTION) == 0


def test_the_space_of_another_model(prepared, lab):
    with pytest.raises(SpaceMismatchError) as caught:
        lab.prepare(prepared, model_digest=lab.digest("another"))
    says_all(caught.value, "model_digest", "index with the model that made it")


def test_a_collection_that_was_removed_meanwhile(open_server, lab):
    server, other = open_server(), open_server()
    lab.prepare(server)
    other.drop(lab.COLLECTION)
    for ask in (server.count, server.read_manifest, server.list_blobs):
        with pytest.raises(EmptyAtlasError, match="no collection"):
            ask(lab.COLLECTION)


# --- answers that are lost ------------------------------------------------------------------------

LOST = ["drop", "cut", "half"]


@pytest.mark.parametrize("kind", LOST)
def test_points_whose_answer_is_lost_are_written_once(face, prepared, lab, kind):
    points = lab.joined(lab.section("S1", spots=300)[1])
    face.fail(kind, times=3, on=WRITE)
    prepared.upsert(lab.COLLECTION, points)
    assert asked(face, WRITE) == 1 + 2 + 3 + 1  # its manifest and panel; lost; the two batches
    assert prepared.count(lab.COLLECTION) == 300
    assert prepared.facet(lab.COLLECTION, "rev") == {lab.revision("S1", 0): 300}


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("times", [1, 3])
def test_a_swap_whose_answer_is_lost_counts_once(face, prepared, lab, kind, times):
    first = prepared.read_manifest(lab.COLLECTION)
    face.fail(kind, times=times, on=WRITE)
    second = first.with_fields(["scanner"], entry())
    assert prepared.swap_manifest(lab.COLLECTION, 0, second)
    assert prepared.read_manifest(lab.COLLECTION) == second


@pytest.mark.parametrize("kind", LOST)
def test_whole_commits_while_every_third_answer_is_lost(face, prepared, lab, kind):
    face.set(faults=[{"kind": kind, "on": ".*", "after": 3 * i + 2} for i in range(12)])
    for name in ("S1", "S2"):
        assert lab.publish(prepared, name).status == "added"
    face.set(faults=[])
    manifest = prepared.read_manifest(lab.COLLECTION)
    assert [s.spots for s in manifest.live] == [30, 30]
    assert [e.what.split(":")[0] for e in manifest.log if "added" in e.what] == [
        "added section S1",
        "added section S2",
    ]
    assert prepared.facet(lab.COLLECTION, "section") == {"S1": 30, "S2": 30}


def test_a_swap_is_known_as_ours_even_after_others_have_swapped(open_server, lab, monkeypatch):
    ours, other = open_server(), open_server()
    lab.prepare(ours)
    write = ours._documents._write

    def write_and_be_overtaken(*given, **settings):
        write(*given, **settings)
        for turn in range(3):
            present = other.read_manifest(lab.COLLECTION)
            new = present.with_fields([f"theirs-{turn}"], entry())
            assert other.swap_manifest(lab.COLLECTION, present.generation, new)

    monkeypatch.setattr(ours._documents, "_write", write_and_be_overtaken)
    first = ours.read_manifest(lab.COLLECTION)
    assert ours.swap_manifest(lab.COLLECTION, 0, first.with_fields(["ours"], entry()))
    end = other.read_manifest(lab.COLLECTION)
    assert end.generation == 4
    assert {"ours", "theirs-0", "theirs-1", "theirs-2"} <= set(end.keyword_fields)


def test_a_swap_that_came_second_is_known_as_lost(open_server, lab, monkeypatch):
    ours, other = open_server(), open_server()
    first = lab.prepare(ours)
    write = ours._documents._write

    def be_overtaken_and_write(*given, **settings):
        assert other.swap_manifest(lab.COLLECTION, 0, first.with_fields(["theirs"], entry()))
        write(*given, **settings)

    monkeypatch.setattr(ours._documents, "_write", be_overtaken_and_write)
    assert not ours.swap_manifest(lab.COLLECTION, 0, first.with_fields(["ours"], entry()))
    assert "ours" not in ours.read_manifest(lab.COLLECTION).keyword_fields


def test_the_first_manifest_is_written_by_one(open_server, lab, monkeypatch):
    ours, other = open_server(), open_server()
    ours.ensure(lab.spec())
    write = ours._documents._write

    def be_overtaken_and_write(*given, **settings):
        assert other.swap_manifest(lab.COLLECTION, -1, lab.manifest(species="mouse"))
        write(*given, **settings)

    monkeypatch.setattr(ours._documents, "_write", be_overtaken_and_write)
    assert not ours.swap_manifest(lab.COLLECTION, -1, lab.manifest())
    assert ours.read_manifest(lab.COLLECTION).species == "mouse"


@pytest.mark.parametrize("kind", LOST)
def test_changes_of_collections_whose_answer_is_lost(face, server, lab, kind):
    for on in ("PUT /collections/[^/]+", "PUT .*/index", "POST /collections/aliases", WRITE):
        face.fail(kind, on=on)
        lab.prepare(server)
    for on in (f"{READ}/delete", "DELETE .*"):
        face.fail(kind, on=on)
        server.delete(lab.COLLECTION, Where({"donor": ["D1"]}))
    server.drop(lab.COLLECTION)
    assert server.collections() == []


# --- half-way -------------------------------------------------------------------------------------


def test_a_creation_that_was_interrupted_is_completed(face, open_server, lab):
    server = open_server(deadline_s=1.0)
    face.fail("status", code=400, on="PUT .*/index", after=3, times=99)
    with pytest.raises(AtlasError):
        server.ensure(lab.spec())
    face.set(faults=[])
    assert server.collections() == [lab.COLLECTION]
    with pytest.raises(AtlasError, match="no filterable field"):
        server.facet(lab.COLLECTION, "stage")
    server.ensure(lab.spec())
    for name in lab.FIELDS:
        assert server.facet(lab.COLLECTION, name) == {}
    lab.prepare(server)
    assert lab.publish(server, "S1").status == "added"


def test_two_clients_create_at_once(open_server, lab, monkeypatch):
    ours, other = open_server(), open_server()
    create = ours._collections._create

    def be_overtaken(spec):
        other.ensure(spec)
        create(spec)

    monkeypatch.setattr(ours._collections, "_create", be_overtaken)
    ours.ensure(lab.spec())
    assert ours.collections() == [lab.COLLECTION]


def test_a_field_that_another_client_indexed_is_known(open_server, lab):
    ours, other = open_server(), open_server()
    lab.prepare(ours)
    lab.publish(ours, "S1", scanner="A")
    other.ensure(lab.spec(fields=("scanner",)))
    assert ours.count(lab.COLLECTION, Where({"scanner": ["A"]})) == 30


def test_what_is_not_ours_is_left_alone(face, server, lab):
    import qdrant_client
    from qdrant_client import models

    foreign = qdrant_client.QdrantClient(url=face.url, check_compatibility=False)
    foreign.create_collection(
        "thesis", {"a": models.VectorParams(size=2, distance=models.Distance.DOT)}
    )
    foreign.close()
    assert server.collections() == []
    with pytest.raises(EmptyAtlasError):
        server.count("thesis")
    server.drop("thesis")
    with pytest.raises(AtlasError, match="must begin with"):
        server.ensure(replace(lab.spec(), name="thesis"))
    assert asked(face, "DELETE .*") == 0


# --- documents ------------------------------------------------------------------------------------


def noise(size, seed=0):
    return np.random.default_rng(seed).bytes(size)


def test_large_documents_come_in_pieces(face, prepared, lab):
    before, after = noise(3 * 2**20), noise(4 * 2**20 + 5, seed=1)
    prepared.put_blob(lab.COLLECTION, "model/weights", before)
    assert prepared.get_blob(lab.COLLECTION, "model/weights") == before
    prepared.put_blob(lab.COLLECTION, "model/weights", after)
    assert prepared.get_blob(lab.COLLECTION, "model/weights") == after
    prepared.put_blob(lab.COLLECTION, "model/weights", b"short")
    assert prepared.get_blob(lab.COLLECTION, "model/weights") == b"short"
    assert face.state()["largest"] < 4.5 * 2**20
    assert prepared.count(lab.COLLECTION) == 0
    prepared.drop_blob(lab.COLLECTION, "model/weights")
    assert prepared.get_blob(lab.COLLECTION, "model/weights") is None


def test_a_document_that_is_replaced_while_it_is_read(open_server, lab, monkeypatch):
    ours, other = open_server(), open_server()
    lab.prepare(ours)
    before, after = noise(2 * 2**20), noise(2 * 2**20, seed=1)
    ours.put_blob(lab.COLLECTION, "x", before)
    joined = ours._documents._joined
    turns = iter([True])

    def be_overtaken(*given):
        if next(turns, False):
            other.put_blob(lab.COLLECTION, "x", after)
        return joined(*given)

    monkeypatch.setattr(ours._documents, "_joined", be_overtaken)
    assert ours.get_blob(lab.COLLECTION, "x") == after


def test_a_document_that_was_damaged_is_refused(server, prepared, lab):
    from bleepdb.atlas import server_documents as documents

    prepared.put_blob(lab.COLLECTION, "x", b"as it was")
    head = documents._id(documents.BLOB, "x")
    payload = server._documents._read(lab.COLLECTION, [head])[head]
    server._documents._write(lab.COLLECTION, [(head, payload | {documents.TEXT: "YWx0ZXJlZA=="})])
    with pytest.raises(AtlasCorruptError, match="not what was written"):
        prepared.get_blob(lab.COLLECTION, "x")


# --- requests -------------------------------------------------------------------------------------


def test_requests_hold_at_most_256_points_and_4_mb(face, prepared, lab):
    prepared.upsert(lab.COLLECTION, lab.joined(lab.section("S1", spots=600)[1]))
    assert asked(face, WRITE) - 2 == 3
    points = lab.joined(lab.section("S2", spots=40)[1])
    for payload in points.payloads:
        payload["expr"] = "A" * 600_000
    prepared.upsert(lab.COLLECTION, points)
    assert 2 * 2**20 < face.state()["largest"] < 4.5 * 2**20
    assert prepared.count(lab.COLLECTION) == 640


def test_a_facet_lists_any_number_of_values(prepared, lab, monkeypatch):
    from bleepdb.atlas import server as module

    monkeypatch.setattr(module, "FIRST_FACET", 2)
    for number in range(25):
        batches = lab.section(f"S{number}", spots=2)[1]
        prepared.upsert(lab.COLLECTION, batches[0])
    assert prepared.facet(lab.COLLECTION, "section") == {
        f"S{n}": 2 for n in sorted(range(25), key=lambda n: f"S{n}")
    }
