"""The same faults over gRPC: codes become the same errors, and are tried again as often."""

from __future__ import annotations

import time
from concurrent import futures

import numpy as np
import pytest

from bleepdb.atlas import Connection, ServerAtlas, Where
from bleepdb.errors import AtlasError, EmptyAtlasError

grpc = pytest.importorskip("grpc")
KEY = "full-key-0f5b"


def described(fields):
    """A collection of two named vectors of 8 numbers, with keyword indexes."""
    from qdrant_client.grpc import collections_pb2 as c

    one = c.VectorParams(size=8, distance=c.Dot)
    vectors = c.VectorsConfig(params_map=c.VectorParamsMap(map={"image": one, "expression": one}))
    config = c.CollectionConfig(
        params=c.CollectionParams(vectors_config=vectors, shard_number=1),
        hnsw_config=c.HnswConfigDiff(m=32, ef_construct=256, full_scan_threshold=10_000),
        optimizer_config=c.OptimizersConfigDiff(default_segment_number=0, flush_interval_sec=5),
        wal_config=c.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
    )
    schema = {name: c.PayloadSchemaInfo(data_type=c.Keyword) for name in fields}
    return c.CollectionInfo(
        status=c.Green, optimizer_status=c.OptimizerStatus(ok=True), segments_count=1,
        config=config, payload_schema=schema,
    )  # fmt: skip


@pytest.fixture
def qdrant():
    """A gRPC server that answers with the codes it is told to."""
    from qdrant_client.grpc import collections_pb2, points_pb2, qdrant_pb2
    from qdrant_client.grpc import collections_service_pb2_grpc as collections_service
    from qdrant_client.grpc import points_service_pb2_grpc as points_service
    from qdrant_client.grpc import qdrant_common_pb2 as common
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
            if request.collection_name != told.collection:
                context.abort(grpc.StatusCode.NOT_FOUND, "no such collection")
            return collections_pb2.GetCollectionInfoResponse(result=described(told.fields))

    class Points(points_service.PointsServicer):
        """It keeps what it is asked, and answers with what it was told."""

        def Upsert(self, request, context):
            told.requests.append(request)
            done = points_pb2.UpdateResult(operation_id=1, status=points_pb2.Completed)
            return points_pb2.PointsOperationResponse(result=done)

        def QueryBatch(self, request, context):
            told.requests.append(request)
            hits = [
                points_pb2.ScoredPoint(id=common.PointId(uuid=i), score=s) for i, s in told.hits
            ]
            result = [points_pb2.BatchResult(result=hits) for _ in request.query_points]
            return points_pb2.QueryBatchResponse(result=result)

        def Count(self, request, context):
            told.requests.append(request)
            return points_pb2.CountResponse(result=points_pb2.CountResult(count=7))

    class Told:
        version, asked, collection, fields = "1.19.0", 0, None, ()

        def __init__(self):
            self.codes, self.keys, self.requests, self.hits = [], set(), [], []

        def fail(self, code, times=1, says="why", **trailing):
            self.codes = [(code, says, tuple(trailing.items()))] * times

    told = Told()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    root_service.add_QdrantServicer_to_server(Root(), server)
    collections_service.add_CollectionsServicer_to_server(Collections(), server)
    points_service.add_PointsServicer_to_server(Points(), server)
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


def test_points_and_queries_cross_with_every_bit(qdrant, atlas, lab):
    qdrant.collection, qdrant.fields = lab.COLLECTION, lab.FIELDS
    points = lab.joined(lab.section("S1", spots=300)[1])
    atlas.upsert(lab.COLLECTION, points)
    sent = [p for request in qdrant.requests for p in request.points]
    assert [len(request.points) for request in qdrant.requests] == [256, 44]
    assert all(request.wait for request in qdrant.requests)
    assert [p.id.uuid for p in sent] == list(points.ids)
    for name, array in points.vectors.items():
        there = [p.vectors.vectors.vectors[name].dense.data for p in sent]
        assert np.array_equal(np.array(there, dtype=np.float32), array)
    assert sent[0].payload["donor"].string_value == "D1"
    assert sent[0].payload["vcrc"].integer_value == points.payloads[0]["vcrc"]

    qdrant.requests.clear()
    qdrant.hits = [(points.ids[2], 0.5), (points.ids[1], 0.25)]
    queries = points.vectors["image"][:3]
    where = Where({"donor": ["D1"]})
    hits = atlas.query_batch(lab.COLLECTION, queries, using="image", limit=5, where=where)
    assert hits.ids == [[points.ids[2], points.ids[1]]] * 3
    assert hits.scores[0].tolist() == [0.5, 0.25]
    (request,) = qdrant.requests
    asked = [one.query.nearest.dense.data for one in request.query_points]
    assert np.array_equal(np.array(asked, dtype=np.float32), queries)
    assert {(one.using, one.limit, one.params.exact) for one in request.query_points} == {
        ("image", 6, True)
    }
    assert list(request.query_points[0].filter.must[0].field.match.keywords.strings) == ["D1"]
    assert atlas.count(lab.COLLECTION, where) == 7
