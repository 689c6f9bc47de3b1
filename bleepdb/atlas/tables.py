"""Points as Arrow tables: packed as they are stored (snapshot), or decoded (export).

Names of columns that are no payload fields cannot be those of payload fields: a vector is
``vector.NAME``, a further field ``field.NAME``. The rules stand in schemas/export.md and
schemas/snapshot.md.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bleepdb.atlas import checks
from bleepdb.atlas.payload import encode
from bleepdb.atlas.protocol import Points
from bleepdb.errors import AtlasCorruptError, PayloadError
from bleepdb.names import (
    ASSAY,
    BARCODE,
    CODEC,
    DONOR,
    EXPR,
    LIBRARY_TOTAL,
    NNZ,
    PANEL,
    RESERVED_FIELDS,
    REV,
    SECTION,
    SPECIES,
    TISSUE,
    TOTAL,
    VCRC,
    X_PX,
    Y_PX,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.protocol import Record

ID = "id"
GENES = "genes"
COUNTS = "counts"
FURTHER = "further"  # fields of single points that no index names
TEXTS = (REV, SECTION, DONOR, SPECIES, TISSUE, ASSAY, PANEL, CODEC)  # few values, many rows
NUMBERS = {
    X_PX: pa.float64(),
    Y_PX: pa.float64(),
    NNZ: pa.int64(),
    TOTAL: pa.int64(),
    LIBRARY_TOTAL: pa.int64(),
    VCRC: pa.uint32(),
}
CODED = pa.dictionary(pa.int32(), pa.string())


def vector_column(name: str) -> str:
    """Name of the column of a vector."""
    return f"vector.{name}"


def field_column(name: str) -> str:
    """Name of the column of a payload field."""
    return name if name in RESERVED_FIELDS else f"field.{name}"


def _vectors(vectors: Mapping[str, int]) -> list[pa.Field]:
    return [
        _full(vector_column(name), pa.list_(_full("item", pa.float32()), size))
        for name, size in sorted(vectors.items())
    ]


def _full(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def stored_schema(vectors: Mapping[str, int], keyword_fields: Sequence[str]) -> pa.Schema:
    """Return the schema of points with their counts as stored.

    Parameters
    ----------
    vectors
        Vector name -> dimension.
    keyword_fields
        Fields that can be filtered; those of the sample sheet get columns of their own.
    """
    return pa.schema(
        [
            _full(ID, pa.string()),
            *(_full(name, CODED) for name in TEXTS),
            *(pa.field(field_column(name), CODED) for name in listed(keyword_fields)),
            _full(BARCODE, pa.string()),
            *(_full(name, kind) for name, kind in NUMBERS.items()),
            pa.field(FURTHER, pa.map_(pa.string(), pa.string())),
            *_vectors(vectors),
            _full(EXPR, pa.large_string()),
        ]
    )


def decoded_schema(vectors: Mapping[str, int], keyword_fields: Sequence[str]) -> pa.Schema:
    """Return the schema of points with decoded counts; parameters as `stored_schema`."""
    return pa.schema(
        [
            _full(ID, pa.string()),
            *(_full(name, pa.string()) for name in (*TEXTS, BARCODE)),
            *(pa.field(field_column(name), pa.string()) for name in listed(keyword_fields)),
            *(_full(name, kind) for name, kind in NUMBERS.items()),
            pa.field(FURTHER, pa.map_(pa.string(), pa.string())),
            *_vectors(vectors),
            _full(GENES, pa.list_(_full("item", pa.uint32()))),
            _full(COUNTS, pa.list_(_full("item", pa.uint32()))),
        ]
    )


def listed(keyword_fields: Iterable[str]) -> list[str]:
    """Return those of the filterable fields that are columns of the sample sheet, sorted."""
    return sorted(set(keyword_fields) - RESERVED_FIELDS)


def further_pairs(payload: Mapping[str, Any], schema: pa.Schema) -> list[tuple[str, str]] | None:
    """Return the fields of a payload that have no column of their own; None where there is none."""
    own = set(schema.names)
    return [(k, v) for k, v in payload.items() if field_column(k) not in own and k != EXPR] or None


def check_record(record: Record, vectors: Mapping[str, int], *, where: str) -> None:
    """Refuse a point read from an atlas that breaks the point schema.

    Raises
    ------
    AtlasCorruptError
        It names the point.
    """
    fault = checks.payload_fault(record.payload)
    sizes = {name: len(v) for name, v in (record.vectors or {}).items()}
    if fault is None and sizes != dict(vectors):
        fault = f"its vectors are {sizes}, not {dict(vectors)}"
    if fault is not None:
        raise AtlasCorruptError(
            f"point {record.id}: {fault}", where=where, hint="see `bleepdb atlas verify`"
        )


def decoded_batch(
    records: Sequence[Record],
    expression: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Put points into one record batch.

    Parameters
    ----------
    records
        Points with all fields and vectors, which `check_record` has seen.
    expression
        Their genes and counts, as `bleepdb.atlas.decode` gives them.
    schema
        As `decoded_schema` made it.
    """
    made: dict[str, pa.Array] = {ID: pa.array([r.id for r in records], pa.string())}
    for field in schema:
        if field.name.startswith("vector."):
            name = field.name.removeprefix("vector.")
            rows = np.stack([r.vectors[name] for r in records if r.vectors is not None])
            flat = pa.array(np.ascontiguousarray(rows, dtype=np.float32).ravel())
            made[field.name] = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        elif field.name in (GENES, COUNTS):
            parts = [e[field.name == COUNTS].astype(np.uint32) for e in expression]
            ends = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int32)
            made[field.name] = pa.ListArray.from_arrays(
                pa.array(ends), pa.array(np.concatenate(parts)), type=field.type
            )
        elif field.name == FURTHER:
            pairs = [further_pairs(r.payload, schema) for r in records]
            made[FURTHER] = pa.array(pairs, field.type)
        elif field.name != ID:
            name = field.name.removeprefix("field.")
            made[field.name] = pa.array([r.payload.get(name) for r in records], field.type)
    return pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)


def matrix(column: pa.Array, size: int) -> NDArray[np.float32]:
    """Return a column of vectors as an (n, size) float32 array, without a copy."""
    flat = column.values.slice(column.offset * size, len(column) * size)
    made: NDArray[np.float32] = flat.to_numpy(zero_copy_only=True).reshape(len(column), size)
    return made


def decoded_points(batch: pa.RecordBatch, *, where: str) -> Points:
    """Read what `decoded_batch` made: points to write.

    Raises
    ------
    AtlasCorruptError
        If counts cannot be packed as the row says, or do not add up to it.
    """
    vectors = {
        field.name.removeprefix("vector."): matrix(batch.column(field.name), field.type.list_size)
        for field in batch.schema
        if field.name.startswith("vector.")
    }
    names = [n for n in batch.schema.names if n in RESERVED_FIELDS or n.startswith("field.")]
    columns = [batch.column(name).to_pylist() for name in names]
    keys = [name.removeprefix("field.") for name in names]
    ids: list[str] = batch.column(ID).to_pylist()
    genes, counts = _lists(batch.column(GENES)), _lists(batch.column(COUNTS))
    payloads = []
    further = batch.column(FURTHER).to_pylist()
    for identity, places, values, more, *row in zip(
        ids, genes, counts, further, *columns, strict=True
    ):
        payload = {k: v for k, v in zip(keys, row, strict=True) if v is not None}
        payload |= dict(more or ())
        try:
            payload[EXPR] = encode(places, values, codec=payload[CODEC])
        except PayloadError as error:
            raise AtlasCorruptError(f"point {identity}: {error.what}", where=where) from error
        if payload[NNZ] != len(places) or payload[TOTAL] != int(values.sum(dtype=np.int64)):
            raise AtlasCorruptError(
                f"point {identity}: its counts do not add up to its 'nnz' and 'total'", where=where
            )
        payloads.append(payload)
    return Points(ids, vectors, payloads)


def _lists(column: pa.ListArray) -> list[NDArray[np.uint32]]:
    """Return a column of lists as arrays, without copies."""
    ends = column.offsets.to_numpy()
    flat = column.values.to_numpy(zero_copy_only=True)
    return [flat[a:b] for a, b in pairwise(ends)]
