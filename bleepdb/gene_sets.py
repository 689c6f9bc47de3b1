"""Gene sets on which methods are compared, chosen on the training sections alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.metrics import moran_per_gene

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.panel import Panel

HEG: Final = "HEG"
HVG: Final = "HVG"
HVGD: Final = "HVGd"
V50: Final = "V50"
MG: Final = "MG"
SVG: Final = "SVG"
ALL: Final = "ALL"
SIZES: Final = {HEG: 50, HVG: 1000, HVGD: 1000, V50: 50, SVG: 50}
DETECTED_SHARE: Final = 0.1

# Breast epithelium and its HER2 programme, stroma, and immune cells.
MARKERS: Final = (
    "ERBB2", "GNAS", "FASN", "KRT8", "KRT18", "KRT19", "CD74", "HLA-DRA", "COL1A1", "COL1A2",
    "COL3A1", "IGKC", "IGHG3", "CD24", "EPCAM", "VIM", "ACTA2", "SPARC", "B2M", "FN1", "CD3D",
    "PTPRC", "MUC1", "XBP1",
)  # fmt: skip

# Mitochondrial genes and ribosomal proteins (kinases such as RPS6KA1 are neither).
MITO_RIBO: Final = re.compile(
    r"MT-.+|RP[LS]\d+(A|AL|L|L1|X|Y1|Y2)?|RPLP[0-2]|RPSA2?", re.IGNORECASE
)

BINS = 20
GENES_A_BLOCK = 2048


def _mean_and_variance(
    profiles: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance (ddof 1) over spots of the values before log1p, in blocks of genes."""
    genes = profiles.shape[1]
    mean, variance = np.empty(genes), np.empty(genes)
    for start in range(0, genes, GENES_A_BLOCK):
        block = slice(start, start + GENES_A_BLOCK)
        linear = np.expm1(profiles[:, block].astype(np.float64))
        mean[block] = linear.mean(axis=0)
        variance[block] = linear.var(axis=0, ddof=1)
    return mean, variance


def normalised_dispersion(profiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the dispersion of each gene beside genes of a like mean ("seurat" flavour).

    The log of variance over mean of the values before log1p, standardised within 20 bins of equal
    width of log1p(mean). A gene alone in its bin gets 1.

    Parameters
    ----------
    profiles
        (spots, genes) log1p values.

    Returns
    -------
    numpy.ndarray
        (genes,) float64, NaN where a gene does not vary.

    Notes
    -----
    Satija, Farrell, Gennert, Schier and Regev (2015), Nature Biotechnology 33:495; the numbers
    are those of scanpy's ``highly_variable_genes(flavor="seurat")``.
    """
    mean, variance = _mean_and_variance(profiles)
    made = np.full(len(mean), np.nan)
    varies = variance > 0
    if not varies.any():
        return made
    # Genes that do not vary have no dispersion, yet their means take part in placing the bins.
    level = np.log1p(mean)
    edges = np.linspace(level.min(), level.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, level, side="left") - 1, 0, BINS - 1)
    dispersion = np.log(variance[varies] / mean[varies])
    place = place[varies]
    count = np.bincount(place, minlength=BINS)
    centre = np.bincount(place, dispersion, minlength=BINS) / np.maximum(count, 1)
    squares = np.bincount(place, (dispersion - centre[place]) ** 2, minlength=BINS)
    width = np.sqrt(squares / np.maximum(count - 1, 1))
    alone = count[place] == 1
    safe = np.where(width[place] > 0, width[place], 1.0)
    made[varies] = np.where(alone, 1.0, (dispersion - centre[place]) / safe)
    return made


def highly_variable(profiles: NDArray[np.float32], n: int) -> NDArray[np.bool_]:
    """Choose the `n` genes of highest normalised dispersion.

    Parameters
    ----------
    profiles
        (spots, genes) log1p values.
    n
        How many. Genes that tie with the last one are chosen too, and genes that do not vary
        never are, so that the number can differ.

    Returns
    -------
    numpy.ndarray
        (genes,) bool.
    """
    found = normalised_dispersion(profiles)
    known = np.sort(found[~np.isnan(found)])[::-1]
    if not len(known) or n < 1:
        return np.zeros(len(found), dtype=bool)
    return np.asarray(np.nan_to_num(found, nan=-np.inf) >= known[min(n, len(known)) - 1])


def spatial_variability(
    profiles: NDArray[np.float32], rings: Sequence[sp.csr_matrix]
) -> NDArray[np.float64]:
    """Return Moran's I of each gene, in the mean over sections.

    Within sections, for what separates whole sections is depth and stain as much as tissue.

    Parameters
    ----------
    profiles
        (spots, genes) log1p values, one section after the other.
    rings
        Adjacency of the spots of each section, in the same order.

    Returns
    -------
    numpy.ndarray
        (genes,) float64; a section where it is not defined counts as 0.

    Raises
    ------
    ValueError
        If the sections do not hold as many spots as there are profiles.
    """
    ends = np.cumsum([0, *(ring.shape[0] for ring in rings)]).tolist()
    if ends[-1] != len(profiles):
        message = f"{len(profiles)} profiles for {ends[-1]} places"
        raise ValueError(message)
    total = np.zeros(profiles.shape[1])
    for ring, start in zip(rings, ends, strict=False):
        found = moran_per_gene(profiles[start : start + ring.shape[0]], ring)
        total += np.nan_to_num(found, nan=0.0)
    return total / max(len(rings), 1)


def choose(
    profiles: NDArray[np.float32],
    panel: Panel,
    *,
    rings: Sequence[sp.csr_matrix] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Choose the gene sets of an evaluation from the profiles of its training sections.

    ``HEG`` the 50 genes of highest mean; ``HVG`` the 1,000 most variable (`highly_variable`);
    ``HVGd`` the same among genes detected in at least a tenth of the spots; ``V50`` the 50 of
    largest variance; ``MG`` fixed breast and immune markers, those that the panel has. A set
    never asks for more than half of the genes it is chosen from, so that on a small panel it
    still says something else than the whole panel does; variable genes that tie with the last
    one come with it.

    Where it is known which spots stand beside each other, two more: ``SVG`` the 50 of highest
    Moran's I (`spatial_variability`) among genes detected in at least a tenth of the spots, for
    the I of a gene that hardly any spot shows is noise; ``ALL`` the whole panel. Inner folds tune
    without them, on the five that say different things.

    Parameters
    ----------
    profiles
        (spots, genes) log1p values of training sections only, one section after the other.
    panel
        The genes of the columns.
    rings
        Adjacency of the spots of each section (`bleepdb.places.adjacency`), for SVG and ALL.

    Returns
    -------
    dict
        Name -> rising positions in the panel, int64. ``MG`` is left out where no marker is there.

    Raises
    ------
    ValueError
        If the columns are not the panel's genes, or `rings` are not of these spots.
    """
    if profiles.shape[1] != len(panel):
        message = f"{profiles.shape[1]} columns for {len(panel)} genes"
        raise ValueError(message)

    def top(values: NDArray[np.floating[Any]], n: int) -> NDArray[np.int64]:
        first = np.argsort(-values, kind="stable")[: min(n, len(values) // 2)]
        return np.sort(first).astype(np.int64)

    detected = np.flatnonzero((profiles > 0).mean(axis=0) >= DETECTED_SHARE)
    among = highly_variable(profiles[:, detected], min(SIZES[HVGD], len(detected) // 2))
    sets = {
        HEG: top(profiles.mean(axis=0, dtype=np.float64), SIZES[HEG]),
        HVG: np.flatnonzero(highly_variable(profiles, min(SIZES[HVG], len(panel) // 2))),
        HVGD: detected[among],
        V50: top(profiles.var(axis=0, dtype=np.float64), SIZES[V50]),
        MG: np.sort([i for i in panel.find(MARKERS) if i >= 0]).astype(np.int64),
    }
    if rings is not None:
        alike = spatial_variability(profiles[:, detected], rings)
        sets[SVG] = detected[top(alike, SIZES[SVG])]
        sets[ALL] = np.arange(len(panel))
    return {k: v.astype(np.int64) for k, v in sets.items() if len(v)}


def is_mito_or_ribo(panel: Panel) -> NDArray[np.bool_]:
    """Tell mitochondrial genes and ribosomal proteins by their symbols, (genes,) bool."""
    return np.array([MITO_RIBO.fullmatch(s) is not None for s in panel.symbols], dtype=bool)


def without_mito_ribo(
    sets: Mapping[str, NDArray[np.int64]], panel: Panel
) -> dict[str, NDArray[np.int64]]:
    """Return the same sets less mitochondrial and ribosomal genes; sets left empty are dropped.

    They are among the highest expressed of every tissue and follow the depth of a spot more than
    its kind, so a score that hangs on them says little about biology.
    """
    drop = is_mito_or_ribo(panel)
    kept = {k: v[~drop[v]] for k, v in sets.items()}
    return {k: v for k, v in kept.items() if len(v)}
