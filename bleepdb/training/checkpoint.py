"""Checkpoints without pickle: tensors as safetensors, counters as JSON in the same file.

One file, written whole: what is there under its name can be continued from.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bleepdb.encoders.weights import state_digest
from bleepdb.errors import ModelError
from bleepdb.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

FORMAT: Final = "bleepdb-checkpoint"
VERSION: Final = 1
_ANEW: Final = "remove it and train from the beginning"


def write_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    configuration: Mapping[str, Any],
    counters: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    path
        Where; what is there is replaced.
    tensors
        Weights, optimiser state, states of generators.
    configuration
        What the training is; one of another is refused later.
    counters
        How far it is; JSON values.
    """
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "configuration": dict(configuration),
        "counters": dict(counters),
        "digest": state_digest(kept),
    }
    with whole_file(path) as part:
        save_file(kept, part, metadata={FORMAT: json.dumps(about, allow_nan=False)})


def read_checkpoint(
    path: Path, configuration: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote for the same training.

    Returns
    -------
    tuple
        Tensors by name, and counters.

    Raises
    ------
    ModelError
        If there is none, it is damaged, or it is of a training that differs; the message names
        what differs.
    """
    if not path.is_file():
        raise ModelError(
            "no such checkpoint", where=path, hint="leave out --resume to train from the beginning"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[FORMAT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        version, found, counters = about["version"], about["configuration"], about["counters"]
        sound = about["digest"] == state_digest(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ModelError(f"is no checkpoint ({error})", where=path, hint=_ANEW) from error
    if not sound or version != VERSION:
        what = "was changed since it was written" if version == VERSION else "is of another version"
        raise ModelError(what, where=path, hint=_ANEW)
    wanted = json.loads(json.dumps(dict(configuration), allow_nan=False))
    differs = _differing(found, wanted)
    if differs:
        raise ModelError(
            f"is of another training: {'; '.join(differs[:3])}",
            where=path,
            hint="train with what it was made with, or " + _ANEW,
        )
    return tensors, counters


def _differing(found: Any, wanted: Any, at: str = "") -> list[str]:  # noqa: ANN401 - JSON values
    """Name the places where two JSON documents differ, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted(found.keys() | wanted.keys())
        return [
            text
            for name in names
            for text in _differing(found.get(name), wanted.get(name), f"{at}.{name}".lstrip("."))
        ]
    return [] if found == wanted else [f"{at} was {found!s:.60}, is {wanted!s:.60}"]


def state_of(module: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Return weights, buffers and optimiser state as flat tensors."""
    made = {f"module.{name}": value for name, value in module.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        made |= {f"optimiser.{index}.{name}": torch.as_tensor(v) for name, v in values.items()}
    return made


def restore(module: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` gave."""
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "module":
            weights[rest] = value
        elif kind == "optimiser":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
    module.load_state_dict(weights)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
