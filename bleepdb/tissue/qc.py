"""Which spots are worth keeping, by stated minimums, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bleepdb.tissue.section import Section

MIN_COUNTS: Final = 10
MIN_GENES: Final = 5
QUANTILES: Final = (0.05, 0.5, 0.95)
MITOCHONDRIAL: Final = "mt-"


@dataclass(frozen=True)
class SpotQC:
    """What the spots of a section hold, and which were dropped.

    Attributes
    ----------
    section
        Its name.
    spots, kept
        Spots under tissue as read, and those that are kept.
    dropped
        Reason -> number of spots; a spot counts under its first reason.
    counts, genes
        5%, 50% and 95% quantile over the kept spots of the counts and of the genes detected.
    mitochondrial
        Median share of counts in genes named MT-, or None where the panel has none.
    """

    section: str
    spots: int
    kept: int
    dropped: Mapping[str, int]
    counts: tuple[float, float, float]
    genes: tuple[float, float, float]
    mitochondrial: float | None

    def __str__(self) -> str:
        lost = "".join(f", {n} dropped ({reason})" for reason, n in self.dropped.items())
        share = "" if self.mitochondrial is None else f"; mitochondrial {self.mitochondrial:.1%}"
        return (
            f"{self.section}: {self.kept} of {self.spots} spots under tissue kept{lost}; "
            f"counts {_range(self.counts)}; genes {_range(self.genes)}{share}"
        )


def spot_qc(
    section: Section, *, min_counts: int = MIN_COUNTS, min_genes: int = MIN_GENES
) -> tuple[Section, SpotQC]:
    """Keep the spots that reach stated minimums.

    The default minimums only drop spots with next to nothing: a spot of few counts is a noisy
    measurement, not a wrong one.

    Parameters
    ----------
    section
        As read.
    min_counts, min_genes
        Least counts, and least genes detected, of a spot that is kept.

    Returns
    -------
    tuple
        The section with the spots kept (the same object where all are), and what was seen.

    Raises
    ------
    SectionError
        If no spot is left.
    """
    counts = section.totals
    genes = np.diff(section.counts.indptr)
    poor = counts < min_counts
    bare = ~poor & (genes < min_genes)
    kept = ~(poor | bare)
    reasons = {
        f"fewer than {min_counts} counts": int(poor.sum()),
        f"fewer than {min_genes} genes": int(bare.sum()),
    }
    if not kept.any():
        raise SectionError(
            f"no spot of section {section.section} has {min_counts} counts in {min_genes} genes "
            f"(the best has {counts.max(initial=0)} counts)",
            where=section.source,
            hint="lower the minimums, or check the matrix",
        )
    left = section if kept.all() else section.take(np.flatnonzero(kept))
    return left, SpotQC(
        section=section.section,
        spots=len(section),
        kept=len(left),
        dropped={reason: n for reason, n in reasons.items() if n},
        counts=_quantiles(counts[kept]),
        genes=_quantiles(genes[kept]),
        mitochondrial=_mitochondrial(left),
    )


def _mitochondrial(section: Section) -> float | None:
    named = [s.lower().startswith(MITOCHONDRIAL) for s in section.panel.symbols]
    if not any(named):
        return None
    own = np.asarray(section.counts[:, np.flatnonzero(named)].sum(axis=1)).ravel()
    return float(np.median(own / np.maximum(section.totals, 1)))


def _quantiles(values: NDArray[np.integer]) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, QUANTILES)
    return float(low), float(median), float(high)


def _range(quantiles: tuple[float, float, float]) -> str:
    low, median, high = quantiles
    return f"{median:,.0f} ({low:,.0f} to {high:,.0f})"
