"""Weighted sums of sparse profiles: a dense product where queries share references, else gathers.

Adjacent places of a slide share most of their neighbours; then one dense product over the distinct
ones is several times faster than to gather the neighbours of each query. Queries that share little
are gathered: a dense product would multiply zeros. Both give the same sums to float32 rounding.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.counts import Values

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    Rows = sp.csr_matrix | Values

DENSE_VALUES = 8_000_000  # at most this many values of references are dense at a time
# Nanoseconds, as measured on cores of 2023; only their ratios matter.
GATHERED_VALUE = 2.2  # one stored value of one neighbour
GATHERED_ROW = 300.0  # beside that, one neighbour
DENSE_PRODUCT = 0.035  # one query x one distinct reference x one gene
DENSE_CELL = 0.6  # one value of one distinct reference, spread out
DENSE_STORED = 3.0  # beside that, one stored value
MOST_THREADS = 8


def threads() -> int:
    """Return how many threads gather: OMP_NUM_THREADS, else the cores of this process."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return max(1, min(int(named) if named.isdigit() else cores, MOST_THREADS))


def sums_of_rows(
    W: sp.csr_matrix,
    values: Rows,
    kind: type[np.floating[Any]],
    *,
    square: bool = False,
    dense: bool | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Multiply weights with profiles, by whichever way is faster here.

    Parameters
    ----------
    W
        (n, references) weights of a block of queries.
    values
        (references, genes) float32.
    kind
        float32 or float64: the precision of sums and result.
    square
        Multiply with the squares of the values instead.
    dense
        Which way; None: decide by their cost.
    out
        Where to write the result, (n, genes) of that precision; None: a new array.

    Returns
    -------
    numpy.ndarray
        (n, genes).
    """
    used = np.unique(W.indices)
    if prefers_dense(W, values, used) if dense is None else dense:
        made = _dense(W, values, used, kind, square=square)
        if out is None:
            return made
        out[:] = made
        return out
    out = np.empty((W.shape[0], values.shape[1]), dtype=kind) if out is None else out
    workers = min(threads(), max(1, W.shape[0] // 8))
    cuts = np.linspace(0, W.shape[0], workers + 1).astype(int).tolist()
    pieces = [slice(a, b) for a, b in pairwise(cuts)]

    def gather(rows: slice) -> None:
        if isinstance(values, Values):
            values.weighted_sums(W[rows], out[rows], square=square)
        else:
            _gathered(W[rows], values, out[rows], square=square)

    if workers == 1:
        gather(pieces[0])
    else:
        with ThreadPoolExecutor(workers) as pool:  # SciPy's and NumPy's loops let go of the GIL
            for done in [pool.submit(gather, piece) for piece in pieces]:
                done.result()
    return out


def prefers_dense(W: sp.csr_matrix, values: Rows, used: NDArray[Any]) -> bool:
    """Tell whether a dense product over the distinct references costs less than gathering."""
    stored = values.nnz if isinstance(values, Values) else np.diff(values.indptr)
    gathered = GATHERED_VALUE * float(stored[W.indices].sum()) + GATHERED_ROW * W.nnz
    cells = float(len(used)) * values.shape[1]
    spread = DENSE_CELL * cells + DENSE_STORED * float(stored[used].sum())
    return spread + DENSE_PRODUCT * cells * W.shape[0] < gathered


def _dense(
    W: sp.csr_matrix,
    values: Rows,
    used: NDArray[Any],
    kind: type[np.floating[Any]],
    *,
    square: bool,
) -> NDArray[Any]:
    """Multiply with the references in use, dense, a part of bounded size at a time."""
    made = np.zeros((W.shape[0], values.shape[1]), dtype=kind)
    weights = W[:, used].toarray().astype(kind, copy=False)
    step = max(1, DENSE_VALUES // max(values.shape[1], 1))
    for start in range(0, len(used), step):
        rows = used[start : start + step]
        part = values.rows(rows) if isinstance(values, Values) else values[rows]
        x = part.toarray().astype(kind, copy=False)
        made += weights[:, start : start + step] @ (x * x if square else x)
    return made


def _gathered(W: sp.csr_matrix, values: sp.csr_matrix, out: NDArray[Any], *, square: bool) -> None:
    """Sum the references of each query, gathered as the columns of one small matrix."""
    for i, (a, b) in enumerate(pairwise(W.indptr.tolist())):
        if a == b:
            out[i] = 0
            continue
        part = values[W.indices[a:b]].astype(out.dtype, copy=False)
        if square:
            part.data *= part.data
        out[i] = part.T @ W.data[a:b].astype(out.dtype, copy=False)
