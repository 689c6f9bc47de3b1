"""Growth: held-out scores as sections and donors are added to an atlas without retraining.

Each donor (or section) is held out once. The others are added one at a time in several orders:

- *grown*: the model is fitted on the first step's sections alone and stays as it is; what is added
  is encoded with it and becomes references;
- *retrained*: the recipe is fitted again on all that is in the atlas at the step;
- *frozen*: nothing is added, which is the score at the first step.

The gene sets of a held-out group and an order are chosen on the first step's sections, the only
ones that every model of the order knows, and are the same at every step; genes that a later
section lacks are left out at all of them. What is held out decides nothing and never answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from bleepdb.errors import InputError
from bleepdb.evaluation.held_out import HeldOutTruth
from bleepdb.evaluation.imputing import retrieve
from bleepdb.evaluation.settings import Settings, folds_of
from bleepdb.evaluation.splitting import DONOR, SECTION
from bleepdb.evaluation.twins import pairs_across, refuse_twins
from bleepdb.files import digest
from bleepdb.metrics import mean_score
from bleepdb.training.recipes import check_recipe, fit
from bleepdb.training.tuning import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.imputing import Retrieved
    from bleepdb.panel import Panel
    from bleepdb.splits import Split
    from bleepdb.training import Pairs

MOST_ORDERS: Final = 1000


@dataclass(frozen=True)
class GrowthSettings:
    """How growth is measured.

    Attributes
    ----------
    by
        ``"section"`` or ``"donor"``: what is held out, and what is added at a step.
    orders
        In how many orders the others are added; all of them where there are not more.
    start
        Donors (or sections) at the first step.
    seed
        Of orders, bootstrap draws and what the recipe draws.
    only
        Names of what is held out; None for each in turn.
    recipe, hyper
        What is fitted, and hyperparameters that differ from its defaults.
    """

    by: str = "section"
    orders: int = 6
    start: int = 1
    seed: int = 0
    only: tuple[str, ...] | None = None
    recipe: str = "linear"
    hyper: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.by not in {DONOR, SECTION}:
            raise InputError(f"cannot hold out by {self.by!r}", hint="choose donor or section")
        if not 1 <= self.orders <= MOST_ORDERS or self.start < 1 or self.seed < 0:
            raise InputError(
                f"{self.orders} orders, a start of {self.start}, seed {self.seed}",
                hint=f"give 1 to {MOST_ORDERS}, 1 or more, and 0 or more",
            )
        check_recipe(self.recipe, self.hyper)


@dataclass(frozen=True)
class Score:
    """Scores of one model on what is held out.

    Attributes
    ----------
    pcc
        Gene set -> mean PCC, genes without a score counted as 0.
    draws
        Gene set -> (DRAWS,) bootstrap scores over spatial blocks.
    """

    pcc: dict[str, float]
    draws: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Step:
    """An atlas at one step, and what it gives.

    Attributes
    ----------
    sections
        In the atlas, in the order of the sheet.
    donors, spots
        How many are in the atlas.
    mapped
        Of the spots those that take part in the low-rank map of the first step's model: the
        sections that have all genes of its panel.
    grown, plain, retrained
        Scores of the first step's model with and without its low-rank map on genes, and of a model
        fitted on `sections`.
    """

    sections: tuple[str, ...]
    donors: int
    spots: int
    mapped: int
    grown: Score
    plain: Score
    retrained: Score


@dataclass(frozen=True)
class Walk:
    """One order in which an atlas grows.

    Attributes
    ----------
    split
        What is held out.
    order
        Donors (or sections) as they are added; the first `start` are there at the first step.
    steps
        From the first to the whole.
    """

    split: Split
    order: tuple[str, ...]
    steps: tuple[Step, ...]


def growth_folds(donor_of: Mapping[str, str], settings: GrowthSettings) -> list[Split]:
    """Return what is held out, for sections that need not be read yet.

    Raises
    ------
    InputError
        If a fold that was named does not exist, or nothing is left to add after the first step.
    """
    groups = len(set(donor_of.values())) if settings.by == "donor" else len(donor_of)
    least = settings.start + 2
    if groups < least:
        raise InputError(
            f"growing from {settings.start} {settings.by}(s) needs at least {least} {settings.by}s "
            f"(one is held out, one is added), not {groups}",
            hint="add to the sheet, or hold out by section"
            if settings.by == "donor"
            else "add sections to the sheet",
        )
    return folds_of(donor_of, Settings(by=settings.by, seed=settings.seed, only=settings.only))


def orders_of(names: Sequence[str], n: int, *, seed: int) -> list[tuple[str, ...]]:
    """Return in which orders groups are added: all of them where there are at most `n`.

    Otherwise shuffled orders and their rotations, none twice, so that each group comes first, and
    at each later step, about equally often.
    """
    if factorial(len(names)) <= n:
        return list(permutations(names))
    rng = np.random.default_rng(seed)
    made: dict[tuple[str, ...], None] = {}
    while len(made) < n:
        shuffled = [names[i] for i in rng.permutation(len(names))]
        for turn in range(len(names)):
            made.setdefault((*shuffled[turn:], *shuffled[:turn]))
    return list(made)[:n]


@dataclass(frozen=True)
class _Plan:
    """One order of one fold, as sets of sections."""

    split: Split
    order: tuple[str, ...]
    steps: tuple[frozenset[str], ...]


class _Run(NamedTuple):
    """What decides a score: fitted on what, in the atlas, who asks, whose genes, which values."""

    trained_on: frozenset[str]
    atlas: frozenset[str]
    held_out: str
    first: frozenset[str]
    denoise: bool = True


@dataclass(frozen=True)
class _Truth:
    """What is held out, on genes that were chosen on one first step."""

    held: HeldOutTruth
    genes: Panel
    seed: int

    @classmethod
    def of(cls, pairs: Pairs, split: Split, first: frozenset[str], seed: int) -> _Truth:
        target = _target(pairs, first, split)
        panel = target.inside.panel
        known = np.zeros(len(panel), dtype=bool)
        known[panel.match(pairs.subset(split.train).panel).left] = True
        sets = {name: w[known[w]] for name, w in target.sets.items()}
        chosen = np.unique(np.concatenate(list(sets.values())))
        where = {name: np.searchsorted(chosen, w) for name, w in sets.items() if len(w)}
        # Made anew, so that the dense profiles on which genes were chosen are not kept.
        held = replace(HeldOutTruth.of(_target(pairs, first, split), chosen), sets=where)
        return cls(held, panel.take(chosen), seed)

    def score(self, values: NDArray[np.float32]) -> Score:
        pcc = self.held.pcc(values)
        return Score(
            {name: mean_score(pcc[w])[0] for name, w in self.held.sets.items()},
            self.held.samples(values, seed=self.seed),
        )


def grow(
    pairs: Pairs,
    settings: GrowthSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Walk]:
    """Grow an atlas in every fold and order, beside retraining.

    A model depends on its training sections alone, so that it is fitted once for all folds and
    orders that come by them.

    Parameters
    ----------
    pairs
        All sections, encoded.
    settings
        How.
    progress
        Called with (models fitted and used, models).

    Returns
    -------
    list of Walk
        Fold by fold, order by order.

    Raises
    ------
    InputError
        As `growth_folds`, or if two sections hold the same counts, or nearly.
    GeneError
        If sections share too few genes.
    """
    donors = {s.section: s.donor for s in pairs.sections}
    refuse_twins(pairs.sections, pairs_across(growth_folds(donors, settings)))
    plans = _plans(pairs, settings)
    jobs: dict[frozenset[str], dict[_Run, None]] = {}
    for plan in plans:
        for run in (r for step in plan.steps for r in _runs(plan, step)):
            jobs.setdefault(run.trained_on, {})[run] = None
    contexts = {(p.split.name, p.steps[0]): p.split for p in plans}
    truths = {
        (name, first): _Truth.of(pairs, split, first, settings.seed)
        for (name, first), split in contexts.items()
    }
    split_of = {p.split.name: p.split for p in plans}
    scores: dict[_Run, Score] = {}
    mapped: dict[_Run, int] = {}
    for done, (trained_on, runs) in enumerate(jobs.items()):
        inside = pairs.subset(tuple(trained_on))
        model = fit(inside, settings.recipe, hyper=settings.hyper, seed=settings.seed)
        found: dict[tuple[str, frozenset[str]], Retrieved] = {}
        for run in runs:
            place = run.held_out, run.atlas
            if place not in found:
                target = _target(pairs, run.atlas, split_of[run.held_out])
                found[place] = retrieve(model, target.inside.sections, target.outside.sections)
            mapped[run] = found[place].mapped
            truth = truths[run.held_out, run.first]
            scores[run] = truth.score(found[place].values(truth.genes, denoise=run.denoise))
        if progress is not None:
            progress(done + 1, len(jobs))
    return [_walk(pairs, plan, scores, mapped) for plan in plans]


def _target(pairs: Pairs, atlas: frozenset[str], split: Split) -> Target:
    return Target(pairs.subset(tuple(atlas)), pairs.subset(split.test))


def _runs(plan: _Plan, step: frozenset[str]) -> tuple[_Run, _Run, _Run]:
    """Grown, plain and retrained; at the first step the first and the last are one."""
    first, name = plan.steps[0], plan.split.name
    return (
        _Run(first, step, name, first),
        _Run(first, step, name, first, denoise=False),
        _Run(step, step, name, first),
    )


def _plans(pairs: Pairs, settings: GrowthSettings) -> list[_Plan]:
    donor_of = {s.section: s.donor for s in pairs.sections}
    plans = []
    for split in growth_folds(donor_of, settings):
        members: dict[str, list[str]] = {}
        for name in split.train:
            members.setdefault(donor_of[name] if settings.by == "donor" else name, []).append(name)
        seed = int(digest("orders", split.name, str(settings.seed))[:15], 16)
        for order in orders_of(tuple(members), settings.orders, seed=seed):
            steps = tuple(
                frozenset(name for group in order[:n] for name in members[group])
                for n in range(settings.start, len(order) + 1)
            )
            plans.append(_Plan(split, order, steps))
    return plans


def _walk(
    pairs: Pairs, plan: _Plan, scores: Mapping[_Run, Score], mapped: Mapping[_Run, int]
) -> Walk:
    steps = []
    for step in plan.steps:
        atlas = pairs.subset(tuple(step))
        runs = _runs(plan, step)
        grown, plain, retrained = (scores[run] for run in runs)
        steps.append(
            Step(
                sections=atlas.names,
                donors=len(atlas.donors),
                spots=len(atlas),
                mapped=mapped[runs[0]],
                grown=grown,
                plain=plain,
                retrained=retrained,
            )
        )
    return Walk(plan.split, plan.order, tuple(steps))
