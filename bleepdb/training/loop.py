"""The one training loop: of heads on frozen features, and of heads and backbone on tiles.

It runs on Lightning Fabric (device, precision, DDP), and reads from top to bottom. Randomness:
the order of spots is drawn by rank 0 from torch's generator and shared; dropout draws from each
rank's own; augmentation has a generator of its own (`bleepdb.training.augment`). A checkpoint
keeps all of them, so that a training that was killed ends, on a CPU, in the same bits.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from bleepdb.errors import InputError
from bleepdb.training.checkpoint import read_checkpoint, restore, state_of, write_checkpoint
from bleepdb.training.gather import gathered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from bleepdb.training.loss import Objective


class Data(Protocol):
    """What the spots are, for the module that is trained."""

    def __len__(self) -> int:
        """How many spots."""
        ...

    def batches(
        self, rows: Tensor, share: slice, device: torch.device
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield this rank's share of each batch (steps, batch) of spots, on its device."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must keep."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        ...


@dataclass(frozen=True)
class Features:
    """Features and profiles that are in memory, (n, F) and (n, genes) float32."""

    images: Tensor
    profiles: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, rows: Tensor, share: slice, device: torch.device
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield batches; see `Data`."""
        for batch in rows:
            mine = batch[share]
            yield self.images[mine].to(device), self.profiles[mine].to(device)

    def state(self) -> dict[str, Tensor]:
        """Return nothing: nothing is drawn."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Schedule:
    """How long and in which steps; `batch` is that of all ranks together."""

    epochs: int
    batch: int


@dataclass(frozen=True)
class Checkpoints:
    """Where a training is kept, and which it is.

    Attributes
    ----------
    path
        The file.
    configuration
        JSON values; a checkpoint of another is refused by name.
    every
        Steps between checkpoints; None: one an epoch.
    resume
        Whether to continue from the file.
    """

    path: Path
    configuration: Mapping[str, Any]
    every: int | None = None
    resume: bool = False


@dataclass
class History:
    """What happened.

    Attributes
    ----------
    loss
        Mean loss of each epoch.
    spots, seconds
        That this process saw through, and the time they took, data included.
    """

    loss: list[float] = field(default_factory=list)
    spots: int = 0
    seconds: float = 0.0

    @property
    def spots_per_s(self) -> float:
        """Throughput of all ranks together; NaN where nothing was done."""
        return self.spots / self.seconds if self.seconds > 0 else math.nan


def train(
    fabric: Fabric,
    module: nn.Module,
    data: Data,
    objective: Objective,
    groups: Sequence[Mapping[str, Any]],
    schedule: Schedule,
    *,
    seed: int,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Train a module that gives two embeddings; it is left in training mode.

    Parameters
    ----------
    fabric
        Launched.
    module
        Takes a batch of `data`; gives image embeddings and profile embeddings (b, d), then the
        features and profiles before the projections, (b, anything).
    data
        The spots.
    objective
        The loss of a whole batch.
    groups
        Parameter groups of AdamW with their rates.
    schedule
        Epochs and batch. The last incomplete batch of an epoch is dropped, as published; fewer
        spots than a batch are one.
    seed
        Of the ranks beyond the first, whose dropout must differ. The caller has seeded torch
        before it drew the module's weights.
    checkpoints
        Where to keep and continue it.
    progress
        Called on rank 0 with (spots done, spots of all epochs).

    Raises
    ------
    InputError
        If a batch does not divide among the ranks, or the loss is no longer finite.
    ModelError
        If the checkpoint is not of this training.
    """
    world, rank, device = fabric.world_size, fabric.global_rank, fabric.device
    batch = min(schedule.batch, len(data))
    steps = len(data) // batch
    share = _share(batch, rank, world)
    module.train()
    model, optimiser = fabric.setup(module, torch.optim.AdamW([dict(g) for g in groups]))
    if rank:
        torch.manual_seed(seed + rank)

    history, total = History(), torch.zeros((), dtype=torch.float64, device=device)
    first_epoch, first_step, order = 0, 0, None
    if checkpoints is not None and checkpoints.resume:
        tensors, counters = read_checkpoint(checkpoints.path, checkpoints.configuration)
        restore(module, optimiser.optimizer, tensors)
        data.restore(tensors)
        first_epoch, first_step = counters["epoch"], counters["step"]
        history.loss = list(counters["loss"])
        total, order = tensors["loop.total"].to(device), tensors["loop.order"]
        _set_generators(tensors, rank, device)

    for epoch in range(first_epoch, schedule.epochs):
        if not first_step or order is None:
            order = fabric.broadcast(torch.randperm(len(data)))
        rows = order[: steps * batch].view(steps, batch)[first_step:]
        began = time.perf_counter()
        for step, given in enumerate(data.batches(rows, share, device), first_step + 1):
            outputs = model(*given)
            loss = objective(*gathered(outputs[: objective.takes], rank=rank, world=world))
            optimiser.zero_grad()
            fabric.backward(loss)
            optimiser.step()
            total += loss.detach()
            if progress is not None and rank == 0:
                progress((epoch * steps + step) * batch, schedule.epochs * steps * batch)
            due = checkpoints is not None and checkpoints.every and step < steps
            if due and checkpoints is not None and step % int(checkpoints.every or 1) == 0:
                _keep(fabric, checkpoints, module, optimiser, data, order, total, history,
                      epoch=epoch, step=step)  # fmt: skip
        history.loss.append(_finite(float(total) / steps, epoch))
        history.seconds += time.perf_counter() - began
        history.spots += len(rows) * batch
        total, first_step = torch.zeros_like(total), 0
        if checkpoints is not None:
            _keep(fabric, checkpoints, module, optimiser, data, order, total, history,
                  epoch=epoch + 1, step=0)  # fmt: skip
    return history


def _share(batch: int, rank: int, world: int) -> slice:
    """Return this rank's rows of a batch."""
    if batch % world:
        fits = max(batch - batch % world, world)
        raise InputError(
            f"a batch of {batch} spots does not divide among {world} processes",
            hint=f"use --set batch={fits}, or another number of devices",
        )
    each = batch // world
    return slice(rank * each, (rank + 1) * each)


def _finite(loss: float, epoch: int) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss of epoch {epoch + 1} is {loss}",
            hint="lower the learning rate, or train at --precision 32",
        )
    return loss


def _keep(
    fabric: Fabric,
    checkpoints: Checkpoints,
    module: nn.Module,
    optimiser: Any,  # noqa: ANN401 - Fabric's wrapper
    data: Data,
    order: Tensor,
    total: Tensor,
    history: History,
    *,
    epoch: int,
    step: int,
) -> None:
    """Write a checkpoint from rank 0; all ranks must come here, for their generators."""
    generators = {"loop.generator": _of_all(fabric, torch.get_rng_state())}
    if fabric.device.type == "cuda":
        generators["loop.cuda"] = _of_all(fabric, torch.cuda.get_rng_state(fabric.device))
    if not fabric.is_global_zero:
        return
    write_checkpoint(
        checkpoints.path,
        state_of(module, optimiser.optimizer)
        | data.state()
        | generators
        | {"loop.total": total, "loop.order": order},
        configuration=checkpoints.configuration,
        counters={"epoch": epoch, "step": step, "loss": history.loss},
    )


def _of_all(fabric: Fabric, state: Tensor) -> Tensor:
    """Return a tensor of each rank, stacked, on the CPU."""
    if fabric.world_size == 1:
        return state[None]
    # Not Fabric's own gather: it goes by a way with gradients, which torch is about to drop.
    mine = state.to(fabric.device)
    parts = [torch.empty_like(mine) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(parts, mine)
    return torch.stack(parts).cpu()


def _set_generators(tensors: Mapping[str, Tensor], rank: int, device: torch.device) -> None:
    torch.set_rng_state(tensors["loop.generator"][rank].contiguous())
    if device.type == "cuda" and "loop.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["loop.cuda"][rank].contiguous(), device)
