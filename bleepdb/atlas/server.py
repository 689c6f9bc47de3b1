"""The server atlas: a Qdrant server that a lab shares, over REST or gRPC."""

from __future__ import annotations

import time
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from bleepdb.atlas import checks
from bleepdb.atlas.connection import Address, Connection
from bleepdb.atlas.protocol import Closes
from bleepdb.atlas.server_client import Client
from bleepdb.atlas.server_collections import Collections
from bleepdb.atlas.server_documents import Documents
from bleepdb.atlas.server_points import (
    BYTES_AT_ONCE,
    TEXT_A_NUMBER,
    filter_of,
    record_of,
    rows_at_once,
    short_floats,
    structs,
    wanted,
)
from bleepdb.atlas.ties import nearest
from bleepdb.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import CollectionSpec, Hits, Points, Record, Where

QUERIES_AT_ONCE = 500
RETRIEVE_AT_ONCE = 1000
FIRST_FACET = 1000
HNSW_EF = 128
# What a commit lists must be what most replicas have: one that lags would miss points.
MAJORITY = models.ReadConsistencyType.MAJORITY
OPTIMIZE_S = 600.0  # longest wait for a search index


class ServerAtlas(Closes):
    """The collections ``bleepdb_*`` of a Qdrant server; others are left alone.

    Any number of processes may read and write at once. Neighbours come in order of falling score,
    equal scores in order of rising id. Each request is tried again where that may help, under one
    deadline (`Connection`); every error is an AtlasError or one of its children.

    Parameters
    ----------
    location
        ``http(s)://host[:port][/path]``; the port is 6333 where none is given.
    connection
        Key, certificates, deadlines; default: what the environment says.

    Raises
    ------
    AtlasError
        If the URL is none or holds a secret, a key would cross the network in the clear, no server
        answers, or it is too old.
    """

    kind = "server"

    def __init__(self, location: str, connection: Connection | None = None) -> None:
        address = Address.parse(location)
        self.location = str(address)
        self._client = Client(address, connection or Connection.from_environment())
        self._documents = Documents(self._client)
        self._collections = Collections(self._client)

    def _place(self, collection: str) -> str:
        return f"{self.location}/{collection}"

    # --- collections --------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of our collections, sorted; with a token of few scopes, those that it may read."""
        return self._collections.names()

    def aliases(self) -> dict[str, str]:
        """Alias -> collection, for our collections."""
        return self._collections.aliases()

    def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection, in one step."""
        self._collections.set_alias(alias, collection)

    def ensure(self, spec: CollectionSpec) -> None:
        """Create a collection and its indexes, or check that the existing one has these vectors.

        A creation that was interrupted is completed: indexes that are missing are added.
        """
        self._collections.ensure(spec)

    def drop(self, collection: str) -> None:
        """Remove a collection with all that belongs to it; nothing happens where it is not."""
        self._collections.drop(collection)

    def _spec(self, collection: str) -> CollectionSpec:
        return self._collections.spec(collection)

    def _spec_for(
        self, collection: str, where: Where | None = None, field: str | None = None
    ) -> CollectionSpec:
        return self._collections.spec_for(collection, where, field)

    # --- points -------------------------------------------------------------------------------

    def upsert(self, collection: str, points: Points) -> None:
        """Write points; every row is validated first: where one fails, none is written.

        At most 256 points and about 4 MB go into a request; an interruption between two requests
        leaves the first, which is why points become visible through the manifest alone.
        """
        spec = self._spec(collection)
        checks.check_points(spec, points, where=self._place(collection))
        for rows in rows_at_once(points):
            upsert = methodcaller("upsert", collection, structs(points, rows), wait=True)
            self._client.call("write points", upsert, collection=collection, writes=True)

    def query_batch(
        self,
        collection: str,
        queries: NDArray[np.float32],
        *,
        using: str,
        limit: int,
        where: Where | None = None,
        exact: bool = True,
    ) -> Hits:
        """Nearest points of each query row by dot product; ids and scores only.

        With `exact` false the server's HNSW graph is used where it has built one.
        """
        spec = self._spec_for(collection, where)
        checks.check_queries(spec, queries, using, limit, where=self._place(collection))
        if checks.matches_nothing(where):
            return nearest(short_floats(queries), limit, lambda rows, _: [[] for _ in rows])
        condition = filter_of(where)
        params = models.SearchParams(hnsw_ef=HNSW_EF, exact=exact)

        def search(rows: Sequence[list[float]], most: int) -> list[list[tuple[float, str]]]:
            requests = [
                models.QueryRequest.model_construct(
                    query=row,
                    using=using,
                    filter=condition,
                    params=params,
                    limit=most,
                    with_payload=False,
                    with_vector=False,
                )
                for row in rows
            ]
            found = self._client.call(
                "search",
                lambda q: q.query_batch_points(collection, requests),
                collection=collection,
            )
            return [[(p.score, str(p.id)) for p in one.points] for one in found]

        fit = BYTES_AT_ONCE // (TEXT_A_NUMBER * queries.shape[1] + 300)
        at_once = max(1, min(QUERIES_AT_ONCE, fit))
        return nearest(short_floats(queries), limit, search, at_once=at_once)

    def retrieve(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> list[Record]:
        """Points by id, in the order asked; an id that is not there raises AtlasCorruptError.

        Vectors are compared with their checksum.
        """
        self._spec(collection)
        place = self._place(collection)
        checks.check_ids(ids, where=place)
        distinct = list(dict.fromkeys(ids))
        found: dict[str, Record] = {}
        for start in range(0, len(distinct), RETRIEVE_AT_ONCE):
            retrieve = methodcaller(
                "retrieve",
                collection,
                distinct[start : start + RETRIEVE_AT_ONCE],
                with_payload=wanted(fields, with_vectors=with_vectors),
                with_vectors=with_vectors,
            )
            for one in self._client.call("read points", retrieve, collection=collection):
                record = record_of(one, fields, with_vectors=with_vectors, where=place)
                found[record.id] = record
        missing = [i for i in distinct if i not in found]
        if missing:
            raise checks.missing_points(missing, len(distinct), where=place)
        return [found[i] for i in ids]

    def scroll(
        self,
        collection: str,
        *,
        where: Where | None = None,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
        batch: int = 1000,
    ) -> Iterator[list[Record]]:
        """All points that match, in batches, in order of id."""
        self._spec_for(collection, where)
        if checks.matches_nothing(where):
            return iter(())
        return self._scroll(collection, filter_of(where), fields, with_vectors, batch)

    def _scroll(
        self,
        collection: str,
        condition: models.Filter,
        fields: Sequence[str] | None,
        with_vectors: bool,
        batch: int,
    ) -> Iterator[list[Record]]:
        offset: Any = None
        while True:
            scroll = methodcaller(
                "scroll",
                collection,
                scroll_filter=condition,
                limit=batch,
                offset=offset,
                with_payload=wanted(fields, with_vectors=with_vectors),
                with_vectors=with_vectors,
                consistency=MAJORITY,
            )
            found, offset = self._client.call("read points", scroll, collection=collection)
            if found:
                place = self._place(collection)
                yield [record_of(r, fields, with_vectors=with_vectors, where=place) for r in found]
            if offset is None:
                return

    def delete(self, collection: str, where: Where) -> None:
        """Delete the points that match. An empty filter is refused."""
        place = self._place(collection)
        self._spec(collection)
        checks.check_delete(where, where=place)
        self._spec_for(collection, where)
        if not checks.matches_nothing(where):
            selector = models.FilterSelector(filter=filter_of(where))
            self._client.call(
                "delete points",
                lambda q: q.delete(collection, selector, wait=True),
                collection=collection,
                writes=True,
            )

    def count(self, collection: str, where: Where | None = None) -> int:
        """Exact number of points that match."""
        self._spec_for(collection, where)
        if checks.matches_nothing(where):
            return 0
        condition = filter_of(where)
        found = self._client.call(
            "count points",
            lambda q: q.count(collection, count_filter=condition, exact=True),
            collection=collection,
        )
        return int(found.count)

    def facet(self, collection: str, name: str, where: Where | None = None) -> dict[str, int]:
        """Exact number of points a value of an indexed keyword field."""
        self._spec_for(collection, where, name)
        if checks.matches_nothing(where):
            return {}
        condition, limit = filter_of(where), FIRST_FACET
        while True:
            facet = methodcaller(
                "facet",
                collection,
                name,
                facet_filter=condition,
                limit=limit,
                exact=True,
            )
            found = self._client.call("count values", facet, collection=collection)
            if len(found.hits) < limit:
                # The engine goes on to list values whose last point was deleted, with 0.
                return dict(sorted((str(h.value), int(h.count)) for h in found.hits if h.count))
            limit *= 10

    # --- manifest and documents ---------------------------------------------------------------

    def read_manifest(self, collection: str) -> Manifest:
        """Return the manifest as it stands."""
        self._spec(collection)
        return self._documents.read_manifest(collection)

    def swap_manifest(self, collection: str, expected_generation: int, new: Manifest) -> bool:
        """Replace the manifest if its generation is still the expected one; tell whether it was."""
        place = self._place(collection)
        checks.check_successor(collection, expected_generation, new, where=place)
        self._spec(collection)
        return self._documents.swap_manifest(collection, expected_generation, new)

    def put_blob(self, collection: str, name: str, data: bytes) -> None:
        """Store a small named document beside the manifest."""
        checks.check_blob_name(name, where=self._place(collection))
        self._spec(collection)
        self._documents.put(collection, name, data)

    def get_blob(self, collection: str, name: str) -> bytes | None:
        """Read such a document; None where it is not."""
        checks.check_blob_name(name, where=self._place(collection))
        self._spec(collection)
        return self._documents.get(collection, name)

    def drop_blob(self, collection: str, name: str) -> None:
        """Remove such a document; nothing happens where it is not."""
        checks.check_blob_name(name, where=self._place(collection))
        self._spec(collection)
        self._documents.drop(collection, name)

    def list_blobs(self, collection: str) -> list[str]:
        """Names of all such documents, sorted."""
        self._spec(collection)
        return self._documents.names(collection)

    # --- care ---------------------------------------------------------------------------------

    def flush(self, collection: str) -> None:
        """Nothing is left to do: every write waited until the server had applied and logged it."""
        self._spec(collection)

    def optimize(self, collection: str) -> None:
        """Wait until the server has built its search index, which it does by itself.

        Not for ever: after ten minutes it goes on by itself, and searches are right meanwhile.
        """
        self._spec(collection)
        end, pause = time.monotonic() + OPTIMIZE_S, 0.05
        while time.monotonic() < end:
            info = self._client.call(
                "read a collection", lambda q: q.get_collection(collection), collection=collection
            )
            if info.status == models.CollectionStatus.RED:
                raise AtlasError(
                    "the server reports a failed optimisation",
                    where=self._place(collection),
                    hint="see the server's log",
                )
            if info.status != models.CollectionStatus.YELLOW:  # grey waits for the next write
                return
            time.sleep(pause)
            pause = min(2.0, 2 * pause)

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        self._client.close()
