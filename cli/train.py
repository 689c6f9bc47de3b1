"""`bleepdb train`: paired encoders from the sections of a sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bleepdb.errors import InputError

from .inputs import (
    MOST_SEED,
    BinOption,
    DonorOption,
    ImageOption,
    LossOption,
    MaskOption,
    MinCountsOption,
    MinGenesOption,
    MisfitOption,
    OverlayFolderOption,
    SectionOption,
    SheetArgument,
    SlideMppOption,
    SpeciesOption,
    TissueOption,
    UpsamplingOption,
    load_all,
    most_upsampling,
    refuse_place,
    rows_of,
    without,
)
from .render import bar, note, print_json
from .train_on_tiles import (
    AcceleratorOption,
    CheckpointStepsOption,
    DevicesOption,
    NodesOption,
    PrecisionOption,
    RecomputeOption,
    ResumeOption,
    StrategyOption,
    begin,
    draw_loss,
)

DEFAULT_ENCODER = "timm:tf_efficientnet_lite0"
DEFAULT_SCALES_UM = (112.0, 176.0, 400.0)
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        help="timm:NAME, open_clip:NAME, open_clip:NAME/PRETRAINED, hf-hub:ORG/NAME, or a short "
        "name that `bleepdb encoders` lists.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights", help="The backbone's weights: a safetensors or .pth file, or random:SEED."
    ),
]
ScaleOption = Annotated[
    list[float] | None,
    typer.Option(
        "--scale-um",
        help="Edge of a tile in µm (repeatable, one a scale). Default: 112, 176 and 400.",
    ),
]
TileMppOption = Annotated[
    list[float] | None,
    typer.Option(
        "--tile-mpp",
        help="Microns per pixel of a tile, instead of --scale-um (repeatable, one a scale): 0.5 "
        "with --tile-px 224 is a field of 112 µm.",
    ),
]
TilePxOption = Annotated[
    int | None,
    typer.Option(
        "--tile-px",
        help="Pixels a side of a resampled tile. Default: the encoder's own size where it takes "
        "no other, else 224.",
    ),
]
ResamplingOption = Annotated[
    str,
    typer.Option(
        "--resampling",
        help="Filter of the tiles, part of the model: area, bilinear, or scaled (area, on levels "
        "that a slide lacks made while its JPEG tiles are decoded: faster on 40x scans without a "
        "2x level).",
    ),
]


def hyper_of(pairs: list[str] | None) -> dict[str, Any]:
    """Turn ``--set name=value`` into hyperparameters; values are JSON."""
    made = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r} has no value", hint="write --set name=value")
        try:
            made[name] = json.loads(value)
        except json.JSONDecodeError:
            if value.isidentifier():  # a bare word, such as stable; its recipe judges it
                made[name] = value
                continue
            raise InputError(
                f"--set {name}: {value!r} is no number, word, list or true/false",
                hint="such as k=100",
            ) from None
    return made


def scales_of(
    scale_um: list[float] | None, tile_mpp: list[float] | None, tile_px: int
) -> tuple[float, ...]:
    """Return edges of tiles in µm from --scale-um, or from --tile-mpp times --tile-px."""
    from bleepdb.tissue.geometry import mpp_fault

    if scale_um and tile_mpp:
        raise InputError(
            "--scale-um and --tile-mpp both say how large a tile is", hint="leave one of them out"
        )
    for mpp in tile_mpp or ():
        fault = mpp_fault(mpp)
        if fault is not None:
            raise InputError(f"--tile-mpp {fault}", hint="such as 0.5")
    if tile_mpp:
        return tuple(round(mpp * tile_px, 6) for mpp in tile_mpp)
    return tuple(scale_um or DEFAULT_SCALES_UM)


def train(
    sheet: SheetArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the model.", show_default=False)
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="linear, kernel, average, bleep, one of an installed package, or a .py file of "
            "yours.",
        ),
    ] = "linear",
    encoder: EncoderOption = DEFAULT_ENCODER,
    weights: WeightsOption = None,
    levels: Annotated[
        str, typer.Option("--levels", help="multilevel or penultimate features.")
    ] = "multilevel",
    scale_um: ScaleOption = None,
    tile_mpp: TileMppOption = None,
    tile_px: TilePxOption = None,
    resampling: ResamplingOption = "area",
    set_hyper: Annotated[
        list[str] | None,
        typer.Option("--set", help="A hyperparameter of the recipe, name=value (repeatable)."),
    ] = None,
    exclude_section: Annotated[
        list[str] | None, typer.Option("--exclude-section", help="Leave a section out.")
    ] = None,
    exclude_donor: Annotated[
        list[str] | None, typer.Option("--exclude-donor", help="Leave a donor out.")
    ] = None,
    section: SectionOption = None,
    donor: DonorOption = None,
    tissue: TissueOption = None,
    species: SpeciesOption = None,
    image: ImageOption = None,
    slide_mpp: SlideMppOption = None,
    min_counts: MinCountsOption = 10,
    min_genes: MinGenesOption = 5,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MOST_SEED, help="Recorded in the card.")
    ] = 0,
    bin_um: BinOption = None,
    allow_loss: LossOption = False,
    mask: MaskOption = None,
    allow_misfit: MisfitOption = False,
    overlay: OverlayFolderOption = None,
    allow_upsampling: UpsamplingOption = False,
    accelerator: AcceleratorOption = "auto",
    devices: DevicesOption = 1,
    nodes: NodesOption = 1,
    strategy: StrategyOption = "auto",
    precision: PrecisionOption = "32",
    grad_checkpointing: RecomputeOption = False,
    checkpoint_steps: CheckpointStepsOption = None,
    resume: ResumeOption = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier model in this folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Fit paired encoders and write them as a model folder.

    `linear` (the default) fits two closed-form towers on a frozen backbone in seconds and chooses
    its penalty by leaving one donor out; `kernel` trains a projection so that what is retrieved
    predicts; `average` retrieves by both at once; `bleep` trains the published heads
    with the published loss.

    With --set train_backbone=last or all, `bleep` trains the backbone too, on as many devices as
    --devices and --nodes say, or as torchrun or Slurm started. An interrupted training is
    continued with --resume.
    """
    from bleepdb.encoders import FeatureSpec, default_tile_px, load_backbone, save_model
    from bleepdb.encoders.folder import refuse_folder
    from bleepdb.tissue import TileGeometry
    from bleepdb.training import check_recipe, collect_pairs, fit

    hyper = hyper_of(set_hyper)
    check_recipe(recipe, hyper)
    refuse_folder(out, overwrite=overwrite)
    refuse_place(out)
    tiles = begin(
        recipe,
        hyper,
        out,
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        strategy=strategy,
        precision=precision,
        recompute=grad_checkpointing,
        checkpoint_steps=checkpoint_steps,
        resume=resume,
        overwrite=overwrite,
    )
    rows = without(
        rows_of(sheet, section=section, donor=donor, tissue=tissue, image=image, species=species),
        sections=exclude_section or (),
        donors=exclude_donor or (),
        where=sheet,
    )
    backbone = load_backbone(encoder, weights=weights)
    px = default_tile_px(backbone) if tile_px is None else tile_px
    geometry = TileGeometry(scales_of(scale_um, tile_mpp, px), px, resampling)
    spec = FeatureSpec.of(backbone, levels, geometry)  # type: ignore[arg-type] # `of` checks the name
    sections = load_all(
        rows,
        slide_mpp=slide_mpp,
        min_counts=min_counts,
        min_genes=min_genes,
        bin_um=bin_um,
        allow_loss=allow_loss,
        mask=mask,
        allow_misfit=allow_misfit,
        overlay=overlay,
    )
    if tiles is not None:
        tiles.train(
            sections,
            spec,
            backbone,
            hyper=hyper,
            seed=seed,
            max_upsampling=most_upsampling(allowed=allow_upsampling),
            overwrite=overwrite,
            as_json=as_json,
        )
        return
    with bar("encoding tiles") as move:
        pairs = collect_pairs(
            sections,
            spec,
            backbone,
            max_upsampling=most_upsampling(allowed=allow_upsampling),
            progress=move,
        )
    note(
        f"{len(pairs)} spots of {len(pairs.sections)} sections, {len(pairs.donors)} donors; "
        f"{len(pairs.panel)} genes shared by all of them "
        f"(of {min(len(s.panel) for s in pairs.sections)} to "
        f"{max(len(s.panel) for s in pairs.sections)})"
    )
    with bar(f"fitting {recipe}") as move:
        model = fit(pairs, recipe, hyper=hyper, seed=seed, progress=move)
    model = model.described(licence=backbone.licence).calibrated(backbone)
    save_model(model, out, overwrite=overwrite)
    draw_loss(model, out)
    if as_json:
        print_json(
            {
                "model": str(out), "recipe": model.recipe, "space_id": model.space_id,
                "dimension": model.dimension, "genes": len(model.panel), "spots": len(pairs),
                "hyper": dict(model.hyper), "inner_folds": model.training["inner_folds"],
            }
        )  # fmt: skip
        return
    chosen = model.hyper.get("alpha")
    tuned = f", alpha {chosen:g} ({model.training['inner_folds']})" if chosen else ""
    note(f"{out}: {model.recipe}, {model.dimension} dimensions, space {model.space_id[:8]}{tuned}")
    note(f"next: bleepdb index {sheet} --model {out} --atlas ./atlas")
