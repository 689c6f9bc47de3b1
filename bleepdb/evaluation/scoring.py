"""All scores of one method on one fold, from its values of the held-out spots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.evaluation.fold_result import rounded
from bleepdb.evaluation.held_out import rings_of
from bleepdb.evaluation.structure import gene_gene, moran_per_gene, structure_agreement
from bleepdb.gene_sets import HEG, HVG, MG
from bleepdb.metrics import mean_score, pearson_per_gene, rmse_per_gene, variance_ratio_per_gene

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.evaluation.held_out import HeldOutTruth

MOST_STRUCTURED: Final = 100
FEWEST_STRUCTURED: Final = 3


@dataclass(frozen=True)
class Scores:
    """What one method scored with one seed, or in the mean over seeds.

    Attributes
    ----------
    sets
        (sets,) mean PCC, genes without a score counted as 0.
    undefined
        (sets,) number of genes without a score.
    by_section
        (sections, sets) mean PCC of the genes that each section measured.
    rmse, variance_ratio
        (1,) mean over HVG.
    moran
        (3,) mean Moran's I of the measured and the imputed HVG, and their correlation over genes.
    samples
        (sets, DRAWS) bootstrap scores.
    matrix
        (g, g) correlations among the structured genes, centred within sections.
    agreement
        (1,) how far `matrix` is that of the measured values.
    bulk
        (sections, g) means of the structured genes.
    """

    sets: NDArray[np.float64]
    undefined: NDArray[np.float64]
    by_section: NDArray[np.float64]
    rmse: NDArray[np.float64]
    variance_ratio: NDArray[np.float64]
    moran: NDArray[np.float64]
    samples: NDArray[np.float64]
    matrix: NDArray[np.float64]
    agreement: NDArray[np.float64]
    bulk: NDArray[np.float64]

    @classmethod
    def mean(cls, parts: Sequence[Scores]) -> Scores:
        """Return the mean over seeds; a score that one of them lacks is lacking."""
        return cls(
            *(
                rounded(np.mean([getattr(p, name) for p in parts], axis=0))
                for name in cls.__dataclass_fields__
            )
        )


@dataclass(frozen=True)
class Scorer:
    """A fold's truth with all that does not depend on the method.

    Attributes
    ----------
    held
        What the fold is scored against.
    seed
        Of the bootstrap draws.
    """

    held: HeldOutTruth
    seed: int

    @property
    def names(self) -> list[str]:
        """Gene sets, in the order of the scores."""
        return list(self.held.sets)

    @cached_property
    def hvg(self) -> NDArray[np.int64]:
        """Where the variable genes stand among the target's; all where there are none."""
        return self.held.sets.get(HVG, np.arange(len(self.held.target.genes)))

    @cached_property
    def structured(self) -> NDArray[np.int64]:
        """Genes whose correlations are looked at: the markers, then the highest expressed."""
        sets, target = self.held.sets, self.held.target
        high = sets.get(HEG, self.hvg)
        mean = target.inside.profiles[:, target.genes[high]].mean(axis=0)
        wanted = [*sets.get(MG, ()), *high[np.argsort(-mean, kind="stable")]]
        everywhere = np.asarray(self.held.measured.all(axis=0))
        kept = [w for w in dict.fromkeys(wanted) if everywhere[w]]
        return np.sort(np.array(kept[:MOST_STRUCTURED], dtype=np.int64))

    @cached_property
    def rings(self) -> list[sp.csr_matrix]:
        """Adjacent places of each held-out section."""
        return rings_of(self.held.target.outside)

    @cached_property
    def section_of_spot(self) -> NDArray[np.int64]:
        """(held-out spots,) position among the held-out sections."""
        return self.held.target.outside.section_of_spot

    @cached_property
    def truth_moran(self) -> NDArray[np.float64]:
        """(sections, HVG) Moran's I of what was measured."""
        return self.moran_of(self.held.truth[:, self.hvg])

    @cached_property
    def truth_matrix(self) -> NDArray[np.float64]:
        """(g, g) measured correlations of the structured genes."""
        return self._matrix(self.held.truth[:, self.structured])

    @cached_property
    def truth_bulk(self) -> NDArray[np.float64]:
        """(sections, g) measured means of the structured genes."""
        return self._bulk(self.held.truth[:, self.structured])

    @cached_property
    def trained_bulk(self) -> NDArray[np.float64]:
        """(sections, g) means of the structured genes over the training spots, for each section."""
        inside = self.held.target.inside.profiles[:, self.held.target.genes[self.structured]]
        return np.repeat(inside.mean(axis=0, dtype=np.float64)[None], len(self.held.rows), axis=0)

    def moran_of(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return Moran's I of each gene in each section, (sections, genes)."""
        return np.stack(
            [
                moran_per_gene(values[r], ring)
                for r, ring in zip(self.held.rows, self.rings, strict=True)
            ]
        )

    def scores(self, values: NDArray[np.floating[Any]]) -> Scores:
        """Score values, (held-out spots, target genes)."""
        held = self.held
        each = held.by_section(values)
        pcc = held.pcc_of(each)
        found = [mean_score(pcc[w]) for w in held.sets.values()]
        drawn = held.samples(values, seed=self.seed)
        matrix = self._matrix(values[:, self.structured])
        return Scores(
            sets=np.array([f[0] for f in found]),
            undefined=np.array([f[1] for f in found], dtype=np.float64),
            by_section=np.array(
                [
                    [mean_score(row[w][known[w]])[0] for w in held.sets.values()]
                    for row, known in zip(each, held.measured, strict=True)
                ]
            ),
            rmse=np.array([held.mean(rmse_per_gene, values, self.hvg)]),
            variance_ratio=np.array([held.mean(variance_ratio_per_gene, values, self.hvg)]),
            moran=self._moran(values),
            samples=np.stack([drawn[name] for name in held.sets]),
            matrix=matrix,
            agreement=np.array([self._agreement(matrix)]),
            bulk=self._bulk(values[:, self.structured]),
        )

    def _agreement(self, matrix: NDArray[np.float64]) -> float:
        if len(matrix) < FEWEST_STRUCTURED:
            return float("nan")
        return structure_agreement(matrix, self.truth_matrix)

    def _moran(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Means over genes and sections, and the mean over sections of the correlation."""
        made = self.moran_of(values[:, self.hvg])
        both = np.isfinite(made) & np.isfinite(self.truth_moran)
        if not both.any():
            return np.array([_mean(self.truth_moran), float("nan"), float("nan")])
        r = pearson_per_gene(
            np.where(both, made, np.nan).T, np.where(both, self.truth_moran, np.nan).T
        )
        return np.array([_mean(self.truth_moran), _mean(made), _mean(r)])

    def _matrix(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return gene_gene(values, self.section_of_spot)

    def _bulk(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.stack([values[r].mean(axis=0, dtype=np.float64) for r in self.held.rows])


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
