"""The `bleep` recipe with its backbone trained: tiles in, a model and a backbone out."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from bleepdb.encoders import FeatureSpec
from bleepdb.encoders.trained import trained_from
from bleepdb.errors import InputError
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.training.augment import Augmentation
from bleepdb.training.collecting import blocks_of, collect_pairs, paired, refuse_without_image
from bleepdb.training.image_encoder import ImageEncoder, OnTiles
from bleepdb.training.loop import Checkpoints, History, train
from bleepdb.training.pairs import Pairs
from bleepdb.training.recipes.bleep import (
    FROZEN,
    NAME,
    BleepSettings,
    Head,
    assemble,
    standardisation,
    variable_columns,
    with_standardise,
)
from bleepdb.training.recipes.settings import as_json, settings_from
from bleepdb.training.tile_store import stored_tiles
from bleepdb.training.tiles import Tiles
from bleepdb.training.unfreezing import freeze_unused, frozen_copy, recompute, unfreeze

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from bleepdb.encoders import Backbone, Model
    from bleepdb.tissue import Section
    from bleepdb.training.run import Run

    Progress = Callable[[int, int], None] | None

PROBED: Final = 2
"""Tiles with which it is found out which weights the features depend on."""


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes
    ----------
    model
        Without calibration embeddings.
    backbone
        Trained with it.
    history
        Loss and throughput.
    """

    model: Model
    backbone: Backbone
    history: History


def wants_tiles(recipe: str, hyper: Mapping[str, Any] | None) -> bool:
    """Tell whether a recipe with these hyperparameters trains the backbone."""
    return recipe == NAME and (hyper or {}).get("train_backbone", FROZEN) != FROZEN


def fit_on_tiles(
    sections: Sequence[Section],
    feature_spec: FeatureSpec,
    backbone: Backbone,
    fabric: Fabric,
    run: Run,
    *,
    hyper: Mapping[str, Any],
    seed: int = 0,
    max_upsampling: float = MAX_UPSAMPLING,
    decoding: Progress = None,
    progress: Progress = None,
) -> Trained:
    """Train heads and backbone.

    Parameters
    ----------
    sections
        As read, each with an image and known mpp.
    feature_spec, backbone
        What the features are, and the network from which the training starts.
    fabric, run
        Launched, and the settings that it was launched with.
    hyper
        Fields of `BleepSettings`; `train_backbone` among them.
    seed
        Of weights, dropout, order and augmentation; the global generator is left alone.
    max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    decoding, progress
        Called with (spots done, spots) while tiles are decoded, and with those of all epochs.

    Raises
    ------
    InputError
        If a hyperparameter cannot be used here, or the training does not go on.
    ModelError
        If the backbone cannot be trained so, or the checkpoint is of another training.
    """
    settings = settings_from(BleepSettings, hyper, NAME)
    if settings.context > 0:
        raise InputError(
            "adjacent places cannot be part of features that are being trained",
            hint="leave out --set context, or train_backbone",
        )
    refuse_without_image(sections)
    # One process of a node decodes; the others then find the tiles.
    with fabric.rank_zero_first(local=True):
        stores = _stores(sections, feature_spec, max_upsampling, decoding)
        pairs = _pairs(sections, feature_spec, backbone, settings, max_upsampling)
    settings = with_standardise(settings, pairs)
    columns = variable_columns(pairs, settings.variable_genes)
    profiles = torch.from_numpy(np.ascontiguousarray(pairs.profiles[:, columns]))
    inputs = _inputs(pairs, feature_spec, backbone, settings)
    checkpoints = None
    if run.checkpoint is not None:
        about = _configuration(pairs, settings, run, fabric.world_size, seed)
        checkpoints = Checkpoints(run.checkpoint, about, run.checkpoint_steps, run.resume)

    with _drawing_apart(fabric, seed):
        module = _module(backbone, settings, feature_spec, inputs, profiles.shape[1], run)
        groups = _groups(module, settings)
        data = Tiles(
            stores,
            profiles,
            Augmentation(settings.flips, settings.brightness, settings.contrast, settings.stain),
            torch.Generator().manual_seed(seed),
        )
        history = train(
            fabric,
            module,
            data,
            settings.objective,
            groups,
            settings.schedule,
            seed=seed,
            checkpoints=checkpoints,
            progress=progress,
        )

    module.to(device="cpu", dtype=torch.float32).eval()
    network = frozen_copy(module.images.network).to(backbone.device)
    trained = trained_from(backbone, network)
    # The features that training began with are not those of the model.
    there = replace(
        pairs, feature_spec=FeatureSpec.of(trained, feature_spec.levels, feature_spec.geometry)
    )
    heads = (module.images.head, module.profiles)
    model = assemble(
        there,
        settings,
        heads,  # type: ignore[arg-type] # they are Heads
        columns,
        inputs=(*inputs, inputs[0]),
        context=None,
        seed=seed,
        loss=history.loss,
    )
    return Trained(model.described(licence=backbone.licence), trained, history)


def _stores(
    sections: Sequence[Section], spec: FeatureSpec, max_upsampling: float, progress: Progress
) -> list[NDArray[np.uint8]]:
    total, before = sum(len(s) for s in sections), 0
    made = []
    for section in sections:
        assert section.slide_path is not None  # noqa: S101 - checked before

        def moved(done: int, _: int, start: int = before) -> None:
            if progress is not None:
                progress(start + done, total)

        made.append(
            stored_tiles(
                section.slide_path,
                section.xy_px,
                slide_mpp=section.known_mpp,
                geometry=spec.geometry,
                max_upsampling=max_upsampling,
                progress=moved,
            )
        )
        before += len(section)
    return made


def _pairs(
    sections: Sequence[Section],
    spec: FeatureSpec,
    backbone: Backbone,
    settings: BleepSettings,
    max_upsampling: float,
) -> Pairs:
    """Return pairs; with the features that training starts from where they are standardised."""
    wanted = settings.standardise
    if wanted or (wanted is None and spec.levels == "multilevel"):
        return collect_pairs(sections, spec, backbone, max_upsampling=max_upsampling)
    none = [paired(s, np.zeros((len(s), 0), np.float32)) for s in sections]
    return Pairs(tuple(none), spec)


def _inputs(
    pairs: Pairs, spec: FeatureSpec, backbone: Backbone, settings: BleepSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is taken off features and what they are multiplied by, for good."""
    if pairs.features.shape[1]:
        return standardisation(pairs.features, settings)
    return standardisation(np.zeros((1, len(blocks_of(spec, backbone)))), settings)


def _module(
    backbone: Backbone,
    settings: BleepSettings,
    spec: FeatureSpec,
    inputs: tuple[NDArray[np.float64], NDArray[np.float64]],
    genes: int,
    run: Run,
) -> OnTiles:
    network = deepcopy(backbone.network).to("cpu")
    unfreeze(network, settings.train_backbone)
    heads = [Head(n, settings.dimension, settings.dropout) for n in (len(inputs[0]), genes)]
    encoder = ImageEncoder(network, spec.levels, (spec.mean, spec.std), inputs, heads[0])
    px = spec.geometry.tile_px
    noise = torch.Generator().manual_seed(0)
    tiles = torch.rand((PROBED, len(spec.geometry.scales_um), 3, px, px), generator=noise)
    freeze_unused(network, lambda: encoder.train().features(tiles))
    if run.recompute:
        recompute(network)
    return OnTiles(encoder, heads[1])


def _groups(module: OnTiles, settings: BleepSettings) -> list[dict[str, Any]]:
    """Return AdamW's groups: heads, and what is trained of the backbone, at its own rate."""
    heads = [*module.images.head.parameters(), *module.profiles.parameters()]
    inside = [p for p in module.images.network.parameters() if p.requires_grad]
    return [
        {"params": heads, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": inside, "lr": settings.backbone_rate, "weight_decay": settings.weight_decay},
    ]


def _configuration(
    pairs: Pairs, settings: BleepSettings, run: Run, world: int, seed: int
) -> dict[str, Any]:
    """Say which training it is: what decides the bits of its result on a CPU."""
    return {
        "recipe": NAME,
        "hyper": as_json(settings),
        "features": pairs.feature_spec.to_json(),
        "sections": {s.section: s.digest for s in pairs.sections},
        "panel": pairs.panel.digest,
        "seed": seed,
        "processes": world,
        "precision": run.precision,
    }


@contextmanager
def _drawing_apart(fabric: Fabric, seed: int) -> Iterator[None]:
    """Seed torch's generators, and put them back as they were."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
