"""What growth says: the curve, one JSON document, and one plain sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from bleepdb.evaluation.held_out import DRAWS
from bleepdb.evaluation.report import SHOWN_SETS, block_label, plain_json
from bleepdb.run_card import make_run_card
from bleepdb.splits import block_draws, interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.growth import GrowthSettings, Score, Step, Walk
    from bleepdb.training import Pairs

FORMAT: Final = "bleepdb-growth"
VERSION: Final = 1
FEWEST_DONORS: Final = 5
GROWN: Final = "grown"
PLAIN: Final = "plain"
RETRAINED: Final = "retrained"
Kind = Literal["grown", "plain", "retrained"]
KINDS: Final[tuple[Kind, ...]] = (GROWN, PLAIN, RETRAINED)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return the three numbers."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class At:
    """One kind of model at one step, in the mean over what is held out and over orders.

    Attributes
    ----------
    pcc
        Mean PCC.
    gain
        Over the frozen atlas, which is what was grown at the first step.
    lead
        Over the retrained model.
    spread
        SD over the orders of one held-out group (root mean square over those groups); 0 where
        there is one order.
    """

    pcc: Estimate
    gain: Estimate
    lead: Estimate
    spread: float

    def to_json(self) -> dict[str, Any]:
        """Return all numbers under their names."""
        estimates = {"pcc": self.pcc, "gain": self.gain, "lead": self.lead}
        return {k: v.to_json() for k, v in estimates.items()} | {"spread": self.spread}


@dataclass(frozen=True)
class CurveStep:
    """One step of the curve.

    Attributes
    ----------
    added
        Donors (or sections) that were added so far, those of the first step included.
    sections, donors, spots, mapped
        In the atlas, in the mean over what is held out and over orders; `mapped` as in `Step`.
    sets
        Gene set -> kind (``grown``, ``plain``, ``retrained``) -> its scores.
    """

    added: int
    sections: float
    donors: float
    spots: float
    mapped: float
    sets: dict[str, dict[Kind, At]]


@dataclass(frozen=True)
class GrowthReport:
    """All that growing an atlas showed.

    Attributes
    ----------
    walks
        As `bleepdb.evaluation.growth.grow` gives them.
    settings
        How it was run.
    donors
        Section -> donor.
    features
        What the features are, a JSON object.
    """

    walks: Sequence[Walk]
    settings: GrowthSettings
    donors: dict[str, str]
    features: dict[str, Any]

    @classmethod
    def of(cls, walks: Sequence[Walk], settings: GrowthSettings, pairs: Pairs) -> GrowthReport:
        """Put results together with what they were made from."""
        donors = {s.section: s.donor for s in pairs.sections}
        return cls(walks, settings, donors, pairs.feature_spec.to_json())

    @cached_property
    def folds(self) -> list[list[Walk]]:
        """The walks of each held-out group."""
        return [list(walks) for _, walks in groupby(self.walks, lambda w: w.split.name)]

    @property
    def sets(self) -> list[str]:
        """Gene sets that every walk has."""
        first = self.walks[0].steps[0].grown.pcc
        return [k for k in first if all(k in w.steps[0].grown.pcc for w in self.walks)]

    @property
    def shown_sets(self) -> list[str]:
        """Those of them that the table shows."""
        return [k for k in SHOWN_SETS if k in self.sets]

    @cached_property
    def _donor_of_fold(self) -> list[str]:
        return [self.donors[walks[0].split.test[0]] for walks in self.folds]

    @property
    def over_donors(self) -> bool:
        """Whether intervals are over held-out donors: where there are five or more."""
        return len(set(self._donor_of_fold)) >= FEWEST_DONORS

    @property
    def interval_label(self) -> str:
        """What the intervals are about, in words."""
        if self.over_donors:
            return (
                f"95% bootstrap over {len(set(self._donor_of_fold))} held-out donors, whose "
                "training sections overlap"
            )
        return block_label(self.donors, self.settings.by)

    @cached_property
    def curve(self) -> list[CurveStep]:
        """The steps, from the first to the whole."""
        made = []
        for number in range(len(self.walks[0].steps)):
            at = [w.steps[number] for w in self.walks]
            made.append(
                CurveStep(
                    added=self.settings.start + number,
                    sections=_mean([len(s.sections) for s in at]),
                    donors=_mean([s.donors for s in at]),
                    spots=_mean([s.spots for s in at]),
                    mapped=_mean([s.mapped for s in at]),
                    sets={
                        key: {kind: self._at(key, kind, number) for kind in KINDS}
                        for key in self.sets
                    },
                )
            )
        return made

    def _at(self, key: str, kind: Kind, number: int) -> At:
        here: tuple[float, Kind, int] = (1, kind, number)
        return At(
            pcc=self._estimate(key, [here]),
            gain=self._estimate(key, [here, (-1, GROWN, 0)]),
            lead=self._estimate(key, [here, (-1, RETRAINED, number)]),
            spread=self._spread(key, kind, number),
        )

    def _estimate(self, key: str, terms: Sequence[tuple[float, Kind, int]]) -> Estimate:
        """Estimate a sum of signed scores, with draws that are the same for all its terms."""
        by_fold = np.array(
            [
                _mean([sum(s * _score(w.steps[i], k).pcc[key] for s, k, i in terms) for w in walks])
                for walks in self.folds
            ]
        )
        if self.over_donors:
            _, donors = np.unique(self._donor_of_fold, return_inverse=True)
            times = block_draws(donors, n=DRAWS, seed=self.settings.seed)
            samples = times @ by_fold / times.sum(axis=1)
        else:
            samples = np.zeros(DRAWS)
            for walk in self.walks:
                for sign, kind, i in terms:
                    samples += sign * _score(walk.steps[i], kind).draws[key] / len(self.walks)
        return Estimate(float(by_fold.mean()), *interval(samples))

    def _spread(self, key: str, kind: Kind, number: int) -> float:
        variances = [
            np.var([_score(w.steps[number], kind).pcc[key] for w in walks]) for walks in self.folds
        ]
        return float(np.sqrt(np.mean(variances)))

    def summary(self) -> str:
        """Say in one sentence how much of what retraining brings comes without it."""
        first, last = self.curve[0], self.curve[-1]
        keys = self.shown_sets or self.sets

        def gains(kind: Kind) -> str:
            return ", ".join(self._gain(key, last.sets[key], kind) for key in keys)

        return (
            f"from {first.added} to {last.added} {self.settings.by}s, growing without retraining "
            f"brings {gains(GROWN)}; with the low-rank map left out it brings {gains(PLAIN)}; "
            f"retraining brings {gains(RETRAINED)}"
        )

    @staticmethod
    def _gain(key: str, at: dict[Kind, At], kind: Kind) -> str:
        gain, fitted = at[kind].gain, at[RETRAINED].gain
        said = f"{gain.value:+.3f} on {key}"
        if kind == RETRAINED:
            return said if fitted.low > 0 else f"{said} (not surely above 0)"
        return f"{said} ({gain.value / fitted.value:.0%})" if fitted.low > 0 else said

    def to_json(self) -> dict[str, Any]:
        """Return the whole report as a JSON document."""
        settings = self.settings
        document = {
            "format": FORMAT,
            "version": VERSION,
            "by": settings.by,
            "recipe": settings.recipe,
            "hyper": dict(settings.hyper or {}),
            "start": settings.start,
            "orders": len(self.folds[0]),
            "sections": self.donors,
            "features": self.features,
            "curve": [
                {
                    "added": step.added,
                    "sections": step.sections,
                    "donors": step.donors,
                    "spots": step.spots,
                    "mapped": step.mapped,
                    "sets": {
                        key: {kind: at[kind].to_json() for kind in KINDS}
                        for key, at in step.sets.items()
                    },
                }
                for step in self.curve
            ],
            "frozen": {key: at[GROWN].pcc.to_json() for key, at in self.curve[0].sets.items()},
            "interval_label": self.interval_label,
            "summary": self.summary(),
            "walks": [
                {
                    "held_out": walk.split.name,
                    "test": list(walk.split.test),
                    "order": list(walk.order),
                    "steps": [
                        {
                            "sections": list(step.sections),
                            "donors": step.donors,
                            "spots": step.spots,
                            "mapped": step.mapped,
                            **{kind: _score(step, kind).pcc for kind in KINDS},
                        }
                        for step in walk.steps
                    ],
                }
                for walk in self.walks
            ],
            "notes": self.notes(),
            "run_card": make_run_card(
                seeds={"evaluation": settings.seed}, bootstrap_draws=DRAWS, orders=settings.orders
            ),
        }
        plain: dict[str, Any] = plain_json(document)
        return plain

    def notes(self) -> list[str]:
        """Say what a reader has to know to read the figures."""
        models = (
            "Grown: fitted on the first step's sections alone; what is added is encoded with that "
            "model and becomes references. Plain: the same without the model's low-rank map on "
            "genes (query --no-denoise). The map takes only references that have all genes of the "
            "model's panel: `mapped` of the spots. Retrained: fitted on all that is in the atlas "
            "at the step. Frozen: the first step, where nothing was added."
        )
        genes = (
            "Gene sets are chosen on the first step's sections of each order and are the same at "
            "all of its steps; genes that a section of the fold lacks are left out. Scores are "
            "Pearson correlations per gene over the spots of a held-out section; a gene without "
            "a score counts as 0."
        )
        apart = "What is held out is in no atlas and in no training, and chooses no gene."
        made = [models, genes, apart]
        donors_left = [{self.donors[s] for s in w.split.train} for w in self.walks]
        held = (self.donors[w.split.test[0]] for w in self.walks)
        if any(d in left for d, left in zip(held, donors_left, strict=True)):
            made.append(
                "Other sections of a held-out section's donor come into the atlas: scores on a new "
                "donor will be lower."
            )
        return made


def _score(step: Step, kind: Kind) -> Score:
    return {GROWN: step.grown, PLAIN: step.plain, RETRAINED: step.retrained}[kind]


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values))
