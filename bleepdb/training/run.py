"""Where and how a training runs: devices, precision, processes, checkpoints. Fabric does it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from bleepdb.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

PRECISIONS: Final = {"32": "32-true", "bf16-mixed": "bf16-mixed", "64": "64-true"}
Accelerator = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Run:
    """Settings that decide how a training runs, not what it computes.

    Parameters
    ----------
    accelerator
        ``"auto"``, ``"cpu"`` or ``"gpu"``.
    devices, nodes
        Devices a node, and nodes. Under torchrun or Slurm they must be what those started.
    strategy
        Fabric's name of it; ``"auto"`` is DDP where there are several processes.
    precision
        ``"32"``, ``"bf16-mixed"`` or ``"64"``.
    checkpoint
        The file that an interrupted training is continued from; None: none is written.
    checkpoint_steps
        A checkpoint is written after so many steps, and after each epoch.
    resume
        Whether to continue from `checkpoint`.
    recompute
        Whether the backbone's activations are computed again in the backward pass (gradient
        checkpointing): a third more work for far less memory, and the same gradients.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32"
    checkpoint: Path | None = None
    checkpoint_steps: int | None = None
    resume: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(
                f"no precision {self.precision!r}", hint=f"use {', '.join(PRECISIONS)}"
            )
        if self.devices < 1 or self.nodes < 1:
            raise InputError("there must be one device and one node at least")
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise InputError("a checkpoint is written after one step or more")

    def launch(self) -> Fabric:
        """Start the processes, or join those that torchrun or Slurm started.

        Where Fabric itself starts them, each runs the command line from its beginning.

        Raises
        ------
        InputError
            If there are no such devices, or others were started.
        """
        # It tells at level INFO what was asked of it.
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        try:
            fabric = Fabric(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.nodes,
                strategy=self.strategy,
                precision=PRECISIONS[self.precision],  # type: ignore[arg-type] # Fabric lists them
            )
            fabric.launch()
        except (ValueError, RuntimeError, TypeError) as error:
            text = " ".join(str(error).split())
            raise InputError(
                f"training cannot start on {self.nodes} x {self.devices} {self.accelerator} "
                f"({text[:240]})",
                hint="check --accelerator, --devices, --nodes and --strategy",
            ) from error
        return fabric


def one_process() -> Fabric:
    """Return a Fabric on this CPU alone, whatever torchrun or Slurm set in the environment.

    Heads on frozen features are trained so: each job of an array trains its own.
    """
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])
    fabric.launch()
    return fabric
