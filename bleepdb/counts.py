"""Raw counts of many spots, laid out for averaging: genes of equal count stand together.

Most genes of a spot have a count of 1, 2 or 3. So a spot is kept as runs of equal counts, rising,
and the genes of each run in order. Two bytes a gene are enough then, a run is normalised once
instead of each of its genes, and a weighted mean needs the genes alone: one column of ones a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from bleepdb.normalise import log1p_cp10k

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LOW_COUNT = 2**16  # below it, runs are found by counting


def runs_of(
    genes: NDArray[Any], counts: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.int32]]:
    """Order the genes of one spot by their counts.

    Parameters
    ----------
    genes, counts
        (nnz,) rising positions, and positive counts.

    Returns
    -------
    genes, run_count, run_length
        The genes in their new order; the count of each run, rising; its number of genes.
    """
    order = counts.argsort(kind="stable")
    if not len(counts) or counts[order[-1]] >= LOW_COUNT:
        found, lengths = np.unique(counts, return_counts=True)
        return genes[order], found.astype(np.uint32), lengths.astype(np.int32)
    lengths = np.bincount(counts)
    found = lengths.nonzero()[0]
    return genes[order], found.astype(np.uint32), lengths[found].astype(np.int32)


def ranges(starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Join ``start, start + 1, ..`` of each range into one row of positions."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(np.asarray(starts, np.int64) - (ends - lengths), lengths) + np.arange(total)


@dataclass(frozen=True)
class Counts:
    """Raw counts of spots on one panel, by runs.

    Attributes
    ----------
    n_genes
        Genes of the panel.
    stores
        Arrays of gene positions, uint16 or uint32, in memory or mapped from files.
    store, start
        (n,) which of them holds a spot's genes, and where they begin.
    run_start
        (n + 1,) int64, where a spot's runs begin.
    run_count, run_length
        (runs,) uint32 and int32: the count of each run, and its number of genes.
    """

    n_genes: int
    stores: tuple[NDArray[Any], ...]
    store: NDArray[np.int32]
    start: NDArray[np.int64]
    run_start: NDArray[np.int64]
    run_count: NDArray[np.uint32]
    run_length: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def shape(self) -> tuple[int, int]:
        """Spots and genes."""
        return len(self), self.n_genes

    @cached_property
    def nnz(self) -> NDArray[np.int64]:
        """(n,) int64, expressed genes of each spot."""
        ends = np.concatenate([[0], np.cumsum(self.run_length, dtype=np.int64)])
        return np.asarray(ends[self.run_start[1:]] - ends[self.run_start[:-1]])

    @cached_property
    def where(self) -> list[tuple[int, int, int]]:
        """Store, begin and end of each spot's genes, as plain numbers."""
        ends = self.start + self.nnz
        return list(zip(self.store.tolist(), self.start.tolist(), ends.tolist(), strict=True))

    @cached_property
    def by_run(self) -> NDArray[np.int64]:
        """(runs,) the spot of each run."""
        return np.repeat(np.arange(len(self)), np.diff(self.run_start))

    @classmethod
    def joined(
        cls,
        n_genes: int,
        spots: Sequence[tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.int32]]],
    ) -> Counts:
        """Join spots that `runs_of` has ordered."""
        lengths = np.array([len(genes) for genes, _, _ in spots], dtype=np.int64)
        runs = np.array([len(count) for _, count, _ in spots], dtype=np.int64)
        none = np.zeros(0, np.uint16 if n_genes <= 2**16 else np.uint32)
        return cls(
            n_genes=n_genes,
            stores=(np.concatenate([none, *(genes for genes, _, _ in spots)]),),
            store=np.zeros(len(spots), np.int32),
            start=np.cumsum(lengths) - lengths,
            run_start=np.concatenate([[0], np.cumsum(runs)]).astype(np.int64),
            run_count=np.concatenate([np.zeros(0, np.uint32), *(count for _, count, _ in spots)]),
            run_length=np.concatenate([np.zeros(0, np.int32), *(size for _, _, size in spots)]),
        )

    @classmethod
    def together(cls, n_genes: int, parts: Sequence[Counts]) -> Counts:
        """Put spots of several origins behind one another; their genes are not copied."""
        stores: list[NDArray[Any]] = []
        store, starts, run_starts, at = [], [], [np.zeros(1, np.int64)], 0
        for part in parts:
            store.append(part.store + np.int32(len(stores)))
            stores += part.stores
            starts.append(part.start)
            run_starts.append(part.run_start[1:] + at)
            at += len(part.run_count)
        return cls(
            n_genes=n_genes,
            stores=tuple(stores),
            store=np.concatenate([np.zeros(0, np.int32), *store]),
            start=np.concatenate([np.zeros(0, np.int64), *starts]),
            run_start=np.concatenate(run_starts),
            run_count=np.concatenate([np.zeros(0, np.uint32), *(p.run_count for p in parts)]),
            run_length=np.concatenate([np.zeros(0, np.int32), *(p.run_length for p in parts)]),
        )

    def take(self, rows: NDArray[Any]) -> Counts:
        """Return some spots, in the order asked; their genes are not copied."""
        runs = np.diff(self.run_start)[rows]
        chosen = ranges(self.run_start[rows], runs)
        return Counts(
            self.n_genes,
            self.stores,
            self.store[rows],
            self.start[rows],
            np.concatenate([[0], np.cumsum(runs)]).astype(np.int64),
            self.run_count[chosen],
            self.run_length[chosen],
        )

    def genes_of(self, rows: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return the genes of some spots behind one another, by run, in `out` where it is given."""
        parts = [self.stores[s][a:b] for s, a, b in map(self.where.__getitem__, rows.tolist())]
        if out is None:
            none = np.zeros(0, np.uint16 if self.n_genes <= 2**16 else np.uint32)
            return np.concatenate([none, *parts])
        filled = out[: sum(map(len, parts))]
        if parts:
            np.concatenate(parts, out=filled, casting="unsafe")
        return filled

    def totals(self, shared: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Sum the counts of each spot over some genes, (n,) float64; None: over all."""
        if shared is None or shared.all():
            sizes: NDArray[Any] = self.run_length
        else:
            sizes = np.concatenate(
                [np.zeros(0), *(self._kept(rows, shared) for rows in self.pages())]
            )
        sums = self.run_count.astype(np.float64) * sizes
        return np.bincount(self.by_run, sums, minlength=len(self)).astype(np.float64, copy=False)

    def pages(self, page: int = 2048) -> list[NDArray[np.int64]]:
        """Return the rows in parts, for work of bounded size."""
        return [
            np.arange(a, min(a + page, len(self)), dtype=np.int64)
            for a in range(0, len(self), page)
        ]

    def _kept(self, rows: NDArray[np.int64], shared: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many genes of each run of some adjacent spots are among the shared ones."""
        kept = np.concatenate([[0], np.cumsum(shared[self.genes_of(rows)], dtype=np.int64)])
        runs = self.run_length[self.run_start[rows[0]] : self.run_start[rows[-1] + 1]]
        return np.asarray(np.diff(kept[np.concatenate([[0], np.cumsum(runs, dtype=np.int64)])]))

    def csr(self) -> sp.csr_matrix:
        """Return the raw counts as a matrix with sorted indices, uint16 or uint32."""
        narrow = self.run_count.max(initial=0) < 2**16
        return self._matrix(
            np.arange(len(self)), self.run_count.astype(np.uint16 if narrow else np.uint32)
        ).sorted_indices()

    def _matrix(self, rows: NDArray[Any], by_run: NDArray[Any]) -> sp.csr_matrix:
        """Matrix of some spots with a value a run; indices not sorted."""
        part = self.take(rows)
        width = np.dtype(np.int32 if int(part.nnz.sum()) < 2**31 else np.int64)
        chosen = ranges(self.run_start[rows], np.diff(self.run_start)[rows])
        # One width for both: index arrays of mixed widths make SciPy copy at every row taken.
        indptr = np.concatenate([[0], np.cumsum(part.nnz)]).astype(width)
        data = np.repeat(by_run[chosen], part.run_length)
        genes = self.genes_of(rows).astype(width)
        return sp.csr_matrix((data, genes, indptr), shape=(len(part), self.n_genes))

    def normalised(self, totals: NDArray[np.float64]) -> Values:
        """Return log1p values of the counts, scaled by a total a spot: each run once."""
        return Values(self, log1p_cp10k(self.run_count, totals[self.by_run]))


@dataclass(frozen=True)
class Values:
    """Spots by genes, float32: counts by runs with one value a run."""

    counts: Counts
    by_run: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def shape(self) -> tuple[int, int]:
        """Spots and genes."""
        return self.counts.shape

    @property
    def nnz(self) -> NDArray[np.int64]:
        """(n,) int64, stored values of each spot."""
        return self.counts.nnz

    def rows(self, rows: NDArray[Any]) -> sp.csr_matrix:
        """Return some spots as a float32 matrix; indices are not sorted."""
        return self.counts._matrix(np.asarray(rows, np.int64), self.by_run)  # noqa: SLF001 - one layout, one module

    def genes(self, chosen: NDArray[np.int64]) -> Values:
        """Return the same spots on some genes, in the order asked."""
        old = self.counts
        if len(chosen) == old.n_genes and np.array_equal(chosen, np.arange(old.n_genes)):
            return self
        place = np.full(old.n_genes, -1, dtype=np.int64)
        place[chosen] = np.arange(len(chosen))
        kind = np.uint16 if len(chosen) <= 2**16 else np.uint32
        genes, lengths = [np.zeros(0, kind)], [np.zeros(0, np.int64)]
        for rows in old.pages():
            found = place[old.genes_of(rows)]
            genes.append(found[found >= 0].astype(kind))
            lengths.append(old._kept(rows, place >= 0))  # noqa: SLF001 - one layout, one module
        sizes = np.concatenate(lengths)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        made = Counts(
            n_genes=len(chosen),
            stores=(np.concatenate(genes),),
            store=np.zeros(len(old), np.int32),
            start=ends[old.run_start[:-1]],
            run_start=old.run_start,
            run_count=old.run_count,
            run_length=sizes.astype(np.int32),
        )
        return Values(made, self.by_run)

    def weighted_sums(
        self,
        weights: sp.csr_matrix,
        out: NDArray[Any],
        *,
        square: bool = False,
    ) -> None:
        """Write the weighted sum of spots of each row of weights, without a dense copy of any.

        Parameters
        ----------
        weights
            (n, spots) weights.
        out
            (n, genes) float32 or float64, overwritten; sums are made in its precision.
        square
            Sum the squares of the values instead.
        """
        counts, kind = self.counts, out.dtype
        runs = np.diff(counts.run_start)[weights.indices]
        chosen = ranges(counts.run_start[weights.indices], runs)
        values = self.by_run[chosen].astype(kind)
        if square:
            values *= values
        values *= np.repeat(weights.data.astype(kind), runs)
        # Where the columns of each row of weights begin: one column a run.
        first = np.concatenate([[0], np.cumsum(runs)])[weights.indptr]
        ends = np.concatenate([[0], np.cumsum(counts.run_length[chosen], dtype=np.int64)])
        sizes = np.diff(ends[first])
        genes, ones = np.empty(sizes.max(initial=0), np.int32), np.ones(sizes.max(initial=0), kind)
        for i, (a, b, size) in enumerate(
            zip(first[:-1].tolist(), first[1:].tolist(), sizes.tolist(), strict=True)
        ):
            if not size:
                out[i] = 0
                continue
            counts.genes_of(weights.indices[weights.indptr[i] : weights.indptr[i + 1]], genes)
            indptr = (ends[a : b + 1] - ends[a]).astype(np.int32)
            by_column = sp.csc_matrix(
                (ones[:size], genes[:size], indptr), shape=(counts.n_genes, b - a), copy=False
            )
            out[i] = by_column @ values[a:b]
