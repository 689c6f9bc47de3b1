"""The codec of expression payloads: raw counts of one spot as text (schemas/bdb1.md).

``bdb1`` is strict base64 of one zstd frame around one Arrow record-batch message of byte planes:
gaps between the positions of expressed genes, and counts. ``bdb1w`` is the same with four planes
of counts instead of two, for spots with a count above 65,535. A payload names its codec.
"""

from __future__ import annotations

import binascii
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import zstandard

from bleepdb.atlas.arrow_message import uint8_columns
from bleepdb.errors import PayloadError
from bleepdb.names import CODEC, EXPR, NNZ, TOTAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.uint16] | NDArray[np.uint32]

BDB1 = "bdb1"
BDB1W = "bdb1w"
GAP_PLANES = 2
COUNT_PLANES = {BDB1: 2, BDB1W: 4}
MOST_GAP = 2 ** (8 * GAP_PLANES) - 1
MESSAGE_OVERHEAD = 1024  # bytes that the metadata and padding of a message may take
MOST_TOTAL = 2**53  # what every JSON reader keeps exactly
ZSTD_LEVEL = 3


class _Contexts(threading.local):
    """One compressor and decompressor a thread: zstandard's must not be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL, write_checksum=True, write_content_size=True
        )
        self.decompressor = zstandard.ZstdDecompressor()


_CONTEXTS = _Contexts()


def arrow_schema(codec: str = BDB1) -> pa.Schema:
    """Return the Arrow schema of a codec's record batch, which the payload itself leaves out."""
    names = [f"d{i}" for i in range(GAP_PLANES)] + [f"c{i}" for i in range(_count_planes(codec))]
    return pa.schema([pa.field(name, pa.uint8(), nullable=False) for name in names])


def _count_planes(codec: object) -> int:
    planes = COUNT_PLANES.get(codec) if isinstance(codec, str) else None
    if planes is None:
        named = repr(codec[:40]) if isinstance(codec, str) else type(codec).__name__
        raise PayloadError(f"unknown payload codec {named}", hint="a newer bleepdb may know it")
    return planes


def _whole_numbers(values: NDArray[Any], what: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise PayloadError(f"{what} must be one row of numbers, not {array.ndim} dimensions")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise PayloadError(
            f"{what} are {array.dtype}, and only raw integer counts have a codec",
            hint="store raw counts; normalised (float) profiles cannot be stored",
        )
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < 2**32:
        raise PayloadError(f"{what} lie outside 0 .. 4294967295")
    return array.astype(np.int64)


def _planes(values: NDArray[np.int64], planes: int) -> list[NDArray[np.uint8]]:
    """Split numbers into their bytes, low byte first; one array a byte."""
    wide = np.ascontiguousarray(values, dtype=f"<u{planes}").view(np.uint8).reshape(-1, planes)
    return [np.ascontiguousarray(wide[:, i]) for i in range(planes)]


def encode(genes: NDArray[Any], counts: NDArray[Any], *, codec: str = BDB1) -> str:
    """Encode the expressed genes of one spot.

    Parameters
    ----------
    genes
        (nnz,) positions in the panel, integers, strictly rising.
    counts
        (nnz,) raw counts, integers, positive; at most 65,535 for ``bdb1``.
    codec
        ``"bdb1"`` or ``"bdb1w"``.

    Raises
    ------
    PayloadError
        If the values do not fit the codec.
    """
    planes = _count_planes(codec)
    places, values = _whole_numbers(genes, "gene positions"), _whole_numbers(counts, "counts")
    if len(places) != len(values):
        raise PayloadError(f"{len(places)} gene positions for {len(values)} counts")
    gaps = np.diff(places, prepend=0)
    if (gaps[1:] <= 0).any():
        raise PayloadError("gene positions do not rise strictly")
    if (gaps > MOST_GAP).any():
        raise PayloadError(f"a gap between expressed genes is above {MOST_GAP}")
    if (values <= 0).any():
        raise PayloadError("a stored count is zero", hint="store only the expressed genes")
    most = 2 ** (8 * planes) - 1
    if (values > most).any():
        raise PayloadError(f"a count is above {most}, the most that codec {codec} holds")
    columns = [*_planes(gaps, GAP_PLANES), *_planes(values, planes)]
    batch = pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=arrow_schema(codec))
    frame = _CONTEXTS.compressor.compress(batch.serialize().to_pybytes())
    return binascii.b2a_base64(frame, newline=False).decode("ascii")


def expression_fields(genes: NDArray[Any], counts: NDArray[Any]) -> dict[str, Any]:
    """Return the payload fields ``codec``, ``nnz``, ``total``, ``expr`` of one spot.

    The wide codec is taken only where a count needs it. Parameters and errors as in `encode`.
    """
    values = _whole_numbers(counts, "counts")
    codec = BDB1W if values.size and values.max() > 2**16 - 1 else BDB1
    text = encode(genes, values, codec=codec)
    return {CODEC: codec, NNZ: len(values), TOTAL: int(values.sum()), EXPR: text}


def _joined(message: bytes, starts: Sequence[int], rows: int) -> Numbers:
    """Join byte planes into numbers; (rows,) unsigned of as many bytes as there are planes."""
    made = np.empty((rows, len(starts)), dtype=np.uint8)
    for plane, start in enumerate(starts):
        made[:, plane] = np.frombuffer(message, np.uint8, rows, start)
    if len(starts) == 2:
        return made.view("<u2").ravel().astype(np.uint16, copy=False)
    return made.view("<u4").ravel().astype(np.uint32, copy=False)


def _message(text: object, limit: int) -> bytes:
    if not isinstance(text, str):
        raise PayloadError(f"the payload is {type(text).__name__}, not text")
    try:
        frame = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise PayloadError("the payload is no strict base64") from error
    try:
        about = zstandard.get_frame_parameters(frame)
        if not about.has_checksum or about.dict_id != 0:
            raise PayloadError("the payload's zstd frame lacks its checksum or needs a dictionary")
        # A frame without declared size tells 2**64 - 1 here, so the limit refuses it as well.
        if about.content_size > limit:
            raise PayloadError("the payload declares more bytes than nnz allows")
        message = _CONTEXTS.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PayloadError(f"the payload's zstd frame is broken ({error})") from error
    return bytes(message)


def _sized(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise PayloadError(f"{what} is {type(value).__name__}, not a whole number")
    if not 0 <= value < MOST_TOTAL:
        raise PayloadError(f"{what} lies outside 0 .. 2^53")
    return int(value)


def decode(
    text: object, *, n_genes: int, nnz: object, total: object, codec: object = BDB1
) -> tuple[Numbers, Numbers]:
    """Decode what `encode` made, trusting nothing of it.

    Checked in this order, and before anything is allocated for it: base64, the declared size
    against `nnz`, rows, buffer lengths, genes rising below the panel's size, positive counts,
    and the sum.

    Parameters
    ----------
    text
        The payload field ``expr``.
    n_genes
        Genes of the panel.
    nnz, total
        The payload fields of these names: expressed genes, and the sum of their counts.
    codec
        The payload field ``codec``.

    Returns
    -------
    genes
        (nnz,) positions in the panel, rising; uint16 for a panel of up to 65,536 genes, else
        uint32.
    counts
        (nnz,) raw counts; uint16 for ``bdb1``, uint32 for ``bdb1w``.

    Raises
    ------
    PayloadError
        For every failure; nothing else escapes.
    """
    planes = _count_planes(codec)
    size, rows, sum_stated = _sized(n_genes, "n_genes"), _sized(nnz, "nnz"), _sized(total, "total")
    if rows > size:
        raise PayloadError(f"nnz is {rows} on a panel of {size} genes")
    width = GAP_PLANES + planes
    message = _message(text, width * rows + MESSAGE_OVERHEAD)
    starts = uint8_columns(message, rows=rows, columns=width)
    gaps = _joined(message, starts[:GAP_PLANES], rows)
    genes = np.cumsum(gaps, dtype=np.int64)
    if rows and (not gaps[1:].all() or genes[-1] >= size):
        raise PayloadError("gene positions do not rise below the size of the panel")
    counts = _joined(message, starts[GAP_PLANES:], rows)
    if not counts.all():
        raise PayloadError("a stored count is zero")
    if int(counts.sum(dtype=np.int64)) != sum_stated:
        raise PayloadError("the counts do not add up to total")
    if size <= 2**16:
        return genes.astype(np.uint16), counts
    return genes.astype(np.uint32), counts


def decode_fields(payload: Mapping[str, Any], *, n_genes: int) -> tuple[Numbers, Numbers]:
    """Decode the payload object of a point; returns and raises as `decode`."""
    return decode(
        payload.get(EXPR),
        n_genes=n_genes,
        nnz=payload.get(NNZ),
        total=payload.get(TOTAL),
        codec=payload.get(CODEC),
    )
