"""The `bleep` recipe: the published method, on a frozen backbone or a trained one.

Xie et al. (NeurIPS 2023) and their code: the 1,000 most variable genes of each training section,
their union; one projection head for image features and one for profiles; the loss of
`bleepdb.training.loss` at temperature 1 on embeddings that are not normalised; AdamW (learning
rate and weight decay 1e-3), batches of 256, the last incomplete one dropped; a query's image is
compared by cosine with the *expression* embeddings of the references, and the 50 nearest
profiles are averaged.

Three things differ, and are meant to. The backbone is frozen unless `train_backbone` says
otherwise, so that recipes are compared on equal features; training it needs the tiles
(`bleepdb.training.end_to_end`). Profiles are not batch-corrected: the published code runs Harmony
over all sections, the held-out one included. The last epoch is kept: choosing the epoch on a part
of the training spots was measured to be harmful.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from bleepdb.encoders import Context, Model, Projection
from bleepdb.errors import InputError
from bleepdb.gene_sets import highly_variable
from bleepdb.names import EXPRESSION
from bleepdb.training.affine import one_over_spread, with_context
from bleepdb.training.loop import Features, History, Schedule, train
from bleepdb.training.loss import PUBLISHED, TARGETS, Objective
from bleepdb.training.recipes.settings import MAX_CONTEXT, as_json, require, settings_from
from bleepdb.training.run import one_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs

NAME: Final = "bleep"
FROZEN: Final = "none"
TRAINED: Final = (FROZEN, "last", "all")


@dataclass(frozen=True)
class BleepSettings:
    """Hyperparameters; the defaults are the published ones.

    Attributes
    ----------
    variable_genes
        Most variable genes of each section.
    dimension, dropout
        Of the heads.
    learning_rate, weight_decay, batch, epochs, temperature
        Of the training.
    k
        Neighbours that are averaged.
    standardise
        Whether image features are scaled to mean 0 and SD 1 on the training spots first. Levels
        of a backbone differ in scale by far, so that features of several levels need it; None:
        they get it, and penultimate features are taken as they are, as published.
    context, ring
        Weight of adjacent places in the features, and their ring as multiples of the training
        pitch; not published.
    targets, target_temperature
        ``"published"``, or ``"stable"``: from the features before the projection, with this
        temperature (`bleepdb.training.loss.stable_targets`).
    train_backbone
        ``"none"``: features are frozen. ``"last"``: the backbone's last stage or block, and what
        follows it, are trained as well; ``"all"``: all of it. Statistics of batch norms stay.
    backbone_rate
        Learning rate of the backbone.
    flips, brightness, contrast, stain
        How tiles are augmented where the backbone is trained (`bleepdb.training.augment`); the
        published code mirrors and turns them.
    """

    variable_genes: int = 1000
    dimension: int = 256
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    batch: int = 256
    epochs: int = 150
    temperature: float = 1.0
    k: int = 50
    standardise: bool | None = None
    context: float = 0.0
    ring: tuple[float, float] = (0.5, 1.5)
    targets: str = PUBLISHED
    target_temperature: float = 0.1
    train_backbone: str = FROZEN
    backbone_rate: float = 1e-5
    flips: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    stain: float = 0.0

    def __post_init__(self) -> None:
        require(
            where=NAME,
            variable_genes=self.variable_genes >= 1,
            dimension=self.dimension >= 1,
            dropout=0 <= self.dropout < 1,
            learning_rate=self.learning_rate > 0,
            weight_decay=self.weight_decay >= 0,
            batch=self.batch >= 2,
            epochs=self.epochs >= 1,
            temperature=self.temperature > 0,
            k=self.k >= 1,
            context=0 <= self.context <= MAX_CONTEXT,
            ring=0 <= self.ring[0] < self.ring[1],
            targets=self.targets in TARGETS,
            target_temperature=self.target_temperature > 0,
            train_backbone=self.train_backbone in TRAINED,
            backbone_rate=self.backbone_rate > 0,
            brightness=0 <= self.brightness < 1,
            contrast=0 <= self.contrast < 1,
            stain=0 <= self.stain < 1,
        )

    @property
    def objective(self) -> Objective:
        """The loss."""
        return Objective(self.temperature, self.targets, self.target_temperature)

    @property
    def schedule(self) -> Schedule:
        """Epochs and batch."""
        return Schedule(self.epochs, self.batch)


class Head(nn.Module):
    """BLEEP's projection head: Linear, GELU, Linear, dropout, residual, LayerNorm."""

    def __init__(self, inputs: int, dimension: int, dropout: float) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, dimension)
        self.gelu = nn.GELU()
        self.fc = nn.Linear(dimension, dimension)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dimension)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take (n, inputs) to (n, dimension)."""
        projected = self.projection(x)
        made: torch.Tensor = self.norm(self.dropout(self.fc(self.gelu(projected))) + projected)
        return made


class Heads(nn.Module):
    """The two heads as the loop trains them."""

    def __init__(self, images: nn.Module, profiles: nn.Module) -> None:
        super().__init__()
        self.images = images
        self.profiles = profiles

    def forward(
        self, images: torch.Tensor, profiles: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return both embeddings, then what was given."""
        return self.images(images), self.profiles(profiles), images, profiles


def variable_columns(pairs: Pairs, n: int) -> NDArray[np.int64]:
    """Return the union over training sections of their `n` most variable genes, rising."""
    chosen = np.zeros(len(pairs.panel), dtype=bool)
    for i in range(len(pairs.sections)):
        chosen |= highly_variable(pairs.profiles[pairs.section_of_spot == i], n)
    return np.flatnonzero(chosen)


def fit(
    pairs: Pairs,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Train the two heads; parameters as `bleepdb.training.recipes.linear.fit`.

    Returns
    -------
    Model
        Without calibration embeddings and scores.
    """
    settings = settings_from(BleepSettings, hyper, NAME)
    if settings.train_backbone != FROZEN:
        raise InputError(
            f"train_backbone={settings.train_backbone} needs the tiles, and here are features",
            hint="run `bleepdb train`, or leave train_backbone at none",
        )
    settings = with_standardise(settings, pairs)
    inner, outer = (r * pairs.pitch_um for r in settings.ring)
    context = Context(inner, outer, settings.context) if settings.context > 0 else None
    features = with_context(pairs, context)
    mean, scale = standardisation(features, settings)
    if context is not None and settings.standardise:
        scale[len(scale) // 2 :] *= context.weight
    columns = variable_columns(pairs, settings.variable_genes)
    images = torch.from_numpy(((features - mean) * scale).astype(np.float32))
    profiles = torch.from_numpy(np.ascontiguousarray(pairs.profiles[:, columns]))
    history = History()
    heads = train_heads(images, profiles, settings, seed=seed, progress=progress, history=history)
    return assemble(
        pairs,
        settings,
        heads,
        columns,
        inputs=(mean, scale, features.mean(axis=0)),
        context=context,
        seed=seed,
        loss=history.loss,
    )


def with_standardise(settings: BleepSettings, pairs: Pairs) -> BleepSettings:
    """Return settings in which `standardise` is decided."""
    if settings.standardise is not None:
        return settings
    return replace(settings, standardise=pairs.feature_spec.levels == "multilevel")


def standardisation(
    features: NDArray[Any], settings: BleepSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what is taken off features, and what they are then multiplied by, each (F,)."""
    if settings.standardise:
        return features.mean(axis=0, dtype=np.float64), one_over_spread(features)
    return np.zeros(features.shape[1]), np.ones(features.shape[1])


def assemble(
    pairs: Pairs,
    settings: BleepSettings,
    heads: tuple[Head, Head],
    columns: NDArray[np.int64],
    *,
    inputs: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    context: Context | None,
    seed: int,
    loss: list[float],
) -> Model:
    """Put trained heads into a model.

    Parameters
    ----------
    pairs, settings, heads, seed
        What was trained, how, and what came out.
    columns
        Genes of the profile head.
    inputs
        Mean and scale of the image head's inputs, and what stands for an unknown one; (F,) each.
    context
        Of the image tower.
    loss
        Mean of each epoch.
    """
    mean, scale, fill = inputs
    inner, outer = (r * pairs.pitch_um for r in settings.ring)
    profile_mean = pairs.profiles.mean(axis=0, dtype=np.float64).astype(np.float32)
    every = np.arange(len(mean))
    zero, one = np.zeros(len(columns), np.float32), np.ones(len(columns), np.float32)
    return Model(
        recipe=NAME,
        hyper=as_json(settings),
        feature_spec=pairs.feature_spec,
        context=context,
        image_tower=_tower(heads[0], every, mean, scale, fill, len(every)),
        profile_tower=_tower(heads[1], columns, zero, one, profile_mean[columns], len(pairs.panel)),
        panel=pairs.panel,
        profile_mean=profile_mean,
        components=None,
        key=EXPRESSION,
        retrieval={
            "method": "average",
            "k": settings.k,
            "temperature": 1.0,
            "smoothing": {"inner_um": inner, "outer_um": outer, "weight": 0.0},
        },
        training={
            "sections": [
                {"section": s.section, "donor": s.donor, "digest": s.digest, "spots": len(s)}
                for s in pairs.sections
            ],
            "pitch_um": pairs.pitch_um,
            "seed": seed,
            "inner_folds": "none (published hyperparameters)",
            "loss": loss,
        },
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Train on one core.

    Steps this small gain little from a second thread, and where another job has the cores they
    wait for it: two threads on two busy cores took four to nine times as long. One thread also
    adds in one order, so that the seed alone decides the result.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_heads(
    images: torch.Tensor,
    profiles: torch.Tensor,
    settings: BleepSettings,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    history: History | None = None,
) -> tuple[Head, Head]:
    """Train the image head and the profile head on all spots; both are in evaluation mode.

    Parameters
    ----------
    images, profiles
        (n, F) and (n, genes) float32.
    settings
        Hyperparameters.
    seed
        Of initial weights, dropout and the order of spots; the global generator is left alone.
    progress
        Called with (spots done, spots of all epochs).
    history
        Is told the loss of each epoch.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = Heads(
            *(Head(x.shape[1], settings.dimension, settings.dropout) for x in (images, profiles))
        )
        rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
        done = train(
            one_process(),
            heads,
            Features(images, profiles),
            settings.objective,
            [{"params": list(heads.parameters()), **rates}],
            settings.schedule,
            seed=seed,
            progress=progress,
        )
    if history is not None:
        history.loss[:] = done.loss
    heads.eval()
    return heads.images, heads.profiles  # type: ignore[return-value] # they are Heads


def _tower(
    head: Head,
    columns: NDArray[np.int64],
    mean: NDArray[Any],
    scale: NDArray[Any],
    fill: NDArray[Any],
    inputs: int,
) -> Projection:
    def of(tensor: torch.Tensor) -> NDArray[np.float32]:
        return tensor.detach().cpu().numpy().astype(np.float32)

    return Projection(
        columns=columns.astype(np.int64),
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        fill=fill.astype(np.float32),
        w1=of(head.projection.weight),
        b1=of(head.projection.bias),
        w2=of(head.fc.weight),
        b2=of(head.fc.bias),
        gain=of(head.norm.weight),
        shift=of(head.norm.bias),
        inputs=inputs,
    )
