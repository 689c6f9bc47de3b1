"""One shard of Qdrant Edge: the only module that knows the engine's ways and errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import qdrant_edge as engine

from bleepdb.atlas import checks
from bleepdb.atlas.protocol import Record
from bleepdb.atlas.ties import nearest
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.names import VCRC

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from bleepdb.atlas.protocol import CollectionSpec, Hits, Points, Where

POINTS_AT_ONCE = 1000
QUERIES_AT_ONCE = 500
HNSW_M = 32
HNSW_EF_CONSTRUCT = 256
HNSW_EF = 128
FULL_SCAN_KB = 10_000  # the engine's own default, which its Python face asks for


@contextmanager
def engine_errors(what: str, place: str, kind: type[AtlasError]) -> Iterator[None]:
    """Turn what the engine raises into one of our errors.

    Arguments are checked before the engine sees them, so that what it still raises while it
    reads is the fault of its files.
    """
    hint = None
    if kind is AtlasCorruptError:
        hint = f"restore it from a copy, or remove {place} and run `bleepdb index` again"
    try:
        yield
    except Exception as error:  # the engine knows no narrower one
        raise kind(f"{what}: {error}", where=place, hint=hint) from error
    except BaseException as error:
        # A panic of the engine's Rust side is no Exception, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {error}", where=place, hint=hint) from error


def _filter(where: Where | None) -> Any:  # noqa: ANN401 - the engine ships no usable types
    if where is None:
        return None
    return engine.Filter(
        must=[
            engine.FieldCondition(name, match=engine.MatchAny(list(values)))
            for name, values in where.must.items()
        ],
        must_not=[
            engine.FieldCondition(name, match=engine.MatchAny(list(values)))
            for name, values in where.must_not.items()
            if values
        ],
    )


def _wanted(fields: Sequence[str] | None, with_vectors: bool) -> bool | list[str]:
    """Which payload fields the engine shall give: vectors need their checksum beside them."""
    if fields is None:
        return True
    names = [*fields, VCRC] if with_vectors else list(fields)
    return names or False


class Shard:
    """An open shard. Its methods trust their arguments, which `checks` has seen.

    Parameters
    ----------
    handle
        The engine's shard.
    place
        Where it is, for messages.
    """

    def __init__(self, handle: Any, place: str) -> None:  # noqa: ANN401 - the engine ships no usable types
        self._handle = handle
        self.place = place

    @classmethod
    def create(cls, path: Path, spec: CollectionSpec, place: str) -> Self:
        """Make a shard with the vectors of `spec` and an index on each of its fields."""
        with engine_errors("cannot be made", place, AtlasError):
            config = engine.EdgeConfig(
                vectors={
                    name: engine.EdgeVectorParams(size=size, distance=engine.Distance.Dot)
                    for name, size in spec.vectors.items()
                },
                # By default every new process would read payloads from disk again.
                payload_memory=engine.Memory.Cached,
                hnsw_config=engine.HnswIndexConfig(
                    m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT, full_scan_threshold=FULL_SCAN_KB
                ),
            )
            made = cls(engine.EdgeShard.create(str(path), config), place)
        made.index(spec.keyword_fields)
        return made

    @classmethod
    def load(cls, path: Path, place: str) -> Self:
        """Open a shard that exists; AtlasCorruptError where its files are gone or unreadable."""
        with engine_errors("cannot be opened", place, AtlasCorruptError):
            # The engine would load an empty folder as an empty shard.
            if not any((path / "segments").glob("*")):
                raise FileNotFoundError("the engine's files are gone")
            return cls(engine.EdgeShard.load(str(path)), place)

    def index(self, fields: Sequence[str]) -> None:
        """Add a keyword index on each field."""
        with engine_errors("cannot be indexed", self.place, AtlasError):
            for name in fields:
                self._handle.update(
                    engine.UpdateOperation.create_field_index(
                        name, engine.PayloadSchemaType.Keyword
                    )
                )
            self._handle.flush()

    def upsert(self, points: Points) -> None:
        """Write points, at most 1,000 at a time."""
        with engine_errors("cannot be written", self.place, AtlasError):
            for start in range(0, len(points), POINTS_AT_ONCE):
                stop = start + POINTS_AT_ONCE
                vectors = {n: a[start:stop].tolist() for n, a in points.vectors.items()}
                rows = zip(points.ids[start:stop], points.payloads[start:stop], strict=True)
                batch = [
                    engine.Point(identity, {n: v[i] for n, v in vectors.items()}, dict(payload))
                    for i, (identity, payload) in enumerate(rows)
                ]
                self._handle.update(engine.UpdateOperation.upsert_points(batch))

    def neighbours(
        self,
        queries: NDArray[np.float32],
        *,
        using: str,
        limit: int,
        where: Where | None,
        exact: bool,
    ) -> Hits:
        """Nearest points of each row; equal scores in order of rising id."""

        def search(rows: Sequence[list[float]], most: int) -> list[list[tuple[float, str]]]:
            found = self._search(rows, using, most, where, exact)
            return [[(hit.score, str(hit.id)) for hit in hits] for hits in found]

        rows = queries.astype(np.float32).tolist()
        return nearest(rows, limit, search, at_once=QUERIES_AT_ONCE)

    def _search(
        self,
        rows: Sequence[list[float]],
        using: str,
        limit: int,
        where: Where | None,
        exact: bool,
    ) -> list[list[Any]]:
        with engine_errors("cannot be searched", self.place, AtlasCorruptError):
            condition = _filter(where)
            params = engine.SearchParams(hnsw_ef=HNSW_EF, exact=exact)
            requests = [
                engine.QueryRequest(
                    limit=limit,
                    query=engine.Query.Nearest(row, using=using),
                    filter=condition,
                    params=params,
                    with_payload=False,
                    with_vector=False,
                )
                for row in rows
            ]
            found: list[list[Any]] = self._handle.query_batch(engine.QueryBatchRequest(requests))
        return found

    def _record(
        self,
        found: Any,  # noqa: ANN401 - the engine ships no usable types
        fields: Sequence[str] | None,
        with_vectors: bool,
    ) -> Record:
        identity, payload = str(found.id), found.payload or {}
        if not with_vectors:
            return Record(identity, payload)
        vectors = {name: np.array(v, dtype=np.float32) for name, v in (found.vector or {}).items()}
        checks.check_vectors_read(identity, payload, vectors, where=self.place)
        if fields is not None and VCRC not in fields:
            payload = {k: v for k, v in payload.items() if k != VCRC}
        return Record(identity, payload, vectors)

    def retrieve(
        self, ids: Sequence[str], *, fields: Sequence[str] | None, with_vectors: bool
    ) -> dict[str, Record]:
        """Points by id, those that are there; each id once."""
        wanted = _wanted(fields, with_vectors)
        table: dict[str, Record] = {}
        for start in range(0, len(ids), POINTS_AT_ONCE):
            part = list(ids[start : start + POINTS_AT_ONCE])
            with engine_errors("cannot be read", self.place, AtlasCorruptError):
                found = self._handle.retrieve(part, wanted, with_vectors)
            records = (self._record(one, fields, with_vectors) for one in found)
            table.update((record.id, record) for record in records)
        return table

    def scroll(
        self,
        *,
        where: Where | None,
        fields: Sequence[str] | None,
        with_vectors: bool,
        batch: int,
    ) -> Iterator[list[Record]]:
        """All points that match, in batches, in order of id."""
        offset = None
        while True:
            with engine_errors("cannot be read", self.place, AtlasCorruptError):
                request = engine.ScrollRequest(
                    offset=offset,
                    limit=batch,
                    filter=_filter(where),
                    with_payload=_wanted(fields, with_vectors),
                    with_vector=with_vectors,
                )
                found, offset = self._handle.scroll(request)
            if found:
                yield [self._record(one, fields, with_vectors) for one in found]
            if offset is None:
                return

    def delete(self, where: Where) -> None:
        """Delete the points that match."""
        with engine_errors("cannot be deleted from", self.place, AtlasError):
            self._handle.update(engine.UpdateOperation.delete_points_by_filter(_filter(where)))

    def count(self, where: Where | None) -> int:
        """Exact number of points that match."""
        with engine_errors("cannot be counted", self.place, AtlasCorruptError):
            return int(self._handle.count(engine.CountRequest(exact=True, filter=_filter(where))))

    def facet(self, name: str, where: Where | None = None) -> dict[str, int]:
        """Exact number of points a value, values sorted."""
        with engine_errors("cannot be counted", self.place, AtlasCorruptError):
            most = max(1, int(self._handle.info().points_count))
            request = engine.FacetRequest(name, limit=most, exact=True, filter=_filter(where))
            hits = self._handle.facet(request).hits
        # The engine goes on to list values whose last point was deleted, with a count of 0.
        return dict(sorted((str(hit.value), int(hit.count)) for hit in hits if hit.count))

    def flush(self) -> None:
        """Return when all acknowledged writes are on disk."""
        with engine_errors("cannot be flushed", self.place, AtlasError):
            self._handle.flush()

    @property
    def indexed(self) -> bool:
        """Whether there is an HNSW graph."""
        with engine_errors("cannot be read", self.place, AtlasCorruptError):
            return int(self._handle.info().indexed_vectors_count) > 0

    def optimize(self) -> None:
        """Merge segments and build the HNSW graph where there are points enough for one."""
        with engine_errors("cannot be optimised", self.place, AtlasError):
            self._handle.optimize()

    def close(self) -> None:
        """Let go of the files."""
        with engine_errors("cannot be closed", self.place, AtlasError):
            self._handle.close()
