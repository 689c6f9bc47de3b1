"""Does imputed tissue hang together as measured tissue does: genes, places, sections, donors.

A correlation per gene says nothing of how genes go together, or where. These functions compare
structure: correlations among genes (the heat map of the method's paper), likeness of adjacent
places, local likeness of pictures, whole sections with each other, and how donors mix among the
neighbours. NumPy and SciPy only; what is not defined is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from bleepdb.metrics import (
    FEWEST_PAIRS,
    FLAT,
    GENES_A_BLOCK,
    moran_per_gene,
    pearson_per_gene,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Mixing",
    "correlation",
    "disc_windows",
    "donor_mixing",
    "gene_gene",
    "moran_per_gene",
    "pseudobulk_correlation",
    "section_means",
    "ssim_per_gene",
    "structure_agreement",
]

K1, K2 = 0.01, 0.03


class Mixing(TypedDict):
    """How donors mix among the neighbours.

    Attributes
    ----------
    share
        Donor -> share of all weight.
    expected
        Donor -> share of the references.
    effective_donors
        Mean over places of 1 / sum of squared donor shares: 1 where one donor answers alone.
    expected_effective_donors
        The same of `expected`: what it would be if weight fell as the references do.
    """

    share: dict[str, float]
    expected: dict[str, float]
    effective_donors: float
    expected_effective_donors: float


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two rows of numbers where both are finite.

    NaN where fewer than three pairs are left, or one side is constant.
    """
    x, y = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    return float(pearson_per_gene(x[:, None], y[:, None])[0])


def gene_gene(values: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
    """Pearson correlation of every gene with every other, over spots.

    Parameters
    ----------
    values
        (n, g). Spots where one of the two is not finite are left out for that pair.
    groups
        (n,) the section of each spot: then each gene is centred within its section first, so that
        what separates whole sections (depth, stain) does not tie genes together. None: one group.

    Returns
    -------
    numpy.ndarray
        (g, g) float64, symmetric, 1 on the diagonal; NaN where one of the two is constant or
        fewer than three spots are left.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    The comparison of heat maps is that of Xie, Pang, Chung, Perciani, MacParland, Wang and Bader
    (2023), NeurIPS ("BLEEP"), figure 4.
    """
    x = np.array(values, dtype=np.float64)
    if x.ndim != 2:
        message = f"values must be (spots, genes), not {x.shape}"
        raise ValueError(message)
    usable = np.isfinite(x)
    height = np.abs(np.where(usable, x, 0.0)).max(axis=0, initial=0.0)
    x[~usable] = 0.0
    for rows in _rows_of(groups, len(x)):
        part, there = x[rows], usable[rows]
        x[rows] = np.where(there, part - part.sum(0) / np.maximum(there.sum(0), 1), 0.0)
    spread = np.abs(x).max(axis=0, initial=0.0)
    flat = spread <= FLAT * height
    x /= np.where(flat, 1.0, spread)
    x[:, flat] = 0.0
    there = usable.astype(np.float64)
    count = there.T @ there
    n = np.maximum(count, 1.0)
    total = x.T @ there  # [i, j]: the sum of gene i where gene j is there too
    power = (x * x).T @ there - total**2 / n
    shared = x.T @ x - total * total.T / n
    scale = power * power.T
    defined = (count >= FEWEST_PAIRS) & (power > FLAT**2) & (power.T > FLAT**2)
    made = np.where(defined, shared / np.sqrt(np.where(defined, scale, 1.0)), np.nan)
    made = np.clip(made, -1.0, 1.0)
    known = np.isfinite(np.diag(made))
    made[known, known] = 1.0
    return made


def _rows_of(groups: ArrayLike | None, n: int) -> list[NDArray[np.int64]]:
    if groups is None:
        return [np.arange(n)]
    of = np.asarray(groups)
    if of.shape != (n,):
        message = f"{of.shape} sections for {n} spots"
        raise ValueError(message)
    _, inverse = np.unique(of, return_inverse=True)
    return [np.flatnonzero(inverse == i) for i in range(int(inverse.max(initial=-1)) + 1)]


def structure_agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Correlation of two gene-gene matrices over all pairs of different genes.

    Parameters
    ----------
    a, b
        (g, g) symmetric, as of `gene_gene`.

    Returns
    -------
    float
        NaN where fewer than three pairs are defined in both, or one side is constant.

    Raises
    ------
    ValueError
        If they are not square and alike in shape.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[0] != x.shape[1]:
        message = f"matrices {x.shape} and {y.shape} must be square and alike"
        raise ValueError(message)
    upper = np.triu_indices(len(x), k=1)
    return correlation(x[upper], y[upper])


def section_means(values: ArrayLike, groups: ArrayLike) -> NDArray[np.float64]:
    """Mean of each gene over the spots of each section, where it is finite.

    Parameters
    ----------
    values
        (n, g).
    groups
        (n,) the section of each spot.

    Returns
    -------
    numpy.ndarray
        (sections, g) float64, sections in sorted order; NaN where no spot of it has the gene.
    """
    x = np.asarray(values, dtype=np.float64)
    made = []
    for rows in _rows_of(groups, len(x)):
        there = np.isfinite(x[rows])
        count = there.sum(axis=0)
        total = np.where(there, x[rows], 0.0).sum(axis=0)
        made.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return np.array(made).reshape(len(made), x.shape[1])


def pseudobulk_correlation(
    predicted_by_section: ArrayLike,
    measured_by_section: ArrayLike,
    trained_by_section: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Correlation of each gene over whole sections: does a method tell donors apart.

    Parameters
    ----------
    predicted_by_section, measured_by_section
        (sections, g) means over the spots of each section, held out each, the same genes in the
        same order.
    trained_by_section
        (sections, g) what the fold of each section was trained on, in the mean; taken from both
        sides. Without it every fold leans on the mean of the other sections, which falls as the
        held-out one rises: the training mean itself then correlates with -1.

    Returns
    -------
    numpy.ndarray
        (g,) float64; NaN where fewer than three sections have the gene, or one side is constant.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    predicted = np.asarray(predicted_by_section, dtype=np.float64)
    measured = np.asarray(measured_by_section, dtype=np.float64)
    if trained_by_section is not None:
        trained = np.asarray(trained_by_section, dtype=np.float64)
        if trained.shape != measured.shape:
            message = f"training means {trained.shape} for sections {measured.shape}"
            raise ValueError(message)
        predicted, measured = predicted - trained, measured - trained
    return pearson_per_gene(predicted, measured)


def donor_mixing(W: sp.csr_matrix, donors: Sequence[str] | NDArray[np.str_]) -> Mixing:
    """Say how the donors of the references mix among the neighbours.

    Parameters
    ----------
    W
        (places, references) weights, not negative. Places without weight are left out.
    donors
        (references,) the donor of each.

    Returns
    -------
    Mixing
        Shares of weight and of references, and how many donors take part in an answer: the
        inverse of the sum of squared shares. NaN where no place has weight.

    Raises
    ------
    ValueError
        If there is not one donor a reference, or a weight is negative or not finite.

    Notes
    -----
    Effective number: Simpson (1949), Nature 163:688, as inverted by Hill (1973), Ecology
    54:427-432; for mixing of batches, Korsunsky et al. (2019), Nature Methods 16:1289 (LISI).
    """
    of = np.asarray(donors)
    weights = sp.csr_matrix(W, dtype=np.float64)
    if of.shape != (weights.shape[1],):
        message = f"{of.shape} donors for {weights.shape[1]} references"
        raise ValueError(message)
    if not (np.isfinite(weights.data).all() and (weights.data >= 0).all()):
        message = "weights must be finite and not negative"
        raise ValueError(message)
    names, inverse = np.unique(of, return_inverse=True)
    labels = [str(n) for n in names]
    size = np.bincount(inverse, minlength=len(names)).astype(np.float64)
    member = sp.csr_matrix(
        (np.ones(len(of)), (np.arange(len(of)), inverse)), shape=(len(of), len(names))
    )
    by_donor = np.asarray((weights @ member).toarray())
    total = by_donor.sum(axis=1)
    by_donor, total = by_donor[total > 0], total[total > 0]
    expected = size / max(float(size.sum()), 1.0)
    if not len(total):
        share = np.full(len(names), np.nan)
        effective = float("nan")
    else:
        share = by_donor.sum(axis=0) / total.sum()
        effective = float((1.0 / ((by_donor / total[:, None]) ** 2).sum(axis=1)).mean())
    return {
        "share": dict(zip(labels, share.tolist(), strict=True)),
        "expected": dict(zip(labels, expected.tolist(), strict=True)),
        "effective_donors": effective,
        "expected_effective_donors": float(1.0 / (expected**2).sum()) if len(of) else float("nan"),
    }


def disc_windows(
    positions_um: NDArray[Any], *, radius_um: float, fewest: int = FEWEST_PAIRS
) -> sp.csr_matrix:
    """Return the places within a radius of each place, itself among them, as rows of ones.

    Discs in µm serve square, hexagonal and incomplete grids alike.

    Parameters
    ----------
    positions_um
        (n, 2) places of one section.
    radius_um
        Of the disc.
    fewest
        Discs with fewer places are left out.

    Returns
    -------
    scipy.sparse.csr_matrix
        (windows, n) float64 of ones.
    """
    places = np.asarray(positions_um, dtype=np.float64)
    n = len(places)
    if n == 0:
        return sp.csr_matrix((0, 0), dtype=np.float64)
    pairs = cKDTree(places).query_pairs(radius_um, output_type="ndarray")
    own = np.arange(n)
    rows = np.concatenate([own, pairs[:, 0], pairs[:, 1]])
    columns = np.concatenate([own, pairs[:, 1], pairs[:, 0]])
    made = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    made.sort_indices()
    return sp.csr_matrix(made[np.diff(made.indptr) >= fewest])


def ssim_per_gene(
    predicted: ArrayLike, truth: ArrayLike, windows: sp.csr_matrix
) -> NDArray[np.float64]:
    """Structural similarity of each gene's two pictures, in the mean over windows.

    In each window the product of three terms: level, contrast and correlation. Unlike a
    correlation it sees a prediction that is too flat or off in level.

    Parameters
    ----------
    predicted, truth
        (n, g) values of one section.
    windows
        (windows, n) of ones (`disc_windows`), the places that are looked at together. A place
        that is not finite on either side is left out for that gene alone.

    Returns
    -------
    numpy.ndarray
        (g,) float64, at most 1. NaN where the truth is constant, or no window has two places.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Wang, Bovik, Sheikh and Simoncelli (2004), IEEE Transactions on Image Processing 13:600-612,
    with windows of even weight, sample covariances, and the range of the truth as the dynamic
    range.
    """
    p, t = np.asarray(predicted), np.asarray(truth)
    if p.shape != t.shape or p.ndim != 2 or windows.shape[1] != len(p):
        message = f"predicted {p.shape}, truth {t.shape}, windows {windows.shape} do not fit"
        raise ValueError(message)
    made = np.empty(p.shape[1])
    for start in range(0, p.shape[1], GENES_A_BLOCK):
        block = slice(start, start + GENES_A_BLOCK)
        made[block] = _ssim(p[:, block].astype(np.float64), t[:, block].astype(np.float64), windows)
    return made


def _ssim(
    p: NDArray[np.float64], t: NDArray[np.float64], windows: sp.csr_matrix
) -> NDArray[np.float64]:
    usable = np.isfinite(p) & np.isfinite(t)
    there = usable.astype(np.float64)
    lowest = np.where(usable, t, np.inf).min(axis=0, initial=np.inf)
    highest = np.where(usable, t, -np.inf).max(axis=0, initial=-np.inf)
    reach = np.maximum(np.abs(lowest), np.abs(highest))
    seen = usable.any(axis=0)
    extent = np.where(seen, highest - np.where(seen, lowest, 0.0), 0.0)
    varies = seen & (extent > FLAT * np.where(seen, reach, 1.0))
    # Shifted by one constant a gene for precision; level terms take it back.
    shift = np.where(
        seen, np.where(usable, t, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1), 0
    )
    x, y = np.where(usable, p - shift, 0.0), np.where(usable, t - shift, 0.0)
    count = np.asarray(windows @ there)
    n = np.maximum(count, 1.0)
    mean_x, mean_y = (windows @ x) / n, (windows @ y) / n
    sample = n / np.maximum(n - 1, 1)
    var_x = np.maximum((windows @ (x * x)) / n - mean_x**2, 0.0) * sample
    var_y = np.maximum((windows @ (y * y)) / n - mean_y**2, 0.0) * sample
    cov = ((windows @ (x * y)) / n - mean_x * mean_y) * sample
    level_x, level_y = mean_x + shift, mean_y + shift
    span = np.where(varies, extent, 1.0)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    level = (2 * level_x * level_y + c1) / (level_x**2 + level_y**2 + c1)
    likeness = (2 * cov + c2) / (var_x + var_y + c2)
    good = count >= 2
    windows_of = good.sum(axis=0)
    total = np.where(good, level * likeness, 0.0).sum(axis=0)
    defined = varies & (windows_of > 0)
    made: NDArray[np.float64] = np.where(defined, total / np.maximum(windows_of, 1), np.nan)
    return made
