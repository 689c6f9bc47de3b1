"""How much stands behind a query: how many neighbours, how many donors, how near."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def effective_neighbours(W: sp.csr_matrix) -> NDArray[np.float64]:
    """Effective number of neighbours of each query: 1 / sum of squared shares.

    Shares are the sizes of the weights scaled to sum to 1 (negative weights count by their
    size). k equal weights give k, one weight gives 1; 0 where a query has no neighbours.

    Parameters
    ----------
    W
        (n, references) weights.

    Returns
    -------
    numpy.ndarray
        (n,) float64.
    """
    sizes = abs(sp.csr_matrix(W, dtype=np.float64))
    total = np.asarray(sizes.sum(axis=1)).ravel()
    squares = np.asarray(sizes.power(2).sum(axis=1)).ravel()
    return np.where(total > 0, total**2 / np.where(squares > 0, squares, 1.0), 0.0)


def effective_donors(W: sp.csr_matrix, donors: Sequence[str]) -> NDArray[np.float64]:
    """Effective number of donors behind each query, from the shares of all their spots.

    Parameters
    ----------
    W
        (n, references) weights.
    donors
        The donor of each reference, one a column of W.

    Returns
    -------
    numpy.ndarray
        (n,) float64: 1 where one donor answers alone, 0 where a query has no neighbours.

    Raises
    ------
    ValueError
        If there are not as many donors as references.
    """
    if len(donors) != W.shape[1]:
        message = f"{len(donors)} donors for {W.shape[1]} references"
        raise ValueError(message)
    return effective_neighbours(abs(sp.csr_matrix(W, dtype=np.float64)) @ spots_by_donor(donors))


def spots_by_donor(donors: Sequence[str]) -> sp.csr_matrix:
    """Return which spot is whose, (spots, donors) float64 of ones, donors in order of names."""
    names, code = np.unique(np.asarray(donors, dtype=np.str_), return_inverse=True)
    return sp.csr_matrix(
        (np.ones(len(code)), (np.arange(len(code)), code)), shape=(len(code), len(names))
    )


def top_similarity(scores: NDArray[Any], columns: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Score of the nearest neighbour of each query, (n,) float32; NaN without neighbours.

    Parameters
    ----------
    scores
        (n, k) dot products of unit vectors.
    columns
        (n, k) integers; -1 where a query has fewer than k neighbours.
    """
    there = columns >= 0
    best = np.where(there, scores, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(there.any(axis=1), best, np.nan).astype(np.float32)
