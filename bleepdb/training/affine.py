"""Principal axes and ridge: closed forms that the linear recipe and the ridge baseline share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.encoders import Context
    from bleepdb.training.pairs import Pairs

EXACT_UP_TO: Final = 4096  # rows or columns; above, the leading axes come from an iteration
REFERENCE_WIDTH: Final = (
    1280.0  # penalties mean the same for any width of features: see `image_axes`
)
SPREAD_FLOOR: Final = 1e-6
"""A feature that varies less on the training spots says nothing, and is left out: dividing by its
SD would let a query in which it does vary fly off."""


def principal_axes(
    centred: NDArray[Any], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading right singular vectors of a centred matrix, and its singular values.

    Parameters
    ----------
    centred
        (n, p), columns of mean 0.
    rank
        How many; fewer where the matrix has not that many.

    Returns
    -------
    tuple
        Axes (p, r) float64 with orthonormal columns, each with its largest entry positive, and
        singular values (r,), falling.
    """
    x = np.asarray(centred, dtype=np.float64)
    n, p = x.shape
    rank = min(rank, n - 1 if n > 1 else 1, p)
    small = min(n, p)
    if small <= EXACT_UP_TO:
        gram = x @ x.T if n <= p else x.T @ x
        values, vectors = np.linalg.eigh(gram)
        values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    else:

        def apply(v: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(x.T @ (x @ v))

        operator = LinearOperator((p, p), matvec=apply, dtype=np.float64)
        start = np.ones(p) / np.sqrt(p)  # a fixed start, so that the result is repeatable
        values, vectors = eigsh(operator, k=rank, v0=start, which="LA")
        values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(float(values[0]), 0.0) * 1e-12
    values, vectors = values[kept], vectors[:, kept]
    singular = np.sqrt(values)
    axes = x.T @ vectors / singular if small <= EXACT_UP_TO and n <= p else vectors
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return axes * signs, singular


@dataclass(frozen=True)
class ImageAxes:
    """Standardised features on their principal axes.

    Attributes
    ----------
    mean
        (p,) of the features with context.
    projection
        (p, r): a place's scores are ``(x - mean) projection``.
    scores
        (n, r) of the training spots, with orthogonal columns.
    singular
        (r,) their lengths.
    """

    mean: NDArray[np.float64]
    projection: NDArray[np.float64]
    scores: NDArray[np.float64]
    singular: NDArray[np.float64]

    def solve(self, targets: NDArray[Any], alpha: float) -> NDArray[np.float64]:
        """Return the ridge coefficients (r, t) of centred targets (n, t) on the scores."""
        pulled = self.scores.T @ targets
        return np.asarray(pulled / (self.singular**2 + alpha)[:, None])


def with_context(pairs: Pairs, context: Context | None) -> NDArray[np.float32]:
    """Return the features of all training spots, with their context section by section."""
    if context is None:
        return pairs.features
    return np.concatenate([context.append(s.features, s.positions_um) for s in pairs.sections])


def one_over_spread(x: NDArray[Any]) -> NDArray[np.float64]:
    """Return what standardises each column, 1 / SD, (p,) float64; 0 where it does not vary."""
    spread = x.std(axis=0, dtype=np.float64)
    varies = spread > SPREAD_FLOOR
    return np.where(varies, 1.0 / np.where(varies, spread, 1.0), 0.0)


def block_scale(pairs: Pairs) -> NDArray[np.float64]:
    """Return what gives each level at each scale the same sum of variances, (F,) float64.

    A level of 320 channels would otherwise weigh eight times one of 40. The total stays as it is.
    """
    width = pairs.features.shape[1]
    if pairs.blocks is None:
        return np.ones(width)
    count = np.bincount(pairs.blocks)
    return np.asarray(np.sqrt(width / (count > 0).sum() / count[pairs.blocks]))


def image_axes(pairs: Pairs, context: Context | None, rank: int) -> ImageAxes:
    """Standardise features on the training spots and find their principal axes.

    Each feature is scaled to an SD of 1 (of the context: to its weight), the levels and scales to
    the same sum of variances (`block_scale`), and all by ``sqrt(1280 / p)``, so that a penalty
    means the same whatever the number of features.

    Parameters
    ----------
    pairs
        Training spots.
    context
        Adjacent places, or None.
    rank
        Number of axes.
    """
    x = with_context(pairs, context).astype(np.float64)
    mean, scale = x.mean(axis=0), one_over_spread(x)
    balance = block_scale(pairs)
    scale *= balance if context is None else np.tile(balance, 2)
    if context is not None:
        # Standardising undoes the weight of the context; here it is put back.
        scale[x.shape[1] // 2 :] *= context.weight
    scale *= np.sqrt(REFERENCE_WIDTH / x.shape[1])
    x -= mean
    x *= scale
    axes, singular = principal_axes(x, rank)
    return ImageAxes(mean, scale[:, None] * axes, x @ axes, singular)
