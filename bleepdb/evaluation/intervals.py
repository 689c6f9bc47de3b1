"""How far scores would move: over donors where there are five or more, else over spatial blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.evaluation.held_out import BLOCK_PITCHES, DRAWS
from bleepdb.splits import block_draws, interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.fold_result import FoldResult

FEWEST_DONORS: Final = 5


@dataclass(frozen=True)
class Bootstrap:
    """Draws of scores over folds, the same for every method, so that differences are paired.

    Attributes
    ----------
    folds
        As they were run.
    seed
        Of the draws of donors.
    """

    folds: Sequence[FoldResult]
    seed: int

    @property
    def donors(self) -> list[str]:
        """Donor of each held-out section, fold by fold."""
        return [s.donor for f in self.folds for s in f.sections]

    @property
    def over_donors(self) -> bool:
        """Whether donors are drawn: where five or more were held out."""
        return len(set(self.donors)) >= FEWEST_DONORS

    def samples(self, method: str, gene_set: str) -> NDArray[np.float64]:
        """Return (DRAWS,) bootstrap values of the mean over folds.

        Over donors, all held-out sections of a donor are drawn together, each with its share in
        the mean over folds. A section that measured no gene of the set has no share, as in the
        score of its fold.
        """
        if not self.over_donors:
            return np.asarray(np.mean([f.draws[method][gene_set] for f in self.folds], axis=0))
        _, donor = np.unique(self.donors, return_inverse=True)
        times = block_draws(np.asarray(donor, dtype=np.int64), n=DRAWS, seed=self.seed)
        parts = [np.array([s.scores[method][gene_set] for s in f.sections]) for f in self.folds]
        known = [np.isfinite(found) for found in parts]
        share = np.concatenate([k / max(int(k.sum()), 1) for k in known])
        scores = share * np.nan_to_num(np.concatenate(parts))
        weight = times @ share
        # A sample of donors without a share says nothing: it stands at the mean of all.
        whole = scores.sum() / max(float(share.sum()), 1.0)
        mean = times @ scores / np.where(weight > 0, weight, 1.0)
        return np.asarray(np.where(weight > 0, mean, whole))

    def interval(self, method: str, gene_set: str) -> tuple[float, float]:
        """Return the 95% interval of a method's mean score."""
        return interval(self.samples(method, gene_set))

    def difference(self, ours: str, other: str, gene_set: str) -> tuple[float, float]:
        """Return the 95% interval of how far one method is above another."""
        return interval(self.samples(ours, gene_set) - self.samples(other, gene_set))

    def label(self, donors: Mapping[str, str], by: str) -> str:
        """Say in words what the intervals are about."""
        if not self.over_donors:
            return block_label(donors, by)
        n = len(set(self.donors))
        over = f"95% bootstrap over {n} held-out donors, paired"
        if any(f.in_training_donor for f in self.folds):
            return f"{over}; their other sections stay in training: they say nothing of new donors"
        return f"{over}; their training sections overlap"


def block_label(donors: Mapping[str, str], by: str) -> str:
    """Say in words what intervals over spatial blocks are about.

    Parameters
    ----------
    donors
        Section -> donor.
    by
        ``"section"``, ``"donor"`` or ``"lists"``: what was held out.
    """
    where = f"95% bootstrap over spatial blocks of {BLOCK_PITCHES:g} spots a side"
    if len(set(donors.values())) == 1:
        return (
            f"{where}; within donor, serial sections (all within one donor): they say nothing of "
            "other donors"
        )
    if by == "section":
        return f"{where}, the held-out donor stays in training: they say nothing of new donors"
    if by == "lists":
        return f"{where} of the sections listed: they say little of other donors"
    return f"{where} of the held-out donors; few donors: they say little of further ones"
