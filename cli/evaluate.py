"""`bleepdb evaluate`: held-out scores beside baselines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .evaluate_options import (
    ENCODING,
    WITH_MERGE,
    AllowDonorOption,
    AllowTwinsOption,
    ByOption,
    FigureOption,
    FoldOption,
    HtmlOption,
    MergeOption,
    MethodsOption,
    PathsArgument,
    RecipeOption,
    SeedsOption,
    SplitsOption,
    TestOption,
    TrainOption,
    given,
    refuse_beside,
    refuse_mixed,
    refuse_outputs,
)
from .evaluation_outputs import compare_files, give, merge_folds
from .growth import grow_sections
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
    rows_of,
    without,
)
from .render import note, stages
from .train import (
    DEFAULT_ENCODER,
    DEFAULT_SCALES_UM,
    EncoderOption,
    ResamplingOption,
    ScaleOption,
    TileMppOption,
    TilePxOption,
    WeightsOption,
    scales_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bleepdb.encoders import Model
    from bleepdb.evaluation import Features, Report, Settings
    from bleepdb.tissue import Section, SheetRow


def evaluate(
    context: typer.Context,
    paths: PathsArgument = None,
    by: ByOption = "auto",
    train: TrainOption = None,
    test: TestOption = None,
    splits: SplitsOption = None,
    fold: FoldOption = None,
    merge: MergeOption = False,
    recipe: RecipeOption = None,
    methods: MethodsOption = None,
    pred: Annotated[
        Path | None, typer.Option("--pred", help="An imputed .h5ad, compared with --truth.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="The measured section of that slide.")
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json-out", "-o", help="Write the whole report here.")
    ] = None,
    html: HtmlOption = None,
    figure: FigureOption = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card",
            help="Write held-out scores per gene into this model's card; its recipe and features "
            "are evaluated.",
        ),
    ] = None,
    encoder: EncoderOption = DEFAULT_ENCODER,
    weights: WeightsOption = None,
    levels: Annotated[
        str, typer.Option("--levels", help="multilevel or penultimate features.")
    ] = "multilevel",
    scale_um: ScaleOption = None,
    tile_mpp: TileMppOption = None,
    tile_px: TilePxOption = None,
    resampling: ResamplingOption = "area",
    exclude_section: Annotated[
        list[str] | None, typer.Option("--exclude-section", help="Leave a section out.")
    ] = None,
    exclude_donor: Annotated[
        list[str] | None, typer.Option("--exclude-donor", help="Leave a donor out.")
    ] = None,
    allow_donor: AllowDonorOption = None,
    allow_twins: AllowTwinsOption = None,
    permutations: Annotated[
        int, typer.Option("--permutations", min=0, help="Shuffles of the pairs for the null.")
    ] = 100,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of the bleep recipe.")] = 150,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of everything that is drawn.")
    ] = 0,
    seeds: SeedsOption = 1,
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
) -> None:
    """Leave one donor or section out, with baselines on the same folds; or compare two files.

    With a sheet: our recipes, BLEEP, ridge, kNN and further baselines, with our features and
    post-processing and without, in one table; a donor is held out whole where there are two.
    With --merge: documents of single folds (--fold, such as one a job) become one.
    With --growth: the others are added one at a time, to an atlas whose model stays as it was
    first trained, beside a model that is trained again at every step.
    With --pred and --truth: the correlation per gene of an imputed file with what was measured.
    """
    named = list(paths or ())
    refuse_mixed(context, growth=growth)
    refuse_outputs(json_out, html, figure, reads=(*named, pred, truth, splits))
    if merge:
        refuse_beside(context, "--merge", WITH_MERGE)
        merge_folds(named, json_out=json_out, html=html, figure=figure, as_json=as_json)
        return
    if pred is not None or truth is not None:
        if named:
            raise InputError(
                "a sample sheet and --pred are two different evaluations",
                where=named[0],
                hint="leave one of them out",
            )
        compare_files(
            pred, truth, json_out=json_out, as_json=as_json, slide_mpp=slide_mpp, image=image,
            species=species, bin_um=bin_um, allow_loss=allow_loss,
        )  # fmt: skip
        return
    sheet = _one_sheet(named)
    rows = without(
        rows_of(sheet, image=image, species=species),
        sections=exclude_section or (),
        donors=exclude_donor or (),
        where=sheet,
    )
    load = partial(
        load_all, slide_mpp=slide_mpp, min_counts=min_counts, min_genes=min_genes, bin_um=bin_um,
        allow_loss=allow_loss, mask=mask, allow_misfit=allow_misfit, overlay=overlay,
    )  # fmt: skip
    from bleepdb.evaluation import Features, Settings
    from bleepdb.evaluation.settings import DEFAULT_RECIPES

    features = Features(
        encoder, weights, levels, DEFAULT_SCALES_UM, tile_px, resampling,
        most_upsampling(allowed=allow_upsampling),
    )  # fmt: skip
    if scale_um or tile_mpp:
        px = _tile_px(features) if tile_mpp else 0
        features = replace(features, scales_um=scales_of(scale_um, tile_mpp, px))
    if growth:
        grow_sections(
            rows, load, features, by=by, orders=orders, start=start, seed=seed, fold=fold,
            recipe=recipe, json_out=json_out, figure=figure, as_json=as_json,
        )  # fmt: skip
        return
    settings = Settings(
        by=by, permutations=permutations, seed=seed, seeds=seeds, epochs=epochs,
        only=tuple(fold) if fold else None, recipes=tuple(recipe or DEFAULT_RECIPES),
        methods=tuple(methods) if methods else None, train=tuple(train or ()),
        test=tuple(test or ()), splits=splits, allow_donors=tuple(allow_donor or ()),
        allow_twins=tuple(allow_twins or ()),
    )  # fmt: skip
    model = None
    if card is not None:
        model, settings, features = _of_card(
            card, settings, features, chosen=bool(recipe),
            encoded=any(n in ENCODING for n in given(context)),
        )  # fmt: skip
    report = _evaluate(rows, load, settings, features)
    document = report.to_json()  # once: it says when it was made
    if model is not None and card is not None:
        from bleepdb.encoders import save_model

        save_model(model.with_scores(report.card_scores(model.panel)), card, overwrite=True)
    give(report, document, json_out=json_out, html=html, figure=figure, as_json=as_json)
    if card is not None and not as_json:
        note(f"scores written into {card}; index again to pass them on to an atlas")


def _one_sheet(paths: list[Path]) -> Path:
    if not paths:
        raise InputError("nothing to evaluate", hint="give a sample sheet, or --pred and --truth")
    if len(paths) > 1:
        raise InputError(
            f"{len(paths)} paths, where one sample sheet is read",
            where=paths[1],
            hint="put all sections into one sheet; to put documents of folds together, add --merge",
        )
    if paths[0].exists() and not is_sheet(paths[0]):
        raise InputError(
            "is no sample sheet", where=paths[0], hint="give a .csv or .tsv with one row a section"
        )
    return paths[0]


def _tile_px(features: Features) -> int:
    """Pixels of a tile, where its edge hangs on them."""
    from bleepdb.encoders import default_tile_px

    return features.tile_px or default_tile_px(features.backbone())


def _evaluate(
    rows: list[SheetRow],
    load: Callable[[list[SheetRow]], list[Section]],
    settings: Settings,
    features: Features,
) -> Report:
    from bleepdb.evaluation import check, evaluate

    donor_of = {r.section: r.donor for r in rows}
    check(donor_of, settings)  # refused now, not after reading
    held_out, why = settings.held_out(donor_of)
    note(f"held out: {held_out} ({why})")
    sections = load(rows)
    with stages("evaluating") as move:
        return evaluate(sections, settings, features, progress=move)


def _of_card(
    card: Path, settings: Settings, features: Features, *, chosen: bool, encoded: bool
) -> tuple[Model, Settings, Features]:
    """Return a model, and how and on what it is evaluated: by its own recipe, on its features."""
    from bleepdb.encoders import load_model
    from bleepdb.evaluation.carding import features_of, refuse_other_features, settings_of

    model = load_model(card, check_here=False)
    how = settings_of(model, settings, chosen=chosen, where=card)
    on = features if encoded else features_of(model, features, where=card)
    refuse_other_features(model, on, where=card)
    return model, how, on
