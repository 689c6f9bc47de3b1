"""The heat map of an evaluation: correlations among genes, measured beside imputed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from bleepdb.view.evaluation_document import number, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray

FEWEST_GENES: Final = 3
MOST_LABELS: Final = 80
MOST_SHOWN: Final = 2
COLOUR_MAP: Final = "RdBu_r"  # blue and red stay apart in colour blindness
MISSING: Final = "0.75"


def has_structure(document: Mapping[str, Any]) -> bool:
    """Tell whether there are matrices to draw."""
    found = document.get("structure") or {"genes": (), "imputed": {}}
    return len(found["genes"]) >= FEWEST_GENES and bool(found["imputed"])


def structure_height_in(document: Mapping[str, Any]) -> float:
    """Return the height in inches that squares beside each other need on one page's width."""
    squares = 1 + min(len(document["structure"]["imputed"]), MOST_SHOWN)
    return min(5.2, 9.4 / squares + 1.3)


def matrix_of(rows: object, genes: int) -> NDArray[np.float64]:
    """Return (genes, genes) float64 with NaN for what is missing or does not fit."""
    made = np.full((genes, genes), np.nan)
    for i, row in enumerate(rows if isinstance(rows, list) else []):
        for j, value in enumerate(row if isinstance(row, list) else []):
            if i < genes and j < genes:
                made[i, j] = number(value)
    return made


def hierarchical_order(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the order of genes in which like stands by like.

    Average linkage on 1 - r with leaves in optimal order; what is not defined counts as r = 0.

    Notes
    -----
    Bar-Joseph, Gifford and Jaakkola (2001), Bioinformatics 17:S22-S29.
    """
    r = np.nan_to_num((matrix + matrix.T) / 2, nan=0.0).clip(-1, 1)
    apart = 1 - r
    np.fill_diagonal(apart, 0)
    tree = linkage(squareform(apart, checks=False), method="average", optimal_ordering=True)
    return np.asarray(leaves_list(tree), dtype=np.int64)


def draw_structure(figure: Figure | SubFigure, document: Mapping[str, Any]) -> None:
    """Draw the measured matrix beside those of ours and one other, all in the measured order."""
    found = document["structure"]
    genes = [plain(g, 14) for g in found["genes"]]
    measured = matrix_of(found["measured"], len(genes))
    order = hierarchical_order(measured)
    names = sorted(found["imputed"], key=lambda name: name != document["ours"])[:MOST_SHOWN]
    drawn = [("measured", measured, float("nan"))]
    for name in names:
        agreement = number(found["agreement"].get(name))
        drawn.append((plain(name, 36), matrix_of(found["imputed"][name], len(genes)), agreement))
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for place, (title, matrix, agreement) in zip(axes, drawn, strict=True):
        place.set_facecolor(MISSING)
        place.imshow(
            np.ma.masked_invalid(matrix[np.ix_(order, order)]),
            cmap=COLOUR_MAP, vmin=-1, vmax=1, interpolation="nearest",
        )  # fmt: skip
        under = f"\nagreement r = {agreement:.2f}" if np.isfinite(agreement) else ""
        place.set_title(title + under, fontsize=9)
        place.set_xticks([])
        place.set_yticks([])
        if len(genes) <= MOST_LABELS:
            size = min(7.0, (460 / len(drawn)) / len(genes) * 1.25)
            ordered = [genes[i] for i in order]
            place.set_xticks(range(len(genes)), ordered, rotation=90, fontsize=size)
            place.tick_params(length=0)
            if place is axes[0]:
                place.set_yticks(range(len(genes)), ordered, fontsize=size)
    bar = figure.colorbar(axes[0].images[0], ax=list(axes), shrink=0.7, aspect=25, pad=0.01)
    bar.set_label("correlation over spots", fontsize=8)
    bar.ax.tick_params(labelsize=8)
