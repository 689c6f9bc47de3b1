"""The one owner of normalisation: log1p of counts per ten thousand.

A spot's size factor is the sum of its counts over the genes that its panel shares with the
model's panel, so that sections measured on different panels are scaled alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET_SUM = 1e4


def log1p_cp10k(
    counts: NDArray[Any], totals: NDArray[Any] | float, *, target_sum: float = TARGET_SUM
) -> NDArray[np.float32]:
    """Return ``log1p(counts * target_sum / totals)`` as float32.

    Parameters
    ----------
    counts
        Counts of any shape that broadcasts with `totals`.
    totals
        Size factors. A spot whose total is 0 has only zeros, and stays zero.
    target_sum
        Counts per how many.
    """
    safe = np.maximum(np.asarray(totals, dtype=np.float64), 1.0)
    return np.log1p(np.asarray(counts) * (target_sum / safe)).astype(np.float32)


def normalise_rows(
    data: NDArray[Any], indptr: NDArray[Any], totals: NDArray[Any]
) -> NDArray[np.float32]:
    """Normalise the stored values of a CSR matrix.

    Parameters
    ----------
    data, indptr
        Values and row pointers, lengths nnz and rows + 1.
    totals
        Size factor of each row, length rows.

    Returns
    -------
    numpy.ndarray
        New values, float32, length nnz. (Zeros stay zeros: log1p(0) = 0.)
    """
    return log1p_cp10k(data, np.repeat(np.asarray(totals, dtype=np.float64), np.diff(indptr)))
