"""The plain twin: an atlas in memory, every answer by brute force in NumPy.

It is what the tests compare the engines with, and what training and small jobs use.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.atlas import checks
from bleepdb.atlas.manifest import NONE_YET
from bleepdb.atlas.rows import Rows, RowsReader
from bleepdb.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import CollectionSpec, Points, Where
    from bleepdb.atlas.rows import Codes


class _MemoryRows(Rows):
    """Points as Python objects."""

    def __init__(
        self,
        ids: tuple[str, ...],
        vectors: Mapping[str, NDArray[np.float32]],
        payloads: tuple[Mapping[str, Any], ...],
    ) -> None:
        self.ids, self.vectors, self.stored = ids, vectors, payloads
        self._columns: dict[str, Codes] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _table(self) -> dict[str, int]:
        return {identity: row for row, identity in enumerate(self.ids)}

    def ids_of(self, rows: NDArray[np.int64]) -> list[str]:
        return [self.ids[i] for i in rows]

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self._table.get(i, -1) for i in ids], dtype=np.int64)

    def payloads(
        self, rows: NDArray[np.int64], fields: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in self.stored[i].items() if fields is None or k in fields} for i in rows
        ]

    def column(self, name: str) -> Codes:
        if name not in self._columns:
            codes: dict[str, int] = {}
            values = (p.get(name) for p in self.stored)
            rows = [
                codes.setdefault(v, len(codes) + 1) if isinstance(v, str) else 0 for v in values
            ]
            self._columns[name] = codes, np.array(rows, dtype=np.int64)
        return self._columns[name]

    def without(self, gone: NDArray[np.bool_]) -> _MemoryRows:
        rows = np.flatnonzero(~gone)
        return _MemoryRows(
            tuple(self.ids[i] for i in rows),
            {name: array[rows] for name, array in self.vectors.items()},
            tuple(self.stored[i] for i in rows),
        )

    def merged(self, points: Points) -> _MemoryRows:
        new = set(points.ids)
        old = self.without(np.array([i in new for i in self.ids], dtype=np.bool_))
        ids = (*old.ids, *points.ids)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        payloads = (*old.stored, *(copy.deepcopy(dict(p)) for p in points.payloads))
        return _MemoryRows(
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
    rows: _MemoryRows
    manifest: Manifest | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)


class ExactAtlas(RowsReader):
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

    def _held(self, collection: str) -> tuple[CollectionSpec, Rows]:
        found = self._get(collection)
        return found.spec, found.rows

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
                self._collections[spec.name] = _Collection(spec, _MemoryRows((), vectors, ()))
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

    def delete(self, collection: str, where: Where) -> None:
        """Delete the points that match. An empty filter is refused."""
        found, place = self._get(collection), self._place(collection)
        checks.check_delete(where, where=place)
        checks.check_where(found.spec, where, where=place)
        with self._lock:
            found.rows = found.rows.without(found.rows.mask(where))

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

    def drop_blob(self, collection: str, name: str) -> None:
        """Remove such a document; nothing happens where it is not."""
        checks.check_blob_name(name, where=self._place(collection))
        self._get(collection).blobs.pop(name, None)

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
