"""The picture of a training: its loss over epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bleepdb.files import whole_file
from bleepdb.view.plots import CURVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def loss_curve(loss: Sequence[float], path: Path, *, title: str) -> None:
    """Draw the mean loss of each epoch.

    Parameters
    ----------
    loss
        One value an epoch.
    path
        The PNG; it appears whole.
    title
        Above the picture.
    """
    figure = Figure(figsize=(5.2, 3.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    colour, _ = CURVES[0]
    axes.plot(range(1, len(loss) + 1), loss, color=colour, marker="." if len(loss) < 40 else "")
    axes.set(title=title, xlabel="epoch", ylabel="mean training loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    with whole_file(path) as part:
        figure.savefig(part, format="png")
