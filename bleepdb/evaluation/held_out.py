"""Scores on held-out sections: per gene over the spots of each, then the mean over sections."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.files import digest
from bleepdb.metrics import noise_ceiling, pearson_per_gene, weighted_pearson
from bleepdb.splits import block_draws, spatial_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from bleepdb.training.tuning import Target

BLOCK_PITCHES: Final = 5.0
DRAWS: Final = 500


def seed_of(section: str, seed: int) -> int:
    """Return the seed of a section's bootstrap draws."""
    return int(digest("bootstrap", section, str(seed))[:15], 16)


@dataclass(frozen=True)
class HeldOutTruth:
    """What a fold is scored against.

    Attributes
    ----------
    target
        The fold.
    rows
        The spots of each held-out section.
    truth
        (spots, genes) float32 log1p values; NaN where a section did not measure the gene.
    measured
        (sections, genes) bool.
    sets
        Gene set -> positions of its genes, for sets that are not empty.
    """

    target: Target
    rows: tuple[slice, ...]
    truth: NDArray[np.float32]
    measured: NDArray[np.bool_]
    sets: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, target: Target, genes: NDArray[np.int64] | None = None) -> HeldOutTruth:
        """Collect the truth of a fold for its genes, or for `genes` of its training panel."""
        panel = target.inside.panel
        chosen = target.genes if genes is None else genes
        parts = [s.profiles_on(panel)[:, chosen] for s in target.outside.sections]
        ends = np.cumsum([0, *(len(p) for p in parts)]).tolist()
        rows = tuple(slice(a, b) for a, b in pairwise(ends))
        measured = np.stack([np.isfinite(p).any(axis=0) for p in parts])
        sets = {} if genes is not None else {k: w for k, w in target.where.items() if len(w)}
        return cls(target, rows, np.concatenate(parts), measured, sets)

    def pcc(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the held-out correlation of each gene, (genes,) float64.

        The mean over the sections that measured the gene; where one of several has no score
        there it counts as 0. NaN where none has a score.
        """
        found = np.stack([pearson_per_gene(values[r], self.truth[r]) for r in self.rows])
        return np.where(np.isfinite(found).any(axis=0), self._over_sections(found), np.nan)

    def samples(
        self, values: NDArray[np.floating[Any]], *, seed: int
    ) -> dict[str, NDArray[np.float64]]:
        """Return bootstrap scores of each gene set, (DRAWS,) float64 each.

        Whole spatial blocks of each section are drawn. The same seed draws the same spots for
        every method, so that differences are paired, and other draws for every section, so that
        the mean over folds is one over independent draws.
        """
        block_um = BLOCK_PITCHES * self.target.inside.pitch_um
        found = []
        for section, rows in zip(self.target.outside.sections, self.rows, strict=True):
            blocks = spatial_blocks(section.positions_um, block_um=block_um)
            drawn = block_draws(blocks, n=DRAWS, seed=seed_of(section.section, seed))
            found.append(weighted_pearson(values[rows], self.truth[rows], drawn))
        scores = self._over_sections(np.stack(found))
        return {name: scores[:, w].mean(axis=1) for name, w in self.sets.items()}

    def _over_sections(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of (sections, ..., genes) over those that measured each gene, NaN as 0."""
        total = np.nan_to_num(found, nan=0.0).sum(axis=0)
        return np.asarray(total / np.maximum(self.measured.sum(axis=0), 1))

    def mean(
        self,
        score: Callable[[ArrayLike, ArrayLike], NDArray[np.float64]],
        values: NDArray[np.floating[Any]],
        genes: NDArray[np.int64],
    ) -> float:
        """Mean of another score over sections and `genes`, where it is defined; else NaN."""
        found = np.stack([score(values[r][:, genes], self.truth[r][:, genes]) for r in self.rows])
        known = found[np.isfinite(found)]
        return float(known.mean()) if len(known) else float("nan")

    def ceiling(self, *, seed: int) -> NDArray[np.float64]:
        """Return the noise ceiling of every gene of the training panel, (genes,) float64.

        By thinning the counts of each held-out section, scaled on the genes that it shares with
        the panel; the mean over sections. NaN where no section has one.
        """
        panel = self.target.inside.panel
        found = np.full((len(self.rows), len(panel)), np.nan)
        for number, section in enumerate(self.target.outside.sections):
            shared = section.panel.match(panel)
            counts = section.counts[:, shared.left]
            totals = np.asarray(counts.sum(axis=1)).ravel()
            found[number, shared.right] = noise_ceiling(counts, totals, seed=seed)
        known = np.isfinite(found)
        total = np.nansum(found, axis=0) / np.maximum(known.sum(axis=0), 1)
        return np.where(known.any(axis=0), total, np.nan)
