"""Which places of a slide stand beside each other, in micrometres.

Image towers use it for context and queries for smoothing, so the rule stands below both. A ring
instead of a disc makes the answer depend on the tissue and hardly on the sampling: a grid of half
the pitch puts more places into the same ring, and their mean stays what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray


def adjacency(positions_um: NDArray[Any], *, inner_um: float, outer_um: float) -> sp.csr_matrix:
    """Return the matrix that takes the mean over the adjacent places of each place.

    Two places are adjacent where their distance lies in ``[inner_um, outer_um]``; no place is
    adjacent to itself.

    Parameters
    ----------
    positions_um
        (n, 2) places in µm.
    inner_um, outer_um
        Radii of the ring in µm, ``0 <= inner_um <= outer_um``.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float32 with int32 indices. A row sums to 1, or is empty where a place stands
        alone.

    Raises
    ------
    ValueError
        If the positions are not (n, 2) and finite, or the radii are not ordered.
    """
    places = np.asarray(positions_um, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        message = f"positions must be finite and (n, 2), not {places.shape}"
        raise ValueError(message)
    if not 0 <= inner_um <= outer_um:
        message = f"a ring needs 0 <= inner <= outer, not {inner_um} and {outer_um}"
        raise ValueError(message)
    n = len(places)
    if n < 2:
        return sp.csr_matrix(np.zeros((n, n), dtype=np.float32))
    pairs = cKDTree(places).query_pairs(outer_um, output_type="ndarray")
    apart = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    pairs = pairs[apart >= inner_um]
    rows = np.concatenate([pairs[:, 0], pairs[:, 1]])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0]])
    shares = (1.0 / np.maximum(np.bincount(rows, minlength=n), 1)).astype(np.float32)
    made = sp.csr_matrix((shares[rows], (rows, columns)), shape=(n, n), dtype=np.float32)
    made.sort_indices()
    return made


def spacing(positions: NDArray[Any]) -> float:
    """Return the median distance from a place to its nearest, in the unit of the positions.

    Infinite where there are fewer than two places.
    """
    if len(positions) < 2:
        return float("inf")
    away = np.asarray(cKDTree(positions).query(positions, k=2)[0])
    return float(np.median(away[:, 1]))
