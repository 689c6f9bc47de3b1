"""What an evaluation says: one JSON document, the rows of a table, and one plain sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.evaluation.held_out import BLOCK_PITCHES, DRAWS
from bleepdb.evaluation.methods import BASELINES, OURS, RIDGE_EQUAL
from bleepdb.evaluation.protocol import (
    COMPARED,
    PREDICTABLE_PCC,
    difference,
    mean_over_folds,
)
from bleepdb.gene_sets import HEG, HVG, MG
from bleepdb.metrics import mean_score
from bleepdb.run_card import make_run_card
from bleepdb.splits import interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.protocol import FoldResult, Settings
    from bleepdb.panel import Panel
    from bleepdb.training import Pairs

FORMAT: Final = "bleepdb-evaluation"
VERSION: Final = 1
SHOWN_SETS: Final = (HEG, MG, HVG)
ABOUT_OURS: Final = (
    "several levels and scales, context, penalty by inner folds, softmax over 200, low rank 20, "
    "smoothing"
)


@dataclass(frozen=True)
class Report:
    """All that an evaluation found.

    Attributes
    ----------
    folds
        One result a fold.
    settings
        How it was run.
    donors
        Section -> donor.
    ours, published
        What the features were, JSON objects.
    panel
        The genes that all sections share: those with a score of their own.
    """

    folds: Sequence[FoldResult]
    settings: Settings
    donors: dict[str, str]
    ours: dict[str, Any]
    published: dict[str, Any]
    panel: Panel

    @classmethod
    def of(
        cls, folds: Sequence[FoldResult], settings: Settings, ours: Pairs, published: Pairs
    ) -> Report:
        """Put results together with what they were made from."""
        return cls(
            folds,
            settings,
            {s.section: s.donor for s in ours.sections},
            ours.feature_spec.to_json(),
            published.feature_spec.to_json(),
            ours.panel,
        )

    @property
    def sets(self) -> list[str]:
        """Gene sets that every fold has."""
        return [k for k in self.folds[0].sets if all(f.sets.get(k) for f in self.folds)]

    @property
    def interval_label(self) -> str:
        """What the intervals are about, in words."""
        return block_label(self.donors, self.settings.by)

    def means(self) -> dict[str, dict[str, float]]:
        """Mean score over folds: method -> gene set -> PCC."""
        return mean_over_folds(self.folds)

    def ceilings(self) -> dict[str, float]:
        """Mean noise ceiling of the held-out counts, per gene set."""
        return {
            key: float(np.mean([mean_score(f.ceiling[f.members[key]])[0] for f in self.folds]))
            for key in self.sets
        }

    def interval_of(self, method: str, gene_set: str) -> tuple[float, float]:
        """Bootstrap interval of a method's mean score."""
        return interval(np.mean([f.draws[method][gene_set] for f in self.folds], axis=0))

    def null(self) -> dict[str, dict[str, float]]:
        """Observed score beside those of shuffled pairs, per gene set, in the mean over folds."""
        made = {}
        for key in self.sets:
            if not self.folds[0].null:
                continue
            shuffled = np.mean([f.null[key] for f in self.folds], axis=0)
            observed = self.means()[OURS][key]
            made[key] = {
                "observed": observed,
                "mean": float(shuffled.mean()),
                "p99": float(np.percentile(shuffled, 99)),
                "p_value": float(((shuffled >= observed).sum() + 1) / (len(shuffled) + 1)),
            }
        return made

    def comparisons(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Ours beside each compared method, per gene set: ratio, difference and its interval."""
        means = self.means()
        made: dict[str, dict[str, dict[str, Any]]] = {}
        for other in COMPARED:
            made[other] = {}
            for key in self.sets:
                gap, (low, high) = difference(self.folds, other, key)
                base = means[other][key]
                made[other][key] = {
                    "ratio": means[OURS][key] / base if base > 0 else None,
                    "difference": gap,
                    "low": low,
                    "high": high,
                    "folds_above": int(
                        sum(f.scores[OURS][key] > f.scores[other][key] for f in self.folds)
                    ),
                }
        return made

    def summary(self) -> str:
        """Say in one sentence whether retrieval beats the simplest equal opponent."""
        found = self.comparisons()[RIDGE_EQUAL]
        sure = [k for k in self.sets if found[k]["low"] > 0]
        if len(sure) == len(self.sets):
            return "linear is above an equal ridge on every gene set, with its interval above 0"
        if not sure:
            return (
                "on no gene set is linear above an equal ridge with its interval above 0: for "
                "accuracy alone a ridge is enough here"
            )
        rest = ", ".join(k for k in self.sets if k not in sure)
        return (
            f"linear is above an equal ridge on {', '.join(sure)} (interval above 0); on {rest} a "
            "ridge is enough"
        )

    def gene_scores(self, panel: Panel) -> dict[str, NDArray[np.float64]]:
        """Mean over folds of each gene's held-out PCC and noise ceiling, on a panel.

        Returns
        -------
        dict
            ``pcc``, ``noise_ceiling`` (NaN where no fold scored the gene) and ``predictable``:
            1 where the mean PCC reaches 0.2 and no fold's is below 0.
        """
        shape = (len(self.folds), len(panel))
        pcc, ceiling = np.full(shape, np.nan), np.full(shape, np.nan)
        for i, fold in enumerate(self.folds):
            found = panel.match(fold.genes)
            pcc[i, found.left] = fold.pcc[found.right]
            ceiling[i, found.left] = fold.ceiling[found.right]
        known = np.isfinite(pcc)
        mean = np.nansum(pcc, axis=0) / np.maximum(known.sum(axis=0), 1)
        steady = np.nan_to_num(pcc).min(axis=0) >= 0
        good = known.all(axis=0) & (mean >= PREDICTABLE_PCC) & steady
        seen = np.isfinite(ceiling)
        top = np.nansum(ceiling, axis=0) / np.maximum(seen.sum(axis=0), 1)
        return {
            "pcc": np.where(known.any(axis=0), mean, np.nan),
            "noise_ceiling": np.where(seen.any(axis=0), top, np.nan),
            "predictable": good.astype(np.float64),
        }

    def card_scores(self, panel: Panel) -> dict[str, Any]:
        """Return what the model card keeps: per gene set and per gene, and how it was found."""
        return {
            "about": {
                "held_out": self.settings.by,
                "folds": [f.split.name for f in self.folds],
                "predictable": f"mean held-out PCC of at least {PREDICTABLE_PCC} and below 0 in "
                "no fold",
                "interval": self.interval_label,
            },
            "sets": {k: _number(v, 4) for k, v in self.means()[OURS].items()},
            "genes": self._genes(panel),
        }

    def _genes(self, panel: Panel) -> dict[str, list[float | None]]:
        return {
            name: [_number(v, 4) for v in values.tolist()]
            for name, values in self.gene_scores(panel).items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as a JSON document; what is not defined is null."""
        about = {m.name: m.about for m in BASELINES} | {OURS: ABOUT_OURS}
        means = self.means()
        document = {
            "format": FORMAT,
            "version": VERSION,
            "by": self.settings.by,
            "sections": self.donors,
            "features": {"ours": self.ours, "published": self.published},
            "methods": about,
            "mean": means,
            "interval": {
                name: {k: list(self.interval_of(name, k)) for k in self.sets} for name in means
            },
            "interval_label": self.interval_label,
            "noise_ceiling": self.ceilings(),
            "comparisons": self.comparisons(),
            "null": self.null(),
            "summary": self.summary(),
            "folds": [
                {
                    "name": f.split.name,
                    "train": list(f.split.train),
                    "test": list(f.split.test),
                    "in_training_donor": f.in_training_donor,
                    "genes": len(f.genes),
                    "set_sizes": f.sets,
                    "alpha": f.alpha,
                    "scores": f.scores,
                    "undefined_genes": f.undefined,
                    "rmse_hvg": f.rmse,
                    "variance_ratio_hvg": f.variance_ratio,
                }
                for f in self.folds
            ],
            "genes": {"symbol": list(self.panel.symbols), "gene_id": list(self.panel.gene_ids)}
            | self._genes(self.panel),
            "notes": self.notes(),
            "run_card": make_run_card(
                seeds={"evaluation": self.settings.seed},
                permutations=self.settings.permutations,
                bootstrap_draws=DRAWS,
                bleep_epochs=self.settings.epochs,
            ),
        }
        plain: dict[str, Any] = plain_json(document)
        return plain

    def notes(self) -> list[str]:
        """Say what a reader has to know to read the figures."""
        fitted = (
            "Gene sets, scaling, components and penalties are fitted on the training sections of "
            "each fold. Scores are Pearson correlations per gene over the spots of a held-out "
            "section, in the mean over sections; a gene without a score counts as 0."
        )
        ceiling = (
            "The noise ceiling is what a perfect prediction of the rates could reach on these "
            "counts, estimated by splitting them. It is an upper bound: technical noise beyond "
            "counting, and depth that differs between spots, count as signal in it. The null "
            "keeps the penalty that was chosen on the true pairs."
        )
        trained = (
            "The bleep rows train the published heads on a frozen "
            "backbone, without Harmony, and keep the last epoch."
        )
        made = [fitted, ceiling, trained]
        if any(f.in_training_donor for f in self.folds):
            made.append(
                "In some folds the held-out section's donor is among the training donors: scores "
                "on a new donor will be lower."
            )
        return made


def _number(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def block_label(donors: Mapping[str, str], by: str) -> str:
    """Say in words what intervals over spatial blocks are about.

    Parameters
    ----------
    donors
        Section -> donor.
    by
        ``"section"`` or ``"donor"``: what was held out.
    """
    where = f"95% bootstrap over spatial blocks of {BLOCK_PITCHES:g} spots a side"
    if len(set(donors.values())) == 1:
        return f"{where}, within one donor: they say nothing of other donors"
    if by == "section":
        return f"{where}, the held-out donor stays in training: they say nothing of new donors"
    return f"{where} of the held-out donors; few donors: they say little of further ones"


def plain_json(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a document with tuples as lists and numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
