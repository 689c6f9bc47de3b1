"""What reads genes off imputed components: corrected by what inner folds got wrong.

An imputed profile has coordinates on the first components of the training profiles, which are
smaller and smoother than measured ones. The components read measured coordinates best, not these.
So coordinates of all training spots are imputed out of their fold, and genes are regressed on
them: a ridge whose penalty draws the result to the components themselves, so that where there is
nothing to learn nothing changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.training.tuning import Target, inner_folds

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs

ROWS_AT_ONCE: Final = 4096


def out_of_fold(
    pairs: Pairs,
    coordinates: NDArray[np.float64],
    impute: Callable[[Target, NDArray[np.float64]], NDArray[np.floating]],
) -> NDArray[np.float64] | None:
    """Impute the coordinates of all training spots, each from sections of other inner folds.

    Parameters
    ----------
    pairs
        Training sections.
    coordinates
        (spots, r) measured ones.
    impute
        Fits on a fold's inside, and from the inside's coordinates gives those of its outside, as
        a query would, smoothing included.

    Returns
    -------
    numpy.ndarray or None
        (spots, r) float64; None where there are no inner folds.
    """
    folds, _ = inner_folds(pairs)
    if not folds:
        return None
    section = np.asarray(pairs.names)[pairs.section_of_spot]
    made = np.empty_like(coordinates)
    for held in folds:
        out = np.isin(section, held)
        inside = pairs.subset([n for n in pairs.names if n not in held])
        made[out] = impute(Target(inside, pairs.subset(held)), coordinates[~out])
    return made


def fit_readout(
    profiles: NDArray[Any],
    mean: NDArray[np.float64],
    components: NDArray[np.float64],
    imputed: NDArray[np.float64],
    penalty: float,
) -> NDArray[np.float64]:
    """Regress genes on imputed coordinates, drawn to the components.

    Parameters
    ----------
    profiles
        (spots, genes) log1p, measured.
    mean
        (genes,) their mean.
    components
        (genes, r), orthonormal columns.
    imputed
        (spots, r) of `out_of_fold`.
    penalty
        Per spot, for coordinates of mean square 1.

    Returns
    -------
    numpy.ndarray
        (genes, r) float64: a gene is ``mean + coordinates @ readout.T``.
    """
    n, r = imputed.shape
    size = np.sqrt((imputed**2).mean(axis=0))
    size = np.where(size > 0, size, 1.0)
    z = imputed / size
    pulled = np.zeros((r, profiles.shape[1]))
    for start in range(0, n, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        pulled += z[rows].T @ (profiles[rows] - mean - imputed[rows] @ components.T)
    change = np.linalg.solve(z.T @ z + penalty * n * np.eye(r), pulled)
    return np.asarray(components + (change / size[:, None]).T)
