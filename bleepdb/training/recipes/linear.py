"""The `linear` recipe: two closed-form towers on a frozen backbone, and retrieval between images.

1. Image features of several levels and scales, followed by half their mean over adjacent spots;
   standardised on the training spots, 256 principal axes.
2. Expression: log1p profiles, centred, 50 principal components, each divided by the square root
   of its SD.
3. The image tower is a ridge from (1) to (2) less its mean over each section. Its penalty is
   chosen on inner folds that leave one donor out, or one section where all are of one donor.
4. Keys of the atlas are reference *images* through the same tower.
5. A place takes the softmax-weighted mean of its nearest spots' profiles, each times a power of
   its counts: deeper spots are measured better,
6. mixed with 0.3 of the mean over adjacent places,
7. and projected on the first 20 components, from which genes are read by loadings that inner folds
   correct (`bleepdb.training.readout`).

Everything that is fitted is fitted on the training sections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.encoders import Affine, Model
from bleepdb.encoders.towers import unit
from bleepdb.names import IMAGE
from bleepdb.training.affine import ImageAxes, image_axes, with_context
from bleepdb.training.recipes import card
from bleepdb.training.recipes.settings import MAX_DEPTH_POWER, as_json, settings_from
from bleepdb.training.recipes.surroundings import (
    Components,
    Embedded,
    Surroundings,
    context_of,
    near_by,
    profile_components,
    readout_with,
    ring_um,
    to_genes,
    totals_of,
)
from bleepdb.training.tuning import Stage, Target, Tuned, choose_among, grid, staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs

NAME: Final = "linear"
CHOICES: Final = {
    "alpha": "alphas",
    "temperature": "temperatures",
    "depth_power": "depth_powers",
    "smoothing": "smoothings",
}
"""What inner folds may choose, in the order of the steps, and where its candidates stand."""


__all__ = [
    "Components",
    "Folded",
    "LinearSettings",
    "context_of",
    "fit",
    "profile_components",
    "ring_um",
    "tune",
]


@dataclass(frozen=True)
class LinearSettings(Surroundings):
    """Hyperparameters, beside those of `Surroundings`.

    Attributes
    ----------
    alpha
        The ridge penalty; None: chosen from `alphas` on inner folds.
    alphas
        Candidates. Where there are no inner folds the largest is taken, which is the cautious one
        for a new donor.
    temperature
        Of the softmax.
    temperatures, depth_powers, smoothings
        Candidates for inner folds; where there are none the value stays.
    """

    alpha: float | None = None
    alphas: tuple[float, ...] = (1e2, 3e2, 1e3, 3e3, 1e4)
    temperature: float = 0.1
    temperatures: tuple[float, ...] = ()
    depth_powers: tuple[float, ...] = ()
    smoothings: tuple[float, ...] = ()

    def holds(self) -> dict[str, bool]:
        """Return, for each further hyperparameter, whether it can be used."""
        return {
            "alpha": self.alpha is None or self.alpha > 0,
            "alphas": len(self.alphas) > 0 and min(self.alphas) > 0,
            "temperature": self.temperature > 0,
            "temperatures": all(t > 0 for t in self.temperatures),
            "depth_powers": all(0 <= p <= MAX_DEPTH_POWER for p in self.depth_powers),
            "smoothings": all(0 <= w <= 1 for w in self.smoothings),
        }


@dataclass(frozen=True)
class Folded:
    """A fold of the recipe with all that does not depend on the penalty, or on the pairing.

    Shuffling the profiles of training spots leaves their components as they are and permutes
    their scores, so that a null of many refits costs little.

    Attributes
    ----------
    target
        Training sections, held-out ones, and the genes that count.
    settings
        Hyperparameters.
    axes, components
        Of the training spots.
    queries
        (held-out spots, r) on the axes.
    """

    target: Target
    settings: LinearSettings
    axes: ImageAxes
    components: Components
    queries: NDArray[np.float64]

    @classmethod
    def of(cls, target: Target, settings: LinearSettings) -> Folded:
        """Prepare a fold."""
        context = context_of(target.inside, settings)
        axes = image_axes(target.inside, context, settings.axes)
        queries = (with_context(target.outside, context) - axes.mean) @ axes.projection
        return cls(target, settings, axes, profile_components(target.inside, settings), queries)

    @cached_property
    def totals(self) -> NDArray[np.float64]:
        """(training spots,) float64, the counts of each."""
        return totals_of(self.target.inside)

    def embed(self, chosen: LinearSettings, order: NDArray[np.int64] | None = None) -> Embedded:
        """Fit the towers and embed the held-out and the training spots; `order` as `predict`."""
        assert chosen.alpha is not None  # noqa: S101 - what is fitted has one
        within = self.components.within if order is None else self.components.within[order]
        tower = self.axes.solve(within / self.components.spread, chosen.alpha)
        keys = unit((self.axes.scores @ tower).astype(np.float32))
        queries = unit((self.queries @ tower).astype(np.float32))
        return Embedded(queries, keys, chosen.temperature)

    def impute(
        self, chosen: LinearSettings, coordinates: NDArray[np.float64]
    ) -> NDArray[np.floating]:
        """Impute coordinates of the held-out spots from those of the training spots, smoothed."""
        W = self.embed(chosen).weights(self.totals, chosen)
        return near_by(self.target, np.asarray(W @ coordinates), chosen)

    def predict(self, alpha: float, order: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Fit and impute the held-out spots for the target's genes.

        Parameters
        ----------
        alpha
            The ridge penalty.
        order
            (training spots,) a permutation: spot i is paired with the profile of spot order[i].

        Returns
        -------
        numpy.ndarray
            (held-out spots, target genes) float64 log1p values.
        """
        return next(self.predict_each([replace(self.settings, alpha=alpha)], order))

    def predict_each(
        self, candidates: Sequence[LinearSettings], order: NDArray[np.int64] | None = None
    ) -> Iterator[NDArray[np.float64]]:
        """Do the same for settings that differ in what `CHOICES` names."""
        of = self.components
        scores, totals = of.scores, self.totals
        if order is not None:
            scores, totals = scores[order], totals[order]
        rank = min(self.settings.low_rank, scores.shape[1]) or scores.shape[1]

        def embed(_: None, chosen: LinearSettings) -> Embedded:
            return self.embed(chosen, order)

        def average(found: Embedded, chosen: LinearSettings) -> NDArray[np.float64]:
            near = replace(found, temperature=chosen.temperature)
            return np.asarray(near.weights(totals, chosen) @ scores[:, :rank])

        def finish(means: NDArray[np.float64], chosen: LinearSettings) -> NDArray[np.float64]:
            return to_genes(self.target, of, means, chosen)

        stages = [
            Stage(("alpha",), embed),
            Stage(("temperature", "depth_power"), average),
            Stage(("smoothing",), finish),
        ]
        return staged(candidates, stages)


def fit(
    pairs: Pairs,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    axes: ImageAxes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Fit the recipe.

    Parameters
    ----------
    pairs
        Training sections, encoded.
    hyper
        Fields of `LinearSettings` that differ from the default.
    seed
        Recorded; nothing here is drawn.
    axes
        `image_axes` of these pairs, where they are known already.
    progress
        Called with (inner fits done, inner fits).

    Returns
    -------
    Model
        Without calibration embeddings and scores.

    Raises
    ------
    InputError
        If a hyperparameter is unknown or out of range.
    """
    settings = settings_from(LinearSettings, hyper, NAME)
    tuned = tune(pairs, settings, progress=progress)
    settings = tuned.chosen
    assert settings.alpha is not None  # noqa: S101 - chosen just now
    context = context_of(pairs, settings)
    on = axes or image_axes(pairs, context, settings.axes)
    of = profile_components(pairs, settings)
    matrix = on.projection @ on.solve(of.within / of.spread, settings.alpha)
    rank = min(settings.low_rank, of.axes.shape[1])
    return Model(
        recipe=NAME,
        hyper=as_json(settings),
        feature_spec=pairs.feature_spec,
        context=context,
        image_tower=Affine(on.mean.astype(np.float32), matrix.astype(np.float32)),
        profile_tower=Affine(of.mean.astype(np.float32), (of.axes / of.spread).astype(np.float32)),
        panel=pairs.panel,
        profile_mean=of.mean.astype(np.float32),
        components=of.axes[:, :rank].astype(np.float32) if rank else None,
        readout=readout_of(pairs, of, settings),
        key=IMAGE,
        retrieval=card.retrieval(pairs, settings, settings.temperature),
        training=card.training(
            pairs, seed=seed, by=tuned.by, more={"tried": tuned.of(chosen_values)}
        ),
    )


def readout_of(
    pairs: Pairs, of: Components, settings: LinearSettings
) -> NDArray[np.float32] | None:
    """Fit what reads genes off imputed components; None without low rank or inner folds."""

    def impute(target: Target, inside: NDArray[np.float64]) -> NDArray[np.floating]:
        return Folded.of(target, settings).impute(settings, inside)

    return readout_with(pairs, of, settings, impute)


def chosen_values(settings: LinearSettings) -> dict[str, Any]:
    """Return what inner folds may choose, by name."""
    return {name: getattr(settings, name) for name in CHOICES}


def tune(
    pairs: Pairs,
    settings: LinearSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned[LinearSettings]:
    """Choose what is open on inner folds, with the whole of the recipe behind each score.

    Parameters
    ----------
    pairs
        Training sections.
    settings
        With candidates.
    progress
        Called with (folds done, folds).
    """
    candidates = grid(settings, CHOICES)
    if len(candidates) == 1:
        return Tuned(candidates[0], card.GIVEN)

    def predict(
        target: Target, candidates: Sequence[LinearSettings]
    ) -> Iterator[NDArray[np.float64]]:
        return Folded.of(target, settings).predict_each(candidates)

    alpha = max(settings.alphas) if settings.alpha is None else settings.alpha
    otherwise = replace(settings, alpha=alpha)
    return choose_among(pairs, candidates, predict, otherwise=otherwise, progress=progress)
