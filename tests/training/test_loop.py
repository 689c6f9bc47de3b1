"""The loop: two ranks are one, resumed is uninterrupted, recomputed gradients are the same."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bleepdb.encoders import load_backbone
from bleepdb.errors import InputError, ModelError
from bleepdb.training.augment import Augmentation
from bleepdb.training.checkpoint import read_checkpoint, write_checkpoint
from bleepdb.training.image_encoder import ImageEncoder, OnTiles
from bleepdb.training.loop import Checkpoints, Features, Schedule, _share, train
from bleepdb.training.loss import Objective
from bleepdb.training.recipes.bleep import Head, Heads
from bleepdb.training.run import Run, one_process
from bleepdb.training.tiles import Tiles
from bleepdb.training.unfreezing import freeze_unused, recompute, unfreeze

SCRIPT = Path(__file__).with_name("two_ranks.py")


def alone():
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_torchrun(folder, *words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in ("0", "1"):
        environment = os.environ | {
            "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        ranks.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), *words],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    for one in ranks:
        said, _ = one.communicate(timeout=200)
        assert one.returncode == 0, said


def test_two_ranks_are_one_of_twice_the_batch(tmp_path):
    as_torchrun(tmp_path)
    first, second = (load_file(tmp_path / f"rank{r}.safetensors") for r in (0, 1))
    module = alone()
    with torch.random.fork_rng():
        want = module.all_runs(module.launched(1))
    assert set(first) == set(want)
    moved = 0
    for name, value in want.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-11, msg=name)
        moved += ".gradient." in f".{name.replace('/', '.')}" and bool(value.abs().max() > 1e-6)
    assert moved > 20


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does():
    assert [_share(12, r, 3) for r in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    with pytest.raises(InputError, match="batch=255"):
        _share(256, 0, 3)


def heads(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    module = Heads(Head(10, 8, dropout), Head(6, 8, dropout))
    x = torch.Generator().manual_seed(5)
    return module, Features(torch.randn((50, 10), generator=x), torch.randn((50, 6), generator=x))


def run_heads(checkpoints=None, *, epochs=4, stop_after=None, seed=0):
    """Train the heads; stop as if killed once so many spots were seen."""

    def watch(done, _):
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    with torch.random.fork_rng():
        module, data = heads(seed)
        history = train(
            one_process(), module, data, Objective(),
            [{"params": list(module.parameters()), "lr": 1e-2, "weight_decay": 1e-3}],
            Schedule(epochs, 16), seed=seed, checkpoints=checkpoints, progress=watch,
        )  # fmt: skip
    return module.state_dict(), history


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("stop_after", "every"),
    [(16 * 4, None), (16 * 8, None), (16 * 2, 1), (16 * 3, 1), (16 * 5, 1), (16 * 6, 2),
     (16 * 11, 2), (16 * 12, 1)],
)  # fmt: skip
def test_resumed_is_uninterrupted_to_the_bit(tmp_path, stop_after, every):
    want, whole = run_heads()
    kept = Checkpoints(tmp_path / "c.safetensors", {"seed": 0}, every)
    with pytest.raises(KeyboardInterrupt):
        run_heads(kept, stop_after=stop_after)
    got, history = run_heads(replace(kept, resume=True))
    assert equal(got, want)
    assert history.loss == whole.loss
    assert history.spots < 4 * 48


def test_writing_checkpoints_changes_nothing(tmp_path):
    want, _ = run_heads()
    got, _ = run_heads(Checkpoints(tmp_path / "c.safetensors", {}, 1))
    assert equal(got, want)
    assert not equal(run_heads(seed=1)[0], want)
    # What is done is done: a resumed training with nothing left to do is the result.
    again, history = run_heads(Checkpoints(tmp_path / "c.safetensors", {}, 1, resume=True))
    assert equal(again, want)
    assert history.spots == 0


def test_a_checkpoint_of_another_training_is_refused_by_name(tmp_path):
    path = tmp_path / "c.safetensors"
    here = {"seed": 0, "hyper": {"batch": 16, "ring": (0.5, 1.5)}, "processes": 1}
    write_checkpoint(path, {"x": torch.ones(3)}, configuration=here, counters={"epoch": 1})
    tensors, counters = read_checkpoint(path, here)
    assert tensors["x"].tolist() == [1, 1, 1]
    assert counters == {"epoch": 1}
    for changed, name in (
        (here | {"seed": 1}, "seed was 0, is 1"),
        (here | {"hyper": {"batch": 32, "ring": (0.5, 1.5)}}, "hyper.batch was 16, is 32"),
        (here | {"processes": 2}, "processes was 1, is 2"),
        (here | {"precision": "32"}, "precision was None, is 32"),
    ):
        with pytest.raises(ModelError, match=name):
            read_checkpoint(path, changed)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, {"x": torch.ones(300)}, configuration={}, counters={})
    whole = path.read_bytes()
    for broken in (whole[:40], whole[:-5], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match=r"c\.safetensors"):
            read_checkpoint(path, {})
    with pytest.raises(ModelError, match="--resume"):
        read_checkpoint(tmp_path / "none", {})


def on_tiles(name, levels, which, px):
    backbone = load_backbone(name, weights="random:0", device="cpu", precision="float32")
    network = backbone.network
    unfreeze(network, which)
    x = torch.rand((3, 1, 3, px, px), generator=torch.Generator().manual_seed(0))
    encoder = ImageEncoder(network, levels, (backbone.mean, backbone.std),
                           (torch.zeros(1).numpy(), torch.ones(1).numpy()),
                           torch.nn.Identity())  # fmt: skip
    freeze_unused(network, lambda: encoder.train().features(x))
    return backbone, encoder, x


@pytest.mark.parametrize(
    ("name", "px"),
    [("timm:test_vit", 160), ("timm:test_efficientnet", 64), ("timm:test_resnet", 64)],
)
@pytest.mark.parametrize("levels", ["penultimate", "multilevel"])
def test_recomputed_gradients_are_the_same(name, px, levels):
    _, encoder, x = on_tiles(name, levels, "all", px)

    def gradients():
        encoder.zero_grad()
        encoder.features(x).square().sum().backward()
        return {n: p.grad.clone() for n, p in encoder.network.named_parameters() if p.requires_grad}

    want = gradients()
    assert want
    assert all(torch.isfinite(g).all() for g in want.values())
    recompute(encoder.network)
    got = gradients()
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, rtol=1e-5, atol=1e-7, msg=key)


def test_the_features_that_train_are_those_that_are_extracted():
    for levels in ("penultimate", "multilevel"):
        backbone, encoder, _ = on_tiles("timm:test_efficientnet", levels, "all", 64)
        tiles = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)
        images = tiles[:, None].permute(0, 1, 4, 2, 3).float() / 255
        got = encoder.features(images).detach().numpy()
        want = backbone.features(tiles.numpy(), levels)
        torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=1e-5, atol=1e-5)


def test_statistics_of_batch_norms_stay_while_their_weights_train():
    _, encoder, x = on_tiles("timm:test_efficientnet", "penultimate", "all", 64)
    tiles = (x[:, :, :, :, :].permute(0, 1, 3, 4, 2) * 255).to(torch.uint8).repeat(8, 1, 1, 1, 1)
    profiles = torch.rand((24, 5))
    width = encoder.features(x).shape[1]
    encoder.head = Head(width, 8, 0.0)
    module = OnTiles(encoder, Head(5, 8, 0.0))
    before = {k: v.clone() for k, v in encoder.network.state_dict().items()}
    train(
        one_process(), module,
        Tiles([tiles.numpy()], profiles, Augmentation(), torch.Generator().manual_seed(0)),
        Objective(), [{"params": [p for p in module.parameters() if p.requires_grad], "lr": 1e-2}],
        Schedule(1, 12), seed=0,
    )  # fmt: skip
    after = encoder.network.state_dict()
    for name, value in before.items():
        still = "running_" in name or "num_batches" in name
        assert torch.equal(after[name], value) == still, name


@pytest.mark.parametrize(
    "wrong", [{"precision": "16"}, {"devices": 0}, {"nodes": 0}, {"checkpoint_steps": 0}]
)
def test_a_run_that_cannot_be_is_refused(wrong):
    with pytest.raises(InputError):
        Run(**wrong)


def test_devices_that_are_not_there_are_refused_in_one_line():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="--accelerator"):
        Run(accelerator="gpu").launch()
