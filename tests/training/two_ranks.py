"""Run by test_loop in each of two processes, as torchrun would: train, then write what came."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from bleepdb.training.augment import Augmentation
from bleepdb.training.image_encoder import ImageEncoder, OnTiles
from bleepdb.training.loop import Schedule, train
from bleepdb.training.loss import Objective
from bleepdb.training.recipes.bleep import Head
from bleepdb.training.run import Run
from bleepdb.training.tiles import Tiles
from bleepdb.training.unfreezing import unfreeze


class LayerNormNetwork(torch.nn.Module):
    """Patches, a mixing of channels, layer norm; and a batch norm whose statistics stay."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.norm = torch.nn.LayerNorm(8)
        self.batch_norm = torch.nn.BatchNorm1d(8)
        self.mix = torch.nn.Linear(8, 12)
        with torch.no_grad():
            self.batch_norm.running_mean.uniform_(-0.5, 0.5)
            self.batch_norm.running_var.uniform_(0.5, 2.0)

    def forward(self, images):
        made = self.norm(self.patches(images).flatten(2).mean(dim=2))
        return self.mix(torch.nn.functional.gelu(self.batch_norm(made)))


CASES = {"one step": ("published", 1, 48), "six steps": ("stable", 2, 16)}


def launched(devices):
    return Run(accelerator="cpu", devices=devices, precision="64").launch()


def one_run(fabric, targets, epochs, batch):
    """Train; return all weights, their last gradients, and the loss of each epoch.

    The gradients tell a factor between one rank and several, to which Adam's steps are blind.
    """
    torch.manual_seed(3)
    drawing = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (48, 2, 32, 32, 3), generator=drawing, dtype=torch.uint8)
    profiles = torch.rand((48, 20), generator=drawing)
    network = LayerNormNetwork()
    unfreeze(network, "all")
    inputs = (torch.zeros(24).numpy(), torch.ones(24).numpy())
    encoder = ImageEncoder(network, "penultimate", ((0.5,) * 3, (0.2,) * 3), inputs,
                           Head(24, 16, 0.0))  # fmt: skip
    module = OnTiles(encoder, Head(20, 16, 0.0))
    data = Tiles(
        [tiles.numpy()], profiles, Augmentation(True, 0.1, 0.1, 0.1),
        torch.Generator().manual_seed(1),
    )  # fmt: skip
    history = train(
        fabric, module, data, Objective(1.0, targets),
        [{"params": list(module.parameters()), "lr": 1e-2}], Schedule(epochs, batch), seed=3,
    )  # fmt: skip
    made = {k: v.clone() for k, v in module.state_dict().items()}
    made |= {f"gradient.{n}": p.grad.clone() for n, p in module.named_parameters()}
    return made | {"loss": torch.tensor(history.loss, dtype=torch.float64)}


def all_runs(fabric):
    return {
        f"{case}/{name}": value
        for case, settings in CASES.items()
        for name, value in one_run(fabric, *settings).items()
    }


if __name__ == "__main__":
    warnings.simplefilter("error")
    fabric = launched(2)
    path = Path(sys.argv[1]) / f"rank{fabric.global_rank}.safetensors"
    save_file(all_runs(fabric), str(path))
