"""Digests of what is stored: one a point, one over all points of a section.

They cover what a point says, not how it is packed: vectors, counts and every field, but not the
text that the counts were compressed to. So a section keeps its digest when it is copied, exported
and imported, whatever version of the compressor packs it again.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.files import canonical_json
from bleepdb.names import EXPR, LIBRARY_TOTAL, NNZ, TOTAL, VCRC, X_PX, Y_PX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_NUMBERS = struct.Struct("<2q4Q")
PLACES = 3  # decimals of a position that are stored: a thousandth of a pixel


def point_digest(
    identity: str,
    payload: Mapping[str, Any],
    vectors: Mapping[str, NDArray[np.float32]],
    genes: NDArray[Any],
    counts: NDArray[Any],
) -> bytes:
    """Return the SHA-256 of one point.

    Parameters
    ----------
    identity
        Its UUID as text.
    payload
        All fields of the point schema; further text fields count too, ``expr`` does not.
    vectors
        Vector name -> (dimension,) float32.
    genes, counts
        (nnz,) what ``expr`` decodes to.

    Returns
    -------
    bytes
        32 bytes.
    """
    total = hashlib.sha256(uuid.UUID(identity).bytes)
    # In thousandths: the engine reads other numbers back with their last bit changed.
    total.update(
        _NUMBERS.pack(
            round(payload[X_PX] * 10**PLACES), round(payload[Y_PX] * 10**PLACES),
            payload[NNZ], payload[TOTAL], payload[LIBRARY_TOTAL], payload[VCRC],
        )
    )  # fmt: skip
    text = canonical_json({k: v for k, v in payload.items() if isinstance(v, str) and k != EXPR})
    parts = [text]
    for name in sorted(vectors):
        parts += [name.encode(), np.ascontiguousarray(vectors[name], dtype="<f4").tobytes()]
    parts += [genes.astype("<u4").tobytes(), counts.astype("<u4").tobytes()]
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()


def section_digest(points: Mapping[str, bytes]) -> str:
    """Return the digest of a section's points, whatever their order; 64 hex digits.

    Parameters
    ----------
    points
        Point id -> `point_digest`.
    """
    total = hashlib.sha256()
    for identity in sorted(points):
        total.update(points[identity])
    return total.hexdigest()
