"""The `bleep` recipe: the published method on a frozen backbone.

Xie et al. (NeurIPS 2023) and their code: the 1,000 most variable genes of each training section,
their union; one projection head for image features and one for profiles; the loss of
`bleepdb.training.loss` at temperature 1 on embeddings that are not normalised; AdamW (learning
rate and weight decay 1e-3), batches of 256, the last incomplete one dropped; a query's image is
compared by cosine with the *expression* embeddings of the references, and the 50 nearest
profiles are averaged.

Three things differ, and are meant to. The backbone is frozen, so that recipes are compared on
equal features. Profiles are not batch-corrected: the published code runs Harmony over all
sections, the held-out one included. The last epoch is kept: choosing the epoch on a part of the
training spots was measured to be harmful.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from bleepdb.encoders import Context, Model, Projection
from bleepdb.gene_sets import highly_variable
from bleepdb.names import EXPRESSION
from bleepdb.training.affine import one_over_spread, with_context
from bleepdb.training.loss import bleep_loss
from bleepdb.training.recipes.settings import MAX_CONTEXT, require, settings_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs

NAME: Final = "bleep"


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
        )


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
    if settings.standardise is None:
        several = pairs.feature_spec.levels == "multilevel"
        settings = replace(settings, standardise=several)
    inner, outer = (r * pairs.pitch_um for r in settings.ring)
    context = Context(inner, outer, settings.context) if settings.context > 0 else None
    features = with_context(pairs, context)
    mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if settings.standardise:
        mean = features.mean(axis=0, dtype=np.float64)
        scale = one_over_spread(features)
        if context is not None:
            scale[len(scale) // 2 :] *= context.weight
    columns = variable_columns(pairs, settings.variable_genes)
    images = torch.from_numpy(((features - mean) * scale).astype(np.float32))
    profiles = torch.from_numpy(np.ascontiguousarray(pairs.profiles[:, columns]))
    heads = train_heads(images, profiles, settings, seed=seed, progress=progress)
    profile_mean = pairs.profiles.mean(axis=0, dtype=np.float64).astype(np.float32)
    every = np.arange(features.shape[1])
    zero, one = np.zeros(len(columns), np.float32), np.ones(len(columns), np.float32)
    return Model(
        recipe=NAME,
        hyper={**asdict(settings), "ring": list(settings.ring)},
        feature_spec=pairs.feature_spec,
        context=context,
        image_tower=_tower(heads[0], every, mean, scale, features.mean(axis=0), len(every)),
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
        Called with (epochs done, epochs).
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = [Head(x.shape[1], settings.dimension, settings.dropout) for x in (images, profiles)]
        weights = [p for head in heads for p in head.parameters()]
        optimiser = torch.optim.AdamW(
            weights, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        batch = min(settings.batch, len(images))
        for epoch in range(settings.epochs):
            order = torch.randperm(len(images))
            for start in range(0, len(images) - batch + 1, batch):
                rows = order[start : start + batch]
                loss = bleep_loss(
                    heads[0](images[rows]),
                    heads[1](profiles[rows]),
                    temperature=settings.temperature,
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
                optimiser.step()
            if progress is not None:
                progress(epoch + 1, settings.epochs)
    return heads[0].eval(), heads[1].eval()


def _tower(
    head: Head,
    columns: NDArray[np.int64],
    mean: NDArray[Any],
    scale: NDArray[Any],
    fill: NDArray[Any],
    inputs: int,
) -> Projection:
    def of(tensor: torch.Tensor) -> NDArray[np.float32]:
        return tensor.detach().numpy().astype(np.float32)

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
