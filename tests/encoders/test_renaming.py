"""Renamed tensors: timm's network gives what the written-out formulas give under the old names."""

from __future__ import annotations

import pytest
import timm
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from timm.layers import SwiGLUPacked
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's own pages name it

from bleepdb.encoders.renaming import renamed
from bleepdb.encoders.weights import match_all

WIDTH, DEPTH, HEADS, PATCH, PX = 48, 2, 4, 14, 56


def drawn(names_and_shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    maker = torch.Generator().manual_seed(0)
    return {k: torch.randn(s, generator=maker) * 0.2 for k, s in names_and_shapes.items()}


def linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(state, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def attention(state, names, out, x, heads):
    n, tokens, width = x.shape
    q, k, v = (linear(state, name, x).view(n, tokens, heads, -1).transpose(1, 2) for name in names)
    weights = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).softmax(dim=-1)
    return linear(state, out, (weights @ v).transpose(1, 2).reshape(n, tokens, width))


def both(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def dinov2(*, swiglu: bool, registers: int) -> dict[str, torch.Tensor]:
    """Names and shapes as a Dinov2Model of transformers stores them."""
    grid = (PX // PATCH) ** 2
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + grid, WIDTH),
        **both("embeddings.patch_embeddings.projection", WIDTH, 3, PATCH, PATCH),
        **both("layernorm", WIDTH),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, WIDTH)
    for i in range(DEPTH):
        at = f"encoder.layer.{i}."
        for kind in ("query", "key", "value"):
            shapes |= both(f"{at}attention.attention.{kind}", WIDTH, WIDTH)
        shapes |= both(f"{at}attention.output.dense", WIDTH, WIDTH)
        shapes |= both(f"{at}norm1", WIDTH) | both(f"{at}norm2", WIDTH)
        shapes |= {f"{at}layer_scale{k}.lambda1": (WIDTH,) for k in (1, 2)}
        if swiglu:
            shapes |= both(f"{at}mlp.weights_in", 256, WIDTH)
            shapes |= both(f"{at}mlp.weights_out", WIDTH, 128)
        else:
            shapes |= both(f"{at}mlp.fc1", 192, WIDTH) | both(f"{at}mlp.fc2", WIDTH, 192)
    return drawn(shapes)


def as_dinov2(state, images, *, swiglu: bool):
    """The formulas of DINOv2 with registers, read off its paper, under the old names."""
    patches = F.conv2d(
        images,
        state["embeddings.patch_embeddings.projection.weight"],
        state["embeddings.patch_embeddings.projection.bias"],
        stride=PATCH,
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([state["embeddings.cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        held = state["embeddings.register_tokens"].expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], held, x[:, 1:]], dim=1)
    for i in range(DEPTH):
        at = f"encoder.layer.{i}."
        names = [f"{at}attention.attention.{kind}" for kind in ("query", "key", "value")]
        y = attention(
            state, names, f"{at}attention.output.dense", norm(state, f"{at}norm1", x, 1e-6), HEADS
        )
        x = x + state[f"{at}layer_scale1.lambda1"] * y
        y = norm(state, f"{at}norm2", x, 1e-6)
        if swiglu:
            gate, value = linear(state, f"{at}mlp.weights_in", y).chunk(2, dim=-1)
            y = linear(state, f"{at}mlp.weights_out", F.silu(gate) * value)
        else:
            y = linear(state, f"{at}mlp.fc2", F.gelu(linear(state, f"{at}mlp.fc1", y)))
        x = x + state[f"{at}layer_scale2.lambda1"] * y
    return norm(state, "layernorm", x, 1e-6)[:, 0]


@pytest.mark.parametrize("swiglu", [False, True], ids=["gelu", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2(swiglu, registers):
    old = dinov2(swiglu=swiglu, registers=registers)
    more = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 256 / WIDTH}
    name = "vit_base_patch14_reg4_dinov2" if registers else "vit_base_patch14_dinov2"
    network = timm.create_model(
        name, img_size=PX, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0,
        **(more if swiglu else {}),
    ).eval()  # fmt: skip
    new = renamed({f"dinov2.{k}": v for k, v in old.items()})
    match_all(new, network.state_dict(), where="here")
    network.load_state_dict(new)
    images = torch.randn(2, 3, PX, PX, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(
            network(images), as_dinov2(old, images, swiglu=swiglu), rtol=1e-4, atol=1e-4
        )


def test_vit_is_dinov2_without_scales_under_other_names():
    """A ViTModel's names differ in the block alone; both must end in one network."""
    old = dinov2(swiglu=False, registers=0)
    unscaled = {k: v for k, v in old.items() if "layer_scale" not in k and "mask" not in k}
    words = {
        "norm1": "layernorm_before", "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip

    def as_vit(key):
        for ours, theirs in words.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
        return key

    vit = {as_vit(k): v for k, v in unscaled.items()} | {"pooler.dense.weight": torch.ones(2, 2)}
    new, want = renamed(vit), renamed(unscaled)
    assert set(new) == set(want)
    assert all(torch.equal(new[k], want[k]) for k in want)
    network = timm.create_model(
        "vit_base_patch16_224", patch_size=PATCH, img_size=PX, embed_dim=WIDTH, depth=DEPTH,
        num_heads=HEADS, num_classes=0,
    )  # fmt: skip
    match_all(new, network.state_dict(), where="here")


def clip() -> dict[str, torch.Tensor]:
    """Names and shapes as a CLIPModel of transformers stores them."""
    at = "vision_model."
    shapes = {
        f"{at}embeddings.class_embedding": (WIDTH,),
        f"{at}embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        f"{at}embeddings.position_embedding.weight": (1 + (PX // PATCH) ** 2, WIDTH),
        f"{at}embeddings.position_ids": (1, 17),
        **both(f"{at}pre_layrnorm", WIDTH),
        **both(f"{at}post_layernorm", WIDTH),
        "visual_projection.weight": (8, WIDTH),
        "text_projection.weight": (8, 4),
        "logit_scale": (),
        "text_model.final_layer_norm.weight": (4,),
    }
    for i in range(DEPTH):
        block = f"{at}encoder.layers.{i}."
        for kind in ("q", "k", "v", "out"):
            shapes |= both(f"{block}self_attn.{kind}_proj", WIDTH, WIDTH)
        shapes |= both(f"{block}layer_norm1", WIDTH) | both(f"{block}layer_norm2", WIDTH)
        shapes |= both(f"{block}mlp.fc1", 4 * WIDTH, WIDTH) | both(
            f"{block}mlp.fc2", WIDTH, 4 * WIDTH
        )
    return drawn(shapes)


def test_clip():
    old = clip()
    tower = VisionTransformer(
        image_size=PX, patch_size=PATCH, width=WIDTH, layers=DEPTH, heads=HEADS, mlp_ratio=4.0,
        output_dim=8, act_layer=QuickGELU,
    ).eval()  # fmt: skip
    new = renamed(old)
    match_all(new, tower.state_dict(), where="here")
    tower.load_state_dict(new)
    images = torch.randn(2, 3, PX, PX, generator=torch.Generator().manual_seed(1))
    at = "vision_model."
    x = F.conv2d(images, old[f"{at}embeddings.patch_embedding.weight"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([old[f"{at}embeddings.class_embedding"].expand(2, 1, -1), x], dim=1)
    x = norm(old, f"{at}pre_layrnorm", x + old[f"{at}embeddings.position_embedding.weight"], 1e-5)
    for i in range(DEPTH):
        block = f"{at}encoder.layers.{i}."
        names = [f"{block}self_attn.{kind}_proj" for kind in "qkv"]
        y = norm(old, f"{block}layer_norm1", x, 1e-5)
        x = x + attention(old, names, f"{block}self_attn.out_proj", y, HEADS)
        y = linear(old, f"{block}mlp.fc1", norm(old, f"{block}layer_norm2", x, 1e-5))
        x = x + linear(old, f"{block}mlp.fc2", y * torch.sigmoid(1.702 * y))
    want = norm(old, f"{at}post_layernorm", x[:, 0], 1e-5) @ old["visual_projection.weight"].T
    with torch.inference_mode():
        torch.testing.assert_close(tower(images), want, rtol=1e-4, atol=1e-4)


def test_what_is_unknown_keeps_its_name_and_is_refused():
    old = dinov2(swiglu=False, registers=0) | {"encoder.layer.0.surprise.weight": torch.ones(2)}
    assert "encoder.layer.0.surprise.weight" in renamed(old)
    trunk = {"visual.trunk.norm.weight": torch.ones(2), "text.x": torch.ones(1)}
    assert list(renamed(trunk)) == ["norm.weight"]
    plain = {"norm.weight": torch.ones(2)}
    assert renamed(plain) == plain
