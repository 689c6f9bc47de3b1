"""One Arrow file of points, mapped into memory: nothing of it is copied before it is asked for."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bleepdb.atlas.arrow_message import is_compressed
from bleepdb.atlas.rows import Rows
from bleepdb.atlas.tables import FURTHER, ID, field_column, matrix, stored_schema, vector_column
from bleepdb.errors import AtlasCorruptError, PayloadError
from bleepdb.names import EXPR

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.atlas.protocol import CollectionSpec
    from bleepdb.atlas.rows import Codes

_MEND = "write the snapshot again"
UUID_LENGTH = 36
MAGIC = b"ARROW1\0\0"


class MappedRows(Rows):
    """The points of a collection in a file (schemas/snapshot.md), in order of their ids.

    The file is checked as far as that needs none of its vectors and counts: schema, rows, ids in
    order, no missing values, texts that are text, and nothing compressed, which would be unpacked
    into memory, however much it is.

    Parameters
    ----------
    path
        The file.
    spec
        What the collection is made with: vectors and filterable fields.
    rows
        How many points there must be.

    Raises
    ------
    AtlasCorruptError
        If it is not such a file.
    """

    def __init__(self, path: Path, spec: CollectionSpec, *, rows: int) -> None:
        self._path = path
        self._columns: dict[str, Codes] = {}
        try:
            self._map = pa.memory_map(str(path))
            reader = self._stream()
            if not reader.schema.equals(stored_schema(spec.vectors, spec.keyword_fields)):
                raise self._damaged("its columns are not those of the collection")
            self._batch = reader.read_next_batch()
            if next(reader, None) is not None:
                raise self._damaged("it holds more than one batch")
            if self._batch.num_rows != rows:
                raise self._damaged(f"it holds {self._batch.num_rows} points, not {rows}")
            self._check_columns()
            self.vectors = {
                name: matrix(self._batch.column(vector_column(name)), size)
                for name, size in spec.vectors.items()
            }
        except StopIteration as error:
            raise self._damaged("it holds no batch") from error
        except PayloadError as error:
            raise self._damaged(error.what) from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(" ".join(str(error).split())[:200]) from error

    def _stream(self) -> pa.RecordBatchStreamReader:
        """Read the file as the stream that stands in it, once no message of it is compressed.

        Its footer could name other places, and is not asked.
        """
        if self._map.read(len(MAGIC)) != MAGIC:
            raise self._damaged("it is no Arrow file")
        with suppress(EOFError):
            while True:
                if is_compressed(pa.ipc.read_message(self._map).metadata.to_pybytes()):
                    raise self._damaged("it is compressed")
        self._map.seek(len(MAGIC))
        return pa.ipc.open_stream(self._map)

    def _damaged(self, why: str) -> AtlasCorruptError:
        return AtlasCorruptError(f"is damaged: {why}", where=self._path, hint=_MEND)

    def _check_columns(self) -> None:
        batch = self._batch
        for field in batch.schema:
            column = batch.column(field.name)
            if not field.nullable and column.null_count:
                raise self._damaged(f"values of {field.name} are missing")
            if field.name == EXPR:
                # As bytes: whether all of it is text is seen when it is decoded.
                column = pa.Array.from_buffers(pa.large_binary(), len(column), column.buffers())
            column.validate(full=True)
            if pa.types.is_dictionary(column.type):
                texts = column.dictionary.to_pylist()
                if None in texts or len(set(texts)) < len(texts):
                    raise self._damaged(f"the texts of {field.name} are not distinct")
        text = batch.column(ID)
        ends = np.frombuffer(text.buffers()[1], np.int32, len(text) + 1)
        if len(text) and (ends[0] != 0 or (np.diff(ends) != UUID_LENGTH).any()):
            raise self._damaged("an id is no UUID")
        self._ids = np.frombuffer(text.buffers()[2], f"S{UUID_LENGTH}", len(text))
        if (self._ids[1:] <= self._ids[:-1]).any():
            raise self._damaged("its ids do not rise")

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def ids_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of some rows."""
        return [str(i, "ascii") for i in self._ids[rows].tolist()]

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each id, -1 where there is none."""
        asked = np.array(list(ids), dtype=f"S{UUID_LENGTH}")
        if not len(self._ids):
            return np.full(len(asked), -1, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self._ids, asked), len(self._ids) - 1)
        return np.where(self._ids[rows] == asked, rows, -1).astype(np.int64)

    def payloads(
        self, rows: NDArray[np.int64], fields: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return the payloads of some rows: the fields asked for, or all."""
        made: list[dict[str, Any]] = [{} for _ in rows]
        taken = pa.array(rows, pa.int64())
        for field in self._batch.schema:
            name = field.name.removeprefix("field.")
            skipped = fields is not None and name not in fields
            if field.name == ID or field.name.startswith("vector."):
                continue
            if field.name == FURTHER:
                self._add_further(made, taken, fields)
            elif not skipped:
                try:
                    values = self._batch.column(field.name).take(taken).to_pylist()
                except UnicodeDecodeError as error:
                    raise self._damaged(f"{name} is no text") from error
                for payload, value in zip(made, values, strict=True):
                    if value is not None:
                        payload[name] = value
        return made

    def _add_further(
        self, made: list[dict[str, Any]], taken: pa.Array, fields: Sequence[str] | None
    ) -> None:
        column = self._batch.column(FURTHER)
        if column.null_count == len(column):
            return
        for payload, pairs in zip(made, column.take(taken).to_pylist(), strict=True):
            payload.update((k, v) for k, v in pairs or () if fields is None or k in fields)

    def column(self, name: str) -> Codes:
        """Code of each text in a field, and (n,) codes of the rows; 0 where a row has no text."""
        if name not in self._columns:
            column = self._batch.column(field_column(name))
            if pa.types.is_dictionary(column.type):
                coded = column
            elif pa.types.is_string(column.type):
                coded = column.dictionary_encode()
            else:  # a number is no text
                coded = pa.nulls(len(column), pa.string()).dictionary_encode()
            codes = {text: i + 1 for i, text in enumerate(coded.dictionary.to_pylist())}
            rows = coded.indices.fill_null(-1).to_numpy() + 1
            self._columns[name] = codes, rows
        return self._columns[name]

    def close(self) -> None:
        """Let go of the file, once nobody uses its arrays any more."""
        del self._batch, self._ids
        self.vectors = {}
        self._map.close()
