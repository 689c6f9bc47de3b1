"""Space alone: what position in the tissue says, without a look at the image.

Kernel regression (Nadaraya, 1964, Theory of Probability and its Applications 9:141; Watson, 1964,
Sankhya A 26:359) from positions in µm, each section centred on the centroid of its spots, to the
profiles of the training sections. Serial sections share much of their layout, so that a method
which does not beat this row has learnt where it is rather than what it sees. Sections are neither
turned nor warped onto each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial.distance import cdist

from bleepdb.evaluation.methods.base import NO_FEATURES, Fold, Method
from bleepdb.evaluation.methods.post import Goal, settings_for
from bleepdb.training.tuning import choose_penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.training import Pairs
    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

FAMILY: Final = "position"
POSITION: Final = "position smoother"
POSITION_EQUAL: Final = "position smoother, all equal"
BANDWIDTHS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""SD of the Gaussian kernel as multiples of the training pitch."""
PAIRS_AT_ONCE: Final = 2**24


def centred_places(pairs: Pairs) -> NDArray[np.float64]:
    """Return the positions of all spots in µm from the centroid of their section, (spots, 2)."""
    return np.concatenate([s.positions_um - s.positions_um.mean(axis=0) for s in pairs.sections])


def kernel_means(
    queries_um: NDArray[np.float64],
    places_um: NDArray[np.float64],
    values: NDArray[np.float64],
    bandwidth_um: float,
) -> NDArray[np.float64]:
    """Return the Gaussian-weighted mean of values around each query.

    Far from every place it is the value of the nearest.

    Parameters
    ----------
    queries_um, places_um
        (q, 2) and (n, 2).
    values
        (n, t).
    bandwidth_um
        SD of the kernel.
    """
    made = np.empty((len(queries_um), values.shape[1]))
    step = max(1, PAIRS_AT_ONCE // len(places_um))
    for start in range(0, len(queries_um), step):
        rows = slice(start, start + step)
        away = cdist(queries_um[rows], places_um, "sqeuclidean")
        away -= away.min(axis=1, keepdims=True)
        weights = np.exp(-away / (2 * bandwidth_um**2))
        weights /= weights.sum(axis=1, keepdims=True)
        made[rows] = weights @ values
    return made


def smoother(
    target: Target, settings: LinearSettings, bandwidths: Sequence[float]
) -> list[NDArray[np.floating]]:
    """Predict a fold from positions, for each bandwidth in training pitches."""
    places, queries = centred_places(target.inside), centred_places(target.outside)
    goal = Goal.of(target, settings)
    pitch = target.inside.pitch_um
    return [
        goal.finish(target, kernel_means(queries, places, goal.values, b * pitch), settings)
        for b in bandwidths
    ]


def _method(name: str, about: str, *, post: bool) -> Method:
    settings = settings_for(post=post)

    def predict(fold: Fold) -> NDArray[np.floating]:
        def inner(target: Target, bandwidths: Sequence[float]) -> list[NDArray[np.floating]]:
            return smoother(target, settings, bandwidths)

        bandwidth, _ = choose_penalty(fold.ours.inside, BANDWIDTHS, inner)
        return smoother(fold.ours, settings, [bandwidth])[0]

    return Method(name, about, predict, FAMILY, NO_FEATURES, post=post)


METHODS: Final = (
    _method(POSITION, "positions alone: kernel regression, bandwidth by inner folds", post=False),
    _method(POSITION_EQUAL, "the same with low rank 20 and smoothing", post=True),
)
