"""`bleepdb evaluate --growth`: its options, its tables, its picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bleepdb.errors import InputError

from .render import bar, note, out, print_json, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bleepdb.evaluation import Features, GrowthReport, GrowthSettings
    from bleepdb.evaluation.growth_report import Estimate, Kind
    from bleepdb.tissue import Section, SheetRow
    from bleepdb.training import Pairs


def grow_sections(
    rows: list[SheetRow],
    load: Callable[[list[SheetRow]], list[Section]],
    features: Features,
    *,
    by: str,
    orders: int,
    start: int,
    seed: int,
    fold: list[str] | None,
    recipe: list[str] | None,
    json_out: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Refuse what cannot be, encode, and grow."""
    from bleepdb.evaluation import GrowthSettings, growth_folds
    from bleepdb.evaluation.splitting import resolve

    if recipe and len(recipe) > 1:
        raise InputError("--growth takes one recipe", hint="give --recipe once")
    donor_of = {r.section: r.donor for r in rows}
    held_out, why = resolve(by, donor_of, least=start + 2)
    how = GrowthSettings(
        by=held_out, orders=orders, start=start, seed=seed, only=tuple(fold) if fold else None
    )
    if recipe:
        how = replace(how, recipe=recipe[0])
    growth_folds(donor_of, how)  # refused now, not after encoding
    note(f"held out and added: {held_out} ({why})")
    sections = load(rows)
    with bar("encoding tiles") as move:
        pairs = features.ours(sections, progress=move)
    evaluate_growth(pairs, how, json_out=json_out, figure=figure, as_json=as_json)


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
