"""Pictures of results, drawn without a display (matplotlib's object interface, no pyplot)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from bleepdb.files import whole_file
from bleepdb.metrics import pearson_per_gene

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

POINTS_PER_INCH = 72
COLOUR_MAP = "viridis"  # even in lightness, readable in colour blindness and in grey
CURVES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"))  # apart in colour blindness too
MOST_TICKS = 12


def measured_beside_imputed(
    measured: NDArray[np.float32],
    imputed: NDArray[np.float32],
    xy_px: NDArray[np.float64],
    genes: Sequence[str],
    path: Path,
    *,
    title: str,
    image: NDArray[np.uint8] | None = None,
    image_scale: float = 1.0,
) -> None:
    """Draw genes over the tissue: measured in the upper row, imputed below, one scale a gene.

    Parameters
    ----------
    measured, imputed
        (n, g) log1p values; NaN where not measured or not imputed.
    xy_px
        (n, 2) centres (x, y) in level-0 pixels.
    genes
        g names.
    path
        The PNG; it appears whole.
    title
        Above the picture.
    image, image_scale
        A thumbnail (h, w, 3) drawn first, and its pixels per level-0 pixel.
    """
    columns = len(genes) + (image is not None)
    figure = Figure(figsize=(3.1 * columns, 6.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    first = 0
    if image is not None:
        first = 1
        for row, caption in enumerate(("H&E", "")):
            _empty(axes[row, 0])
            axes[row, 0].set_title(caption, fontsize=10)
        axes[0, 0].imshow(image)
    scores = pearson_per_gene(imputed, measured)
    low, high = xy_px.min(axis=0), xy_px.max(axis=0)
    margin = 0.04 * float((high - low).max()) + 1.0
    for column, gene in enumerate(genes, start=first):
        both = np.concatenate([measured[:, column - first], imputed[:, column - first]])
        span = np.nanpercentile(both, [2, 98]) if np.isfinite(both).any() else np.array([0.0, 1.0])
        for row, (values, label) in enumerate(((measured, "measured"), (imputed, "imputed"))):
            place = axes[row, column]
            _empty(place)
            drawn = place.scatter(
                xy_px[:, 0],
                xy_px[:, 1],
                c=values[:, column - first],
                s=_marker_area(xy_px, figure, columns, float((high - low).max()) + 2 * margin),
                cmap=COLOUR_MAP,
                vmin=float(span[0]),
                vmax=float(max(span[1], span[0] + 1e-6)),
                linewidths=0,
                plotnonfinite=False,
            )
            place.set_xlim(low[0] - margin, high[0] + margin)
            place.set_ylim(high[1] + margin, low[1] - margin)
            place.set_aspect("equal")
            score = f", r = {scores[column - first]:.2f}" if label == "imputed" else ""
            place.set_title(f"{gene} {label}{score}", fontsize=10)
            figure.colorbar(drawn, ax=place, shrink=0.7, pad=0.01)
    if image is not None:
        axes[0, 0].set_xlim((low[0] - margin) * image_scale, (high[0] + margin) * image_scale)
        axes[0, 0].set_ylim((high[1] + margin) * image_scale, (low[1] - margin) * image_scale)
    figure.suptitle(f"{title} (log1p of counts per 10,000)", fontsize=11)
    with whole_file(path) as part:
        figure.savefig(part, format="png")


def score_curves(
    at: Sequence[float],
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    path: Path,
    *,
    title: str,
    x_label: str,
    floors: Mapping[str, tuple[str, float]],
) -> None:
    """Draw scores over the size of an atlas, one panel a gene set.

    Parameters
    ----------
    at
        (steps,) sizes.
    panels
        Gene set -> name of a curve -> its (steps,) means, and its spread, drawn as a band.
    path
        The PNG; it appears whole.
    title, x_label
        Above the picture, and below each panel.
    floors
        Gene set -> name and height of a level line.
    """
    figure = Figure(figsize=(3.6 * len(panels) + 0.4, 3.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, (name, curves) in zip(axes, panels.items(), strict=True):
        for number, (label, (mean, spread)) in enumerate(curves.items()):
            colour, marker = CURVES[number % len(CURVES)]
            centre, half = np.asarray(mean), np.asarray(spread)
            place.fill_between(at, centre - half, centre + half, color=colour, alpha=0.15, lw=0)
            place.plot(at, centre, color=colour, marker=marker, label=label)
        floor, height = floors[name]
        place.axhline(height, color="0.4", linestyle=":", label=floor)
        place.set_title(name, fontsize=10)
        place.set_xlabel(x_label, fontsize=9)
        if len(at) <= MOST_TICKS:
            place.set_xticks(list(at))
        place.tick_params(labelsize=8)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean PCC per gene, held out", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False
    )
    figure.suptitle(title, fontsize=11)
    with whole_file(path) as part:
        figure.savefig(part, format="png")


def _empty(place: Axes) -> None:
    place.set_xticks([])
    place.set_yticks([])
    for spine in place.spines.values():
        spine.set_visible(False)


def _marker_area(xy_px: NDArray[np.float64], figure: Figure, columns: int, extent: float) -> float:
    """Area in points squared of a marker that spans most of the distance between places."""
    if len(xy_px) < 2:
        return 40.0
    gaps = np.linalg.norm(xy_px[:, None] - xy_px[None, :400], axis=-1)
    pitch = float(np.median(np.where(gaps > 0, gaps, np.inf).min(axis=0)))
    width_points = figure.get_figwidth() / columns * 0.78 * POINTS_PER_INCH
    return max(4.0, (0.92 * pitch / extent * width_points) ** 2)
