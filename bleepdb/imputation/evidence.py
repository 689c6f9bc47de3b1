"""The arithmetic behind one value, reference by reference, recomputed from what was measured.

This follows the definition and not the code that imputes: plain sums in float64 over one row of
W, so that the one can be held against the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.imputation.references import check_columns, only_measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.imputation.references import Group, LowRank
    from bleepdb.panel import Panel


@dataclass(frozen=True)
class Evidence:
    """Why a gene has its value at one place: ``value = constant + sum of contributions``.

    Attributes
    ----------
    gene
        Symbol of the gene.
    value
        The imputed log1p value; NaN where no neighbour measured the gene.
    denoised
        Whether the low-rank map was used.
    constant
        The map's own share: the training mean of the gene, or 0 without the map.
    columns
        (k,) int64, the references with a weight, by falling size of contribution.
    weights
        (k,) their weights in W.
    effective
        (k,) the weights used for this gene: 0 for a reference that lacks what is needed, the
        others scaled to sum to 1.
    measured
        (k,) the log1p value that each measured; NaN where it did not measure the gene.
    contributions
        (k,) what each adds to the value: ``effective * measured``, or with the map
        ``effective * ((x - mean) U) . U[gene]``.
    """

    gene: str
    value: float
    denoised: bool
    constant: float
    columns: NDArray[np.int64]
    weights: NDArray[np.float64]
    effective: NDArray[np.float64]
    measured: NDArray[np.float64]
    contributions: NDArray[np.float64]

    @property
    def formula(self) -> str:
        """The rule in words and figures."""
        if np.isnan(self.value):
            return f"{self.gene} = NaN: no neighbour measured it"
        summed = float(self.contributions.sum())
        if self.denoised:
            return (
                f"{self.gene} = {self.constant:.5f} (training mean) + {summed:.5f} (sum of weight"
                f" x the neighbour's part in the model's components) = {self.value:.5f}"
            )
        return f"{self.gene} = {summed:.5f} (sum of weight x measured value) = {self.value:.5f}"

    def table(self, references: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Join with what is known of the references, one entry a row.

        Parameters
        ----------
        references
            Columns such as ``id``, ``section``, ``donor``, ``barcode``: name -> one value a
            reference, in the order of the columns of W.
        """
        return [
            {name: values[column] for name, values in references.items()}
            | {
                "weight": float(self.weights[i]),
                "effective_weight": float(self.effective[i]),
                "measured": float(self.measured[i]),
                "contribution": float(self.contributions[i]),
            }
            for i, column in enumerate(self.columns.tolist())
        ]


def explain(
    row: sp.csr_matrix,
    groups: Sequence[Group],
    genes: Panel,
    gene: int,
    *,
    low_rank: LowRank | None = None,
) -> Evidence:
    """Recompute the value of one gene at one query from the profiles of its references.

    Parameters
    ----------
    row
        (1, references) weights of the query.
    groups
        The references, each column in exactly one group.
    genes, gene
        A panel with the gene, and its position there.
    low_rank
        The model's map, or None.

    Returns
    -------
    Evidence
        The value and each reference's share in it.

    Raises
    ------
    ValueError
        If `row` is not one row, or the groups do not name each reference once.
    """
    if row.shape[0] != 1:
        message = f"one query at a time, not {row.shape[0]}"
        raise ValueError(message)
    check_columns(groups, row.shape[1])
    measured = np.full(row.shape[1], np.nan)
    part = np.full(row.shape[1], np.nan)
    basis, mean = None, 0.0
    if low_rank is not None and (place := _place(genes, gene, low_rank.panel)) is not None:
        basis, mean = low_rank.loadings[place].astype(np.float64), low_rank.mean[place]
    for group in groups:
        if (place := _place(genes, gene, group.panel)) is not None:
            measured[group.columns] = _column(group, place)
            if low_rank is not None and basis is not None:
                known = low_rank.coordinates(group)
                if known is not None:
                    part[group.columns] = known @ basis
    used, denoised, constant = measured, False, 0.0
    if only_measured(row, np.isfinite(part)).nnz:
        used, denoised, constant = part, True, float(mean)
    effective = only_measured(row, np.isfinite(used))
    columns = row.indices.astype(np.int64)
    shares = np.asarray(effective[0, columns].todense()).ravel()
    contributions = shares * np.nan_to_num(used[columns])
    value = constant + float(contributions.sum()) if effective.nnz else float("nan")
    order = np.argsort(-np.abs(contributions), kind="stable")
    return Evidence(
        gene=genes.symbols[gene],
        value=value,
        denoised=denoised,
        constant=constant if effective.nnz else 0.0,
        columns=columns[order],
        weights=row.data.astype(np.float64)[order],
        effective=shares[order],
        measured=measured[columns][order],
        contributions=contributions[order],
    )


def _column(group: Group, gene: int) -> NDArray[np.float32]:
    """Return what the references of a group measured of one gene, (m,) float32."""
    parts = [np.zeros(0, np.float32)]
    parts += [values[:, [gene]].toarray().ravel() for _, values in group.pages()]
    return np.concatenate(parts)


def _place(genes: Panel, gene: int, panel: Panel) -> int | None:
    """Where a panel has the gene, by the same match of whole panels that imputation uses."""
    found = genes.match(panel)
    here = np.flatnonzero(found.left == gene)
    return int(found.right[here[0]]) if len(here) else None
