"""Scores on held-out sections: per gene over the spots of each, then the mean over sections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse as sp

from bleepdb.files import digest
from bleepdb.gene_sets import MG, choose, without_mito_ribo
from bleepdb.metrics import (
    FEWEST_PAIRS,
    FLAT,
    GENES_A_BLOCK,
    noise_ceiling,
    pearson_per_gene,
    weighted_pearson,
)
from bleepdb.places import adjacency
from bleepdb.splits import block_draws, spatial_blocks
from bleepdb.training.tuning import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from bleepdb.training import Pairs

BLOCK_PITCHES: Final = 5.0
DRAWS: Final = 500
WITHOUT: Final = " without MT/RP"
"""Ends the name of a set less mitochondrial and ribosomal genes."""


TINY: Final = 1e-12
RING: Final = 1.5
"""Places within this many pitches are adjacent, for Moran's I."""


class ScoredTarget(Target):
    """An outer fold: its sets have spatially variable genes and the whole panel among them.

    What is chosen on inner folds is chosen without those two.
    """

    @cached_property
    def sets(self) -> dict[str, NDArray[np.int64]]:
        """Gene sets chosen on the training sections, less what no held-out section measured."""
        measured = np.zeros(len(self.inside.panel), dtype=bool)
        measured[self.inside.panel.match(self.outside.panel).left] = True
        found = choose(self.inside.profiles, self.inside.panel, rings=rings_of(self.inside))
        return {name: genes[measured[genes]] for name, genes in found.items()}


def rings_of(pairs: Pairs, pitch_um: float | None = None) -> list[sp.csr_matrix]:
    """Return which spots of each section are adjacent, by its own pitch or a given one."""
    return [
        adjacency(s.positions_um, inner_um=0.0, outer_um=RING * (pitch_um or s.pitch_um))
        for s in pairs.sections
    ]


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
        sets = {} if genes is not None else _scored_sets(target)
        return cls(target, rows, np.concatenate(parts), measured, sets)

    @property
    def members(self) -> dict[str, NDArray[np.int64]]:
        """Gene set -> positions of its genes in the training panel."""
        return {name: self.target.genes[w] for name, w in self.sets.items()}

    def by_section(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the correlation of each gene over the spots of each section, (sections, genes)."""
        return np.stack([pearson_per_gene(values[r], self.truth[r]) for r in self.rows])

    def pcc(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the held-out correlation of each gene, (genes,) float64.

        The mean over the sections that measured the gene; where one of several has no score
        there it counts as 0. NaN where none has a score.
        """
        return self.pcc_of(self.by_section(values))

    def pcc_of(self, found: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `pcc` from what `by_section` gave."""
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
        total = np.zeros((DRAWS, values.shape[1]))
        for section, rows in zip(self.target.outside.sections, self.rows, strict=True):
            blocks = spatial_blocks(section.positions_um, block_um=block_um)
            drawn = block_draws(blocks, n=DRAWS, seed=seed_of(section.section, seed))
            found = block_pearson(values[rows], self.truth[rows], blocks, drawn)
            total += np.nan_to_num(found, nan=0.0)
        scores = total / np.maximum(self.measured.sum(axis=0), 1)
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


def block_pearson(
    predicted: NDArray[np.floating[Any]],
    truth: NDArray[np.floating[Any]],
    blocks: NDArray[np.int64],
    drawn: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Pearson correlation of each gene in samples of whole blocks.

    As `weighted_pearson`, of which all spots of a block have one weight: sums are taken over the
    spots of each block once, and each sample adds up those of the blocks that it drew.

    Parameters
    ----------
    predicted, truth
        (n, g).
    blocks
        (n,) labels 0, 1, ... without gaps.
    drawn
        (b, n) how often each spot was drawn, the same for all spots of a block.

    Returns
    -------
    numpy.ndarray
        (b, g) float64, NaN where `weighted_pearson` has it.
    """
    if not (np.isfinite(predicted).all() and np.isfinite(truth).all()):
        return weighted_pearson(predicted, truth, drawn)
    _, first = np.unique(blocks, return_index=True)
    times = drawn[:, first]
    sums = _block_sums(blocks, len(first))
    spots = np.bincount(blocks).astype(np.float64)
    size = times @ spots
    some = (times > 0) @ spots >= FEWEST_PAIRS
    made = np.empty((len(drawn), predicted.shape[1]))
    for start in range(0, predicted.shape[1], GENES_A_BLOCK):
        block = slice(start, start + GENES_A_BLOCK)
        x, flat_x = _centred(predicted[:, block])
        y, flat_y = _centred(truth[:, block])
        mass = np.maximum(size, 1.0)[:, None]
        mean_x, mean_y = times @ (sums @ x) / mass, times @ (sums @ y) / mass
        var_x = times @ (sums @ (x * x)) / mass - mean_x**2
        var_y = times @ (sums @ (y * y)) / mass - mean_y**2
        cov = times @ (sums @ (x * y)) / mass - mean_x * mean_y
        defined = some[:, None] & ~(flat_x | flat_y) & (var_x > TINY) & (var_y > TINY)
        scale = np.sqrt(np.where(defined, var_x * var_y, 1.0))
        made[:, block] = np.where(defined, np.clip(cov / scale, -1.0, 1.0), np.nan)
    return made


def _centred(values: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centre each column, scale it into [-1, 1], and tell the flat ones, as `metrics` does."""
    x = values.astype(np.float64)
    height = np.abs(x).max(axis=0, initial=0.0)
    x -= x.mean(axis=0)
    spread = np.abs(x).max(axis=0, initial=0.0)
    flat = spread <= FLAT * height
    return x / np.where(flat, 1.0, spread), flat


def _block_sums(blocks: NDArray[np.int64], n: int) -> sp.csr_matrix:
    """Return the matrix that adds up the spots of each block, (n, spots) of ones.

    Sparse: of a large section a dense one would take gigabytes.
    """
    there = len(blocks)
    return sp.csr_matrix((np.ones(there), (blocks, np.arange(there))), shape=(n, there))


def _scored_sets(target: Target) -> dict[str, NDArray[np.int64]]:
    """Return the sets of a fold that are not empty, each followed by itself less MT and RP genes.

    A set that has none of them, such as the markers, stands alone.
    """
    bare = without_mito_ribo(target.where, target.inside.panel.take(target.genes))
    made = {}
    for name, where in target.where.items():
        if len(where):
            made[name] = where
            if name in bare and name != MG:
                made[name + WITHOUT] = bare[name]
    return made
