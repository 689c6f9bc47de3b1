"""What one fold gave, as values and as a part of a document that a merge can read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from bleepdb.panel import Panel
from bleepdb.splits import HeldOut, Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGITS: Final = 5
"""Figures are rounded once, when they are found: a document read back gives the same means."""

Scores = dict[str, dict[str, float]]
"""Method -> gene set -> score."""


@dataclass(frozen=True)
class SectionScores:
    """Scores of one held-out section.

    Attributes
    ----------
    section, donor
        Names.
    spots
        How many.
    scores
        Method -> gene set -> mean PCC of the genes that it measured.
    """

    section: str
    donor: str
    spots: int
    scores: Scores


@dataclass(frozen=True)
class Structure:
    """Correlations among genes, measured and imputed.

    Attributes
    ----------
    genes
        Symbols.
    measured
        (g, g) float64, in the mean over held-out sections.
    imputed
        Method -> (g, g), for the methods whose matrices are kept.
    agreement
        Method -> correlation of its matrix with the measured one.
    """

    genes: tuple[str, ...]
    measured: NDArray[np.float64]
    imputed: dict[str, NDArray[np.float64]]
    agreement: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return what the document holds."""
        return {
            "genes": list(self.genes),
            "measured": numbers(self.measured),
            "imputed": {k: numbers(v) for k, v in self.imputed.items()},
            "agreement": {k: number(v) for k, v in self.agreement.items()},
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Structure:
        """Read what `to_json` wrote."""
        return cls(
            tuple(document["genes"]),
            array(document["measured"]),
            {k: array(v) for k, v in document["imputed"].items()},
            {k: value(v) for k, v in document["agreement"].items()},
        )


@dataclass(frozen=True)
class FoldResult:
    """What one fold gave. Scores are means over seeds where a method draws.

    Attributes
    ----------
    split
        What was held out.
    sets
        Gene set -> number of genes.
    scores
        Method -> gene set -> mean PCC, genes without a score counted as 0.
    undefined
        Method -> gene set -> number of genes without a score.
    by_seed
        Method that draws -> gene set -> one score a seed.
    rmse, variance_ratio
        Method -> mean over HVG.
    moran
        Method -> ``measured``, ``imputed`` and ``agreement`` of Moran's I over HVG.
    sections
        Scores of each held-out section.
    mixing
        How donors mix among the neighbours of ours, or None.
    draws
        Method -> gene set -> (DRAWS,) bootstrap scores over spatial blocks.
    null
        Gene set -> (permutations,) scores of shuffled pairs.
    null_observed
        Gene set -> score of the same recipe on the true pairs.
    chosen
        Hyperparameters of ours, on the first seed.
    set_ceiling
        Gene set -> mean noise ceiling.
    genes
        The training panel.
    pcc, ceiling, moran_of_genes
        (genes,) held-out PCC of ours, noise ceiling and Moran's I of the held-out spots; NaN
        where no held-out section measured the gene or all are constant.
    structure
        Correlations among genes, or None where too few were chosen.
    bulk_genes, bulk
        Symbols, and ``measured`` or method -> (sections, genes) means over the spots of each
        held-out section.
    in_training_donor
        Whether a donor of the held-out sections was trained on.
    members
        Gene set -> positions of its genes in `genes`; empty where read from a document.
    imputed
        (held-out spots, genes) values of ours where they were to be kept, else None.
    """

    split: Split
    sets: dict[str, int]
    scores: Scores
    undefined: dict[str, dict[str, int]]
    by_seed: dict[str, dict[str, list[float]]]
    rmse: dict[str, float]
    variance_ratio: dict[str, float]
    moran: dict[str, dict[str, float]]
    sections: tuple[SectionScores, ...]
    mixing: dict[str, Any] | None
    draws: dict[str, dict[str, NDArray[np.float64]]]
    null: dict[str, NDArray[np.float64]]
    null_observed: dict[str, float]
    chosen: dict[str, Any]
    set_ceiling: dict[str, float]
    genes: Panel
    pcc: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    moran_of_genes: NDArray[np.float64]
    structure: Structure | None
    bulk_genes: tuple[str, ...]
    bulk: dict[str, NDArray[np.float64]]
    in_training_donor: bool
    members: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    imputed: NDArray[np.float32] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fold as the document holds it (schemas/evaluation.schema.json)."""
        return {
            "name": self.split.name,
            "train": list(self.split.train),
            "test": list(self.split.test),
            "in_training_donor": self.in_training_donor,
            "genes": len(self.genes),
            "set_sizes": dict(self.sets),
            "ceiling": _numbers_of(self.set_ceiling),
            "chosen": self.chosen,
            "scores": {k: _numbers_of(v) for k, v in self.scores.items()},
            "undefined": self.undefined,
            "by_seed": self.by_seed,
            "rmse_hvg": _numbers_of(self.rmse),
            "variance_ratio_hvg": _numbers_of(self.variance_ratio),
            "moran": {k: _numbers_of(v) for k, v in self.moran.items()},
            "sections": [
                {
                    "section": s.section,
                    "donor": s.donor,
                    "spots": s.spots,
                    "scores": {k: _numbers_of(v) for k, v in s.scores.items()},
                }
                for s in self.sections
            ],
            "mixing": self.mixing,
            "samples": {
                method: {k: numbers(v) for k, v in found.items()}
                for method, found in self.draws.items()
            },
            "null_samples": {k: numbers(v) for k, v in self.null.items()},
            "null_observed": _numbers_of(self.null_observed),
            "per_gene": {
                "symbol": list(self.genes.symbols),
                "gene_id": list(self.genes.gene_ids),
                "pcc": numbers(self.pcc),
                "noise_ceiling": numbers(self.ceiling),
                "moran": numbers(self.moran_of_genes),
            },
            "structure": None if self.structure is None else self.structure.to_json(),
            "pseudobulk": {
                "genes": list(self.bulk_genes),
                "measured": numbers(self.bulk[MEASURED]),
                "imputed": {k: numbers(v) for k, v in self.bulk.items() if k != MEASURED},
            },
        }

    @classmethod
    def from_json(cls, document: dict[str, Any], held_out: str) -> FoldResult:
        """Read what `to_json` wrote; the document has been held against its schema."""
        genes, bulk = document["per_gene"], document["pseudobulk"]
        structure = document["structure"]
        wide = len(bulk["genes"])
        return cls(
            split=Split(
                document["name"],
                tuple(document["train"]),
                tuple(document["test"]),
                cast("HeldOut", held_out),
            ),
            sets=document["set_sizes"],
            scores={k: _values_of(v) for k, v in document["scores"].items()},
            undefined=document["undefined"],
            by_seed=document["by_seed"],
            rmse=_values_of(document["rmse_hvg"]),
            variance_ratio=_values_of(document["variance_ratio_hvg"]),
            moran={k: _values_of(v) for k, v in document["moran"].items()},
            sections=tuple(
                SectionScores(
                    s["section"],
                    s["donor"],
                    s["spots"],
                    {k: _values_of(v) for k, v in s["scores"].items()},
                )
                for s in document["sections"]
            ),
            mixing=document["mixing"],
            draws={
                method: {k: array(v) for k, v in found.items()}
                for method, found in document["samples"].items()
            },
            null={k: array(v) for k, v in document["null_samples"].items()},
            null_observed=_values_of(document["null_observed"]),
            chosen=document["chosen"],
            set_ceiling=_values_of(document["ceiling"]),
            genes=Panel(tuple(genes["symbol"]), tuple(genes["gene_id"])),
            pcc=array(genes["pcc"]),
            ceiling=array(genes["noise_ceiling"]),
            moran_of_genes=array(genes["moran"]),
            structure=None if structure is None else Structure.from_json(structure),
            bulk_genes=tuple(bulk["genes"]),
            bulk={
                k: array(v).reshape(-1, wide)
                for k, v in ({MEASURED: bulk["measured"]} | bulk["imputed"]).items()
            },
            in_training_donor=document["in_training_donor"],
        )


MEASURED: Final = "measured values"
TRAINED: Final = "training mean"
"""Stands for what was measured beside the names of methods."""


def rounded(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return values as the document holds them, float64."""
    made: NDArray[np.float64] = np.asarray(values, dtype=np.float64).round(DIGITS)
    return made


def number(found: float) -> float | None:
    """Return a number as JSON has it: what is not finite is null."""
    return float(found) if np.isfinite(found) else None


def value(found: float | None) -> float:
    """Return what `number` wrote: null is NaN."""
    return float("nan") if found is None else float(found)


def numbers(values: NDArray[np.float64]) -> list[Any]:
    """Return an array as nested lists without NaN."""
    if values.ndim > 1:
        return [numbers(v) for v in values]
    return [v if np.isfinite(v) else None for v in values.tolist()]


def array(found: list[Any]) -> NDArray[np.float64]:
    """Return what `numbers` wrote: null is NaN."""
    return np.array(found, dtype=np.float64)


def _numbers_of(found: dict[str, float]) -> dict[str, float | None]:
    return {k: number(v) for k, v in found.items()}


def _values_of(found: dict[str, float | None]) -> dict[str, float]:
    return {k: value(v) for k, v in found.items()}
