"""What every atlas can do: the one small protocol behind `exact`, `embedded` and `server`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest


@dataclass(frozen=True)
class Where:
    """A filter: every `must` field has one of its values, no `must_not` field has.

    An empty list under `must` matches nothing. A point without the field fails `must` and passes
    `must_not`. Only fields with an index (`CollectionSpec.keyword_fields`) can be named: another
    is refused, since a misspelt one under `must_not` would exclude nothing without a word.
    """

    must: Mapping[str, Sequence[str]] = field(default_factory=dict)
    must_not: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def also(
        self,
        must: Mapping[str, Sequence[str]] | None = None,
        must_not: Mapping[str, Sequence[str]] | None = None,
    ) -> Where:
        """Return this filter with further conditions; values under `must` intersect."""
        wanted = {k: list(v) for k, v in self.must.items()}
        for key, values in (must or {}).items():
            wanted[key] = [v for v in wanted[key] if v in values] if key in wanted else list(values)
        unwanted = {k: list(v) for k, v in self.must_not.items()}
        for key, values in (must_not or {}).items():
            unwanted[key] = [*unwanted.get(key, []), *values]
        return Where(wanted, unwanted)


@dataclass(frozen=True)
class CollectionSpec:
    """What a collection is made with.

    Parameters
    ----------
    name
        ``bleepdb_{tissue}_{space8}``.
    alias
        ``bleepdb_{tissue}``.
    vectors
        Vector name -> dimension. Unit length, float32, Dot.
    keyword_fields
        Fields that get an index, so that filters cost nothing.
    """

    name: str
    alias: str
    vectors: Mapping[str, int]
    keyword_fields: tuple[str, ...]


@dataclass(frozen=True)
class Points:
    """Points to write, in columns.

    Parameters
    ----------
    ids
        (n,) UUID strings in canonical form.
    vectors
        Vector name -> (n, dimension) float32, unit length.
    payloads
        n payload objects (schemas/point.schema.json).
    """

    ids: Sequence[str]
    vectors: Mapping[str, NDArray[np.float32]]
    payloads: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Record:
    """One point as read back; `payload` holds the fields that were asked for."""

    id: str
    payload: Mapping[str, Any]
    vectors: Mapping[str, NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class Hits:
    """Neighbours of a batch of queries, best first.

    Attributes
    ----------
    ids
        One list of point ids a query; shorter than the limit where fewer points match.
    scores
        Dot products in the same shape, float32.
    """

    ids: list[list[str]]
    scores: list[NDArray[np.float32]]


class Closes:
    """Closes at the end of a `with` block."""

    def close(self) -> None:
        """Release what is held. Closing twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@runtime_checkable
class Atlas(Protocol):
    """All collections at one place. Every method names a collection by its full name.

    Errors are `bleepdb.errors.AtlasError` or one of its children, never the engine's own.
    """

    @property
    def location(self) -> str:
        """The location as given, secrets left out."""
        ...

    @property
    def kind(self) -> str:
        """``"exact"``, ``"embedded"``, ``"server"`` or ``"snapshot"`` (read-only)."""
        ...

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        ...

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        ...

    def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection, in one step."""
        ...

    def ensure(self, spec: CollectionSpec) -> None:
        """Create a collection and its indexes, or check that the existing one has these vectors."""
        ...

    def drop(self, collection: str) -> None:
        """Remove a collection with all that belongs to it; nothing happens where it is not."""
        ...

    def upsert(self, collection: str, points: Points) -> None:
        """Write points; every row is validated first: where one fails, none is written."""
        ...

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

        In order of falling score, equal scores in order of rising id. With `exact` false a search
        index is used where there is one.
        """
        ...

    def retrieve(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> list[Record]:
        """Points by id, in the order asked; an id that is not there raises AtlasCorruptError."""
        ...

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
        ...

    def delete(self, collection: str, where: Where) -> None:
        """Delete the points that match. An empty filter is refused."""
        ...

    def count(self, collection: str, where: Where | None = None) -> int:
        """Exact number of points that match."""
        ...

    def facet(self, collection: str, name: str, where: Where | None = None) -> dict[str, int]:
        """Exact number of points a value of an indexed keyword field."""
        ...

    def read_manifest(self, collection: str) -> Manifest:
        """Return the manifest as it stands."""
        ...

    def swap_manifest(self, collection: str, expected_generation: int, new: Manifest) -> bool:
        """Replace the manifest if its generation is still the expected one; tell whether it was.

        With `expected_generation` -1 the manifest must not be there yet.
        """
        ...

    def put_blob(self, collection: str, name: str, data: bytes) -> None:
        """Store a small named document beside the manifest (model card, heads, panels)."""
        ...

    def get_blob(self, collection: str, name: str) -> bytes | None:
        """Read such a document; None where it is not."""
        ...

    def drop_blob(self, collection: str, name: str) -> None:
        """Remove such a document; nothing happens where it is not."""
        ...

    def list_blobs(self, collection: str) -> list[str]:
        """Names of all such documents, sorted."""
        ...

    def flush(self, collection: str) -> None:
        """Return when all acknowledged writes are on disk."""
        ...

    def optimize(self, collection: str) -> None:
        """Build or finish the search index; may block."""
        ...

    def close(self) -> None:
        """Release locks and files. Closing twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
