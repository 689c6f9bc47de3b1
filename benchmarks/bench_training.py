"""Training a backbone: our loop against the bare step, and against a dataset as often written.

The same backbone, heads, loss, AdamW and precision on the same spots of one slide, three ways:

- *bare*: the step alone, again and again on one batch that lies on the device; nothing is read,
  nothing augmented. No loop can be faster.
- *ours*: `bleepdb.training.loop` on tiles that were decoded once, augmented on the device.
- *naive*: a dataset that cuts each tile out of the decoded image by PIL, mirrors, turns and
  changes brightness and contrast by PIL, and makes a tensor of it, in WORKERS processes of a
  DataLoader (0: in the training process). It does not change stains: that has no PIL.

Rounds take turns, and of each way the best counts. Environment: DEVICE (cpu or cuda), PRECISION (32
or bf16-mixed), ENCODER, TILE_PX, SPOTS, BATCH, EPOCHS, ROUNDS, WORKERS, THREADS.

Goal, on a GPU: ours at least .9 of the bare step, and above the naive dataset.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import made_slides
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import DataLoader, Dataset

from bleepdb.encoders import load_backbone
from bleepdb.encoders.levels import level_of_columns
from bleepdb.tissue import TileGeometry
from bleepdb.training.augment import Augmentation
from bleepdb.training.image_encoder import ImageEncoder, OnTiles
from bleepdb.training.loop import Schedule, train
from bleepdb.training.loss import Objective
from bleepdb.training.recipes.bleep import Head
from bleepdb.training.run import Run
from bleepdb.training.tile_store import stored_tiles
from bleepdb.training.tiles import Tiles
from bleepdb.training.unfreezing import freeze_unused, unfreeze

DEVICE = os.environ.get("DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE == "cuda"
PRECISION = os.environ.get("PRECISION", "bf16-mixed" if ON_GPU else "32")
ENCODER = os.environ.get("ENCODER", "timm:resnet50" if ON_GPU else "timm:tf_efficientnet_lite0")
TILE_PX = int(os.environ.get("TILE_PX", "224" if ON_GPU else "128"))
BATCH = int(os.environ.get("BATCH", "256" if ON_GPU else "16"))
SPOTS = int(os.environ.get("SPOTS", "8192" if ON_GPU else "64"))
EPOCHS = int(os.environ.get("EPOCHS", "2"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
WORKERS = int(os.environ.get("WORKERS", "0"))
THREADS = int(os.environ.get("THREADS", "0"))
GENES = 2000
MPP = 0.5
EDGE = 4096
JITTER = 0.1


class Naive(Dataset):
    """Tiles cut and changed by PIL, one at a time."""

    def __init__(self, image, centres, profiles):
        self.image = image
        self.corners = np.round(centres - TILE_PX / 2).astype(int).tolist()
        self.profiles = profiles
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return len(self.corners)

    def __getitem__(self, row):
        x, y = self.corners[row]
        tile = self.image.crop((x, y, x + TILE_PX, y + TILE_PX))
        if self.rng.random() < 0.5:
            tile = ImageOps.mirror(tile)
        tile = tile.rotate(90 * int(self.rng.integers(4)))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            tile = enhance(tile).enhance(1 + JITTER * (2 * self.rng.random() - 1))
        values = np.asarray(tile, dtype=np.float32) / 255
        return torch.from_numpy(values).permute(2, 0, 1)[None], self.profiles[row]


def made_module(backbone):
    network = load_backbone(ENCODER, weights="random:0", device="cpu").network
    unfreeze(network, "all")
    blank = torch.rand((2, 1, 3, TILE_PX, TILE_PX))
    width = len(level_of_columns(network, blank[:, 0]))
    inputs = np.zeros(width), np.ones(width)
    head = Head(width, 256, 0.1)
    encoder = ImageEncoder(network, "multilevel", (backbone.mean, backbone.std), inputs, head)
    freeze_unused(network, lambda: encoder.train().features(blank))
    return OnTiles(encoder, Head(GENES, 256, 0.1))


def groups_of(module):
    return [{"params": [p for p in module.parameters() if p.requires_grad], "lr": 1e-4}]


class Step:
    """The bare step in plain torch."""

    def __init__(self, module):
        self.module = module.to(DEVICE).train()
        self.optimiser = torch.optim.AdamW(groups_of(self.module))
        self.objective = Objective()

    def __call__(self, images, profiles):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            outputs = self.module(images, profiles)
        loss = self.objective(*(x.float() for x in outputs[:2]))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


def waited():
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def bare(step, images, profiles):
    steps = EPOCHS * (SPOTS // BATCH)
    step(images, profiles)
    began = waited()
    for _ in range(steps):
        step(images, profiles)
    return steps * BATCH / (waited() - began)


def naive(step, image, centres, profiles):
    loader = DataLoader(
        Naive(image, centres, profiles), batch_size=BATCH, shuffle=True, drop_last=True,
        num_workers=WORKERS, pin_memory=ON_GPU, persistent_workers=WORKERS > 0,
    )  # fmt: skip
    if WORKERS:  # they are started before the clock
        next(iter(loader))
    began = waited()
    for _ in range(EPOCHS):
        for images, some in loader:
            step(images.to(DEVICE, non_blocking=True), some.to(DEVICE, non_blocking=True))
    return EPOCHS * (SPOTS // BATCH) * BATCH / (waited() - began)


def ours(fabric, module, stored, profiles):
    data = Tiles(
        [stored], profiles, Augmentation(True, JITTER, JITTER, 0.05), torch.Generator()
    )  # fmt: skip
    return train(
        fabric, module, data, Objective(), groups_of(module), Schedule(EPOCHS, BATCH), seed=0
    ).spots_per_s


def main():
    if THREADS:
        torch.set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    pixels, said = made_slides.tissue(EDGE)
    centres = rng.uniform(TILE_PX, EDGE - TILE_PX, (SPOTS, 2)).round()
    profiles = torch.rand((SPOTS, GENES))
    backbone = load_backbone(ENCODER, weights="random:0", device="cpu")
    fabric = Run(accelerator="gpu" if ON_GPU else "cpu", precision=PRECISION).launch()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLEEPDB_CACHE"] = folder
        path = Path(folder) / "slide.png"
        Image.fromarray(pixels).save(path, compress_level=1)
        geometry = TileGeometry((TILE_PX * MPP,), TILE_PX)
        began = time.perf_counter()
        stored = stored_tiles(path, centres, slide_mpp=MPP, geometry=geometry)
        decoding = time.perf_counter() - began
        image = Image.fromarray(pixels)
        first = torch.from_numpy(np.array(stored[:BATCH])).permute(0, 1, 4, 2, 3).float().div(255)
        first, some = first.to(DEVICE), profiles[:BATCH].to(DEVICE)
        step, module = Step(made_module(backbone)), made_module(backbone)
        print(
            f"{ENCODER}, {PRECISION}, {fabric.device} ({torch.get_num_threads()} threads), "
            f"{SPOTS} tiles of {TILE_PX} px ({said}), batches of {BATCH}, {EPOCHS} epochs, best of "
            f"{ROUNDS}; decoded once in {decoding:.1f} s",
            flush=True,
        )
        best = dict.fromkeys(("bare", "ours", "naive"), 0.0)
        for _ in range(ROUNDS):
            for name, rate in (
                ("bare", bare(step, first, some)),
                ("ours", ours(fabric, module, stored, profiles)),
                ("naive", naive(step, image, centres, profiles)),
            ):
                best[name] = max(best[name], rate)
        for name, rate in best.items():
            print(f"  {name:6s} {rate:9,.1f} spots a second")
        print(
            f"  ours / bare {best['ours'] / best['bare']:.3f} (goal .9 on a GPU), ours / naive "
            f"with {WORKERS} workers {best['ours'] / best['naive']:.2f}"
        )


if __name__ == "__main__":
    main()
