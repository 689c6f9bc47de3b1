"""Where the columns of one Arrow record-batch message lie, found without trusting it.

An Arrow library that is handed a message follows what the message says: a few kilobytes with
compressed buffers become gigabytes. So the two dozen numbers of the message's flatbuffer that
matter are read here, each within bounds, and nothing is allocated. The layout read is that of
``Message.fbs`` (Apache Arrow columnar format, "Encapsulated message format").
"""

from __future__ import annotations

import struct
from functools import lru_cache

from bleepdb.errors import PayloadError

CONTINUATION = 0xFFFFFFFF
DICTIONARY_BATCH, RECORD_BATCH = 2, 3  # of MessageHeader
REMEMBERED = 2048  # bytes of metadata; ours takes a quarter of it
VERSIONS = (3, 4)  # MetadataVersion.V4 and V5, which lay such a batch out alike

_PREFIX = struct.Struct("<II")
_U8 = struct.Struct("<B")
_U16 = struct.Struct("<H")
_I16 = struct.Struct("<h")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_PAIR = struct.Struct("<qq")  # FieldNode (length, null_count) and Buffer (offset, length)


def _table(data: bytes, at: int) -> tuple[int, ...]:
    """Positions of the fields of the flatbuffer table at `at`; 0 for a field that is absent."""
    vtable = at - _I32.unpack_from(data, at)[0]
    if vtable < 0:
        raise PayloadError("the Arrow message points outside itself")
    size = _U16.unpack_from(data, vtable)[0]
    offsets = struct.unpack_from(f"<{max(size - 4, 0) // 2}H", data, vtable + 4)
    return tuple(at + offset if offset else 0 for offset in offsets)


def _follow(data: bytes, at: int) -> int:
    """Follow the unsigned offset stored at `at`."""
    return at + int(_U32.unpack_from(data, at)[0])


def _pairs(data: bytes, at: int, expected: int) -> list[tuple[int, int]]:
    """Read a vector of `expected` pairs of 64-bit integers; another length is refused first."""
    start = _follow(data, at)
    found = _U32.unpack_from(data, start)[0]
    if found != expected:
        raise PayloadError(f"the Arrow message lists {found} parts where {expected} belong")
    return [_PAIR.unpack_from(data, start + 4 + 16 * i) for i in range(expected)]


def _metadata(message: bytes) -> bytes:
    """Return what stands before the body of a message, its prefix left out."""
    continuation, size = _PREFIX.unpack_from(message, 0)
    if continuation != CONTINUATION:
        raise PayloadError("the payload is no Arrow message")
    if _PREFIX.size + size > len(message):
        raise PayloadError("the Arrow message is cut off")
    return message[_PREFIX.size : _PREFIX.size + size]


def _record_batch(data: bytes, size: int) -> tuple[tuple[int, ...], int]:
    """Return the fields of the table of exactly one record batch, and where its body begins."""
    body = _PREFIX.size + len(data)
    fields = (*_table(data, _follow(data, 0)), 0, 0, 0, 0)
    version, kind, header, body_length = fields[:4]
    if not (version and kind and header):
        raise PayloadError("the Arrow message lacks a required part")
    if _I16.unpack_from(data, version)[0] not in VERSIONS:
        raise PayloadError("the Arrow message is of an unknown version")
    if _U8.unpack_from(data, kind)[0] != RECORD_BATCH:
        raise PayloadError("the Arrow message is no record batch")
    room = _I64.unpack_from(data, body_length)[0] if body_length else 0
    if body + room != size:
        raise PayloadError("the payload is not exactly one Arrow message")
    return (*_table(data, _follow(data, header)), 0, 0, 0, 0), body


@lru_cache(maxsize=4096)
def _columns(data: bytes, size: int, rows: int, columns: int) -> tuple[int, ...]:
    """Find the columns in a message of `size` bytes from its metadata.

    Messages of as many rows have the same metadata where one program wrote them, and there are
    fewer numbers of rows than spots: what was judged once is remembered.
    """
    fields, body = _record_batch(data, size)
    length, nodes, buffers, compression = fields[:4]
    found = _I64.unpack_from(data, length)[0] if length else 0
    if found != rows:
        raise PayloadError(f"the Arrow message holds {found} rows where nnz says {rows}")
    if compression:
        raise PayloadError("the Arrow message is compressed inside")
    if not (nodes and buffers):
        raise PayloadError("the Arrow message lacks a required part")
    for node in _pairs(data, nodes, columns):
        if node != (rows, 0):
            raise PayloadError("a column of the Arrow message has other rows or missing values")
    starts = []
    places = _pairs(data, buffers, 2 * columns)
    for (_, validity), (offset, stored) in zip(places[::2], places[1::2], strict=True):
        if validity != 0:
            raise PayloadError("a column of the Arrow message has a validity bitmap")
        if offset < 0 or stored < rows or body + offset + stored > size:
            raise PayloadError("a column of the Arrow message does not fit its body")
        starts.append(body + offset)
    return tuple(starts)


def uint8_columns(message: bytes, *, rows: int, columns: int) -> tuple[int, ...]:
    """Find the uint8 columns of exactly one record-batch message.

    Parameters
    ----------
    message
        The whole encapsulated message: continuation, metadata, body; nothing after it.
    rows, columns
        What the batch must hold. No column may have missing values or a validity bitmap.

    Returns
    -------
    tuple of int
        Where in `message` the `rows` bytes of each column begin.

    Raises
    ------
    PayloadError
        If the message is cut off, longer than it says, compressed inside, or another kind.
    """
    try:
        data = _metadata(message)
        find = _columns if len(data) <= REMEMBERED else _columns.__wrapped__
        return find(data, len(message), rows, columns)
    except struct.error as error:
        raise PayloadError("the Arrow message points outside itself") from error


def is_compressed(metadata: bytes) -> bool:
    """Tell whether the buffers of a message are compressed, from its metadata alone.

    Parameters
    ----------
    metadata
        The flatbuffer, without its prefix and padding; of any kind of message.

    Raises
    ------
    PayloadError
        If it points outside itself or lacks a required part.
    """
    try:
        fields = (*_table(metadata, _follow(metadata, 0)), 0, 0, 0)
        kind, header = fields[1], fields[2]
        if not (kind and header):
            raise PayloadError("the Arrow message lacks a required part")
        found = _U8.unpack_from(metadata, kind)[0]
        if found not in (DICTIONARY_BATCH, RECORD_BATCH):
            return False
        batch = (*_table(metadata, _follow(metadata, header)), 0, 0, 0, 0)
        if found == DICTIONARY_BATCH:  # id, data, isDelta
            if not batch[1]:
                raise PayloadError("the Arrow message lacks a required part")
            batch = (*_table(metadata, _follow(metadata, batch[1])), 0, 0, 0, 0)
        return bool(batch[3])
    except struct.error as error:
        raise PayloadError("the Arrow message points outside itself") from error
