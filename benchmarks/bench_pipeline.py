"""Slide to features beside the bare forward pass of the same network and batch, with stage times.

A made slide (`made_slides`), 224 px tiles at level 0, networks with random weights: ResNet50,
ViT-B/16 and EfficientNet-Lite0. Runs on a GPU where there is one (bfloat16), else on the CPU.

decoding
    The tiles alone, by as many threads as there are cores, the network idle.
bare
    The network alone, on tiles that lie on its device; all batches, the last one waited for.
whole
    From opening the slide to features on disk, decoding and network at once.

Goal on a GPU: the whole at least .9 of the bare forward pass. Rounds take turns and the best of
each counts. On a CPU decoding takes time from the very cores that compute, so the goal there is
what both take one after the other. Before that: what the settings of `encoders.runtime` bring.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import made_slides
import numpy as np

NETWORKS = os.environ.get(
    "NETWORKS", "timm:tf_efficientnet_lite0 timm:resnet50 timm:vit_base_patch16_224"
).split()
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PX = 224
MPP = made_slides.MPP


def places(n):
    """Centres of n adjacent tiles, row by row."""
    side = int(np.ceil(np.sqrt(n)))
    at = (np.arange(side) + 0.5) * PX
    return np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)[:n]


def decoded(path, spec, xy, batch):
    from bleepdb.tissue import TileStream, open_slide

    with (
        open_slide(path) as slide,
        TileStream(
            slide, xy, slide_mpp=MPP, geometry=spec.geometry, batch=batch, reuse=True
        ) as stream,
    ):
        return sum(len(rows) for rows, _ in stream)


def bare(backbone, spec, tiles, n):
    """Forward passes over the tiles of one batch, again and again, n tiles in all."""
    import torch

    done = 0
    while done < n:
        count = min(len(tiles), n - done)
        last = backbone.features_of(tiles[:count], spec.levels)
        done += count
    if backbone.device == "cuda":
        torch.cuda.synchronize()
    return last


def whole(path, spec, backbone, xy, batch):
    """With the cache, an empty one: what is written is part of it."""
    from bleepdb.encoders import extract

    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLEEPDB_CACHE"] = folder
        return len(
            extract(path, xy, slide_mpp=MPP, spec=spec, backbone=backbone, batch=batch, mapped=True)
        )


def network(path, name):
    import torch

    from bleepdb.encoders import FeatureSpec, load_backbone
    from bleepdb.tissue import TileGeometry, TileStream, open_slide

    backbone = load_backbone(name, weights="random:0")
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((PX * MPP,), PX))
    on_gpu = backbone.device == "cuda"
    n = int(os.environ.get("PLACES", "7000" if on_gpu else "128"))
    batch, xy = backbone.tiles_at_once, places(n)
    with (
        open_slide(path) as slide,
        TileStream(slide, xy[:batch], slide_mpp=MPP, geometry=spec.geometry, batch=batch) as stream,
    ):
        tiles = torch.from_numpy(next(iter(stream))[1][:, 0]).to(backbone.device)
    bare(backbone, spec, tiles, 2 * batch)
    ways = {
        "decoding": lambda: decoded(path, spec, xy, batch),
        "bare": lambda: bare(backbone, spec, tiles, n),
        "whole": lambda: whole(path, spec, backbone, xy, batch),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way] = min(seconds[way], time.perf_counter() - start)
    said = ", ".join(f"{way} {s:.2f} s ({n / s:,.0f} a second)" for way, s in seconds.items())
    one_after_other = (seconds["decoding"] + seconds["bare"]) / seconds["whole"]
    print(
        f"{name}, {backbone.device}, {backbone.precision}, {n:,} tiles in batches of {batch}: "
        f"{said}\n  bare / whole {seconds['bare'] / seconds['whole']:.2f}"
        f"{' (goal .9)' if on_gpu else ''}; one after the other / whole {one_after_other:.2f}",
        flush=True,
    )


def settings(kind):
    """Tiles and seconds of processor time of a small network, with or without the settings."""
    if kind == "tuned":
        from bleepdb.encoders.runtime import tune_process

        tune_process()
    from bleepdb.encoders import load_backbone

    backbone = load_backbone("timm:tf_efficientnet_lite0", weights="random:0", device="cpu")
    tiles = np.random.default_rng(0).integers(0, 256, (64, PX, PX, 3), dtype=np.uint8)
    backbone.features(tiles, "multilevel")
    best, start = float("inf"), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        backbone.features(tiles, "multilevel")
        best = min(best, time.perf_counter() - began)
    end = resource.getrusage(resource.RUSAGE_SELF)
    per_tile = 1e3 / ROUNDS / len(tiles)
    user, system = end.ru_utime - start.ru_utime, end.ru_stime - start.ru_stime
    print(
        f"  {kind:6s} {len(tiles) / best:6.0f} tiles a second, {user * per_tile:5.1f} ms of the "
        f"processors a tile and {system * per_tile:4.1f} ms of the system, peak "
        f"{end.ru_maxrss / 1024:,.0f} MB",
        flush=True,
    )


def main():
    if len(sys.argv) > 1:
        {"settings": settings}[sys.argv[1]](sys.argv[2])
        return
    from bleepdb.encoders.runtime import tune_process

    print("settings of the process, tf_efficientnet_lite0 on the CPU, several levels:", flush=True)
    for kind in ("plain", "tuned"):
        subprocess.run([sys.executable, __file__, "settings", kind], check=True)
    tune_process()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.tif"
        made_slides.dense_slide(path)
        for name in NETWORKS:
            network(path, name)


if __name__ == "__main__":
    main()
