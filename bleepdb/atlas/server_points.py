"""Points between our columns and the models of qdrant-client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from qdrant_client import models

from bleepdb.atlas import checks
from bleepdb.atlas.protocol import Record
from bleepdb.atlas.server_documents import not_documents
from bleepdb.names import EXPR, VCRC

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.protocol import Points, Where

POINTS_AT_ONCE = 256
BYTES_AT_ONCE = 4 * 2**20
TEXT_A_NUMBER = 13  # characters of a float32 with its comma
TEXT_A_POINT = 1024  # characters of a payload without its profile


def short_floats(array: NDArray[np.float32]) -> list[Any]:
    """Return the numbers as Python floats whose text is the shortest that names the float32.

    ``0.1`` instead of ``0.10000000149011612``: half of the bytes on the wire. A server reads the
    text as a float64 and rounds it; where that, or a reader that errs in the last bit of the
    float64, would give another float32, the number is left in full.

    Parameters
    ----------
    array
        Any shape, finite.

    Returns
    -------
    list
        Nested as the array.
    """
    flat = np.ascontiguousarray(array, dtype=np.float32).ravel()
    short = pa.array(flat).cast(pa.string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    same = np.ones(len(flat), dtype=np.bool_)
    for near in (short, np.nextafter(short, np.inf), np.nextafter(short, -np.inf)):
        same &= near.astype(np.float32) == flat
    exact = np.where(same, short, flat.astype(np.float64))
    nested: list[Any] = exact.reshape(array.shape).tolist()
    return nested


def filter_of(where: Where | None) -> models.Filter:
    """Return the filter as the server takes it; it never matches the documents."""
    must: list[Any] = []
    must_not: list[Any] = []
    if where is not None:
        must = [_any(name, values) for name, values in where.must.items()]
        must_not = [_any(name, values) for name, values in where.must_not.items() if values]
    return models.Filter(must=must or None, must_not=[*must_not, not_documents()])


def _any(name: str, values: Sequence[str]) -> models.FieldCondition:
    return models.FieldCondition(key=name, match=models.MatchAny(any=list(values)))


def rows_at_once(points: Points) -> Iterator[slice]:
    """Cut a batch so that each request stays within 256 points and about 4 MB."""
    numbers = sum(array.shape[1] for array in points.vectors.values())
    start, size = 0, 0
    for row, payload in enumerate(points.payloads):
        bytes_here = len(payload[EXPR]) + TEXT_A_NUMBER * numbers + TEXT_A_POINT
        full = row - start == POINTS_AT_ONCE or size + bytes_here > BYTES_AT_ONCE
        if row > start and full:
            yield slice(start, row)
            start, size = row, 0
        size += bytes_here
    if start < len(points):
        yield slice(start, len(points))


def structs(points: Points, rows: slice) -> list[models.PointStruct]:
    """Return some points as the server takes them; `checks` has seen them."""
    vectors = {name: short_floats(array[rows]) for name, array in points.vectors.items()}
    given = zip(points.ids[rows], points.payloads[rows], strict=True)
    return [
        models.PointStruct.model_construct(
            id=identity, vector={n: v[i] for n, v in vectors.items()}, payload=dict(payload)
        )
        for i, (identity, payload) in enumerate(given)
    ]


def wanted(fields: Sequence[str] | None, *, with_vectors: bool) -> bool | list[str]:
    """Return which payload fields to ask for: vectors need their checksum beside them."""
    if fields is None:
        return True
    names = [*fields, VCRC] if with_vectors else list(fields)
    return names or False


def record_of(
    found: Any,  # noqa: ANN401 - a models.Record, of either protocol
    fields: Sequence[str] | None,
    *,
    with_vectors: bool,
    where: str,
) -> Record:
    """Return a point as read; its vectors are compared with their checksum."""
    identity, payload = str(found.id), found.payload or {}
    if not with_vectors:
        return Record(identity, payload)
    vectors = {n: np.array(v, dtype=np.float32) for n, v in (found.vector or {}).items()}
    checks.check_vectors_read(identity, payload, vectors, where=where)
    if fields is not None and VCRC not in fields:
        payload = {k: v for k, v in payload.items() if k != VCRC}
    return Record(identity, payload, vectors)
