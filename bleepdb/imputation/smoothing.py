"""Adjacent places share their references: a mix of rows of W, so that evidence stays exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mixing(adjacency: sp.csr_matrix, weight: float, usable: NDArray[np.bool_]) -> sp.csr_matrix:
    """Return the matrix M with which smoothing multiplies W: ``(1 - weight) I + weight N``.

    Parameters
    ----------
    adjacency
        (n, n) from `bleepdb.places.adjacency`: rows sum to 1 or are empty.
    weight
        Share of the adjacent places, 0 to 1.
    usable
        (n,) bool: places that have neighbours. Others are not mixed into any, and stay empty.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n) float32. Rows of usable places sum to 1; a place without usable adjacent places
        keeps its own row.

    Raises
    ------
    ValueError
        If shapes differ or the weight is not between 0 and 1.
    """
    n = len(usable)
    if adjacency.shape != (n, n):
        message = f"adjacency {adjacency.shape} for {n} places"
        raise ValueError(message)
    if not 0 <= weight <= 1:
        message = f"a share lies between 0 and 1, not {weight}"
        raise ValueError(message)
    among = sp.diags_array(usable.astype(np.float64)) @ adjacency.astype(np.float64)
    among = sp.csr_matrix(among @ sp.diags_array(usable.astype(np.float64)))
    among.eliminate_zeros()
    total = np.asarray(among.sum(axis=1)).ravel()
    scale = np.where(total > 0, weight / np.where(total > 0, total, 1.0), 0.0)
    own = np.where(total > 0, 1.0 - weight, 1.0)
    mixed = sp.csr_matrix(sp.diags_array(own) + sp.diags_array(scale) @ among)
    return mixed.astype(np.float32)


def smooth(W: sp.csr_matrix, adjacency: sp.csr_matrix, weight: float) -> sp.csr_matrix:
    """Mix the weights of adjacent places into those of each place.

    A place without neighbours is passed over in the mean of its adjacent places, so that rows
    keep their sum; a place without adjacent places keeps its row.

    Parameters
    ----------
    W
        (n, references) weights.
    adjacency
        (n, n) from `bleepdb.places.adjacency`.
    weight
        Share of the adjacent places, 0 to 1.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, references) float32, sorted indices.

    Raises
    ------
    ValueError
        If shapes differ or the weight is not between 0 and 1.
    """
    usable = np.diff(W.indptr) > 0
    mixed = mixing(adjacency, weight, usable) @ W
    made = sp.csr_matrix(mixed, dtype=np.float32)
    made.eliminate_zeros()
    made.sort_indices()
    return made
