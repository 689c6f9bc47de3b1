"""Scores per gene over spots: NaN-safe, never misaligned, with what could have been reached.

Every function here returns one value a gene, in the order of the columns that it was given, and
NaN where the score is not defined. `mean_score` is the one place that turns NaN into 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.normalise import log1p_cp10k

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp
    from numpy.typing import ArrayLike, NDArray

GENES_A_BLOCK = 1024
FEWEST_PAIRS = 3
# float32 keeps about seven digits: a spread below one part in a million is rounding, not signal.
FLAT = 1e-6


def _pairs(
    predicted: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    a, b = np.asarray(predicted), np.asarray(truth)
    if a.shape != b.shape or a.ndim != 2:
        message = f"predicted {a.shape} and truth {b.shape} must be the same (spots, genes)"
        raise ValueError(message)
    return a, b


def _centred(
    values: NDArray[np.floating[Any]], usable: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centre the usable values of each column, scale them into [-1, 1], tell the flat columns."""
    x = np.where(usable, values, 0.0).astype(np.float64)
    height = np.abs(x).max(axis=0, initial=0.0)
    x -= x.sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    x[~usable] = 0.0
    spread = np.abs(x).max(axis=0, initial=0.0)
    flat = spread <= FLAT * height
    return x / np.where(flat, 1.0, spread), flat


def weighted_pearson(
    predicted: ArrayLike, truth: ArrayLike, weights: ArrayLike
) -> NDArray[np.float64]:
    """Pearson correlation per gene over spots, once for each row of weights on the spots.

    A row of weights that counts how often each spot was drawn gives the score of a bootstrap
    sample, and all samples cost five matrix products.

    Parameters
    ----------
    predicted, truth
        (n, g) values, same genes in the same order. A spot whose value is not finite on either
        side is left out for that gene alone.
    weights
        (b, n), not negative.

    Returns
    -------
    numpy.ndarray
        (b, g) float64. NaN where fewer than three spots are left, or where one side is constant
        (spread below a millionth of its largest value, which float32 cannot tell from rounding).
    """
    p, t = _pairs(predicted, truth)
    w = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    made = np.empty((len(w), p.shape[1]))
    for start in range(0, p.shape[1], GENES_A_BLOCK):
        block = slice(start, start + GENES_A_BLOCK)
        usable = np.isfinite(p[:, block]) & np.isfinite(t[:, block])
        x, flat_x = _centred(p[:, block], usable)
        y, flat_y = _centred(t[:, block], usable)
        mass = np.maximum(w @ usable, np.finfo(np.float64).tiny)
        mean_x, mean_y = (w @ x) / mass, (w @ y) / mass
        var_x = (w @ (x * x)) / mass - mean_x**2
        var_y = (w @ (y * y)) / mass - mean_y**2
        cov = (w @ (x * y)) / mass - mean_x * mean_y
        defined = ((w > 0).astype(np.float64) @ usable >= FEWEST_PAIRS) & ~(flat_x | flat_y)
        defined &= (var_x > 1e-12) & (var_y > 1e-12)
        scale = np.sqrt(np.where(defined, var_x * var_y, 1.0))
        made[:, block] = np.where(defined, np.clip(cov / scale, -1.0, 1.0), np.nan)
    return made


def pearson_per_gene(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation over spots of each gene.

    Parameters
    ----------
    predicted, truth
        (n, g) values, same genes in the same order. A spot with NaN on either side is left out
        for that gene alone.

    Returns
    -------
    numpy.ndarray
        (g,) float64; NaN where undefined: fewer than three pairs, or one side constant.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    p, t = _pairs(predicted, truth)
    made: NDArray[np.float64] = weighted_pearson(p, t, np.ones((1, len(p))))[0]
    return made


def mean_score(values: ArrayLike) -> tuple[float, int]:
    """Return the mean of scores with NaN counted as 0, and how many were NaN.

    A gene that a method cannot score is a gene that it did not predict: leaving it out would
    reward constant predictions. No scores at all give (nan, 0).
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.size == 0:
        return float("nan"), 0
    return float(np.nan_to_num(scores, nan=0.0).mean()), int(np.isnan(scores).sum())


def rmse_per_gene(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Root mean squared error over spots of each gene, (g,) float64; NaN where no pair is left."""
    p, t = _pairs(predicted, truth)
    squared = (p.astype(np.float64) - t) ** 2
    usable = np.isfinite(squared)
    count = usable.sum(axis=0)
    total = np.where(usable, squared, 0.0).sum(axis=0)
    made: NDArray[np.float64] = np.sqrt(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return made


def variance_ratio_per_gene(predicted: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Variance of the prediction over that of the truth, over spots, for each gene.

    Averages of neighbours vary less than measurements do; 1 would be as lively as the truth.
    (g,) float64, NaN where the truth is constant or fewer than three pairs are left.
    """
    p, t = _pairs(predicted, truth)
    usable = np.isfinite(p) & np.isfinite(t)
    count = np.maximum(usable.sum(axis=0), 1)

    def variance(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        x = np.where(usable, values, 0.0).astype(np.float64)
        x -= x.sum(axis=0) / count
        x[~usable] = 0.0
        found: NDArray[np.float64] = (x * x).sum(axis=0) / count
        return found

    _, flat = _centred(t, usable)
    defined = ~flat & (usable.sum(axis=0) >= FEWEST_PAIRS)
    above, below = variance(p), variance(t)
    made: NDArray[np.float64] = np.where(defined, above / np.where(defined, below, 1.0), np.nan)
    return made


def moran_per_gene(values: ArrayLike, adjacency: sp.csr_matrix) -> NDArray[np.float64]:
    """Moran's I of each gene: how much adjacent places are alike.

    ``n / S0 * sum_ij w_ij z_i z_j / sum_i z_i^2``, where z is centred and S0 the sum of weights;
    about ``-1 / (n - 1)`` where places know nothing of each other, 1 at most where each place is
    as its surroundings are.

    Parameters
    ----------
    values
        (n, g), one section. A place whose value is not finite is left out for that gene alone,
        and so are its weights.
    adjacency
        (n, n) weights, as of `bleepdb.places.adjacency`. Places without any stay in the mean and
        the variance.

    Returns
    -------
    numpy.ndarray
        (g,) float64. NaN where fewer than three places are left, where none of them are adjacent,
        or where the gene is constant.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Moran (1950), Biometrika 37:17-23.
    """
    x = np.asarray(values)
    if x.ndim != 2 or adjacency.shape != (len(x), len(x)):
        message = f"adjacency {adjacency.shape} for values {x.shape}: give (n, n) for (n, genes)"
        raise ValueError(message)
    weights = adjacency.astype(np.float64)
    made = np.empty(x.shape[1])
    for start in range(0, x.shape[1], GENES_A_BLOCK):
        block = slice(start, start + GENES_A_BLOCK)
        usable = np.isfinite(x[:, block])
        z, flat = _centred(x[:, block], usable)
        there = usable.astype(np.float64)
        mass = (there * (weights @ there)).sum(axis=0)
        power = (z * z).sum(axis=0)
        count = usable.sum(axis=0)
        defined = (count >= FEWEST_PAIRS) & ~flat & (mass > 0) & (power > 0)
        alike = count * (z * (weights @ z)).sum(axis=0)
        made[block] = np.where(defined, alike / np.where(defined, mass * power, 1.0), np.nan)
    return made


def noise_ceiling(
    counts: sp.csr_matrix | NDArray[Any],
    totals: NDArray[Any],
    *,
    seed: int = 0,
    splits: int = 5,
) -> NDArray[np.float64]:
    """Largest Pearson correlation that counting noise lets any predictor reach, per gene.

    Every count is split at random into two halves (binomial thinning: halves of a Poisson count
    are independent Poisson counts), both are normalised as measurements are, and correlated over
    spots. The mean r over `splits` gives the reliability of the full depth by the Spearman-Brown
    formula, 2r / (1 + r); a perfect predictor of the true rate correlates with the measurement
    as the square root of that.

    Parameters
    ----------
    counts
        (n, g) integer counts, dense or CSR.
    totals
        (n,) size factor of each spot at full depth.
    seed
        Of the splits.
    splits
        How many random splits are averaged.

    Returns
    -------
    numpy.ndarray
        (g,) float64 in [0, 1]; 0 where halves do not agree at all, NaN where a gene is constant.

    Notes
    -----
    Only the noise of counting is seen, so this is an upper bound: depth that differs between
    spots, and technical noise beyond counting, are shared by both halves and count as signal.

    Spearman (1910) and Brown (1910), British Journal of Psychology 3; thinning as in Neufeld,
    Gao, Popp, Battle and Witten (2024), Biostatistics 25:270-287.
    """
    columns = counts if isinstance(counts, np.ndarray) else counts.tocsc()
    whole = np.asarray(totals, dtype=np.float64)[:, None]
    rng = np.random.default_rng(seed)
    made = np.empty(columns.shape[1])
    for start in range(0, columns.shape[1], GENES_A_BLOCK):
        block = slice(start, start + GENES_A_BLOCK)
        part = columns[:, block]
        full = part if isinstance(part, np.ndarray) else part.toarray()
        r = np.zeros(full.shape[1])
        for _ in range(splits):
            half = rng.binomial(full, 0.5)
            halves = (log1p_cp10k(side, whole / 2) for side in (half, full - half))
            r += np.nan_to_num(pearson_per_gene(*halves), nan=0.0) / splits
        agreed = r.clip(0.0, 1.0)
        constant = np.isnan(pearson_per_gene(full, full))
        made[block] = np.where(constant, np.nan, np.sqrt(2 * agreed / (1 + agreed)))
    return made


@dataclass(frozen=True)
class Null:
    """Scores of shuffles, which know nothing of the pairing that is tested.

    Attributes
    ----------
    scores
        (n, ...) float64, one entry a shuffle.
    """

    scores: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over shuffles, shape ``scores.shape[1:]``."""
        return np.asarray(self.scores.mean(axis=0))

    def percentile(self, q: float = 99.0) -> NDArray[np.float64]:
        """Return the `q`-th percentile over shuffles, shape ``scores.shape[1:]``."""
        return np.asarray(np.percentile(self.scores, q, axis=0))

    def p_value(self, observed: ArrayLike) -> NDArray[np.float64]:
        """Share of shuffles at or above `observed`, the observed one counted among them."""
        above = (self.scores >= np.asarray(observed)).sum(axis=0)
        return np.asarray((above + 1) / (len(self.scores) + 1))


def permutation_null(
    score: Callable[[np.random.Generator], ArrayLike], *, n: int = 100, seed: int = 0
) -> Null:
    """Call `score` with `n` generators of its own each, and keep what it returns.

    Parameters
    ----------
    score
        Shuffles with the generator that it is given, and scores the outcome.
    n
        How many shuffles.
    seed
        Of all generators; shuffle i does not depend on how many there are.
    """
    children = np.random.SeedSequence(seed).spawn(n)
    made = [np.asarray(score(np.random.default_rng(child)), dtype=np.float64) for child in children]
    return Null(np.stack(made))
