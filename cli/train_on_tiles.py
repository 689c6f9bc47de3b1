"""What `bleepdb train` does where the backbone is trained: options, launch, resume, result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bleepdb.errors import InputError, ModelError
from bleepdb.names import LOSS_FILE

from .render import bar, log, note, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning_fabric import Fabric

    from bleepdb.encoders import Backbone, FeatureSpec, Model
    from bleepdb.tissue import Section
    from bleepdb.training.run import Run

PANEL = "Training the backbone"
AcceleratorOption = Annotated[
    str, typer.Option("--accelerator", help="auto, cpu or gpu.", rich_help_panel=PANEL)
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="Devices a node.", rich_help_panel=PANEL)
]
NodesOption = Annotated[int, typer.Option("--nodes", min=1, help="Nodes.", rich_help_panel=PANEL)]
StrategyOption = Annotated[
    str, typer.Option("--strategy", help="Of Lightning Fabric: auto or ddp.", rich_help_panel=PANEL)
]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="32, bf16-mixed or 64.", rich_help_panel=PANEL)
]
RecomputeOption = Annotated[
    bool,
    typer.Option(
        "--grad-checkpointing",
        help="Compute activations twice rather than keep them: slower, far less memory.",
        rich_help_panel=PANEL,
    ),
]
CheckpointStepsOption = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-steps",
        min=1,
        help="Write a checkpoint after so many steps too, not only after each epoch.",
        rich_help_panel=PANEL,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue from the checkpoint that an interrupted training left beside --out.",
        rich_help_panel=PANEL,
    ),
]


def begin(
    recipe: str,
    hyper: Mapping[str, Any],
    out: Path,
    *,
    resume: bool,
    overwrite: bool,
    **how: Any,  # noqa: ANN401 - fields of Run
) -> OnTiles | None:
    """Launch the processes of a training on tiles; None where the recipe takes features.

    Raises
    ------
    InputError
        If what is asked is for training the backbone, and it is not trained; or an interrupted
        training is there, and it is not said what becomes of it.
    """
    from bleepdb.training.end_to_end import wants_tiles
    from bleepdb.training.run import Run

    checkpoint = out.absolute().with_name(f"{out.absolute().name}.checkpoint.safetensors")
    if not wants_tiles(recipe, hyper):
        if resume or how["devices"] > 1 or how["nodes"] > 1 or how["recompute"]:
            raise InputError(
                "--devices, --nodes, --grad-checkpointing and --resume are for training the "
                f"backbone, which {recipe} does not do here",
                hint="add --recipe bleep --set train_backbone=last, or leave them out",
            )
        return None
    if checkpoint.exists() and not (resume or overwrite):
        raise InputError(
            "an interrupted training is kept here",
            where=checkpoint,
            hint="pass --resume to continue it, or --overwrite to begin anew",
        )
    if resume and not checkpoint.exists():
        raise ModelError(
            "no such checkpoint", where=checkpoint, hint="leave out --resume to begin anew"
        )
    run = Run(checkpoint=checkpoint, resume=resume, **how)
    fabric = run.launch()
    log.quiet = not fabric.is_global_zero
    return OnTiles(run, fabric, out)


@dataclass(frozen=True)
class OnTiles:
    """A launched training; only the first process shows and writes anything."""

    run: Run
    fabric: Fabric
    out: Path

    def train(
        self,
        sections: Sequence[Section],
        spec: FeatureSpec,
        backbone: Backbone,
        *,
        hyper: Mapping[str, Any],
        seed: int,
        max_upsampling: float,
        overwrite: bool,
        as_json: bool,
    ) -> None:
        """Train, write the model folder and say what came out."""
        from bleepdb.encoders import save_model
        from bleepdb.training.end_to_end import fit_on_tiles

        with bar("decoding tiles") as decoding, bar("training", unit="spots") as move:
            made = fit_on_tiles(
                sections,
                spec,
                backbone,
                self.fabric,
                self.run,
                hyper=hyper,
                seed=seed,
                max_upsampling=max_upsampling,
                decoding=decoding,
                progress=move,
            )
        if not self.fabric.is_global_zero:
            return
        model = made.model.calibrated(made.backbone)
        save_model(model, self.out, overwrite=overwrite, backbone=made.backbone)
        draw_loss(model, self.out)
        if self.run.checkpoint is not None:
            self.run.checkpoint.unlink(missing_ok=True)
        speed, curve = made.history.spots_per_s, made.history.loss
        if as_json:
            print_json(
                {
                    "model": str(self.out), "recipe": model.recipe, "space_id": model.space_id,
                    "dimension": model.dimension, "genes": len(model.panel),
                    "spots": sum(len(s) for s in sections), "hyper": dict(model.hyper),
                    "loss": curve, "spots_per_s": speed if made.history.spots else None,
                    "device": str(self.fabric.device), "processes": self.fabric.world_size,
                    "precision": self.run.precision,
                }
            )  # fmt: skip
            return
        told = f"{speed:,.1f} spots/s, " if made.history.spots else ""
        note(
            f"{self.out}: {model.recipe}, backbone trained ({model.hyper['train_backbone']}), "
            f"{told}loss {curve[0]:.3f} to {curve[-1]:.3f} in {len(curve)} epochs on "
            f"{self.fabric.world_size} x {self.fabric.device.type}, space {model.space_id[:8]}"
        )
        note("the atlas does not hold this backbone: give `bleepdb query` --model as well")


def draw_loss(model: Model, folder: Path) -> None:
    """Draw the loss of each epoch beside a model that has one."""
    curve = model.training.get("loss")
    if not curve:
        return
    from bleepdb.view.loss_curve import loss_curve

    loss_curve(curve, folder / LOSS_FILE, title=f"{model.recipe}, {model.feature_spec.backbone}")
