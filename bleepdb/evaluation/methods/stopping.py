"""When to stop training, chosen on inner folds like any penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bleepdb.training.tuning import choose_among

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.training import Pairs
    from bleepdb.training.tuning import Target


def choose_epochs(
    pairs: Pairs,
    candidates: Sequence[int],
    predict: Callable[[Target, Sequence[int]], Sequence[NDArray[np.floating]]],
) -> int:
    """Choose a number of epochs by the mean score over inner folds.

    An early stop works as a penalty: without inner folds the fewest epochs are taken.

    Parameters
    ----------
    pairs
        Training sections.
    candidates
        Numbers of epochs.
    predict
        Trains on a fold's inside and gives values of its outside after each number of epochs.
    """
    return choose_among(pairs, candidates, predict, otherwise=min(candidates)).chosen
