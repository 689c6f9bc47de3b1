"""Neighbours to weights: which reference spots answer for a place, and how much each.

Weights are kept as one sparse matrix W (queries, references) whose rows sum to 1. Everything
that follows is linear in it, so that W together with the measured profiles explains every value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS: Final = ("simple", "average", "weighted", "softmax")
QUERIES_A_BLOCK = 256


def effective_weights(
    scores: NDArray[Any],
    columns: NDArray[np.integer[Any]],
    *,
    n_references: int,
    method: str = "softmax",
    temperature: float = 0.1,
    reference_weights: NDArray[Any] | None = None,
) -> sp.csr_matrix:
    """Turn the scores of retrieved neighbours into convex weights.

    ``simple``
        All weight on the best neighbour.
    ``average``
        The same weight on each of the k neighbours.
    ``weighted``
        Proportional to ``exp(-d2)``, with d2 the squared Euclidean distance. On the unit vectors
        of an atlas d2 = 2 - 2 score, so this is ``softmax`` at temperature 0.5. (BLEEP's own code
        takes d2 between vectors that are not normalised, where it comes close to ``simple``.)
    ``softmax``
        Proportional to ``exp(score / temperature)``, times the reference's own weight where
        `reference_weights` gives one.

    Parameters
    ----------
    scores
        (n, k) dot products of unit vectors.
    columns
        (n, k) integers, the reference of each score as a column of W; -1 where a query has fewer
        than k neighbours.
    n_references
        Columns of W.
    method, temperature
        As above; the temperature matters for ``softmax`` alone.
    reference_weights
        (n_references,) what each reference weighs by itself (see `depth_weights`); for
        ``softmax`` alone. None: all the same.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, n_references) float32, sorted indices; rows sum to 1, or are empty without neighbours.

    Raises
    ------
    ValueError
        If shapes differ, a column is out of range, a score of a neighbour is not finite, the
        method is unknown, or the temperature or a reference's own weight is not positive.
    """
    s, there = _checked(scores, columns, n_references)
    if method == "simple":
        logits = np.where(there, 0.0, -np.inf)
        best = np.where(there, s, -np.inf).argmax(axis=1)
        logits[np.arange(s.shape[1])[None, :] != best[:, None]] = -np.inf
    elif method == "average":
        logits = np.where(there, 0.0, -np.inf)
    elif method == "weighted":
        logits = np.where(there, -(2.0 - 2.0 * s), -np.inf)
    elif method == "softmax":
        if not temperature > 0:
            message = f"a softmax needs a positive temperature, not {temperature}"
            raise ValueError(message)
        logits = np.where(there, s / temperature, -np.inf)
        if reference_weights is not None:
            logits += _own_logits(reference_weights, n_references)[columns]
    else:
        message = f"unknown method {method!r}; known are {', '.join(METHODS)}"
        raise ValueError(message)
    highest = logits.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(highest), highest, 0.0))
    total = weights.sum(axis=1, keepdims=True)
    return _as_rows(weights / np.where(total > 0, total, 1.0), columns, n_references)


def depth_weights(totals: NDArray[Any], power: float) -> NDArray[np.float64] | None:
    """Return what references weigh by their depth, (references,) float64; None where all alike.

    A profile of more counts is a less noisy measurement, so that the mean of a neighbourhood is
    better known where its deeper spots weigh more. With Poisson noise alone the best power of the
    total would be 1; tissue that differs from spot to spot asks for less, and more even weights.

    Parameters
    ----------
    totals
        (references,) all counts of each spot.
    power
        0 for the same weight on all.
    """
    if power == 0:
        return None
    return np.asarray(np.maximum(np.asarray(totals, dtype=np.float64), 1.0) ** power)


def _own_logits(weights: NDArray[Any], n_references: int) -> NDArray[np.float64]:
    own = np.asarray(weights, dtype=np.float64)
    if own.shape != (n_references,):
        message = f"{own.shape} own weights for {n_references} references"
        raise ValueError(message)
    if not (np.isfinite(own).all() and (own > 0).all()):
        message = "a reference's own weight is not positive"
        raise ValueError(message)
    return np.append(np.log(own), 0.0)  # the last one is for the column -1


def local_weights(
    queries: NDArray[np.float32],
    keys: NDArray[np.float32],
    columns: NDArray[np.integer[Any]],
    *,
    ridge: float = 1.0,
) -> sp.csr_matrix:
    """Weights of a ridge regression fitted to the neighbours of each query.

    Around its neighbours, with keys X and values Y, a query q is predicted by ``ym + (q - xm) B``
    with ``B = (Xc'Xc + l I)^-1 Xc'Yc``. That is linear in Y, so the prediction is a weighted sum
    of the neighbours' values, and the weights are what is returned: 1/k on each, plus a tilt
    towards the query that sums to 0. They sum to 1 and can be negative.

    Parameters
    ----------
    queries
        (n, d) unit vectors.
    keys
        (references, d) unit vectors, one a column of W.
    columns
        (n, k) integers rows of `keys`; -1 where a query has fewer neighbours.
    ridge
        The penalty l as a multiple of the mean eigenvalue of Xc'Xc, so that it means the same
        for any number of neighbours and however close they stand. 0 would interpolate; towards
        infinity the weights become uniform.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, references) float32, sorted indices; rows sum to 1, or are empty without neighbours.

    Raises
    ------
    ValueError
        If shapes differ, a column is out of range or `ridge` is not positive.
    """
    if not ridge > 0:
        message = f"a local ridge needs a positive penalty, not {ridge}"
        raise ValueError(message)
    if len(queries) != len(columns) or queries.shape[1] != keys.shape[1]:
        message = f"queries {queries.shape}, keys {keys.shape}, columns {columns.shape}"
        raise ValueError(message)
    _, there = _checked(np.zeros(columns.shape), columns, len(keys))
    made = np.zeros(columns.shape)
    for start in range(0, len(queries), QUERIES_A_BLOCK):
        block = slice(start, start + QUERIES_A_BLOCK)
        made[block] = _local_block(
            queries[block].astype(np.float64),
            keys[np.maximum(columns[block], 0)].astype(np.float64),
            there[block],
            ridge,
        )
    return _as_rows(made, columns, len(keys))


def _local_block(
    q: NDArray[np.float64], x: NDArray[np.float64], there: NDArray[np.bool_], ridge: float
) -> NDArray[np.float64]:
    """Weights (b, k) of queries (b, d) on neighbours (b, k, d); absent neighbours get 0."""
    _, k, d = x.shape
    count = np.maximum(there.sum(axis=1), 1)[:, None]
    present = there[:, :, None]
    centre = np.where(present, x, 0.0).sum(axis=1) / count
    xc = np.where(present, x - centre[:, None, :], 0.0)
    towards = (q - centre)[:, :, None]
    scatter = np.einsum("bkd,bkd->b", xc, xc)
    # Neighbours in one place say nothing about direction: any penalty gives a tilt of 0.
    penalty = np.where(scatter > 0, ridge * scatter / d, 1.0)[:, None, None]
    # Both forms give the same tilt; the smaller system is solved.
    if d <= k:
        inner = xc.transpose(0, 2, 1) @ xc + penalty * np.eye(d)
        tilt = xc @ np.linalg.solve(inner, towards)
    else:
        inner = xc @ xc.transpose(0, 2, 1) + penalty * np.eye(k)
        tilt = np.linalg.solve(inner, xc @ towards)
    return np.where(there, 1.0 / count + tilt[:, :, 0], 0.0)


def _checked(
    scores: NDArray[Any], columns: NDArray[np.integer[Any]], n_references: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != columns.shape or s.ndim != 2:
        message = f"scores {s.shape} and columns {columns.shape} must be the same (n, k)"
        raise ValueError(message)
    there = columns >= 0
    if columns.size and columns.max() >= n_references:
        message = f"column {columns.max()} of {n_references} references"
        raise ValueError(message)
    if not np.isfinite(s[there]).all():
        message = "a neighbour's score is not finite"
        raise ValueError(message)
    return s, there


def _as_rows(
    weights: NDArray[np.float64], columns: NDArray[np.integer[Any]], n_references: int
) -> sp.csr_matrix:
    kept = (columns >= 0) & (weights != 0)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    made = sp.csr_matrix(
        (weights[kept].astype(np.float32), columns[kept].astype(np.int32), indptr),
        shape=(len(columns), n_references),
    )
    made.sum_duplicates()
    return made
