"""`bleepdb evaluate --growth`: its options, its tables, its picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb.errors import InputError

from .inputs import refuse_output
from .render import bar, note, out, print_json, table

if TYPE_CHECKING:
    import typer

    from bleepdb.evaluation import GrowthReport, GrowthSettings
    from bleepdb.evaluation.growth_report import Estimate, Kind
    from bleepdb.training import Pairs

GROWTH_ALONE = ("orders", "start", "figure")
NEVER_GROWTH = ("pred", "truth", "card", "permutations", "epochs")


def refuse_mixed(context: typer.Context, *, growth: bool) -> None:
    """Refuse options that would be ignored: those of growth without it, others beside it."""
    named = [
        name
        for name in (NEVER_GROWTH if growth else GROWTH_ALONE)
        if (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]
    if not named:
        return
    options = ", ".join(f"--{name}" for name in named)
    if growth:
        raise InputError(
            f"{options} cannot be given with --growth",
            hint="leave it out, or evaluate without --growth",
        )
    raise InputError(f"{options} needs --growth", hint="add --growth, or leave it out")


def refuse_figure(figure: Path, sheet: Path | None, json_out: Path | None) -> None:
    """Refuse a picture that could not be written, or that would be written over the report."""
    if figure.suffix.lower() != ".png":
        raise InputError("is no .png", where=figure, hint="name the picture NAME.png")
    if json_out is not None and figure.absolute() == json_out.absolute():
        raise InputError(
            "is named for the report and for the picture", where=figure, hint="name two files"
        )
    refuse_output(figure, reads=(sheet,))


def evaluate_growth(
    pairs: Pairs,
    settings: GrowthSettings,
    *,
    json_out: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Grow, write what was asked for, and show the curve."""
    from bleepdb.evaluation import GrowthReport, grow
    from bleepdb.files import write_json

    with bar("growing the atlas, and retraining") as move:
        walks = grow(pairs, settings, progress=move)
    report = GrowthReport.of(walks, settings, pairs)
    document = report.to_json()  # once: it says when it was made
    if json_out is not None:
        write_json(json_out, document)
    if figure is not None:
        draw_growth(report, figure)
    if as_json:
        print_json(document)
        return
    show_growth(report)
    if json_out is not None:
        note(f"whole report: {json_out}")
    if figure is not None:
        note(f"curves: {figure}")


def show_growth(report: GrowthReport) -> None:
    """Show one table a gene set, and the one sentence."""
    from bleepdb.evaluation.growth_report import GROWN, KINDS, PLAIN

    held = ", ".join(walks[0].split.name for walks in report.folds)
    orders = len(report.folds[0])
    columns = (
        "sections", "donors", "spots (in the map)", "grown", "grown, no low-rank map", "retrained",
        "grown - retrained", "no low-rank map - retrained",
    )  # fmt: skip
    for key in report.shown_sets or report.sets:
        rows = []
        for step in report.curve:
            at = step.sets[key]
            rows.append(
                (
                    f"{step.sections:.3g}",
                    f"{step.donors:.3g}",
                    f"{step.spots:,.0f} ({step.mapped:,.0f})",
                    *(f"{at[k].pcc.value:.3f} ±{at[k].spread:.3f}" for k in KINDS),
                    "(frozen)" if step is report.curve[0] else _change(at[GROWN].lead),
                    _change(at[PLAIN].lead),
                )
            )
        out.print(
            table(
                f"{key}: mean PCC per gene as {report.settings.by}s are added, ±SD over orders "
                f"(held out: {held}; {orders} order{'s' if orders > 1 else ''} each)",
                columns,
                rows,
                caption=report.interval_label,
            )
        )
    out.print(report.summary(), soft_wrap=True)


def draw_growth(report: GrowthReport, path: Path) -> None:
    """Draw the curves of the sets that the tables show."""
    from bleepdb.evaluation.growth_report import GROWN, PLAIN, RETRAINED
    from bleepdb.view import score_curves

    labels: dict[str, Kind] = {
        "retrained on all of them": RETRAINED,
        "grown, not retrained": GROWN,
        "grown, no low-rank map": PLAIN,
    }
    points = {
        key: [step.sets[key] for step in report.curve] for key in report.shown_sets or report.sets
    }
    score_curves(
        [step.added for step in report.curve],
        {
            key: {
                label: ([at[kind].pcc.value for at in found], [at[kind].spread for at in found])
                for label, kind in labels.items()
            }
            for key, found in points.items()
        },
        path,
        title=f"Held-out score as {report.settings.by}s are added to the atlas "
        "(bands: SD over orders)",
        x_label=f"{report.settings.by}s in the atlas",
        floors={key: ("frozen atlas", found[0][GROWN].pcc.value) for key, found in points.items()},
    )


def _change(found: Estimate) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f},{found.high:+.3f}]"
