"""The same faults over gRPC: codes become the same errors, and are tried again as often."""

from __future__ import annotations

import time
from concurrent import futures

import pytest

from bleepdb.atlas import Connection, ServerAtlas
from bleepdb.errors import AtlasError, EmptyAtlasError

grpc = pytest.importorskip("grpc")
KEY = "full-key-0f5b"


@pytest.fixture
def qdrant():
    """A gRPC server that answers with the codes it is told to."""
    from qdrant_client.grpc import collections_pb2, qdrant_pb2
    from qdrant_client.grpc import collections_service_pb2_grpc as collections_service
    from qdrant_client.grpc import qdrant_pb2_grpc as root_service

    class Root(root_service.QdrantServicer):
        def HealthCheck(self, request, context):
            told.keys.add(dict(context.invocation_metadata()).get("api-key"))
            return qdrant_pb2.HealthCheckReply(title="qdrant", version=told.version)

    class Collections(collections_service.CollectionsServicer):
        def _fail(self, context):
            told.asked += 1
            if told.codes:
                code, says, trailing = told.codes.pop(0)
                context.set_trailing_metadata(trailing)
                context.abort(code, says)

        def List(self, request, context):
            self._fail(context)
            names = ["bleepdb_breast_1", "thesis"]
            found = [collections_pb2.CollectionDescription(name=n) for n in names]
            return collections_pb2.ListCollectionsResponse(collections=found)

        def Get(self, request, context):
            told.asked += 1
            context.abort(grpc.StatusCode.NOT_FOUND, "no such collection")

    class Told:
        version, asked = "1.19.0", 0

        def __init__(self):
            self.codes, self.keys = [], set()

        def fail(self, code, times=1, says="why", **trailing):
            self.codes = [(code, says, tuple(trailing.items()))] * times

    told = Told()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    root_service.add_QdrantServicer_to_server(Root(), server)
    collections_service.add_CollectionsServicer_to_server(Collections(), server)
    told.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield told
    server.stop(None).wait()


@pytest.fixture
def atlas(qdrant):
    settings = Connection(
        prefer_grpc=True, grpc_port=qdrant.port, api_key=KEY, deadline_s=5.0, timeout_s=2.0
    )
    with ServerAtlas("http://127.0.0.1:6333", settings) as made:
        yield made


def test_it_speaks_grpc_with_the_key(qdrant, atlas):
    assert atlas.collections() == ["bleepdb_breast_1"]
    assert qdrant.keys == {KEY}


@pytest.mark.parametrize(
    ("code", "times", "says"),
    [
        ("UNAUTHENTICATED", 1, "refuses the API key"),
        ("PERMISSION_DENIED", 1, "the API key may not list collections"),
        ("INVALID_ARGUMENT", 1, "answered 400.*why"),
        ("INTERNAL", 3, "answered 500.*why"),
    ],
)
def test_codes_that_stay(qdrant, atlas, code, times, says):
    qdrant.fail(getattr(grpc.StatusCode, code), times=9)
    with pytest.raises(AtlasError, match=says) as caught:
        atlas.collections()
    assert qdrant.asked == times
    assert KEY not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"]
)
def test_codes_that_pass(qdrant, atlas, code):
    qdrant.fail(getattr(grpc.StatusCode, code), times=2)
    assert atlas.collections() == ["bleepdb_breast_1"]
    assert qdrant.asked == 3


def test_the_time_to_wait_is_kept(qdrant, atlas):
    qdrant.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, **{"retry-after": "1"})
    start = time.monotonic()
    atlas.collections()
    assert time.monotonic() - start >= 1.0


def test_a_collection_that_is_not_there(atlas):
    with pytest.raises(EmptyAtlasError, match="no collection 'bleepdb_lung_1'"):
        atlas.count("bleepdb_lung_1")


def test_too_old(qdrant):
    qdrant.version = "1.15.1"
    with pytest.raises(AtlasError, match=r"1\.15\.1, too old"):
        ServerAtlas("http://127.0.0.1:6333", Connection(prefer_grpc=True, grpc_port=qdrant.port))


def test_nobody_is_there():
    with pytest.raises(AtlasError, match="cannot be reached"):
        ServerAtlas(
            "http://127.0.0.1:9",
            Connection(prefer_grpc=True, grpc_port=9, deadline_s=1.0, timeout_s=1.0),
        )
