"""What surrounds a method of ours, for methods of others: context, low rank and smoothing.

With our settings a method reads features with their context on the same principal axes as the
linear recipe, aims at the same 20 components of the training profiles, and has its values mixed
with those of adjacent places. With `PLAIN` it has none of the three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.training.affine import ImageAxes, image_axes, with_context
from bleepdb.training.recipes.linear import (
    LinearSettings,
    context_of,
    profile_components,
    ring_um,
)
from bleepdb.training.tuning import smoothed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.training import Pairs
    from bleepdb.training.tuning import Target

EQUAL: Final = LinearSettings()
PLAIN: Final = LinearSettings(context=0.0, low_rank=0, smoothing=0.0)


def settings_for(*, post: bool) -> LinearSettings:
    """Return what surrounds a method with or without our post-processing."""
    return EQUAL if post else PLAIN


def on_axes(target: Target, settings: LinearSettings) -> tuple[ImageAxes, NDArray[np.float64]]:
    """Return the principal axes of a fold's training features, and its held-out spots on them."""
    context = context_of(target.inside, settings)
    axes = image_axes(target.inside, context, settings.axes)
    return axes, (with_context(target.outside, context) - axes.mean) @ axes.projection


def depth(pairs: Pairs) -> NDArray[np.float64]:
    """Return the total counts of each spot, (spots,); an empty spot counts as one count."""
    totals = np.concatenate([np.asarray(s.counts.sum(axis=1)).ravel() for s in pairs.sections])
    return np.maximum(totals.astype(np.float64), 1.0)


@dataclass(frozen=True)
class Goal:
    """What a method is fitted to, and the way from there to the genes of a fold.

    With low rank these are the first components of the training profiles over all genes. Their
    axes are orthonormal, so that a squared error on them is that on all genes of a profile
    projected on them, but for a constant; a method that is linear in what it is fitted to gives
    the same as if it were fitted to all genes and its result projected.

    Attributes
    ----------
    values
        (training spots, t) float64, centred.
    back
        (t, target genes), or None where `values` are the target genes themselves.
    mean
        (target genes,) float64.
    """

    values: NDArray[np.float64]
    back: NDArray[np.float64] | None
    mean: NDArray[np.float64]

    @classmethod
    def of(cls, target: Target, settings: LinearSettings) -> Goal:
        """Prepare what to fit to on a fold's training sections."""
        if settings.low_rank:
            of = profile_components(target.inside, settings)
            rank = min(settings.low_rank, of.scores.shape[1])
            return cls(of.scores[:, :rank], of.axes[target.genes, :rank].T, of.mean[target.genes])
        y = target.inside.profiles[:, target.genes].astype(np.float64)
        mean = y.mean(axis=0)
        return cls(y - mean, None, mean)

    def finish(
        self, target: Target, values: NDArray[Any], settings: LinearSettings
    ) -> NDArray[np.floating]:
        """Smooth what was predicted, (held-out spots, t), and take it to the target genes."""
        near: NDArray[np.floating] = smoothed(
            values,
            target.outside.sections,
            ring_um=ring_um(target.inside, settings),
            weight=settings.smoothing,
        )
        return self.mean + (near if self.back is None else near @ self.back)
