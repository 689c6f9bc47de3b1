"""Weights times measured profiles: the imputed values, and what stands behind each gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.imputation.kernels import sums_of_rows
from bleepdb.imputation.references import check_columns, only_measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.imputation.references import Group, LowRank
    from bleepdb.panel import Panel

QUERIES_A_BLOCK = 256
VALUES_A_BLOCK = 8_000_000  # queries x genes: what is held beside the result


@dataclass(frozen=True)
class Imputed:
    """Imputed values of a block of queries.

    Attributes
    ----------
    values
        (n, genes) float32 log1p values; NaN where no neighbour measured the gene.
    denoised
        (n,) bool: whether any gene of the model's panel went through the low-rank map.
    """

    values: NDArray[np.float32]
    denoised: NDArray[np.bool_]


class Aggregator:
    """Imputes chosen genes from weights on references.

    Genes of the model's panel go through the low-rank map, from those neighbours that measured
    the gene and enough of that panel to be placed in the map (weights scaled to sum to 1 again).
    Where a query has none, and for genes outside that panel, the value is the mean over those
    neighbours that measured the gene.
    Either way it is an exact weighted sum over references, and may fall slightly below 0 where a
    map or negative weights are used: clipping would break that.

    Parameters
    ----------
    groups
        The references, each column of W in exactly one group.
    genes
        The genes to impute, in the order of the columns of the result.
    low_rank
        The model's map, or None for plain means.

    Raises
    ------
    ValueError
        If the groups do not name each reference once.
    """

    def __init__(
        self, groups: Sequence[Group], genes: Panel, low_rank: LowRank | None = None
    ) -> None:
        self.groups = tuple(groups)
        self.genes = genes
        self.n_references = sum(len(g.columns) for g in self.groups)
        check_columns(self.groups, self.n_references)
        found = [genes.match(g.panel) for g in self.groups]
        self._wanted = [m.left for m in found]
        self._values = [g.on_genes(m.right) for g, m in zip(self.groups, found, strict=True)]
        self._measured = np.zeros((len(self.groups), len(genes)), dtype=bool)
        for i, wanted in enumerate(self._wanted):
            self._measured[i, wanted] = True
        self._group_of = np.zeros(self.n_references, dtype=np.int64)
        self._row_of = np.zeros(self.n_references, dtype=np.int64)
        for i, group in enumerate(self.groups):
            self._group_of[group.columns] = i
            self._row_of[group.columns] = np.arange(len(group.columns))
        # The usual case: one panel, all of it wanted, columns and genes in their own order.
        self._plain = (
            len(self.groups) == 1
            and np.array_equal(self.groups[0].columns, np.arange(self.n_references))
            and np.array_equal(self._wanted[0], np.arange(len(genes)))
        )
        self._prepare(low_rank)

    def _prepare(self, low_rank: LowRank | None) -> None:
        """Place every reference in the coordinates of the map, once.

        Genes that the same placed references measured are mapped together: `_patterns` holds, for
        each such set, who may answer (references,) and which mapped genes these are.
        """
        self._mapped = np.zeros(0, dtype=np.int64)
        self._patterns: list[tuple[NDArray[np.bool_], NDArray[np.int64]]] = []
        if low_rank is None:
            return
        found = self.genes.match(low_rank.panel)
        self._mapped = found.left
        self._mean = low_rank.mean[found.right].astype(np.float64)
        self._basis = low_rank.loadings[found.right].astype(np.float64)
        self._coordinates = np.zeros((self.n_references, low_rank.components.shape[1]))
        placed = np.zeros(len(self.groups), dtype=bool)
        for i, group in enumerate(self.groups):
            known = low_rank.coordinates(group)
            if known is not None:
                self._coordinates[group.columns] = known
                placed[i] = True
        answering = self._measured[:, self._mapped] & placed[:, None]
        sets, of_gene = np.unique(answering, axis=1, return_inverse=True)
        for i in range(sets.shape[1]):
            if sets[:, i].any():
                usable = sets[:, i][self._group_of]
                self._patterns.append((usable, np.flatnonzero(of_gene.ravel() == i)))

    def impute(self, W: sp.csr_matrix) -> Imputed:
        """Impute all chosen genes for the queries that are the rows of W.

        Parameters
        ----------
        W
            (n, references) weights; rows sum to 1 or are empty.

        Returns
        -------
        Imputed
            Values (n, genes) and which rows were denoised.

        Raises
        ------
        ValueError
            If W has another number of references.
        """
        self._check(W)
        values = np.empty((W.shape[0], len(self.genes)), dtype=np.float32)
        denoised = np.zeros(W.shape[0], dtype=bool)
        for block in self._blocks(W.shape[0]):
            part = W[block]
            through = [(only_measured(part, usable), genes) for usable, genes in self._patterns]
            reached = [np.diff(among.indptr) > 0 for among, _ in through]
            everywhere = sum(len(g) for _, g in through) == len(self.genes)
            if not (everywhere and all(rows.all() for rows in reached)):
                self._masked_mean(part, values[block])
            for (among, genes), there in zip(through, reached, strict=True):
                rows = np.flatnonzero(there)
                placed = among[rows] @ self._coordinates
                mapped = self._mean[genes] + placed @ self._basis[genes].T
                values[np.ix_(rows + block.start, self._mapped[genes])] = mapped
                denoised[rows + block.start] = True
        return Imputed(values, denoised)

    def neighbour_sd(self, W: sp.csr_matrix) -> NDArray[np.float32]:
        """Weighted standard deviation of what the neighbours of each query measured.

        Weights count by their size, scaled to sum to 1 over the neighbours that measured the
        gene: for convex weights these are the weights themselves, and a neighbour that a local
        regression subtracts says as much about the spread as one that it adds. The measured
        values are used as they are, before any low-rank map.

        Parameters
        ----------
        W
            (n, references) weights.

        Returns
        -------
        numpy.ndarray
            (n, genes) float32; NaN where no neighbour measured the gene.
        """
        self._check(W)
        made = np.full((W.shape[0], len(self.genes)), np.nan, dtype=np.float32)
        sizes = abs(W)
        for block in self._blocks(W.shape[0]):
            first, second, mass = self._moments(sizes[block])
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = first / mass
                variance = np.maximum(second / mass - mean**2, 0.0)
            made[block] = np.where(mass > 0, np.sqrt(variance), np.nan)
        return made

    def coverage(self, W: sp.csr_matrix) -> NDArray[np.float64]:
        """Share of a query's neighbours that measured each gene, in the mean over queries.

        Queries without neighbours are left out. (genes,) float64; NaN where all are.
        """
        return self.coverage_of([W])

    def coverage_of(self, blocks: Iterable[sp.csr_matrix]) -> NDArray[np.float64]:
        """Return `coverage` of W whose rows come in blocks."""
        shares, queries = np.zeros(len(self.groups)), 0
        for W in blocks:
            self._check(W)
            counts: NDArray[np.float64] = np.stack(
                [np.diff(W[:, g.columns].indptr).astype(np.float64) for g in self.groups], axis=1
            )
            total = counts.sum(axis=1)
            shares += (counts[total > 0] / total[total > 0, None]).sum(axis=0)
            queries += int((total > 0).sum())
        if not queries:
            return np.full(len(self.genes), np.nan)
        return np.asarray(shares / queries @ self._measured)

    def measured_by(self, gene: int) -> NDArray[np.bool_]:
        """Tell which references measured a gene, (references,) bool."""
        return np.asarray(self._measured[self._group_of, gene])

    def _check(self, W: sp.csr_matrix) -> None:
        if W.shape[1] != self.n_references:
            message = f"weights on {W.shape[1]} references, values of {self.n_references}"
            raise ValueError(message)

    def _blocks(self, n: int) -> Iterator[slice]:
        step = max(1, min(QUERIES_A_BLOCK, VALUES_A_BLOCK // max(len(self.genes), 1)))
        for start in range(0, n, step):
            yield slice(start, min(start + step, n))

    def _masked_mean(self, W: sp.csr_matrix, out: NDArray[np.float32]) -> None:
        """Write the mean over the neighbours that measured each gene, (n, genes)."""
        if self._plain:
            total = np.asarray(W.astype(np.float64).sum(axis=1)).ravel()
            scale = 1.0 / np.where(total > 0, total, 1.0)
            shares = W.astype(np.float32)
            shares.data = (W.data * np.repeat(scale, np.diff(W.indptr))).astype(np.float32)
            sums_of_rows(shares, self._values[0], np.float32, out=out)
            out[total <= 0] = np.nan
            return
        counts = np.stack([np.diff(W[:, g.columns].indptr) for g in self.groups], axis=1)
        signed = W.data.size > 0 and W.data.min() < 0
        first, _, mass = self._moments(W, squares=False)
        if signed:
            # Where a neighbour lacks the gene, negative weights are left out (`only_measured`).
            missing = counts @ ~self._measured > 0
            above, _, part = self._moments(W.maximum(0), squares=False)
            first, mass = np.where(missing, above, first), np.where(missing, part, mass)
        known = (counts @ self._measured > 0) & (mass > 0)
        out[:] = np.where(known, first / np.where(known, mass, 1.0), np.nan)

    def _moments(
        self, W: sp.csr_matrix, *, squares: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Sum ``w x``, ``w x^2`` and w over those that measured a gene, each (n, genes)."""
        shape = (W.shape[0], len(self.genes))
        first, second = np.zeros(shape), np.zeros(shape if squares else (0, 0))
        mass = np.zeros((W.shape[0], len(self.groups)))
        # E[x^2] - E[x]^2 cancels, so float32 sums would leave a false spread.
        kind: type[np.floating[Any]] = np.float64 if squares else np.float32
        for i, group in enumerate(self.groups):
            of_group = W[:, group.columns]
            mass[:, i] = np.asarray(of_group.astype(np.float64).sum(axis=1)).ravel()
            wanted = self._wanted[i]
            first[:, wanted] += sums_of_rows(of_group, self._values[i], kind)
            if squares:
                second[:, wanted] += sums_of_rows(of_group, self._values[i], kind, square=True)
        return first, second, mass @ self._measured
