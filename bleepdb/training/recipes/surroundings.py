"""What surrounds the towers of our recipes: context, components, low rank, smoothing, readout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.encoders import Context
from bleepdb.imputation import depth_weights, effective_weights, nearest
from bleepdb.training.affine import principal_axes
from bleepdb.training.readout import fit_readout, out_of_fold
from bleepdb.training.recipes.settings import MAX_CONTEXT, MAX_DEPTH_POWER, require
from bleepdb.training.tuning import smoothed

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs
    from bleepdb.training.tuning import Target


@dataclass(frozen=True)
class Surroundings:
    """Hyperparameters that several recipes share, as measured on real sections.

    Attributes
    ----------
    axes, components, whitening
        Principal axes of the features; components of the profiles, and the power of their SD by
        which they are divided.
    k
        Neighbours that are averaged.
    depth_power
        A neighbour's weight is multiplied by this power of its counts.
    low_rank
        Components that are kept of an imputed profile.
    readout
        Penalty of what reads genes off those components (`bleepdb.training.readout`), per spot;
        0: the components themselves do.
    context, smoothing
        Weight of adjacent places in the features, and in the result.
    ring, context_ring
        Inner and outer radius of what is adjacent for smoothing, and for the context, as
        multiples of the training pitch.
    """

    axes: int = 256
    components: int = 50
    whitening: float = 0.5
    k: int = 200
    depth_power: float = 0.5
    low_rank: int = 20
    readout: float = 10.0
    context: float = 0.5
    smoothing: float = 0.3
    ring: tuple[float, float] = (0.5, 1.5)
    context_ring: tuple[float, float] = (0.5, 2.3)

    def __post_init__(self) -> None:
        require(
            where=self.recipe(),
            axes=self.axes >= 1,
            components=self.components >= 1,
            whitening=0 <= self.whitening <= 1,
            k=self.k >= 1,
            depth_power=0 <= self.depth_power <= MAX_DEPTH_POWER,
            low_rank=self.low_rank >= 0,
            readout=self.readout >= 0,
            context=0 <= self.context <= MAX_CONTEXT,
            smoothing=0 <= self.smoothing <= 1,
            ring=0 <= self.ring[0] < self.ring[1],
            context_ring=0 <= self.context_ring[0] < self.context_ring[1],
            **self.holds(),
        )

    @classmethod
    def recipe(cls) -> str:
        """Return the recipe whose settings these are, for messages."""
        return "linear"

    def holds(self) -> dict[str, bool]:
        """Return, for each further hyperparameter of a recipe, whether it can be used."""
        return {}


@dataclass(frozen=True)
class Components:
    """Training profiles on their principal components.

    Attributes
    ----------
    mean
        (genes,) float64.
    axes
        (genes, c) float64, orthonormal columns.
    scores
        (spots, c) float64 of the training spots.
    spread
        (c,) what each score is divided by: its SD to the power `whitening`.
    within
        (spots, c) float64, the scores less their mean over each section: what tissue says, without
        what a section's depth and chemistry add to all of its spots.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    scores: NDArray[np.float64]
    spread: NDArray[np.float64]
    within: NDArray[np.float64]


def ring_um(pairs: Pairs, settings: Surroundings) -> tuple[float, float]:
    """Return the radii of what is adjacent for smoothing, in µm."""
    return settings.ring[0] * pairs.pitch_um, settings.ring[1] * pairs.pitch_um


def context_of(pairs: Pairs, settings: Surroundings) -> Context | None:
    """Return the context of the image tower, or None where it has no weight."""
    inner, outer = (r * pairs.pitch_um for r in settings.context_ring)
    return Context(inner, outer, settings.context) if settings.context > 0 else None


def profile_components(pairs: Pairs, settings: Surroundings) -> Components:
    """Find the principal components of the training profiles."""
    y = pairs.profiles
    mean = y.mean(axis=0, dtype=np.float64)
    centred = y - mean
    axes, _ = principal_axes(centred, settings.components)
    scores = centred @ axes
    spread = np.maximum(scores.std(axis=0), 1e-12) ** settings.whitening
    return Components(mean, axes, scores, spread, within_sections(scores, pairs))


def within_sections(values: NDArray[np.float64], pairs: Pairs) -> NDArray[np.float64]:
    """Return values, (spots, anything), less their mean over each section."""
    made = values.copy()
    for number in range(len(pairs.sections)):
        rows = pairs.section_of_spot == number
        made[rows] -= made[rows].mean(axis=0)
    return made


def totals_of(pairs: Pairs) -> NDArray[np.float64]:
    """Return all counts of each training spot, (spots,) float64."""
    return np.concatenate(
        [np.asarray(s.counts.sum(axis=1), dtype=np.float64).ravel() for s in pairs.sections]
    )


@dataclass(frozen=True)
class Embedded:
    """Held-out spots and training spots in one space.

    Attributes
    ----------
    queries, keys
        (held-out spots, d) and (training spots, d) float32, unit rows.
    temperature
        Of their softmax.
    """

    queries: NDArray[np.float32]
    keys: NDArray[np.float32]
    temperature: float

    def weights(self, totals: NDArray[np.float64], settings: Surroundings) -> sp.csr_matrix:
        """Return W, (held-out spots, training spots), as a query would.

        Parameters
        ----------
        totals
            (training spots,) their counts.
        settings
            With `k` and `depth_power`.
        """
        return effective_weights(
            *nearest(self.queries, self.keys, settings.k),
            n_references=len(self.keys),
            method="softmax",
            temperature=self.temperature,
            reference_weights=depth_weights(totals, settings.depth_power),
        )


def near_by(
    target: Target, means: NDArray[np.floating], settings: Surroundings
) -> NDArray[np.floating]:
    """Smooth what was imputed for the held-out spots of a fold, (spots, anything)."""
    return smoothed(
        means,
        target.outside.sections,
        ring_um=ring_um(target.inside, settings),
        weight=settings.smoothing,
    )


def to_genes(
    target: Target, of: Components, means: NDArray[np.floating], settings: Surroundings
) -> NDArray[np.float64]:
    """Smooth imputed components of the held-out spots and take them to the target's genes.

    Parameters
    ----------
    target
        The fold.
    of
        Components of its training profiles.
    means
        (held-out spots, r) imputed scores on the first r of them.
    settings
        With the ring and the smoothing.
    """
    near = near_by(target, means, settings)
    axes = of.axes[target.genes, : near.shape[1]]
    return np.asarray(of.mean[target.genes] + near @ axes.T)


def readout_with(
    pairs: Pairs,
    of: Components,
    settings: Surroundings,
    impute: Callable[[Target, NDArray[np.float64]], NDArray[np.floating]],
) -> NDArray[np.float32] | None:
    """Fit what reads genes off imputed components; None without low rank or inner folds.

    Parameters
    ----------
    pairs
        Training sections.
    of
        Their components.
    settings
        With `low_rank` and `readout`.
    impute
        As `bleepdb.training.readout.out_of_fold` takes it.
    """
    rank = min(settings.low_rank, of.axes.shape[1])
    if not settings.readout or not rank:
        return None
    imputed = out_of_fold(pairs, of.scores[:, :rank], impute)
    if imputed is None:
        return None
    found = fit_readout(pairs.profiles, of.mean, of.axes[:, :rank], imputed, settings.readout)
    return found.astype(np.float32)
