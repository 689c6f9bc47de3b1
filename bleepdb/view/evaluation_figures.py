"""Pictures of an evaluation, from its JSON document: for the page, and one PNG for a paper.

Colours (Okabe and Ito 2008) stay apart in colour blindness; markers tell the same in grey.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bleepdb.files import whole_file
from bleepdb.view.evaluation_document import (
    checked,
    gene_numbers,
    headline_sets,
    method_names,
    number,
    plain,
    result,
    rivals,
)
from bleepdb.view.evaluation_structure import draw_structure, has_structure, structure_height_in

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    Drawing = Callable[[Figure | SubFigure, Mapping[str, Any]], None]

DPI: Final = 150
WIDTH_IN: Final = 11.0
# What a method reads of the image: colour, marker, words.
KINDS: Final = {
    "ours": ("#0072B2", "o", "our features"),
    "published": ("#D55E00", "s", "published features"),
    "colour": ("#CC79A7", "^", "colour features"),
    "none": ("#666666", "D", "no image"),
}
LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS: Final = ("o", "s", "^", "D", "v")
MOST_TICKS: Final = 30
LONGEST_NAME: Final = 42


@contextmanager
def _safe_text() -> Iterator[None]:
    """Names are drawn letter by letter: no mathematics, and no complaint about rare letters."""
    with (
        mpl.rc_context({"text.parse_math": False, "text.usetex": False}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        yield


def _tidy(place: Axes) -> None:
    place.spines[["top", "right"]].set_visible(False)
    place.tick_params(labelsize=8)


def _kind(method: Mapping[str, Any]) -> tuple[str, str, str]:
    return KINDS.get(method["features"], KINDS["none"])


def draw_scores(figure: Figure | SubFigure, document: Mapping[str, Any]) -> None:
    """Draw every method's score with its interval, one panel a gene set."""
    sets, methods = headline_sets(document), document["methods"]
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    at = np.arange(len(methods))
    for place, name in zip(axes, sets, strict=True):
        for row, method in zip(at, methods, strict=True):
            colour, marker, _ = _kind(method)
            mean, low, high = (result(document, method["name"], name, k) for k in _BOUNDS)
            place.plot([low, high], [row, row], color=colour, lw=1.4, solid_capstyle="butt")
            face = colour if method["post"] else "white"
            place.plot([mean], [row], marker, color=colour, mfc=face, ms=5)
        ours = result(document, document["ours"], name, "mean")
        if np.isfinite(ours):
            place.axvline(ours, color=KINDS["ours"][0], lw=0.7, ls=":", zorder=0)
        place.axvline(0, color="0.6", lw=0.8, zorder=0)
        top = number(document.get("null", {}).get(name, {}).get("p99"))
        if np.isfinite(top):
            place.axvspan(0, top, color="0.88", lw=0, zorder=0)
        ceiling = number(document.get("ceiling", {}).get(name))
        under = f"\nnoise ceiling {ceiling:.2f}" if np.isfinite(ceiling) else ""
        place.set_title(plain(name, 30) + under, fontsize=9)
        place.set_xlabel("mean correlation per gene", fontsize=8)
        _tidy(place)
        place.grid(axis="x", color="0.92", lw=0.6)
        place.set_axisbelow(True)
    names = [plain(m["name"], LONGEST_NAME) for m in methods]
    axes[0].set_yticks(at, names)
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    for label, method in zip(axes[0].get_yticklabels(), methods, strict=True):
        label.set_fontweight("bold" if method["name"] == document["ours"] else "normal")
    handles = [
        Line2D([], [], color=c, marker=m, ls="", label=words)
        for kind, (c, m, words) in KINDS.items()
        if any(x["features"] == kind for x in methods)
    ]
    handles += [
        Line2D([], [], color="0.3", marker="o", ls="", mfc=face, label=label)
        for face, label in (("0.3", "with our post-processing"), ("white", "without"))
    ]
    if any(np.isfinite(number(v.get("p99"))) for v in document.get("null", {}).values()):
        handles.append(
            Line2D([], [], color="0.88", lw=7, label="up to the 99th percentile of shuffled pairs")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


_BOUNDS: Final = ("mean", "low", "high")


def draw_sections(figure: Figure | SubFigure, document: Mapping[str, Any]) -> None:
    """Draw the score of each held-out section, ours beside the best of other families."""
    sets, shown = headline_sets(document), rivals(document)
    rows = [(s, f) for f in document["folds"] for s in f["sections"]]
    axes = figure.subplots(1, len(sets), squeeze=False)[0]
    at = np.arange(len(rows))
    for place, name in zip(axes, sets, strict=True):
        for order, method in reversed(list(enumerate(shown))):
            colour, marker = LINES[order % len(LINES)], MARKERS[order % len(MARKERS)]
            found = [number(s["scores"].get(method, {}).get(name)) for s, _ in rows]
            place.plot(
                at, found, marker, color=colour, ms=6 if order == 0 else 4.5,
                mfc=colour if order == 0 else "white", label=plain(method, LONGEST_NAME),
            )  # fmt: skip
        place.axhline(0, color="0.6", lw=0.8, zorder=0)
        if len(rows) <= MOST_TICKS:
            most = 14 if len(rows) <= 12 else 8
            long = max(len(plain(s["section"], most)) for s, _ in rows) * len(rows) > 24
            place.set_xticks(
                at, [plain(s["section"], most) for s, _ in rows], rotation=90 if long else 0
            )
        else:
            place.set_xticks([])
            place.set_xlabel(f"{len(rows)} sections", fontsize=8)
        place.set_xlim(-0.6, len(rows) - 0.4)
        place.set_title(plain(name, 30), fontsize=9)
        place.grid(axis="y", color="0.92", lw=0.6)
        place.set_axisbelow(True)
        _tidy(place)
    axes[0].set_ylabel("mean correlation per gene", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside lower center", ncols=3, fontsize=8,
        frameon=False,
    )  # fmt: skip


def draw_genes(figure: Figure | SubFigure, document: Mapping[str, Any]) -> None:
    """Draw each gene's correlation against what counting noise allows, and both as counts."""
    pcc, ceiling, good = _genes(document)
    cloud, share = figure.subplots(1, 2)
    size = float(np.clip(60 / np.sqrt(max(len(pcc), 1)), 2.5, 8))
    for chosen, colour, label in ((~good, "0.6", "other"), (good, "#0072B2", "predictable")):
        here = chosen & np.isfinite(pcc) & np.isfinite(ceiling)
        cloud.plot(
            ceiling[here], pcc[here], ".", color=colour, ms=size, alpha=0.5, mew=0,
            rasterized=True, label=f"{label} ({int((chosen & np.isfinite(pcc)).sum()):,})",
        )  # fmt: skip
    cloud.plot([0, 1], [0, 1], color="#D55E00", lw=1, label="all that noise allows")
    cloud.axhline(0, color="0.6", lw=0.8, zorder=0)
    cloud.set_xlim(0, 1)
    cloud.set_xlabel("noise ceiling of the gene", fontsize=9)
    cloud.set_ylabel("held-out correlation", fontsize=9)
    cloud.legend(fontsize=8, frameon=False, loc="upper left", markerscale=10 / size)
    edges, most = np.linspace(-1, 1, 81), 1
    for values, colour, style, label in (
        (pcc, "#0072B2", "-", "held-out correlation"),
        (ceiling, "#D55E00", "--", "noise ceiling"),
    ):
        known = values[np.isfinite(values)]
        if len(known):
            counts, _ = np.histogram(known, edges)
            most = max(most, int(counts.max()))
            share.stairs(counts, edges, color=colour, ls=style, lw=1.4, label=label)
    seen = np.concatenate([v[np.isfinite(v)] for v in (pcc, ceiling)])
    low = float(seen.min(initial=0.0))
    share.set_xlim(max(-1.0, low - 0.05), min(1.0, float(seen.max(initial=0.9)) + 0.05))
    share.set_yscale("symlog", linthresh=10)
    ticks = [t for t in (0, 2, 5, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000) if t <= most]
    share.set_yticks(ticks, [f"{t:,}" for t in ticks])
    share.set_yticks([], minor=True)
    share.set_ylim(0, most * 1.3)
    share.set_xlabel("correlation", fontsize=9)
    share.set_ylabel("genes", fontsize=9)
    share.legend(fontsize=8, frameon=False)
    for place in (cloud, share):
        _tidy(place)


def _genes(
    document: Mapping[str, Any],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    pcc, ceiling, good = (
        np.array(gene_numbers(document, k), dtype=np.float64)
        for k in ("pcc", "noise_ceiling", "predictable")
    )
    return pcc, ceiling, good > 0.5


def draw_mixing(figure: Figure | SubFigure, document: Mapping[str, Any]) -> None:
    """Draw how many donors take part in an answer, beside how many would if all mixed evenly."""
    folds = [f for f in document["folds"] if f.get("mixing")]
    place = figure.subplots()
    at = np.arange(len(folds))
    for key, marker, face, label in (
        ("expected_effective_donors", "|", "0.3", "if weight fell as the references do"),
        ("effective_donors", "o", "#0072B2", "found"),
    ):
        values = [number(f["mixing"].get(key)) for f in folds]
        size = 13 if marker == "|" else 6
        place.plot(values, at, marker, color=face, ms=size, mew=1.8, label=label)
    place.set_yticks(at, [plain(f["name"], 24) for f in folds])
    place.set_ylim(len(folds) - 0.4, -0.6)
    place.set_xlim(left=0.9)
    place.set_xlabel("donors that take part in an answer (effective number)", fontsize=9)
    place.set_ylabel("held out", fontsize=9)
    place.grid(axis="x", color="0.92", lw=0.6)
    place.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    _tidy(place)


def _mixes(document: Mapping[str, Any]) -> bool:
    return any(f.get("mixing") and len(f["mixing"]["expected"]) > 1 for f in document["folds"])


def _heights(document: Mapping[str, Any]) -> dict[str, tuple[str, Drawing, float]]:
    """Key -> title, drawing and height in inches of each picture that has something to show."""
    made: dict[str, tuple[str, Drawing, float]] = {
        "scores": ("Methods", draw_scores, 1.7 + 0.21 * len(method_names(document))),
        "sections": ("Held-out sections", draw_sections, 3.4),
    }
    if any(np.isfinite(_genes(document)[0])):
        made["genes"] = ("Genes", draw_genes, 3.6)
    if has_structure(document):
        made["structure"] = (
            "Correlations among genes",
            draw_structure,
            structure_height_in(document),
        )
    if _mixes(document):
        rows = sum(bool(f.get("mixing")) for f in document["folds"])
        made["mixing"] = ("Donors among the neighbours", draw_mixing, 1.5 + 0.24 * rows)
    return made


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    data = BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def figures_of(
    document: Mapping[str, Any], only: Collection[str] | None = None
) -> dict[str, tuple[str, bytes]]:
    """Draw each picture alone.

    Parameters
    ----------
    document
        As evaluation.schema.json says; the same as a Python object may hold NaN for null.
    only
        Keys of the pictures that are wanted: ``scores``, ``sections``, ``genes``, ``structure``,
        ``mixing``. None for all.

    Returns
    -------
    dict
        Key -> title and PNG, for those that have something to show.

    Raises
    ------
    InputError
        If it is not an evaluation of this version.
    """
    made = {}
    with _safe_text():
        for key, (title, draw, height) in _heights(checked(document)).items():
            if only is not None and key not in only:
                continue
            figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI, layout="constrained")
            draw(figure, document)
            made[key] = (title, _png(figure))
    return made


def draw_summary(document: Mapping[str, Any], path: Path) -> None:
    """Draw all pictures below each other in one PNG.

    Parameters
    ----------
    document
        As evaluation.schema.json says.
    path
        The PNG; it appears whole or not at all.

    Raises
    ------
    InputError
        If it is not an evaluation of this version.
    """
    parts = _heights(checked(document))
    heights = [height + 0.35 for _, _, height in parts.values()]
    with _safe_text():
        figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.5), dpi=DPI, layout="constrained")
        rows = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
        for letter, row, (title, draw, _) in zip("abcdefgh", rows, parts.values(), strict=False):
            draw(row, document)
            row.suptitle(f"{letter}  {title}", x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.suptitle(_title(document), fontsize=12)
        data = _png(figure)
    with whole_file(path) as part:
        part.write_bytes(data)


def _title(document: Mapping[str, Any]) -> str:
    donors = document["donors"]
    folds = len(document["folds"])
    held = {"donor": "one donor", "section": "one section", "lists": "lists of sections"}
    what = held.get(document["held_out"], "sections")
    count = len(set(donors.values()))
    return (
        f"{len(donors)} section{'s' if len(donors) != 1 else ''} of {count} "
        f"donor{'s' if count != 1 else ''}, {what} held out at a time "
        f"({folds} fold{'s' if folds != 1 else ''})"
    )
