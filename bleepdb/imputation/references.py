"""What references measured: normalised profiles, grouped by the panel they were measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bleepdb.counts import Values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bleepdb.panel import Panel


REFERENCES_A_PAGE = 1024
LEAST_SEEN = 0.5  # of every direction of a map: below, its coordinates would be mostly noise


@dataclass(frozen=True)
class Group:
    """References that were measured on one panel.

    Parameters
    ----------
    panel
        The genes of the columns of `values`.
    columns
        (m,) int64, the column of W that each reference has.
    values
        (m, genes) log1p values, float32: a CSR matrix, or counts by runs with their values
        (`bleepdb.counts.Values`). A gene that is not stored was measured as 0.
    """

    panel: Panel
    columns: NDArray[np.int64]
    values: sp.csr_matrix | Values

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.columns), len(self.panel)):
            message = (
                f"values {self.values.shape} for {len(self.columns)} references "
                f"and {len(self.panel)} genes"
            )
            raise ValueError(message)

    def on_genes(self, chosen: NDArray[np.int64]) -> sp.csr_matrix | Values:
        """Return the values of some genes of the panel, in the order asked."""
        if isinstance(self.values, Values):
            return self.values.genes(chosen)
        if np.array_equal(chosen, np.arange(len(self.panel))):
            return self.values
        return self.values[:, chosen].tocsr()

    def pages(self) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Yield (rows, their values as CSR), so that never all of them are a matrix."""
        for start in range(0, len(self.columns), REFERENCES_A_PAGE):
            page = slice(start, min(start + REFERENCES_A_PAGE, len(self.columns)))
            if isinstance(self.values, Values):
                yield page, self.values.rows(np.arange(page.start, page.stop))
            else:
                yield page, self.values[page]


@dataclass(frozen=True)
class LowRank:
    """A fixed linear map on genes that keeps what the training profiles have in common.

    A profile y becomes ``mean + (y - mean) U R'``. Noise of single genes is lost on the way, and
    as the map is linear the result stays an exact sum over references.

    Parameters
    ----------
    panel
        The model's panel.
    mean
        (genes,) float32, the mean log1p profile of the training spots.
    components
        (genes, rank) float32 with orthonormal columns: U, which gives the coordinates.
    readout
        (genes, rank) float32: R, which reads genes off coordinates. None: R = U, the projection.
    """

    panel: Panel
    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    readout: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.mean.shape != (len(self.panel),) or self.components.shape[0] != len(self.panel):
            message = (
                f"mean {self.mean.shape} and components {self.components.shape} "
                f"for {len(self.panel)} genes"
            )
            raise ValueError(message)
        if self.loadings.shape != self.components.shape:
            message = f"a readout {self.loadings.shape} for components {self.components.shape}"
            raise ValueError(message)

    @property
    def loadings(self) -> NDArray[np.float32]:
        """What reads genes off coordinates, (genes, rank) float32."""
        return self.components if self.readout is None else self.readout

    def projection(self, panel: Panel) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Return what turns profiles on a panel into coordinates: ``(x - mean) P``.

        On all genes of the model P is U. Where a panel lacks some of them, the coordinates are
        those that fit the genes that it has best: ``P = U_s (U_s' U_s)^-1`` by least squares, with
        U_s the rows of U that were measured. That is linear in the measured values as well.

        Returns
        -------
        tuple or None
            Positions (m,) of the model's genes in its panel, and P (m, rank) float64, rows in the
            same order; the genes' positions in `panel` are ``self.panel.match(panel).right``. None
            where the panel sees a direction of U by less than `LEAST_SEEN`, so that noise would be
            blown up by more than the square root of its inverse.
        """
        found = self.panel.match(panel)
        basis = self.components[found.left].astype(np.float64)
        if len(found) == len(self.panel):
            return found.left, basis
        gram = basis.T @ basis
        if not len(gram) or float(np.linalg.eigvalsh(gram)[0]) < LEAST_SEEN:
            return None
        return found.left, np.asarray(np.linalg.solve(gram, basis.T).T, dtype=np.float64)

    def coordinates(self, group: Group) -> NDArray[np.float64] | None:
        """Return the coordinates of each reference of a group, (m, rank) float64.

        None where its panel tells too little of them; see `projection`.
        """
        known = self.projection(group.panel)
        if known is None:
            return None
        genes, P = known
        placed = np.zeros((len(group.panel), self.components.shape[1]))
        placed[self.panel.match(group.panel).right] = P
        made = np.empty((len(group.columns), placed.shape[1]))
        for page, values in group.pages():
            made[page] = values.astype(np.float64) @ placed
        return made - self.mean[genes].astype(np.float64) @ P


def mappable(groups: Sequence[Group], low_rank: LowRank) -> NDArray[np.bool_]:
    """Tell which references a low-rank map can place, (references,) bool."""
    made = np.zeros(sum(len(g.columns) for g in groups), dtype=bool)
    for group in groups:
        made[group.columns] = low_rank.projection(group.panel) is not None
    return made


def check_columns(groups: Sequence[Group], n_references: int) -> None:
    """Check that every column of W stands in exactly one group.

    Raises
    ------
    ValueError
        If one is missing, doubled or out of range.
    """
    columns = np.concatenate([g.columns for g in groups]) if groups else np.zeros(0, np.int64)
    if not np.array_equal(np.sort(columns), np.arange(n_references)):
        message = f"{len(columns)} columns of groups do not name each of {n_references} references"
        raise ValueError(message)


def only_measured(W: sp.csr_matrix, measured: NDArray[np.bool_]) -> sp.csr_matrix:
    """Keep the weights on the references that measured what is asked, so that rows sum to 1.

    A row whose references all measured it stays as it is. Otherwise the rest is scaled to sum
    to 1; negative weights (`local_weights`) are left out first, since what remains of a
    regression is none, and a small remaining sum would blow them up.

    Parameters
    ----------
    W
        (n, references) weights.
    measured
        (references,) bool.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, references) float64; a row is empty where no weight is left.
    """
    rows = np.repeat(np.arange(W.shape[0]), np.diff(W.indptr))
    there = measured[W.indices]
    incomplete = np.bincount(rows[~there], minlength=W.shape[0]) > 0
    data = W.data.astype(np.float64)
    data = np.where(there & ~((data < 0) & incomplete[rows]), data, 0.0)
    total = np.bincount(rows, data, minlength=W.shape[0])
    # A row that is whole sums to 1 but for float32; a row that is not sums to what is left.
    data /= np.where(total > 0, total, 1.0)[rows]
    kept = sp.csr_matrix((data, W.indices.copy(), W.indptr.copy()), shape=W.shape)
    kept.eliminate_zeros()
    return kept
