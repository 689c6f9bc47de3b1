"""What every atlas checks before it works: rows to write, filters, queries, ids, names.

The engines accept part of a failing batch, vectors of NaN and points without vectors, so that
rows are judged here, all of them, before the first is written. The rules of a payload stand in
schemas/point.schema.json alone; they are compiled into a check that is fast enough for each row.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.atlas.protocol import Points
from bleepdb.contracts import schema
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, SpaceMismatchError
from bleepdb.names import LIBRARY_TOTAL, TOTAL, VCRC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import CollectionSpec, Record, Where

NORM_TOLERANCE = 1e-3
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,126}", re.ASCII)
BLOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}(/[A-Za-z0-9][A-Za-z0-9._-]{0,126})?", re.ASCII)


def vector_crc(vectors: Mapping[str, NDArray[np.float32]]) -> int:
    """Return the CRC-32 of one point's vectors: little-endian float32 bytes, in order of names.

    Parameters
    ----------
    vectors
        Vector name -> (dimension,) values.
    """
    crc = 0
    for name in sorted(vectors):
        crc = zlib.crc32(np.ascontiguousarray(vectors[name], dtype="<f4").tobytes(), crc)
    return crc


def _compiled(rule: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Turn the schema of one flat property into a function that tells whether a value holds."""
    if rule["type"] == "string":
        least, most = rule.get("minLength", 0), rule.get("maxLength", 2**31)
        pattern = re.compile(rule.get("pattern", ""))
        allowed = frozenset(rule["enum"]) if "enum" in rule else None
        return lambda v: (
            isinstance(v, str)
            and least <= len(v) <= most
            and pattern.search(v) is not None
            and (allowed is None or v in allowed)
        )
    low, high = rule["minimum"], rule["maximum"]
    kinds: tuple[type, ...] = (int,) if rule["type"] == "integer" else (int, float)
    return lambda v: isinstance(v, kinds) and not isinstance(v, bool) and low <= v <= high


@cache
def _rules() -> tuple[
    dict[str, Callable[[Any], bool]], Callable[[Any], bool], Callable[[Any], bool]
]:
    """Rules of the named properties, of any further property, and of its name."""
    document = schema("point")
    named = {key: _compiled(rule) for key, rule in document["properties"].items()}
    further = _compiled(document["additionalProperties"])
    name = _compiled({"type": "string", **document["propertyNames"]})
    return named, further, name


def payload_fault(payload: Mapping[str, Any]) -> str | None:
    """Say what a payload object breaks of the point schema; None if it holds."""
    named, further, name_holds = _rules()
    for key, holds in named.items():
        if key not in payload:
            return f"the payload lacks {key!r}"
        if not holds(payload[key]):
            return f"the payload's {key!r} breaks the point schema"
    if len(payload) > len(named):
        if len(payload) > schema("point")["maxProperties"]:
            return f"the payload has {len(payload)} fields"
        for key, value in payload.items():
            if key not in named and not (name_holds(key) and further(value)):
                return f"the payload's further field {key!r} is no short text"
    if payload[TOTAL] > payload[LIBRARY_TOTAL]:
        return "the payload's 'total' is above its 'library_total'"
    return None


def check_points(spec: CollectionSpec, points: Points, *, where: str) -> None:
    """Refuse points of which one row cannot be written.

    Raises
    ------
    AtlasError
        It names the first row at fault. A wrong dimension is a SpaceMismatchError.
    """
    rows = len(points)
    if len(points.payloads) != rows:
        raise AtlasError(f"{len(points.payloads)} payloads for {rows} ids", where=where)
    check_ids(points.ids, where=where)
    if len(set(points.ids)) != rows:
        raise AtlasError("an id stands twice in one batch", where=where)
    if set(points.vectors) != set(spec.vectors):
        raise SpaceMismatchError(
            f"points with vectors {sorted(points.vectors)} for {sorted(spec.vectors)}", where=where
        )
    for name, size in spec.vectors.items():
        array = points.vectors[name]
        if array.dtype != np.float32 or array.shape != (rows, size):
            raise SpaceMismatchError(
                f"{name} vectors are {array.dtype} {array.shape}, not float32 {(rows, size)}",
                where=where,
            )
        # The norm of a row with NaN or infinity is not finite, so it fails here as well.
        norms = np.linalg.norm(array.astype(np.float64), axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= NORM_TOLERANCE))
        if len(wrong):
            raise AtlasError(
                f"row {wrong[0]}: its {name} vector has norm {norms[wrong[0]]:.4g}, not 1",
                where=where,
                hint="embeddings must be finite and of unit length",
            )
    for row, payload in enumerate(points.payloads):
        fault = payload_fault(payload)
        if fault is None and payload[VCRC] != vector_crc(
            {name: points.vectors[name][row] for name in spec.vectors}
        ):
            fault = "its 'vcrc' is not the checksum of its vectors"
        if fault is not None:
            raise AtlasError(f"row {row}: {fault}", where=where)


def points_of(records: Sequence[Record], spec: CollectionSpec) -> Points:
    """Return records that were read whole as points to write.

    Parameters
    ----------
    records
        With all fields and vectors.
    spec
        Of the collection that they came from.
    """
    vectors = {
        name: np.stack([np.asarray((r.vectors or {})[name], np.float32) for r in records])
        if records
        else np.empty((0, size), np.float32)
        for name, size in spec.vectors.items()
    }
    return Points([r.id for r in records], vectors, [r.payload for r in records])


def check_vectors_read(
    identity: str,
    payload: Mapping[str, Any],
    vectors: Mapping[str, NDArray[np.float32]],
    *,
    where: str,
) -> None:
    """Refuse vectors read back that are not those written.

    Raises
    ------
    AtlasCorruptError
        If the checksum beside them says so.
    """
    if payload.get(VCRC) != vector_crc(vectors):
        raise AtlasCorruptError(
            f"the vectors of point {identity} are not what was written",
            where=where,
            hint="restore the atlas from a copy, or index its sections again",
        )


def check_where(spec: CollectionSpec, condition: Where | None, *, where: str) -> None:
    """Refuse a filter on a field without index: a misspelt name must not pass as no filter.

    Raises
    ------
    AtlasError
        It lists the fields that can be filtered.
    """
    if condition is not None:
        for name in (*condition.must, *condition.must_not):
            check_field(spec, name, where=where)


def check_field(spec: CollectionSpec, name: str, *, where: str) -> None:
    """Refuse to count the values of a field without index.

    Raises
    ------
    AtlasError
        It lists the fields that have one.
    """
    if name not in spec.keyword_fields:
        raise AtlasError(
            f"no filterable field {name!r:.60}",
            where=where,
            hint=f"filterable here: {', '.join(sorted(spec.keyword_fields))}",
        )


def matches_nothing(condition: Where | None) -> bool:
    """Tell whether a filter has a `must` field without values."""
    return condition is not None and any(len(v) == 0 for v in condition.must.values())


def check_delete(condition: Where, *, where: str) -> None:
    """Refuse to delete by a filter that has no condition.

    Raises
    ------
    AtlasError
        If it would delete everything.
    """
    if not condition.must and not any(condition.must_not.values()):
        raise AtlasError("a delete without a condition would remove everything", where=where)


def check_queries(
    spec: CollectionSpec, queries: NDArray[np.float32], using: str, limit: int, *, where: str
) -> None:
    """Refuse queries that the collection cannot answer.

    Raises
    ------
    AtlasError
        Or SpaceMismatchError where vector name or dimension are not those of the collection.
    """
    size = spec.vectors.get(using)
    if size is None:
        raise SpaceMismatchError(f"no vector {using!r} in this collection", where=where)
    if queries.ndim != 2 or queries.shape[1] != size:
        raise SpaceMismatchError(
            f"queries of shape {queries.shape} for {using} vectors of dimension {size}",
            where=where,
            hint="query with the model that indexed the collection",
        )
    if not np.isfinite(queries).all():
        raise AtlasError("a query vector is not finite", where=where)
    if limit < 1:
        raise AtlasError(f"a limit of {limit} neighbours", where=where)


def check_ids(ids: Sequence[str], *, where: str) -> None:
    """Refuse ids that are no canonical UUID strings.

    Raises
    ------
    AtlasError
        It names the first.
    """
    for identity in ids:
        if not UUID.fullmatch(identity):
            raise AtlasError(f"{identity!r:.60} is no UUID in canonical form", where=where)


def check_spec(spec: CollectionSpec, *, where: str) -> None:
    """Refuse a collection whose name, vectors or fields cannot be kept.

    Raises
    ------
    AtlasError
        It names what is wrong.
    """
    check_collection_name(spec.name, where=where)
    check_collection_name(spec.alias, where=where)
    if not spec.vectors or any(not 1 <= d <= 65536 for d in spec.vectors.values()):
        raise AtlasError(f"vectors {dict(spec.vectors)} cannot be kept", where=where)
    _, _, name_holds = _rules()
    for name in spec.keyword_fields:
        if not name_holds(name):
            raise AtlasError(f"{name!r:.60} cannot be the name of a field", where=where)


def merged_spec(present: CollectionSpec, asked: CollectionSpec, *, where: str) -> CollectionSpec:
    """Return the present collection with the further fields that are asked for.

    Raises
    ------
    SpaceMismatchError
        If its vectors are others.
    """
    if dict(present.vectors) != dict(asked.vectors):
        raise SpaceMismatchError(
            f"the collection has vectors {dict(present.vectors)}, not {dict(asked.vectors)}",
            where=where,
            hint="index with the model that made it, or into another atlas",
        )
    fields = dict.fromkeys([*present.keyword_fields, *asked.keyword_fields])
    return replace(present, keyword_fields=tuple(fields))


def check_successor(collection: str, expected: int, new: Manifest, *, where: str) -> None:
    """Refuse a manifest that cannot follow the one of the expected generation.

    Raises
    ------
    AtlasError
        If it is of another collection, its generation is not the next one, or it breaks its
        schema.
    """
    new.to_json()
    if new.collection != collection or new.generation != expected + 1:
        raise AtlasError(
            f"a manifest of {new.collection!r}, generation {new.generation}, "
            f"cannot follow generation {expected}",
            where=where,
        )


def no_collection(collection: str, *, where: str) -> EmptyAtlasError:
    """Return the error for a collection that is not there."""
    return EmptyAtlasError(
        f"no collection {collection!r:.80}", where=where, hint="run `bleepdb index`"
    )


def missing_points(missing: Sequence[str], asked: int, *, where: str) -> AtlasCorruptError:
    """Return the error for points that are not there."""
    return AtlasCorruptError(
        f"{len(missing)} of {asked} points are not there, the first {missing[0]}",
        where=where,
        hint="they were replaced or retracted since they were found; ask again",
    )


def no_manifest(*, where: str) -> EmptyAtlasError:
    """Return the error for a collection into which nothing was ever indexed."""
    return EmptyAtlasError("nothing was indexed here yet", where=where, hint="run `bleepdb index`")


def check_collection_name(name: str, *, where: str) -> None:
    """Refuse names that could be mistaken for a path.

    Raises
    ------
    AtlasError
        If letters, digits, ``-`` and ``_`` do not suffice.
    """
    if not COLLECTION.fullmatch(name):
        raise AtlasError(f"{name!r:.60} cannot be the name of a collection", where=where)


def check_blob_name(name: str, *, where: str) -> None:
    """Refuse names that could leave their folder.

    Raises
    ------
    AtlasError
        If it is not one or two plain parts such as ``panels/0a1b.json``.
    """
    if not BLOB.fullmatch(name):
        raise AtlasError(f"{name!r:.60} cannot be the name of a document", where=where)
