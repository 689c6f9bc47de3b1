"""The plain twin: an atlas in memory, every answer by brute force in NumPy.

It is what the tests compare the engines with, and what training and small jobs use.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.atlas import checks
from bleepdb.atlas.manifest import NONE_YET
from bleepdb.atlas.protocol import CollectionSpec, Hits, Record
from bleepdb.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Points, Where

SCORES_AT_ONCE = 2**24  # float32 scores held at a time: 64 MB


@dataclass(frozen=True)
class _Rows:
    """The points of a collection at one moment, in order of their ids. Never changed in place."""

    ids: tuple[str, ...]
    vectors: Mapping[str, NDArray[np.float32]]
    payloads: tuple[Mapping[str, Any], ...]
    _columns: dict[str, tuple[dict[str, int], NDArray[np.int64]]] = field(default_factory=dict)

    def column(self, name: str) -> tuple[dict[str, int], NDArray[np.int64]]:
        """Code of each text seen in a field, and (n,) codes of the rows; 0 where none is text."""
        if name not in self._columns:
            codes: dict[str, int] = {}
            values = (p.get(name) for p in self.payloads)
            rows = [
                codes.setdefault(v, len(codes) + 1) if isinstance(v, str) else 0 for v in values
            ]
            self._columns[name] = codes, np.array(rows, dtype=np.int64)
        return self._columns[name]

    def having(self, name: str, values: Sequence[str]) -> NDArray[np.bool_]:
        codes, rows = self.column(name)
        wanted = np.zeros(len(codes) + 1, dtype=np.bool_)
        wanted[[codes[v] for v in values if v in codes]] = True
        return wanted[rows]

    def mask(self, where: Where | None) -> NDArray[np.bool_]:
        kept = np.ones(len(self.ids), dtype=np.bool_)
        if where is not None:
            for name, values in where.must.items():
                kept &= self.having(name, values)
            for name, values in where.must_not.items():
                kept &= ~self.having(name, values)
        return kept

    def take(self, kept: NDArray[np.bool_]) -> _Rows:
        rows = np.flatnonzero(kept)
        return _Rows(
            tuple(self.ids[i] for i in rows),
            {name: array[rows] for name, array in self.vectors.items()},
            tuple(self.payloads[i] for i in rows),
        )

    def merged(self, points: Points) -> _Rows:
        new = set(points.ids)
        old = self.take(np.array([i not in new for i in self.ids], dtype=np.bool_))
        ids = (*old.ids, *points.ids)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        payloads = (*old.payloads, *(copy.deepcopy(dict(p)) for p in points.payloads))
        return _Rows(
            tuple(ids[i] for i in order),
            {
                name: np.concatenate([array, points.vectors[name]])[order]
                for name, array in old.vectors.items()
            },
            tuple(payloads[i] for i in order),
        )


@dataclass
class _Collection:
    spec: CollectionSpec
    rows: _Rows
    manifest: Manifest | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)


def _best(scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Positions of the `limit` best of one row of scores; equal scores in order of position."""
    if limit < len(scores):
        worst = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        candidates = np.flatnonzero(scores >= worst)
    else:
        candidates = np.arange(len(scores))
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order][:limit]


class ExactAtlas:
    """An atlas in memory (location ``memory:``); it ends with the process.

    Neighbours come in order of falling score, equal scores in order of rising id. Threads may
    share it: each operation sees the points of one moment, and a manifest swap is one step.
    """

    kind = "exact"

    def __init__(self, location: str = "memory:") -> None:
        self.location = location
        self._lock = threading.RLock()
        self._closed = False
        self._collections: dict[str, _Collection] = {}
        self._aliases: dict[str, str] = {}

    def _open(self) -> None:
        if self._closed:
            raise AtlasError("this atlas was closed", where=self.location)

    def _get(self, collection: str) -> _Collection:
        self._open()
        found = self._collections.get(collection)
        if found is None:
            raise checks.no_collection(collection, where=self.location)
        return found

    def _place(self, collection: str) -> str:
        return f"{self.location}/{collection}"

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        self._open()
        return sorted(self._collections)

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        self._open()
        return dict(self._aliases)

    def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection, in one step."""
        checks.check_collection_name(alias, where=self.location)
        with self._lock:
            self._get(collection)
            self._aliases[alias] = collection

    def ensure(self, spec: CollectionSpec) -> None:
        """Create a collection, or check that the existing one has these vectors."""
        checks.check_spec(spec, where=self.location)
        with self._lock:
            self._open()
            found = self._collections.get(spec.name)
            if found is None:
                vectors = {n: np.empty((0, d), np.float32) for n, d in spec.vectors.items()}
                self._collections[spec.name] = _Collection(spec, _Rows((), vectors, ()))
            else:
                found.spec = checks.merged_spec(found.spec, spec, where=self._place(spec.name))

    def drop(self, collection: str) -> None:
        """Remove a collection with all that belongs to it; nothing happens where it is not."""
        with self._lock:
            self._open()
            self._collections.pop(collection, None)
            self._aliases = {a: c for a, c in self._aliases.items() if c != collection}

    def upsert(self, collection: str, points: Points) -> None:
        """Write points; every row is validated first: where one fails, none is written."""
        found = self._get(collection)
        checks.check_points(found.spec, points, where=self._place(collection))
        with self._lock:
            found.rows = found.rows.merged(points)

    def query_batch(
        self,
        collection: str,
        queries: NDArray[np.float32],
        *,
        using: str,
        limit: int,
        where: Where | None = None,
        exact: bool = True,  # noqa: ARG002 - it always is
    ) -> Hits:
        """Nearest points of each query row by dot product; ids and scores only."""
        found, place = self._get(collection), self._place(collection)
        checks.check_queries(found.spec, queries, using, limit, where=place)
        checks.check_where(found.spec, where, where=place)
        rows = found.rows
        kept = np.flatnonzero(rows.mask(where))
        keys = rows.vectors[using][kept]
        ids: list[list[str]] = []
        scores: list[NDArray[np.float32]] = []
        step = max(1, SCORES_AT_ONCE // max(1, len(kept)))
        for start in range(0, len(queries), step):
            block = queries[start : start + step].astype(np.float32, copy=False) @ keys.T
            for row in block:
                best = _best(row, limit)
                ids.append([rows.ids[i] for i in kept[best]])
                scores.append(row[best])
        return Hits(ids, scores)

    def _record(
        self,
        rows: _Rows,
        row: int | np.integer[Any],
        fields: Sequence[str] | None,
        with_vectors: bool,
        place: str,
    ) -> Record:
        payload = rows.payloads[row]
        vectors = None
        if with_vectors:
            vectors = {name: array[row].copy() for name, array in rows.vectors.items()}
            checks.check_vectors_read(rows.ids[row], payload, vectors, where=place)
        shown = {k: v for k, v in payload.items() if fields is None or k in fields}
        return Record(rows.ids[row], shown, vectors)

    def retrieve(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> list[Record]:
        """Points by id, in the order asked; an id that is not there raises AtlasCorruptError."""
        rows, place = self._get(collection).rows, self._place(collection)
        checks.check_ids(ids, where=place)
        table = {identity: row for row, identity in enumerate(rows.ids)}
        missing = [i for i in ids if i not in table]
        if missing:
            raise checks.missing_points(missing, len(ids), where=place)
        return [self._record(rows, table[i], fields, with_vectors, place) for i in ids]

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
        found, place = self._get(collection), self._place(collection)
        checks.check_where(found.spec, where, where=place)
        rows = found.rows
        kept = np.flatnonzero(rows.mask(where))
        return (
            [self._record(rows, i, fields, with_vectors, place) for i in kept[at : at + batch]]
            for at in range(0, len(kept), batch)
        )

    def delete(self, collection: str, where: Where) -> None:
        """Delete the points that match. An empty filter is refused."""
        found, place = self._get(collection), self._place(collection)
        checks.check_delete(where, where=place)
        checks.check_where(found.spec, where, where=place)
        with self._lock:
            found.rows = found.rows.take(~found.rows.mask(where))

    def count(self, collection: str, where: Where | None = None) -> int:
        """Exact number of points that match."""
        found = self._get(collection)
        checks.check_where(found.spec, where, where=self._place(collection))
        return int(found.rows.mask(where).sum())

    def facet(self, collection: str, name: str, where: Where | None = None) -> dict[str, int]:
        """Exact number of points a value of an indexed keyword field."""
        found, place = self._get(collection), self._place(collection)
        checks.check_where(found.spec, where, where=place)
        checks.check_field(found.spec, name, where=place)
        rows = found.rows
        values = (rows.payloads[i].get(name) for i in np.flatnonzero(rows.mask(where)))
        return dict(sorted(Counter(v for v in values if isinstance(v, str)).items()))

    def read_manifest(self, collection: str) -> Manifest:
        """Return the manifest as it stands."""
        found = self._get(collection).manifest
        if found is None:
            raise checks.no_manifest(where=self._place(collection))
        return found

    def swap_manifest(self, collection: str, expected_generation: int, new: Manifest) -> bool:
        """Replace the manifest if its generation is still the expected one; tell whether it was."""
        checks.check_successor(collection, expected_generation, new, where=self._place(collection))
        with self._lock:
            found = self._get(collection)
            generation = NONE_YET if found.manifest is None else found.manifest.generation
            if generation != expected_generation:
                return False
            found.manifest = new
            return True

    def put_blob(self, collection: str, name: str, data: bytes) -> None:
        """Store a small named document beside the manifest."""
        checks.check_blob_name(name, where=self._place(collection))
        self._get(collection).blobs[name] = bytes(data)

    def get_blob(self, collection: str, name: str) -> bytes | None:
        """Read such a document; None where it is not."""
        checks.check_blob_name(name, where=self._place(collection))
        return self._get(collection).blobs.get(name)

    def list_blobs(self, collection: str) -> list[str]:
        """Names of all such documents, sorted."""
        return sorted(self._get(collection).blobs)

    def flush(self, collection: str) -> None:
        """Nothing is kept back."""
        self._get(collection)

    def optimize(self, collection: str) -> None:
        """There is no index to build."""
        self._get(collection)

    def close(self) -> None:
        """Close for further use. Closing twice is fine."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
