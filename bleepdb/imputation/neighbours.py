"""Exact neighbours of vectors held in memory: what tuning and evaluation retrieve with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORES_AT_ONCE = 16_000_000


def nearest(
    queries: NDArray[np.float32], keys: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k keys of highest dot product with each query.

    Parameters
    ----------
    queries
        (n, d) unit vectors.
    keys
        (references, d) unit vectors.
    k
        How many; all of them where there are fewer.

    Returns
    -------
    scores : numpy.ndarray
        (n, min(k, references)) float32, best first.
    columns : numpy.ndarray
        Rows of `keys` in the same shape, int64. Equal scores stand in order of their rows.

    Raises
    ------
    ValueError
        If the dimensions differ or k is below 1.
    """
    if k < 1 or queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        message = f"the {k} nearest of queries {queries.shape} among keys {keys.shape}"
        raise ValueError(message)
    k = min(k, len(keys))
    columns = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    step = max(1, SCORES_AT_ONCE // max(len(keys), 1))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        found = queries[block] @ keys.T
        if k < len(keys):
            kept = np.sort(np.argpartition(-found, k - 1, axis=1)[:, :k], axis=1)
        else:
            kept = np.broadcast_to(np.arange(k), (len(found), k))
        values = np.take_along_axis(found, kept, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        columns[block] = np.take_along_axis(kept, order, axis=1)
        scores[block] = np.take_along_axis(values, order, axis=1)
    return scores, columns
