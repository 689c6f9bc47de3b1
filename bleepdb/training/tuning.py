"""Inner folds: hyperparameters are chosen on training sections, never on what is held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.gene_sets import choose
from bleepdb.metrics import mean_score, pearson_per_gene
from bleepdb.places import adjacency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bleepdb.training.pairs import PairedSection, Pairs

NO_FOLDS = "none (one section)"


@dataclass(frozen=True)
class Target:
    """What a fold is scored on: gene sets chosen inside, truth outside.

    Attributes
    ----------
    inside, outside
        Training and held-out sections.
    """

    inside: Pairs
    outside: Pairs

    @cached_property
    def sets(self) -> dict[str, NDArray[np.int64]]:
        """Gene sets chosen on the training sections: name -> positions in their panel.

        Genes that the held-out sections did not measure cannot be scored and are left out.
        """
        measured = np.zeros(len(self.inside.panel), dtype=bool)
        measured[self.inside.panel.match(self.outside.panel).left] = True
        chosen = choose(self.inside.profiles, self.inside.panel)
        return {name: found[measured[found]] for name, found in chosen.items()}

    @cached_property
    def genes(self) -> NDArray[np.int64]:
        """All genes of the sets, rising."""
        return np.unique(np.concatenate(list(self.sets.values())))

    @cached_property
    def where(self) -> dict[str, NDArray[np.int64]]:
        """Where the genes of each set stand in `genes`."""
        return {name: np.searchsorted(self.genes, found) for name, found in self.sets.items()}

    @cached_property
    def truth(self) -> NDArray[np.float32]:
        """(spots, `genes`) measured log1p profiles of the held-out sections."""
        panel = self.inside.panel
        parts = [s.profiles_on(panel)[:, self.genes] for s in self.outside.sections]
        return np.concatenate(parts)

    def score(self, values: NDArray[np.floating]) -> float:
        """Mean over gene sets of the mean correlation per gene; undefined ones count as 0."""
        pcc = pearson_per_gene(values, self.truth)
        return float(np.mean([mean_score(pcc[w])[0] for w in self.where.values() if len(w)]))


def inner_folds(pairs: Pairs) -> tuple[list[tuple[str, ...]], str]:
    """Return the sections that each inner fold holds out, and what the folds are.

    One donor at a time where there are several, else one section at a time; none where there is
    one section.
    """
    if len(pairs.donors) > 1:
        groups = [tuple(s.section for s in pairs.sections if s.donor == d) for d in pairs.donors]
        return groups, "leave one donor out"
    if len(pairs.sections) > 1:
        return [(name,) for name in pairs.names], "leave one section out (one donor)"
    return [], NO_FOLDS


def choose_penalty(
    pairs: Pairs,
    candidates: Sequence[float],
    predict: Callable[[Target, Sequence[float]], Sequence[NDArray[np.floating]]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, str]:
    """Choose a penalty by the mean score over inner folds.

    Parameters
    ----------
    pairs
        Training sections.
    candidates
        Penalties.
    predict
        Fits on a fold's inside and gives, for each candidate, values (spots, genes) of its
        outside for the fold's genes.
    progress
        Called with (folds done, folds).

    Returns
    -------
    tuple
        The penalty, and what the folds were. Without folds: the largest candidate, which is the
        cautious one for new tissue.
    """
    folds, by = inner_folds(pairs)
    if not folds:
        return float(max(candidates)), by
    scores = np.zeros(len(candidates))
    for number, held in enumerate(folds):
        inside = pairs.subset([n for n in pairs.names if n not in held])
        target = Target(inside, pairs.subset(held))
        scores += [target.score(values) for values in predict(target, candidates)]
        if progress is not None:
            progress(number + 1, len(folds))
    return float(candidates[int(scores.argmax())]), by


def smoothed(
    values: NDArray[np.floating],
    sections: Sequence[PairedSection],
    *,
    ring_um: tuple[float, float],
    weight: float,
) -> NDArray[np.floating]:
    """Mix the values of each place with the mean over adjacent places of its section.

    This is what smoothing the rows of W does to anything linear in it.

    Parameters
    ----------
    values
        (spots, anything), one section after the other.
    sections
        Where the spots are.
    ring_um
        Inner and outer radius of what is adjacent.
    weight
        Share of the adjacent places; 0 for none.
    """
    if weight <= 0:
        return values
    parts = []
    start = 0
    for section in sections:
        block = values[start : start + len(section)]
        ring = adjacency(section.positions_um, inner_um=ring_um[0], outer_um=ring_um[1])
        around = np.asarray(ring @ block)
        alone = np.diff(ring.indptr) == 0
        around[alone] = block[alone]
        parts.append((1 - weight) * block + weight * around)
        start += len(section)
    return np.concatenate(parts)
