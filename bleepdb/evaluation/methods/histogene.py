"""A HisToGene style transformer: the spots of a section see each other.

Pang, Su and Li (2021), bioRxiv 2021.11.28.470212, and their code: the spots of a section are the
tokens of a vision transformer; a token is the projected patch plus learnt embeddings of the spot's
x and of its y on the array; after the layers, a layer norm and a linear map give all genes of all
spots at once; Adam on the mean squared error, one section a step.

What differs, and is meant to. A patch is not raw pixels but its frozen features on their 256
principal axes, so that it is compared on equal features. It is smaller (width 96 for 1,024, 2
layers for 8, 4 heads for 16) and learns faster, since it has some hundred spots to learn from. x
and y are counted in pitches from the centroid of the section, which needs no array; a place beyond
those of training takes the embedding of the outermost. Embeddings begin small. Large sections are
cut into strips of at most 4,096 tokens. Without our post-processing 100 epochs are trained, as
published; with it their number is chosen on inner folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from bleepdb.evaluation.methods.base import OUR_FEATURES, PUBLISHED, Fold, Method
from bleepdb.evaluation.methods.post import Goal, on_axes, settings_for
from bleepdb.evaluation.methods.stopping import choose_epochs
from bleepdb.training.recipes.bleep import one_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.evaluation.methods.base import FeatureKind
    from bleepdb.training import PairedSection
    from bleepdb.training.recipes.linear import LinearSettings
    from bleepdb.training.tuning import Target

FAMILY: Final = "HisToGene"
HISTOGENE_PUBLISHED: Final = "HisToGene, published features"
HISTOGENE_EQUAL: Final = "HisToGene, our features, all equal"
EPOCHS: Final = (10, 25, 50, 100)
MOST_TOKENS: Final = 4096
EMBEDDING_SD: Final = 0.02


@dataclass(frozen=True)
class Shape:
    """How large the transformer is, and how fast it learns.

    Attributes
    ----------
    width, layers, heads
        Of the transformer; its inner layers are twice as wide.
    dropout
        Share that is dropped in training.
    learning_rate
        Of Adam.
    """

    width: int = 96
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    learning_rate: float = 5e-4


SHAPE: Final = Shape()


class SpotTransformer(nn.Module):
    """Tokens of one section to values of one section."""

    def __init__(self, inputs: int, outputs: int, steps: tuple[int, int], shape: Shape) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, shape.width)
        self.x_place = nn.Embedding(steps[0], shape.width)
        self.y_place = nn.Embedding(steps[1], shape.width)
        for table in (self.x_place, self.y_place):
            nn.init.normal_(table.weight, std=EMBEDDING_SD)
        self.drop = nn.Dropout(shape.dropout)
        layers = [
            nn.TransformerEncoderLayer(
                shape.width, shape.heads, 2 * shape.width, shape.dropout, "gelu",
                batch_first=True, norm_first=True,
            )
            for _ in range(shape.layers)
        ]  # fmt: skip
        for one in layers:
            one.self_attn.dropout = 0.0  # theirs drops what attention gives, not its weights
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(shape.width)
        self.genes = nn.Linear(shape.width, outputs)
        nn.init.zeros_(self.genes.bias)

    def forward(self, features: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Take (n, inputs) and (n, 2) whole pitches to (n, outputs)."""
        placed = self.x_place(steps[:, 0]) + self.y_place(steps[:, 1])
        tokens = self.drop(self.project(features) + placed)
        made: torch.Tensor = self.genes(self.norm(self.layers(tokens[None])[0]))
        return made


def steps_of(section: PairedSection, pitch_um: float) -> NDArray[np.int64]:
    """Return how many pitches each spot is from the centroid of its section, (n, 2), rounded."""
    away = section.positions_um - section.positions_um.mean(axis=0)
    return np.asarray(np.rint(away / pitch_um), dtype=np.int64)


def strips(section: PairedSection) -> list[NDArray[np.int64]]:
    """Cut a section into strips along x of at most `MOST_TOKENS` spots; rows of each."""
    order = np.argsort(section.positions_um[:, 0], kind="stable")
    pieces = -(-len(section) // MOST_TOKENS)
    return [np.sort(rows) for rows in np.array_split(order, pieces)]


def _tokens(
    sections: Sequence[PairedSection],
    pitch_um: float,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the steps of all spots from 0 within bounds, and the rows of each strip."""
    steps = [np.clip(steps_of(s, pitch_um), low, high) - low for s in sections]
    rows, start = [], 0
    for section in sections:
        rows += [torch.from_numpy(start + r) for r in strips(section)]
        start += len(section)
    return torch.from_numpy(np.concatenate(steps)), rows


def train_transformer(
    target: Target,
    x: NDArray[Any],
    y: NDArray[Any],
    queries: NDArray[Any],
    epochs: Sequence[int],
    *,
    seed: int,
    shape: Shape = SHAPE,
) -> list[NDArray[np.float64]]:
    """Train on the training sections, and predict after each of some numbers of epochs.

    Parameters
    ----------
    target
        The fold; its positions are used.
    x, y
        (n, p) features and (n, t) targets of its training spots, both centred, of SD about 1.
    queries
        (q, p) features of its held-out spots.
    epochs
        After how many epochs to predict, in any order.
    seed
        Of weights, dropout and the order of sections; the global generator is left alone.
    shape
        How large.

    Returns
    -------
    list
        (q, t) float64 for each of `epochs`.
    """
    features, goal, asked = (torch.from_numpy(np.ascontiguousarray(a, np.float32))
                             for a in (x, y, queries))  # fmt: skip
    pitch = target.inside.pitch_um
    trained = np.concatenate([steps_of(s, pitch) for s in target.inside.sections])
    low, high = trained.min(axis=0), trained.max(axis=0)
    steps, rows = _tokens(target.inside.sections, pitch, low, high)
    asked_steps, asked_rows = _tokens(target.outside.sections, pitch, low, high)
    size = (int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1)
    made: dict[int, NDArray[np.float64]] = {}
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpotTransformer(features.shape[1], goal.shape[1], size, shape)
        optimiser = torch.optim.Adam(network.parameters(), lr=shape.learning_rate)
        for epoch in range(1, max(epochs) + 1):
            network.train()
            for number in torch.randperm(len(rows)).tolist():
                part = rows[number]
                error = network(features[part], steps[part]) - goal[part]
                optimiser.zero_grad()
                error.square().mean().backward()
                optimiser.step()
            if epoch in epochs:
                network.eval()
                values = torch.empty(len(asked), goal.shape[1])
                with torch.inference_mode():
                    for part in asked_rows:
                        values[part] = network(asked[part], asked_steps[part])
                made[epoch] = values.numpy().astype(np.float64)
    return [made[e] for e in epochs]


def transformer(
    target: Target, settings: LinearSettings, epochs: Sequence[int], *, seed: int
) -> list[NDArray[np.floating]]:
    """Train the transformer on a fold, and predict after each of some numbers of epochs."""
    axes, queries = on_axes(target, settings)
    goal = Goal.of(target, settings)
    spread = np.sqrt(np.mean(axes.scores**2))
    height = np.sqrt(np.mean(goal.values**2))
    found = train_transformer(
        target, axes.scores / spread, goal.values / height, queries / spread, epochs, seed=seed
    )
    return [goal.finish(target, values * height, settings) for values in found]


def _method(name: str, about: str, features: FeatureKind, *, post: bool) -> Method:
    settings = settings_for(post=post)

    def predict(fold: Fold) -> NDArray[np.floating]:
        def inner(target: Target, epochs: Sequence[int]) -> list[NDArray[np.floating]]:
            return transformer(target, settings, epochs, seed=fold.seed)

        target = fold.target(features)
        chosen = choose_epochs(target.inside, EPOCHS, inner) if post else max(EPOCHS)
        return inner(target, [chosen])[0]

    return Method(name, about, predict, FAMILY, features, post=post, draws=True)


METHODS: Final = (
    _method(HISTOGENE_PUBLISHED, "transformer over the spots of a section on penultimate "
            "features and positions, 100 epochs", PUBLISHED, post=False),
    _method(HISTOGENE_EQUAL, "the same on several levels and scales, context, epochs by inner "
            "folds, low rank 20, smoothing", OUR_FEATURES, post=True),
)  # fmt: skip
