"""`bleepdb evaluate`: held-out scores beside baselines."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .encoding import Encoding
from .growth import evaluate_growth, refuse_figure, refuse_mixed
from .inputs import (
    MOST_SEED,
    BinOption,
    ImageOption,
    LossOption,
    MaskOption,
    MinCountsOption,
    MinGenesOption,
    MisfitOption,
    OverlayFolderOption,
    SlideMppOption,
    SpeciesOption,
    UpsamplingOption,
    is_sheet,
    load_all,
    most_upsampling,
    one_row,
    refuse_output,
    rows_of,
    without,
)
from .render import bar, note, out, print_json, table
from .train import DEFAULT_ENCODER, DEFAULT_SCALES_UM, EncoderOption, ScaleOption, WeightsOption

if TYPE_CHECKING:
    from bleepdb.evaluation import Comparison, Report


def evaluate(
    context: typer.Context,
    sheet: Annotated[
        Path | None, typer.Argument(help="Sample sheet of measured sections.", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Hold out one `section` or one `donor`.")] = (
        "section"
    ),
    pred: Annotated[
        Path | None, typer.Option("--pred", help="An imputed .h5ad, compared with --truth.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="The measured section of that slide.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json-out", "-o", help="Write the whole report here.")
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option("--card", help="Write held-out scores per gene into this model's card."),
    ] = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    weights: WeightsOption = None,
    scale_um: ScaleOption = None,
    fold: Annotated[
        list[str] | None, typer.Option("--fold", help="Run only this fold (repeatable).")
    ] = None,
    exclude_section: Annotated[
        list[str] | None, typer.Option("--exclude-section", help="Leave a section out.")
    ] = None,
    exclude_donor: Annotated[
        list[str] | None, typer.Option("--exclude-donor", help="Leave a donor out.")
    ] = None,
    permutations: Annotated[
        int, typer.Option("--permutations", min=0, help="Shuffles of the pairs for the null.")
    ] = 100,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of the bleep recipe.")] = 150,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of everything that is drawn.")
    ] = 0,
    image: ImageOption = None,
    species: SpeciesOption = None,
    slide_mpp: SlideMppOption = None,
    min_counts: MinCountsOption = 10,
    min_genes: MinGenesOption = 5,
    bin_um: BinOption = None,
    allow_loss: LossOption = False,
    mask: MaskOption = None,
    allow_misfit: MisfitOption = False,
    overlay: OverlayFolderOption = None,
    allow_upsampling: UpsamplingOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    growth: Annotated[
        bool,
        typer.Option(
            "--growth",
            help="Score as donors or sections are added to the atlas, without and with retraining.",
        ),
    ] = False,
    orders: Annotated[
        int,
        typer.Option("--orders", min=1, help="With --growth: in how many orders they are added."),
    ] = 6,
    start: Annotated[
        int,
        typer.Option(
            "--start", min=1, help="With --growth: donors (or sections) at the first step."
        ),
    ] = 1,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="With --growth: draw the curves (.png).")
    ] = None,
) -> None:
    """Leave one section or donor out, with baselines on the same folds; or compare two files.

    With a sheet: our recipe, BLEEP on published and on equal features, ridge with and without our
    features and post-processing, kNN and the mean profile, in one table.
    With --growth: the others are added one at a time, to an atlas whose model stays as it was
    first trained, beside a model that is trained again at every step.
    With --pred and --truth: the correlation per gene of an imputed file with what was measured.
    """
    refuse_mixed(context, growth=growth)
    if json_out is not None:
        refuse_output(json_out, reads=(sheet, pred, truth))
    if figure is not None:
        refuse_figure(figure, sheet, json_out)
    if pred is not None or truth is not None:
        if sheet is not None:
            raise InputError(
                "a sample sheet and --pred are two different evaluations",
                where=sheet,
                hint="leave one of them out",
            )
        _compare(
            pred, truth, json_out=json_out, as_json=as_json, slide_mpp=slide_mpp, image=image,
            species=species, bin_um=bin_um, allow_loss=allow_loss,
        )  # fmt: skip
        return
    if sheet is None:
        raise InputError("nothing to evaluate", hint="give a sample sheet, or --pred and --truth")
    if sheet.exists() and not is_sheet(sheet):
        raise InputError(
            "is no sample sheet",
            where=sheet,
            hint="give a .csv or .tsv with one row a section",
        )
    rows = without(
        rows_of(sheet, image=image, species=species),
        sections=exclude_section or (),
        donors=exclude_donor or (),
        where=sheet,
    )
    donor_of = {r.section: r.donor for r in rows}
    only = tuple(fold) if fold else None
    load = partial(
        load_all,
        slide_mpp=slide_mpp,
        min_counts=min_counts,
        min_genes=min_genes,
        bin_um=bin_um,
        allow_loss=allow_loss,
        mask=mask,
        allow_misfit=allow_misfit,
        overlay=overlay,
    )
    encoding = Encoding(
        encoder,
        weights,
        tuple(scale_um or DEFAULT_SCALES_UM),
        most_upsampling(allowed=allow_upsampling),
    )
    if growth:
        from bleepdb.evaluation import GrowthSettings, growth_folds

        how = GrowthSettings(by=by, orders=orders, start=start, seed=seed, only=only)
        growth_folds(donor_of, how)  # refused now, not after encoding
        pairs = encoding.ours(load(rows))
        evaluate_growth(pairs, how, json_out=json_out, figure=figure, as_json=as_json)
        return
    from bleepdb.encoders import load_model, save_model
    from bleepdb.evaluation import Report, Settings, folds_of, run
    from bleepdb.files import write_json

    settings = Settings(by=by, permutations=permutations, seed=seed, epochs=epochs, only=only)
    folds_of(donor_of, settings)  # refused now, not after encoding
    model = None if card is None else load_model(card, check_here=False)
    ours, published = encoding.twice(load(rows))
    with bar(f"leaving one {by} out") as move:
        folds = run(ours, published, settings, progress=move)
    report = Report.of(folds, settings, ours, published)
    document = report.to_json()  # once: it says when it was made
    if json_out is not None:
        write_json(json_out, document)
    if model is not None and card is not None:
        save_model(model.with_scores(report.card_scores(model.panel)), card, overwrite=True)
    if as_json:
        print_json(document)
        return
    show(report)
    if json_out is not None:
        note(f"whole report: {json_out}")
    if card is not None:
        note(f"scores written into {card}; index again to pass them on to an atlas")


def show(
    report: Report, *, ceiling: dict[str, float] | None = None, title: str | None = None
) -> None:
    """Show the table of an evaluation, its null, its comparisons and its one sentence."""
    from bleepdb.evaluation import OURS

    means, sets = report.means(), report.sets
    names = [OURS, *(name for name in means if name != OURS)]
    rows = []
    for name in names:
        cells = [name]
        for key in sets:
            low, high = report.interval_of(name, key)
            cells.append(f"{means[name][key]:.3f} [{low:.2f},{high:.2f}]")
        rows.append(cells)
    if ceiling is not None:
        rows.append(["ceiling that the simulator knows", *(f"{ceiling[k]:.3f}" for k in sets)])
        share = (f"{means[OURS][k] / ceiling[k]:.2f}" for k in sets)
        rows.append([f"{OURS} / ceiling", *share])
    held = ", ".join(f.split.name for f in report.folds)
    out.print(
        table(
            title or f"Mean PCC per gene over held-out spots (held out: {held})",
            ["method", *sets],
            rows,
            caption=report.interval_label,
        )
    )
    lines = []
    for other, found in report.comparisons().items():
        cells = [f"{OURS} against {other}"]
        for key in sets:
            one = found[key]
            ratio = "-" if one["ratio"] is None else f"{one['ratio']:.2f}x"
            cells.append(f"{ratio} [{one['low']:+.3f},{one['high']:+.3f}]")
        lines.append(cells)
    for key_name, label in (("mean", "shuffled pairs, mean"), ("p99", "shuffled pairs, 99th pct")):
        null = report.null()
        if null:
            lines.append([label, *(f"{null[k][key_name]:+.3f}" for k in sets)])
    out.print(table("Ratio [interval of the difference]; the null", ["", *sets], lines))
    out.print(report.summary(), soft_wrap=True)


def _compare(
    pred: Path | None,
    truth: Path | None,
    *,
    json_out: Path | None,
    as_json: bool,
    slide_mpp: float | None,
    image: str | None,
    species: str | None,
    bin_um: float | None,
    allow_loss: bool,
) -> None:
    if pred is None or truth is None:
        raise InputError("--pred and --truth go together", hint="give both")
    if not pred.is_file():
        raise InputError("no such file", where=pred, hint="give the imputed .h5ad")
    from bleepdb.evaluation import compare
    from bleepdb.files import write_json
    from bleepdb.tissue import read_section

    section = read_section(
        one_row(truth, image=image, species=species),
        slide_mpp=slide_mpp,
        bin_um=bin_um,
        allow_loss=allow_loss,
    )
    comparison = compare(pred, section)
    document = comparison.to_json()
    if json_out is not None:
        write_json(json_out, document)
    if as_json:
        print_json(document)
        return
    show_comparison(comparison)


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
