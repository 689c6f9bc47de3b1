"""Questions answered from rows by brute force in NumPy: what `exact` and `snapshot` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.atlas import checks
from bleepdb.atlas.protocol import Closes, Hits, Record
from bleepdb.names import VCRC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.protocol import CollectionSpec, Where

SCORES_AT_ONCE = 2**24  # float32 scores held at a time: 64 MB

Codes = tuple["Mapping[str, int]", "NDArray[np.integer[Any]]"]


class Rows(ABC):
    """The points of a collection at one moment, in order of their ids. Never changed in place.

    Attributes
    ----------
    vectors
        Vector name -> (n, dimension) float32.
    """

    vectors: Mapping[str, NDArray[np.float32]]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def ids_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of some rows."""

    @abstractmethod
    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each id, -1 where there is none."""

    @abstractmethod
    def payloads(
        self, rows: NDArray[np.int64], fields: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return the payloads of some rows: the fields asked for, or all."""

    @abstractmethod
    def column(self, name: str) -> Codes:
        """Code of each text in a field, and (n,) codes of the rows; 0 where a row has no text."""

    def having(self, name: str, values: Sequence[str]) -> NDArray[np.bool_]:
        """Tell which rows have one of these values in a field; (n,)."""
        codes, rows = self.column(name)
        wanted = np.zeros(len(codes) + 1, dtype=np.bool_)
        wanted[[codes[v] for v in values if v in codes]] = True
        return wanted[rows]

    def mask(self, where: Where | None) -> NDArray[np.bool_]:
        """Tell which rows match a filter; (n,)."""
        kept = np.ones(len(self), dtype=np.bool_)
        if where is not None:
            for name, values in where.must.items():
                kept &= self.having(name, values)
            for name, values in where.must_not.items():
                kept &= ~self.having(name, values)
        return kept

    def records(
        self,
        rows: NDArray[np.int64],
        fields: Sequence[str] | None,
        *,
        with_vectors: bool,
        place: str,
    ) -> list[Record]:
        """Read some rows; vectors are compared with their checksum."""
        ids, payloads = self.ids_of(rows), self.payloads(rows, fields)
        if not with_vectors:
            return [Record(i, p) for i, p in zip(ids, payloads, strict=True)]
        made = []
        sums = self.payloads(rows, [VCRC])
        for row, identity, payload, stored in zip(rows, ids, payloads, sums, strict=True):
            vectors = {name: array[row].copy() for name, array in self.vectors.items()}
            checks.check_vectors_read(identity, stored, vectors, where=place)
            made.append(Record(identity, payload, vectors))
        return made

    def neighbours(
        self, queries: NDArray[np.float32], using: str, limit: int, where: Where | None
    ) -> Hits:
        """Nearest rows of each query by dot product; equal scores in order of rising id."""
        keys = self.vectors[using]
        kept = np.flatnonzero(self.mask(where))
        chosen = len(kept) < len(keys)
        if 2 * len(kept) < len(keys):
            # Few are left: only those are compared. Else all are, since keys are not to be copied.
            keys, chosen = keys[kept], False
        ids: list[list[str]] = []
        scores: list[NDArray[np.float32]] = []
        step = max(1, SCORES_AT_ONCE // max(1, len(keys)))
        for start in range(0, len(queries), step):
            block = queries[start : start + step].astype(np.float32, copy=False) @ keys.T
            for row in block[:, kept] if chosen else block:
                best = _best(row, limit)
                ids.append(self.ids_of(kept[best]))
                scores.append(row[best])
        return Hits(ids, scores)


def _best(scores: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """Positions of the `limit` best of one row of scores; equal scores in order of position."""
    if limit < len(scores):
        worst = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        candidates = np.flatnonzero(scores >= worst)
    else:
        candidates = np.arange(len(scores))
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order][:limit]


class RowsReader(Closes, ABC):
    """The reading half of an atlas whose collections are `Rows`.

    Neighbours come in order of falling score, equal scores in order of rising id.
    """

    location: str

    @abstractmethod
    def _held(self, collection: str) -> tuple[CollectionSpec, Rows]:
        """Return what a collection was made with, and its points as they stand."""

    @abstractmethod
    def close(self) -> None:
        """Close for further use. Closing twice is fine."""

    def _place(self, collection: str) -> str:
        return f"{self.location}/{collection}"

    def _asked(self, collection: str, where: Where | None) -> tuple[CollectionSpec, Rows, str]:
        """Return the collection, once it is sure that it can be filtered so."""
        spec, rows = self._held(collection)
        place = self._place(collection)
        checks.check_where(spec, where, where=place)
        return spec, rows, place

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
        spec, rows, place = self._asked(collection, where)
        checks.check_queries(spec, queries, using, limit, where=place)
        return rows.neighbours(queries, using, limit, where)

    def retrieve(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> list[Record]:
        """Points by id, in the order asked; an id that is not there raises AtlasCorruptError."""
        _, rows, place = self._asked(collection, None)
        checks.check_ids(ids, where=place)
        found = rows.find(ids)
        if (found < 0).any():
            missing = list(dict.fromkeys(ids[int(i)] for i in np.flatnonzero(found < 0)))
            raise checks.missing_points(missing, len(ids), where=place)
        return rows.records(found, fields, with_vectors=with_vectors, place=place)

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
        _, rows, place = self._asked(collection, where)
        kept = np.flatnonzero(rows.mask(where))
        return (
            rows.records(kept[at : at + batch], fields, with_vectors=with_vectors, place=place)
            for at in range(0, len(kept), batch)
        )

    def count(self, collection: str, where: Where | None = None) -> int:
        """Exact number of points that match."""
        _, rows, _ = self._asked(collection, where)
        return int(rows.mask(where).sum())

    def facet(self, collection: str, name: str, where: Where | None = None) -> dict[str, int]:
        """Exact number of points a value of an indexed keyword field."""
        spec, rows, place = self._asked(collection, where)
        checks.check_field(spec, name, where=place)
        codes, column = rows.column(name)
        numbers = np.bincount(column[rows.mask(where)], minlength=len(codes) + 1)
        return {text: int(numbers[codes[text]]) for text in sorted(codes) if numbers[codes[text]]}
