"""When to stop training, chosen on inner folds like any penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bleepdb.training.tuning import choose_penalty

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

    An early stop works as a penalty of one over the number of epochs, and is handed as such to
    `bleepdb.training.tuning.choose_penalty`: without inner folds the fewest epochs are taken.

    Parameters
    ----------
    pairs
        Training sections.
    candidates
        Numbers of epochs.
    predict
        Trains on a fold's inside and gives values of its outside after each number of epochs.
    """

    def inner(target: Target, penalties: Sequence[float]) -> Sequence[NDArray[np.floating]]:
        return predict(target, [round(1 / p) for p in penalties])

    penalty, _ = choose_penalty(pairs, [1 / n for n in candidates], inner)
    return round(1 / penalty)
