"""What is said on the wire is what Qdrant's published OpenAPI document allows."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from bleepdb.atlas import ServerAtlas, Where

pytestmark = pytest.mark.wire


@pytest.fixture(scope="module")
def document(running):
    found = running.openapi_document()
    if found is None:
        pytest.skip("Qdrant's OpenAPI document is not in reach (no ../shared/qdrant)")
    return found


@pytest.fixture(scope="module")
def judge(document):
    path = Path(__file__).with_name("openapi.py")
    spec = importlib.util.spec_from_file_location("bleepdb_tests_wire_openapi", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OpenApi(document)


def test_everything_that_an_atlas_says(document, face, server, lab):
    lab.prepare(server)
    for version in (0, 1):
        lab.publish(server, "S1", version)
    lab.publish(server, "S2", donor="D2")
    name = lab.COLLECTION
    where = Where({"donor": ["D1"]}, {"section": ["S2"]})
    server.query_batch(name, lab.unit(np.random.default_rng(0), 3), using="image", limit=4)
    server.query_batch(
        name,
        lab.unit(np.random.default_rng(0), 3),
        using="image",
        limit=4,
        where=where,
        exact=False,
    )
    found = next(server.scroll(name, where=where, fields=["donor"], batch=7))
    server.retrieve(name, [r.id for r in found], with_vectors=True)
    server.count(name, where)
    server.facet(name, "donor", where)
    server.put_blob(name, "model/weights", bytes(2**21))
    server.get_blob(name, "model/weights")
    server.list_blobs(name)
    server.drop_blob(name, "model/weights")
    server.optimize(name)
    server.ensure(lab.spec(fields=("scanner",)))
    server.drop(name)
    state = face.state()
    assert state["checked"] > 60
    assert state["violations"] == []
    said = {what.replace(name, "{collection_name}") for what in state["asked"]}
    assert len(said) >= 15  # kinds of requests


POINT = {"id": "6f3b8a52-6d0e-5c5b-9a1e-b1ee9d8a0001", "vector": {"image": [1.0]}, "payload": {}}
UPSERT = ("PUT", "/collections/{collection_name}/points", ["wait"])
DONE = {"result": {"operation_id": 1, "status": "completed"}, "status": "ok", "time": 0.1}


def test_the_judge_allows_what_is_right(judge):
    assert judge.faults(*UPSERT, {"points": [POINT]}, 200, DONE) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"request": {"points": [{**POINT, "id": -1}]}}, "asks"),
        ({"request": {"points": [POINT] * 9 + [{"vector": {}}]}}, "asks"),
        ({"request": {"dots": []}}, "asks"),
        ({"request": None}, "asks"),
        ({"answer": {**DONE, "result": {"status": "done"}}}, "answers 200"),
        ({"answer": {**DONE, "time": "long"}}, "answers 200"),
        ({"query": ["wait", "colour"]}, "unknown parameter colour"),
        ({"path": "/collections/{collection_name}/dots"}, "no operation"),
        ({"method": "PATCH"}, "no operation"),
    ],
)
def test_the_judge_sees_what_is_wrong(judge, change, says):
    given = {
        "method": UPSERT[0], "path": UPSERT[1], "query": UPSERT[2],
        "request": {"points": [POINT]}, "status": 200, "answer": DONE, **change,
    }  # fmt: skip
    faults = judge.faults(*given.values())
    assert faults
    assert says in faults[0]


@pytest.mark.skipif(
    "QDRANT_URL" not in os.environ,
    reason="QDRANT_URL is not set: the server atlas was tested against the wire face (Qdrant's "
    "engine behind a REST face of the tests), not against a Qdrant server",
)
def test_a_real_server_answers():
    with ServerAtlas(os.environ["QDRANT_URL"]) as server:
        assert server.collections() is not None
        assert server._client.version >= (1, 16)
