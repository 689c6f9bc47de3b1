"""Tensors that a repository stores under another library's names, carried over to timm's.

The transformers library keeps query, key and value apart, where timm and open_clip stack them in
this order; else only the names differ. Every tensor is carried over or named as unknown by
`bleepdb.encoders.weights.match_all`. What has no place in an image tower (a mask token, a pooler,
a text tower) is left out by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    State = dict[str, Tensor]

_LEFT_OUT: Final = re.compile(r"pooler\.|embeddings\.mask_token$|.*position_ids$")
_VIT: Final = {
    "embeddings.cls_token": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_VIT_BLOCK: Final = {
    "layernorm_before": "norm1", "layernorm_after": "norm2",
    "norm1": "norm1", "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1", "mlp.weights_out": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma",
}  # fmt: skip
_CLIP: Final = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.patch_embedding": "conv1",
    "vision_model.pre_layrnorm": "ln_pre",
    "vision_model.post_layernorm": "ln_post",
}
_CLIP_BLOCK: Final = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def renamed(state: Mapping[str, Tensor]) -> State:
    """Return a state under timm's names (a CLIP's image tower: open_clip's), if it has others.

    Parameters
    ----------
    state
        Of a ``ViTModel``, ``Dinov2Model`` (with or without registers) or ``CLIPModel`` of
        transformers, of a whole open_clip model around a timm tower, or already of timm.
    """
    if any(key.startswith("visual.trunk.") for key in state):
        trunk = "visual.trunk."
        return {k.removeprefix(trunk): v for k, v in state.items() if k.startswith(trunk)}
    if any(key.startswith("vision_model.") for key in state):
        return _from_clip(state)
    prefix = next((p for p in ("", "vit.", "dinov2.") if f"{p}embeddings.cls_token" in state), None)
    if prefix is None:
        return dict(state)
    return _from_vit({k.removeprefix(prefix): v for k, v in state.items()})


def _from_vit(state: State) -> State:
    made = _moved(state, "encoder.layer.", _VIT, _VIT_BLOCK, "blocks.")
    for block in _blocks(state, "encoder.layer."):
        for kind in ("weight", "bias"):
            parts = [f"encoder.layer.{block}.attention.attention.{p}.{kind}" for p in _QKV]
            if all(p in state for p in parts):
                made[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([state[p] for p in parts])
    if "reg_token" in made:
        # timm gives neither class nor register tokens a position; here the class token has one.
        made["cls_token"] = made["cls_token"] + made["pos_embed"][:, :1]
        made["pos_embed"] = made["pos_embed"][:, 1:]
    return made


_QKV: Final = ("query", "key", "value")


def _from_clip(state: Mapping[str, Tensor]) -> State:
    kept = {k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_projection."))}
    before, after = "vision_model.encoder.layers.", "transformer.resblocks."
    made = _moved(kept, before, _CLIP, _CLIP_BLOCK, after)
    made["proj"] = made.pop("visual_projection.weight").T.contiguous()
    for block in _blocks(kept, before):
        for kind in ("weight", "bias"):
            parts = [f"{before}{block}.self_attn.{p}_proj.{kind}" for p in "qkv"]
            made[f"{after}{block}.attn.in_proj_{kind}"] = torch.cat([kept[p] for p in parts])
    return made


def _blocks(state: Mapping[str, Tensor], before: str) -> list[str]:
    return sorted({k.removeprefix(before).split(".")[0] for k in state if k.startswith(before)})


def _moved(
    state: Mapping[str, Tensor],
    before: str,
    outside: Mapping[str, str],
    inside: Mapping[str, str],
    after: str,
) -> State:
    """Rename all but queries, keys and values; what is unknown keeps its name."""
    made: State = {}
    for key, value in state.items():
        if _LEFT_OUT.match(key) or re.search(r"\.(query|key|value|[qkv]_proj)\.\w+$", key):
            continue
        number, _, rest = key.removeprefix(before).partition(".")
        names, name = (inside, rest) if key.startswith(before) else (outside, key)
        stem, _, tensor = name.rpartition(".")
        new = names.get(name) or (f"{names[stem]}.{tensor}" if stem in names else None)
        if new is None:
            made[key] = value
        else:
            made[f"{after}{number}.{new}" if key.startswith(before) else new] = value
    return made
