"""Leave one donor or section out, or what lists name: every method on the same folds and genes.

A score of a fold is the mean over its held-out sections of the correlation over the spots of each:
sections differ in depth and stain, and what separates them is no prediction of tissue.

Gene sets, panels, scaling, components and penalties come from the training sections of each fold.
What is held out is not among the references, so that no spot answers for itself; where a section
is held out and its donor stays in training, the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse as sp

from bleepdb.evaluation.fold_result import (
    MEASURED,
    TRAINED,
    FoldResult,
    SectionScores,
    Structure,
    number,
    rounded,
)
from bleepdb.evaluation.held_out import HeldOutTruth, ScoredTarget
from bleepdb.evaluation.imputing import retrieve
from bleepdb.evaluation.methods import BLEEP_PUBLISHED, RIDGE_EQUAL, Fold
from bleepdb.evaluation.rows import rows_of
from bleepdb.evaluation.scoring import Scorer, Scores
from bleepdb.evaluation.settings import Settings, folds_of
from bleepdb.evaluation.structure import donor_mixing
from bleepdb.evaluation.twins import allowed_twins, pairs_across, refuse_twins
from bleepdb.metrics import mean_score, permutation_null
from bleepdb.training.recipes.linear import Folded, LinearSettings, tune
from bleepdb.training.recipes.settings import settings_from
from bleepdb.training.tuning import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bleepdb.encoders import Model
    from bleepdb.evaluation.rows import Rows
    from bleepdb.splits import Split
    from bleepdb.training import Pairs
    from bleepdb.training.recipes.registry import Recipe

LINEAR: Final = "linear"
PREDICTABLE_PCC: Final = 0.2
STRUCTURE_OF: Final = (RIDGE_EQUAL, BLEEP_PUBLISHED)
"""Methods whose matrices are kept, beside ours."""


@dataclass(frozen=True)
class Encoded:
    """The same sections, encoded in up to three ways.

    Attributes
    ----------
    ours
        On our features.
    published
        On penultimate features of one scale, or None where no row takes them.
    colour
        On colour and nuclear density, or None likewise.
    """

    ours: Pairs
    published: Pairs | None = None
    colour: Pairs | None = None

    def __post_init__(self) -> None:
        digests = [s.digest for s in self.ours.sections]
        for other in (self.published, self.colour):
            if other is not None and [s.digest for s in other.sections] != digests:
                message = "the kinds of features are not of the same sections"
                raise ValueError(message)

    @property
    def donors(self) -> dict[str, str]:
        """Section -> donor."""
        return {s.section: s.donor for s in self.ours.sections}

    def fold(self, split: Split, seed: int, epochs: int) -> Fold:
        """Return the two sides of a split on all features."""

        def target(pairs: Pairs) -> Target:
            return ScoredTarget(pairs.subset(split.train), pairs.subset(split.test))

        return Fold(
            target(self.ours),
            None if self.published is None else target(self.published),
            seed,
            epochs,
            None if self.colour is None else target(self.colour),
        )


def run(
    ours: Pairs,
    published: Pairs | None,
    settings: Settings,
    *,
    colour: Pairs | None = None,
    refuse: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[FoldResult]:
    """Run all folds.

    Parameters
    ----------
    ours, published, colour
        The same sections on our features, on penultimate features of one scale, and on colour
        and nuclear density. The last two may be None where no row takes them.
    settings
        How.
    refuse
        Look for near-duplicate counts across the splits; False where that was done before.
    progress
        Called with (steps done, steps, what is being done).

    Raises
    ------
    InputError
        If there are too few sections or donors, lists have faults, or near-duplicates stand on
        two sides of a split.
    ValueError
        If the kinds of features are not of the same sections, or a row lacks its features.
    """
    encoded = Encoded(ours, published, colour)
    folds = folds_of(encoded.donors, settings)
    if refuse:
        refuse_twins(
            ours.sections,
            pairs_across(folds),
            allowed=allowed_twins(settings.allow_twins, ours.names),
        )
    rows = rows_of(settings)
    times = sum(len(settings.drawn) if m.draws else 1 for m in rows.methods)
    steps, done = len(folds) * (times + 1), 0

    def step(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, steps, what)
        done += 1

    made = [_fold(split, encoded, settings, rows, step) for split in folds]
    step("done")
    return made


def _fold(
    split: Split,
    encoded: Encoded,
    settings: Settings,
    rows: Rows,
    step: Callable[[str], None],
) -> FoldResult:
    methods = rows.methods
    first = encoded.fold(split, settings.seed, settings.epochs)
    folds = {seed: replace(first, seed=seed) for seed in settings.drawn}
    target = first.ours
    held = HeldOutTruth.of(target)
    every = np.arange(len(target.inside.panel))
    whole = HeldOutTruth.of(target, every)
    scorer = Scorer(held, settings.seed)
    found: dict[str, Scores] = {}
    by_seed: dict[str, dict[str, list[float]]] = {}
    ours = _Ours(rows.ours, whole)
    for method in methods:
        parts = []
        for seed in settings.drawn if method.draws else settings.drawn[:1]:
            step(f"fold {split.name}: {method.name}")
            if method is methods[0]:
                values: NDArray[np.floating[Any]] = ours.predict(folds[seed])
            else:
                values = method.predict(folds[seed])
            parts.append(scorer.scores(values))
        found[method.name] = Scores.mean(parts)
        if method.draws:
            each = rounded(np.stack([p.sets for p in parts]))
            by_seed[method.name] = dict(zip(scorer.names, each.T.tolist(), strict=True))
    step(f"fold {split.name}: shuffled pairs")
    observed, null = _null(target, ours.model, settings)
    ceiling = rounded(held.ceiling(seed=settings.seed))
    train_donors = {s.donor for s in target.inside.sections}

    def per_set(field: str) -> dict[str, dict[str, float]]:
        return {
            name: dict(zip(scorer.names, getattr(one, field).tolist(), strict=True))
            for name, one in found.items()
        }

    return FoldResult(
        split=split,
        sets={name: len(w) for name, w in held.sets.items()},
        scores=per_set("sets"),
        undefined={
            name: {k: round(v) for k, v in one.items()}
            for name, one in per_set("undefined").items()
        },
        by_seed=by_seed,
        rmse={name: float(one.rmse[0]) for name, one in found.items()},
        variance_ratio={name: float(one.variance_ratio[0]) for name, one in found.items()},
        moran={
            name: dict(zip(("measured", "imputed", "agreement"), one.moran.tolist(), strict=True))
            for name, one in found.items()
        },
        sections=tuple(
            SectionScores(
                section.section,
                section.donor,
                len(section),
                {
                    name: dict(zip(scorer.names, one.by_section[i].tolist(), strict=True))
                    for name, one in found.items()
                },
            )
            for i, section in enumerate(target.outside.sections)
        ),
        mixing=ours.mixing(target),
        draws={
            name: dict(zip(scorer.names, one.samples, strict=True)) for name, one in found.items()
        },
        null=null,
        null_observed=observed,
        chosen=ours.chosen,
        set_ceiling={name: round(mean_score(ceiling[w])[0], 5) for name, w in held.members.items()},
        genes=target.inside.panel,
        pcc=rounded(np.mean(ours.pcc, axis=0)),
        ceiling=ceiling,
        moran_of_genes=_over_sections(Scorer(whole, settings.seed).moran_of(whole.truth)),
        structure=_structure(scorer, found, methods[0].name),
        bulk_genes=tuple(target.inside.panel.symbols[target.genes[i]] for i in scorer.structured),
        bulk={
            MEASURED: rounded(scorer.truth_bulk),
            TRAINED: rounded(scorer.trained_bulk),
            **{k: one.bulk for k, one in found.items()},
        },
        in_training_donor=any(s.donor in train_donors for s in target.outside.sections),
        members=held.members,
        imputed=ours.imputed if settings.keep_values else None,
    )


class _Ours:
    """The first recipe on a fold: its values for all genes, its neighbours, what it chose."""

    def __init__(self, recipe: Recipe, whole: HeldOutTruth) -> None:
        self.recipe, self.whole = recipe, whole
        self.pcc: list[NDArray[np.float64]] = []
        self.model: Model | None = None
        self.weights: sp.csr_matrix | None = None
        self.imputed: NDArray[np.float32] | None = None

    def predict(self, fold: Fold) -> NDArray[np.float32]:
        """Impute the held-out spots for the target's genes; keep the rest of the first seed."""
        target = fold.ours
        model = fold.fitted(self.recipe)
        retrieved = retrieve(model, target.inside.sections, target.outside.sections)
        values = retrieved.values(target.inside.panel)
        self.pcc.append(self.whole.pcc(values))
        if self.model is None:
            self.model, self.imputed = model, values
            self.weights = sp.vstack(retrieved.weights, format="csr")
        return values[:, target.genes]

    @property
    def chosen(self) -> dict[str, Any]:
        """Hyperparameters as JSON has them."""
        assert self.model is not None  # noqa: S101 - ours is the first row
        found = dict(self.model.hyper) | {"inner_folds": self.model.training["inner_folds"]}
        plain: dict[str, Any] = _plain(found)
        return plain

    def mixing(self, target: Target) -> dict[str, Any] | None:
        """How donors mix among the neighbours."""
        assert self.weights is not None  # noqa: S101 - ours is the first row
        if self.weights.nnz and self.weights.data.min() < 0:
            return None  # shares of signed weights mean nothing
        sections = target.inside.sections
        donors = np.repeat([s.donor for s in sections], [len(s) for s in sections])
        plain: dict[str, Any] = _plain(dict(donor_mixing(self.weights, donors)))
        return plain


def _structure(scorer: Scorer, found: dict[str, Scores], ours: str) -> Structure | None:
    genes = scorer.structured
    target = scorer.held.target
    if len(genes) < 3:
        return None
    return Structure(
        genes=tuple(target.inside.panel.symbols[target.genes[i]] for i in genes),
        measured=np.round(scorer.truth_matrix, 4),
        imputed={
            name: np.round(one.matrix, 4)
            for name, one in found.items()
            if name in (ours, *STRUCTURE_OF)
        },
        agreement={name: float(one.agreement[0]) for name, one in found.items()},
    )


def _over_sections(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over sections where defined, else NaN."""
    known = np.isfinite(found)
    total = np.nansum(found, axis=0) / np.maximum(known.sum(axis=0), 1)
    return rounded(np.where(known.any(axis=0), total, np.nan))


def _null(
    target: Target, model: Model | None, settings: Settings
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Scores of the linear recipe on the true pairs, and on pairs shuffled within each section.

    Its closed form makes many refits cheap, so it stands for the others too. What was
    chosen on the true pairs stays.
    """
    if settings.permutations < 1:
        return {}, {}
    how = LinearSettings()
    held = HeldOutTruth.of(Target(target.inside, target.outside))  # not on the whole panel
    target = held.target
    if model is not None and model.recipe == LINEAR:
        known = {f.name for f in fields(LinearSettings)}
        how = settings_from(
            LinearSettings, {k: v for k, v in model.hyper.items() if k in known}, LINEAR
        )
    else:
        how = tune(target.inside, how).chosen
    assert how.alpha is not None  # noqa: S101 - chosen just now
    alpha, folded = how.alpha, Folded.of(target, how)
    section = target.inside.section_of_spot

    def scores(order: NDArray[np.int64] | None) -> NDArray[np.float64]:
        pcc = held.pcc(folded.predict(alpha, order))
        return rounded(np.array([mean_score(pcc[w])[0] for w in held.sets.values()]))

    def shuffled(rng: np.random.Generator) -> NDArray[np.float64]:
        order = np.arange(len(section))
        for number_of in range(len(target.inside.sections)):
            rows = np.flatnonzero(section == number_of)
            order[rows] = rng.permutation(rows)
        return scores(order)

    found = permutation_null(shuffled, n=settings.permutations, seed=settings.seed)
    observed = dict(zip(held.sets, scores(None).tolist(), strict=True))
    return observed, {name: found.scores[:, i] for i, name in enumerate(held.sets)}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as JSON has it: tuples as lists, NumPy's numbers as Python's, NaN as None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return number(value) if isinstance(value, float) else value
