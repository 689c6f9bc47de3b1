"""What `bleepdb evaluate` shows: scores beside baselines, comparisons, sections, and two files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .render import out, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bleepdb.evaluation import Comparison, Report


def show(
    report: Report, *, ceiling: Mapping[str, float] | None = None, title: str | None = None
) -> None:
    """Show the table of an evaluation, its null, its comparisons and its one sentence.

    Parameters
    ----------
    report
        What was found.
    ceiling
        Gene set -> the score that a simulator's truth allows, where tissue was made.
    title
        Instead of what is held out.
    """
    sets = _shown(report)
    _show_scores(report, sets, ceiling, title)
    _show_sections(report, sets)
    _show_comparisons(report, sets)
    out.print(report.summary(), soft_wrap=True)


def _shown(report: Report) -> list[str]:
    """Return the sets that have a column: few, so that the table has room on a terminal."""
    from bleepdb.evaluation import SHOWN_SETS

    return [k for k in SHOWN_SETS if k in report.sets] or report.sets[:3]


def _show_scores(
    report: Report, sets: Sequence[str], ceiling: Mapping[str, float] | None, title: str | None
) -> None:
    means, ours = report.means(), report.ours
    rows = []
    for name in report.names:
        cells = [name]
        for key in sets:
            low, high = report.interval_of(name, key)
            cells.append(f"{means[name][key]:.3f} [{_short(low, 2)},{_short(high, 2)}]")
        rows.append(cells)
    if ceiling is not None:
        rows.append(["ceiling that the simulator knows", *(f"{ceiling[k]:.3f}" for k in sets)])
        rows.append([f"{ours} / ceiling", *(f"{means[ours][k] / ceiling[k]:.2f}" for k in sets)])
    held = ", ".join(f.split.name for f in report.folds)
    out.print(
        table(
            title or f"Mean PCC per gene over held-out spots (held out: {held})",
            ["method", *sets],
            rows,
            caption=report.interval_label,
        )
    )
    drawn = [n for n in report.names if n in report.folds[0].by_seed]
    if len(report.about.seeds) > 1 and drawn:
        seeds = ", ".join(map(str, report.about.seeds))
        lines = [[n, *(f"±{report.sd_over_seeds(n, k):.4f}" for k in sets)] for n in drawn]
        out.print(table(f"SD over seeds {seeds}", ["method", *sets], lines))


def _show_sections(report: Report, sets: Sequence[str]) -> None:
    """Show each held-out section, ours beside an equal ridge."""
    from bleepdb.evaluation.methods import RIDGE_EQUAL

    beside = RIDGE_EQUAL if RIDGE_EQUAL in report.names else None
    rows = []
    for fold in report.folds:
        for one in fold.sections:
            cells = [one.section, one.donor, f"{one.spots:,}"]
            for key in sets:
                text = f"{one.scores[report.ours][key]:.3f}"
                cells.append(text if beside is None else f"{text} / {one.scores[beside][key]:.3f}")
            rows.append(cells)
    title = f"Sections: {report.ours}" + ("" if beside is None else f" / {beside}")
    out.print(table(title, ["section", "donor", "spots", *sets], rows))


def _show_comparisons(report: Report, sets: Sequence[str]) -> None:
    lines = []
    for other, found in report.comparisons().items():
        cells = [f"{other}"]
        for key in sets:
            one = found[key]
            ratio = "-" if one["ratio"] is None else f"{one['ratio']:.2f}x"
            cells.append(f"{ratio} [{_short(one['low'], 3)},{_short(one['high'], 3)}]")
        lines.append(cells)
    null = report.null()
    for key_name, label in (("mean", "shuffled pairs, mean"), ("p99", "shuffled pairs, 99th pct")):
        if null:
            lines.append([label, *(f"{null[k][key_name]:+.3f}" for k in sets)])
    out.print(
        table(
            f"Ratio [interval of the difference] of {report.ours} against each; the null",
            [f"{report.ours} against", *sets],
            lines,
        )
    )


def _short(value: float, digits: int) -> str:
    """Word a number between -1 and 1 without its leading zero."""
    return f"{value:.{digits}f}".replace("0.", ".", 1)


def show_comparison(comparison: Comparison) -> None:
    """Show the scores of an imputed file beside the truth."""
    rows = [
        (name, str(n), f"{pcc:.3f}", str(lost), f"{top:.3f}")
        for name, n, pcc, lost, top in comparison.rows()
    ]
    out.print(
        table(
            "Imputed beside measured: mean PCC per gene over places",
            ("genes", "number", "PCC", "without a score", "noise ceiling"),
            rows,
            caption=f"{comparison.places} places joined by {comparison.joined_by} "
            f"({comparison.of_predicted} imputed, {comparison.of_truth} measured)",
        )
    )
