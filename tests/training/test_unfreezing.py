"""Which weights are trained, and that computing activations twice changes no gradient."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from bleepdb.encoders import load_backbone
from bleepdb.errors import ModelError
from bleepdb.training.image_encoder import ImageEncoder
from bleepdb.training.unfreezing import frozen_copy, recompute, unfreeze


def network(name):
    return load_backbone(f"timm:{name}", weights="random:0", device="cpu").network


def encoder(inner, features, levels="penultimate"):
    inputs = torch.zeros(features).numpy(), torch.ones(features).numpy()
    torch.manual_seed(1)
    pixels = (0.5,) * 3, (0.5,) * 3
    return ImageEncoder(inner, levels, pixels, inputs, nn.Linear(features, 8))


def tiles(n, px):
    return torch.rand((n, 1, 3, px, px), generator=torch.Generator().manual_seed(2))


def gradients(inner, images, features):
    made, _ = encoder(inner, features).train()(images)
    (made * torch.linspace(-1, 1, made.numel()).view_as(made)).sum().backward()
    return {k: w.grad for k, w in inner.named_parameters() if w.grad is not None}


@pytest.mark.parametrize(
    ("name", "px", "features"), [("test_efficientnet", 64, 256), ("test_vit", 160, 64)]
)
def test_recomputed_activations_give_equal_gradients(name, px, features):
    kept, again = network(name), network(name)
    calls = {"kept": 0, "again": 0}
    for key, inner in (("kept", kept), ("again", again)):
        unfreeze(inner, "all")
        for part in inner.blocks.modules():
            part.register_forward_pre_hook(lambda *_, key=key: calls.update({key: calls[key] + 1}))
    recompute(again)
    images = tiles(3, px)
    want, got = gradients(kept, images, features), gradients(again, images, features)
    assert want.keys() == got.keys()
    assert len(want) > 20
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=0)
    assert calls["again"] > calls["kept"]  # activations were thrown away and made again


def test_a_network_that_cannot_recompute_says_so():
    with pytest.raises(ModelError, match="gradient checkpointing"):
        recompute(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("test_efficientnet", ("conv_stem.", "bn1.", "blocks.0.")),
        ("test_vit", ("patch_embed.", "cls_token", "blocks.0.", "blocks.4.")),
        ("test_convnext", ("stem.", "stages.0.", "stages.2.")),
        ("test_resnet", ("conv1.", "layer1.", "layer3.")),
    ],
)
def test_the_last_stage_and_what_follows_it(name, kept):
    inner = network(name)
    chosen = unfreeze(inner, "last")
    assert chosen
    assert {n for n, w in inner.named_parameters() if w.requires_grad} == set(chosen)
    assert not [n for n in chosen if n.startswith(kept)]
    names = [n for n, _ in inner.named_parameters()]
    assert names[-1] in chosen
    assert len(unfreeze(inner, "all")) == len(names)


def test_stages_that_are_not_known_are_refused():
    with pytest.raises(ModelError, match="train_backbone=all"):
        unfreeze(nn.Sequential(nn.Linear(2, 2)), "last")


def test_what_one_tile_gives_does_not_depend_on_those_beside_it():
    inner = network("test_efficientnet")
    unfreeze(inner, "all")
    whole = encoder(inner, 256).train()
    assert whole.head.training
    together = whole(tiles(4, 64))[0]
    alone = torch.cat([whole(t[None])[0] for t in tiles(4, 64)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_trained_network_is_handed_over_frozen():
    inner = timm.create_model("test_vit", num_classes=0)
    unfreeze(inner, "all")
    recompute(inner)
    gradients(inner, tiles(1, 160), 64)
    made = frozen_copy(inner)
    assert not made.training
    assert not any(w.requires_grad or w.grad is not None for w in made.parameters())
    assert not any(getattr(m, "grad_checkpointing", False) is True for m in made.modules())
