"""The weights W of a slide, made a block of rows at a time, so that never all of them are held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bleepdb.imputation import effective_neighbours, mixing, spots_by_donor, top_similarity
from bleepdb.querying.search import weigh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bleepdb.imputation import Aggregator
    from bleepdb.querying.search import Neighbours

ROWS_A_BLOCK = 1024


@dataclass(frozen=True)
class WeightRows:
    """W (places, references), row by row from what the search found.

    Attributes
    ----------
    found
        Neighbours and scores of every place.
    vectors
        (n, d) float32 of the places, in memory or mapped; used by ``local`` alone.
    keys
        (references, d) float32 of the references, or None.
    method, temperature, ridge
        As `bleepdb.querying.search.weigh`.
    mixed
        (n, n) which rows smoothing mixes (`bleepdb.imputation.mixing`), or None.
    reference_weights
        (references,) what each weighs by its depth, or None.
    """

    found: Neighbours
    vectors: NDArray[np.float32]
    keys: NDArray[np.float32] | None
    method: str
    temperature: float
    ridge: float
    mixed: sp.csr_matrix | None
    reference_weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.found.columns)

    @classmethod
    def of(
        cls,
        found: Neighbours,
        vectors: NDArray[np.float32],
        keys: NDArray[np.float32] | None,
        *,
        method: str,
        temperature: float,
        ridge: float,
        adjacency: sp.csr_matrix | None = None,
        smoothing: float = 0.0,
        reference_weights: NDArray[np.float64] | None = None,
    ) -> WeightRows:
        """Return W without smoothing, or with the rows of adjacent places mixed."""
        mixed = None
        if adjacency is not None and smoothing > 0:
            usable = np.asarray((found.columns >= 0).any(axis=1))
            mixed = mixing(adjacency, smoothing, usable)
        return cls(found, vectors, keys, method, temperature, ridge, mixed, reference_weights)

    def _own(self, rows: NDArray[np.int64]) -> sp.csr_matrix:
        part = replace(self.found, columns=self.found.columns[rows], scores=self.found.scores[rows])
        return weigh(
            part,
            np.asarray(self.vectors[rows]) if self.keys is not None else self.vectors[:0],
            self.keys,
            method=self.method,
            temperature=self.temperature,
            ridge=self.ridge,
            reference_weights=self.reference_weights,
        )

    def block(self, rows: slice) -> sp.csr_matrix:
        """Return some adjacent rows, (rows, references) CSR float32 with sorted indices."""
        if self.mixed is None:
            return self._own(np.arange(rows.start, rows.stop))
        part = self.mixed[rows]
        needed = np.unique(part.indices).astype(np.int64)
        made = sp.csr_matrix(part[:, needed] @ self._own(needed), dtype=np.float32)
        made.eliminate_zeros()
        made.sort_indices()
        return made

    def blocks(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Yield (rows, W of them) from first to last."""
        for start in range(0, len(self), ROWS_A_BLOCK):
            rows = slice(start, min(start + ROWS_A_BLOCK, len(self)))
            yield rows, self.block(rows)

    def whole(self) -> sp.csr_matrix:
        """Return all of W, (places, references) CSR float32. For small jobs."""
        if not len(self):
            return self._own(np.arange(0))
        return sp.csr_matrix(sp.vstack([W for _, W in self.blocks()], format="csr"))


@dataclass(frozen=True)
class Survey:
    """What the tables say of W, from one pass over its rows.

    Attributes
    ----------
    effective_neighbours, effective_donors, top_similarity
        (n,) float32, see `bleepdb.imputation.uncertainty`.
    nobody
        (n,) bool: places without neighbours.
    coverage
        (genes,) float32, see `bleepdb.imputation.Aggregator.coverage`.
    longest
        References of the place that has most of them.
    """

    effective_neighbours: NDArray[np.float32]
    effective_donors: NDArray[np.float32]
    top_similarity: NDArray[np.float32]
    nobody: NDArray[np.bool_]
    coverage: NDArray[np.float32]
    longest: int


def survey(rows: WeightRows, donors: Sequence[str], aggregator: Aggregator) -> Survey:
    """Go over W once, a block of rows at a time."""
    n = len(rows)
    near, people, top = (np.zeros(n, np.float32) for _ in range(3))
    nobody, longest = np.zeros(n, bool), 0
    belongs = spots_by_donor(donors)

    def seen() -> Iterator[sp.csr_matrix]:
        nonlocal longest
        for block, W in rows.blocks():
            near[block] = effective_neighbours(W)
            people[block] = effective_neighbours(abs(sp.csr_matrix(W, dtype=np.float64)) @ belongs)
            top[block] = top_similarity(rows.found.scores[block], rows.found.columns[block])
            lengths = np.diff(W.indptr)
            nobody[block] = lengths == 0
            longest = max(longest, int(lengths.max(initial=0)))
            yield W

    coverage = aggregator.coverage_of(seen()).astype(np.float32)
    return Survey(near, people, top, nobody, coverage, longest)
