"""Leave one section or donor out: every method on the same folds, genes and spots.

A score of a fold is the mean over its held-out sections of the correlation over the spots of each:
sections differ in depth and stain, and what separates them is no prediction of tissue.

Gene sets, panels, scaling, components and penalties come from the training sections of each fold.
What is held out is not among the references, so that no spot answers for itself; where a section
is held out and its donor stays in training, the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.errors import InputError
from bleepdb.evaluation.held_out import HeldOutTruth
from bleepdb.evaluation.imputing import predict_with
from bleepdb.evaluation.methods import (
    BASELINES,
    BLEEP_ALL,
    BLEEP_EQUAL,
    BLEEP_PUBLISHED,
    OURS,
    RIDGE_EQUAL,
    Fold,
    fit_ours,
)
from bleepdb.files import digest
from bleepdb.gene_sets import HVG
from bleepdb.metrics import (
    mean_score,
    permutation_null,
    rmse_per_gene,
    variance_ratio_per_gene,
)
from bleepdb.splits import interval, leave_one_donor_out, leave_one_section_out
from bleepdb.training.recipes.linear import Folded, LinearSettings
from bleepdb.training.tuning import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.panel import Panel
    from bleepdb.splits import Split
    from bleepdb.training import Pairs

PREDICTABLE_PCC: Final = 0.2
COMPARED: Final = (BLEEP_PUBLISHED, BLEEP_EQUAL, BLEEP_ALL, RIDGE_EQUAL)


@dataclass(frozen=True)
class Settings:
    """How an evaluation is run.

    Attributes
    ----------
    by
        ``"section"`` or ``"donor"``: what is held out.
    permutations
        Shuffles of the pairs for the null; 0 for none.
    seed
        Of shuffles, bootstrap draws, thinning and bleep's training.
    epochs
        Of the bleep recipe.
    only
        Names of the folds to run; None for all.
    """

    by: str = "section"
    permutations: int = 100
    seed: int = 0
    epochs: int = 150
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.by not in {"section", "donor"}:
            raise InputError(f"cannot hold out by {self.by!r}", hint="choose section or donor")
        if self.permutations < 0 or self.epochs < 1 or self.seed < 0:
            raise InputError(
                f"{self.permutations} permutations, {self.epochs} epochs, seed {self.seed}",
                hint="give 0 or more, 1 or more, and 0 or more",
            )


@dataclass(frozen=True)
class FoldResult:
    """What one fold gave.

    Attributes
    ----------
    split
        What was held out.
    sets
        Gene set -> number of genes.
    members
        Gene set -> positions of its genes in `genes`.
    scores
        Method -> gene set -> mean PCC, genes without a score counted as 0.
    undefined
        Method -> gene set -> number of genes without a score.
    rmse, variance_ratio
        Method -> mean over HVG.
    draws
        Method -> gene set -> (DRAWS,) bootstrap scores over spatial blocks.
    null
        Gene set -> (permutations,) scores of shuffled pairs.
    alpha
        The penalty that inner folds chose for the linear recipe.
    genes
        The training panel.
    pcc, ceiling
        (genes,) held-out PCC of the linear recipe, and the noise ceiling of the held-out spots;
        NaN where no held-out section measured the gene or all are constant.
    in_training_donor
        Whether a donor of the held-out sections was trained on.
    imputed
        (held-out spots, genes) values of the linear recipe, for pictures.
    """

    split: Split
    sets: dict[str, int]
    members: dict[str, NDArray[np.int64]]
    scores: dict[str, dict[str, float]]
    undefined: dict[str, dict[str, int]]
    rmse: dict[str, float]
    variance_ratio: dict[str, float]
    draws: dict[str, dict[str, NDArray[np.float64]]]
    null: dict[str, NDArray[np.float64]]
    alpha: float
    genes: Panel
    pcc: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    in_training_donor: bool
    imputed: NDArray[np.float32]


def splits_of(pairs: Pairs, settings: Settings) -> list[Split]:
    """Return the folds.

    Raises
    ------
    InputError
        If there are too few sections or donors, or a fold that was named does not exist.
    """
    return folds_of({s.section: s.donor for s in pairs.sections}, settings)


def folds_of(donor_of: Mapping[str, str], settings: Settings) -> list[Split]:
    """Return the folds of sections that need not be read yet; errors as `splits_of`.

    Parameters
    ----------
    donor_of
        Section -> donor.
    settings
        How.
    """
    made = (
        leave_one_donor_out(donor_of) if settings.by == "donor" else leave_one_section_out(donor_of)
    )
    if settings.only is None:
        return made
    unknown = set(settings.only) - {s.name for s in made}
    if unknown:
        raise InputError(
            f"no fold {', '.join(sorted(unknown))}",
            hint=f"there is {', '.join(s.name for s in made)}",
        )
    return [s for s in made if s.name in settings.only]


def run(
    ours: Pairs,
    published: Pairs,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[FoldResult]:
    """Run all folds.

    Parameters
    ----------
    ours, published
        The same sections on our features, and on penultimate features of one scale.
    settings
        How.
    progress
        Called with (steps done, steps).

    Raises
    ------
    InputError
        If there are too few sections or donors, or two sections hold the same counts.
    ValueError
        If the two are not of the same sections.
    """
    if [s.digest for s in ours.sections] != [s.digest for s in published.sections]:
        message = "the two kinds of features are not of the same sections"
        raise ValueError(message)
    refuse_twins(ours)
    folds = splits_of(ours, settings)
    steps = len(folds) * (len(BASELINES) + 2)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    return [_fold(split, ours, published, settings, step) for split in folds]


def _fold(
    split: Split, ours: Pairs, published: Pairs, settings: Settings, step: Callable[[], None]
) -> FoldResult:
    target = Target(ours.subset(split.train), ours.subset(split.test))
    other = Target(published.subset(split.train), published.subset(split.test))
    fold = Fold(target, other, settings.seed, settings.epochs)
    model = fit_ours(fold)
    every = np.arange(len(target.inside.panel))
    imputed = predict_with(model, target, every)
    values: dict[str, NDArray[np.floating[Any]]] = {}
    for method in BASELINES:
        values[method.name] = method.predict(fold)
        step()
    values[OURS] = imputed[:, target.genes]
    step()
    held = HeldOutTruth.of(target)
    per_gene = {name: held.pcc(v) for name, v in values.items()}
    alpha = float(model.hyper["alpha"])
    null = _null(target, held, alpha, settings)
    step()
    hvg = held.sets.get(HVG, np.arange(len(target.genes)))
    train_donors = {s.donor for s in target.inside.sections}
    return FoldResult(
        split=split,
        sets={name: len(found) for name, found in target.sets.items()},
        members=target.sets,
        scores=_per_set(per_gene, held, 0),
        undefined=_per_set(per_gene, held, 1),
        rmse={n: held.mean(rmse_per_gene, v, hvg) for n, v in values.items()},
        variance_ratio={n: held.mean(variance_ratio_per_gene, v, hvg) for n, v in values.items()},
        draws={name: held.samples(v, seed=settings.seed) for name, v in values.items()},
        null=null,
        alpha=alpha,
        genes=target.inside.panel,
        pcc=HeldOutTruth.of(target, every).pcc(imputed),
        ceiling=held.ceiling(seed=settings.seed),
        in_training_donor=any(s.donor in train_donors for s in target.outside.sections),
        imputed=imputed,
    )


def refuse_twins(pairs: Pairs) -> None:
    """Refuse sections with the same counts under two names: one would answer for the other.

    Raises
    ------
    InputError
        Naming the two.
    """
    seen: dict[str, str] = {}
    for section in pairs.sections:
        counts = section.counts
        parts = (counts.indptr, counts.indices, counts.data)
        mark = digest(*(np.asarray(p).astype("<i8").tobytes() for p in parts))
        if mark in seen:
            raise InputError(
                f"sections {seen[mark]} and {section.section} hold the same counts",
                hint="keep one of them: held out, it would be found in training under another name",
            )
        seen[mark] = section.section


def _per_set(
    per_gene: dict[str, NDArray[np.float64]], held: HeldOutTruth, which: int
) -> dict[str, dict[str, Any]]:
    return {
        name: {key: mean_score(r[w])[which] for key, w in held.sets.items()}
        for name, r in per_gene.items()
    }


def _null(
    target: Target, held: HeldOutTruth, alpha: float, settings: Settings
) -> dict[str, NDArray[np.float64]]:
    """Scores of the linear recipe refitted on shuffled pairs, shuffled within each section.

    The penalty stays the one that was chosen on the true pairs.
    """
    if settings.permutations < 1:
        return {}
    folded = Folded.of(target, LinearSettings())
    section = target.inside.section_of_spot

    def shuffled(rng: np.random.Generator) -> NDArray[np.float64]:
        order = np.arange(len(section))
        for number in range(len(target.inside.sections)):
            rows = np.flatnonzero(section == number)
            order[rows] = rng.permutation(rows)
        pcc = held.pcc(folded.predict(alpha, order))
        return np.array([mean_score(pcc[w])[0] for w in held.sets.values()])

    found = permutation_null(shuffled, n=settings.permutations, seed=settings.seed)
    return {name: found.scores[:, i] for i, name in enumerate(held.sets)}


def mean_over_folds(results: Sequence[FoldResult]) -> dict[str, dict[str, float]]:
    """Mean score over folds: method -> gene set -> PCC, for the sets that every fold has."""
    sets = [k for k in results[0].sets if all(r.sets.get(k) for r in results)]
    return {
        name: {key: float(np.mean([r.scores[name][key] for r in results])) for key in sets}
        for name in results[0].scores
    }


def difference(
    results: Sequence[FoldResult], other: str, gene_set: str
) -> tuple[float, tuple[float, float]]:
    """Return how far ours is above another method in the mean over folds, with its interval."""
    gap = np.mean([r.scores[OURS][gene_set] - r.scores[other][gene_set] for r in results])
    samples = np.mean([r.draws[OURS][gene_set] - r.draws[other][gene_set] for r in results], axis=0)
    return float(gap), interval(samples)
