"""The `kernel` recipe: a projection of image features trained so that what is retrieved predicts.

A spot's image attends to the images of training spots by a softmax over cosines, and the average
of their profiles is to vary as its own profile does: the loss is minus the correlation, within
each section, of retrieved and measured components, in the mean over components and sections (or
the squared error of the components). Spots of the same donor cannot be retrieved in training, of
the same section where there is one donor, so that no spot answers for its neighbourhood. The
temperature is learnt beside the projection.

Features, their context, low rank, smoothing and readout are those of the `linear` recipe. Several
projections from different starts (`members`) stand side by side in one vector, whose softmax is
the geometric mean of theirs. The profile tower is a ridge from profile components to what the
image tower gives, for reverse search; queries do not use it.

Related: neighbourhood components analysis (Goldberger et al., NeurIPS 2004), and attention as
kernel regression (Nadaraya 1964; Watson 1964).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from bleepdb.encoders import Affine, Joined, Model
from bleepdb.encoders.towers import side_by_side, unit, weights_of
from bleepdb.files import digest
from bleepdb.names import IMAGE
from bleepdb.splits import spatial_blocks
from bleepdb.training.affine import ImageAxes, image_axes, with_context
from bleepdb.training.recipes import card
from bleepdb.training.recipes.bleep import one_thread
from bleepdb.training.recipes.settings import as_json, settings_from
from bleepdb.training.recipes.surroundings import (
    Components,
    Embedded,
    Surroundings,
    context_of,
    near_by,
    profile_components,
    readout_with,
    totals_of,
)
from bleepdb.training.tuning import inner_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs
    from bleepdb.training.tuning import Target

NAME: Final = "kernel"
LOSSES: Final = ("correlation", "mse")
FEWEST_SPOTS: Final = 3  # of a section, for a correlation
TINY: Final = 1e-6
NEVER: Final = -1e9


@dataclass(frozen=True)
class KernelSettings(Surroundings):
    """Hyperparameters, beside those of `Surroundings`.

    Attributes
    ----------
    loss
        ``"correlation"`` or ``"mse"``.
    targets
        Components of the profiles that are predicted.
    dimension, members
        Of each projection, and how many there are.
    learning_rate, weight_decay, dropout, epochs
        Of the training by AdamW; dropout of the features' principal components.
    batch
        Spots of a step, queries and keys alike; all of them where there are fewer.
    start_temperature
        Where the learnt one starts.
    """

    loss: str = "correlation"
    targets: int = 20
    dimension: int = 128
    members: int = 3
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    dropout: float = 0.3
    epochs: int = 60
    batch: int = 4096
    start_temperature: float = 0.1

    @classmethod
    def recipe(cls) -> str:
        """Return the recipe whose settings these are."""
        return NAME

    def holds(self) -> dict[str, bool]:
        """Return, for each further hyperparameter, whether it can be used."""
        return {
            "loss": self.loss in LOSSES,
            "targets": self.targets >= 1,
            "dimension": self.dimension >= 1,
            "members": 1 <= self.members <= card.MOST_MEMBERS,
            "learning_rate": self.learning_rate > 0,
            "weight_decay": self.weight_decay >= 0,
            "dropout": 0 <= self.dropout < 1,
            "epochs": self.epochs >= 1,
            "batch": self.batch >= 2,
            "start_temperature": self.start_temperature > 0,
        }


@dataclass(frozen=True)
class Trained:
    """Projections of features on their principal axes.

    Attributes
    ----------
    projections
        (axes, dimension) float64 each; a place's vector is its scores on the axes times one.
    temperatures
        Learnt, one each.
    """

    projections: tuple[NDArray[np.float64], ...]
    temperatures: tuple[float, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """The same share for each."""
        return (1.0 / len(self.projections),) * len(self.projections)

    def vectors(self, scores: NDArray[np.float64]) -> list[NDArray[np.float32]]:
        """Return the vectors of places given by their scores on the axes, one array a member."""
        return [(scores @ p).astype(np.float32) for p in self.projections]


def groups_of(pairs: Pairs) -> tuple[NDArray[np.int64], str]:
    """Return which spots cannot be retrieved by which, (spots,) int64, and that in words.

    Spots of one group do not see each other: a donor, a section where there is one donor, and
    where there is one section a square of a third of its width.
    """
    if len(pairs.donors) > 1:
        number = {donor: i for i, donor in enumerate(pairs.donors)}
        donors = np.array([number[s.donor] for s in pairs.sections], dtype=np.int64)
        return donors[pairs.section_of_spot], "same donor"
    if len(pairs.sections) > 1:
        return pairs.section_of_spot, "same section (one donor)"
    places = pairs.sections[0].positions_um
    third = float(np.ptp(places, axis=0).max()) / 3
    return spatial_blocks(places, block_um=third + TINY), "same third of the section (one section)"


def train(
    axes: ImageAxes,
    scores: NDArray[np.float64],
    pairs: Pairs,
    settings: KernelSettings,
    *,
    seed: int,
    progress: Callable[[], None] | None = None,
) -> Trained:
    """Train the members.

    Parameters
    ----------
    axes
        Of the training spots' features.
    scores
        (spots, c) components of their profiles, centred.
    pairs
        The training spots.
    settings
        Hyperparameters.
    seed
        Of initial weights, dropout and batches; the global generator is left alone.
    progress
        Called after each member.
    """
    size = float(np.sqrt((axes.scores**2).sum(axis=1).mean())) or 1.0
    x = torch.from_numpy((axes.scores / size).astype(np.float32))
    y = torch.from_numpy(np.ascontiguousarray(scores[:, : settings.targets], np.float32))
    group = torch.from_numpy(groups_of(pairs)[0])
    section = torch.from_numpy(pairs.section_of_spot)
    projections, temperatures = [], []
    for member in range(settings.members):
        own_seed = int(digest("kernel", str(seed), str(member))[:15], 16)
        projection, temperature = train_member(x, y, group, section, settings, seed=own_seed)
        projections.append(projection / size)
        temperatures.append(temperature)
        if progress is not None:
            progress()
    return Trained(tuple(projections), tuple(temperatures))


def train_member(
    x: torch.Tensor,
    y: torch.Tensor,
    group: torch.Tensor,
    section: torch.Tensor,
    settings: KernelSettings,
    *,
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Train one projection, (axes, dimension), and its temperature; parameters as `train`."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = torch.randn(x.shape[1], settings.dimension) / np.sqrt(x.shape[1])
        projection = torch.nn.Parameter(start)
        log_scale = torch.nn.Parameter(torch.tensor(-float(np.log(settings.start_temperature))))
        optimiser = torch.optim.AdamW(
            [
                {"params": [projection], "weight_decay": settings.weight_decay},
                {"params": [log_scale], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
        )
        for _ in range(settings.epochs):
            for rows in batches(len(x), settings.batch):
                seen = torch.nn.functional.dropout(x[rows], settings.dropout)
                vectors = torch.nn.functional.normalize(seen @ projection, dim=1)
                retrieved, there = attend(vectors, y[rows], group[rows], log_scale.exp())
                loss = loss_of(retrieved, y[rows], section[rows], there, settings.loss)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
                optimiser.step()
        learnt = projection.detach().numpy().astype(np.float64)
        return learnt, float(torch.exp(-log_scale.detach()))


def batches(n: int, size: int) -> list[torch.Tensor]:
    """Return the rows of each step of an epoch: all at once, or drawn parts of about one size."""
    if n <= size:
        return [torch.arange(n)]
    return list(torch.chunk(torch.randperm(n), -(-n // size)))


def attend(
    vectors: torch.Tensor, values: torch.Tensor, group: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the values of other groups' spots by a softmax over cosines.

    Parameters
    ----------
    vectors
        (n, d) unit rows.
    values
        (n, c).
    group
        (n,) int64.
    scale
        One over the temperature.

    Returns
    -------
    tuple
        (n, c) averages, and (n,) bool whether there was any spot of another group.
    """
    same = group[:, None] == group[None, :]
    weights = torch.softmax((vectors @ vectors.T * scale).masked_fill(same, NEVER), dim=1)
    return weights @ values, ~same.all(dim=1)


def loss_of(
    retrieved: torch.Tensor,
    measured: torch.Tensor,
    section: torch.Tensor,
    there: torch.Tensor,
    kind: str,
) -> torch.Tensor:
    """Return the loss of retrieved components, (n, c), beside the measured ones.

    ``correlation``: minus the correlation over the spots of each section, in the mean over
    components and sections. ``mse``: the squared error over the squared size.
    """
    if kind == "mse":
        error = (retrieved - measured)[there].square().sum()
        return error / measured[there].square().sum().clamp_min(TINY)
    found = []
    for number in torch.unique(section):
        rows = (section == number) & there
        if int(rows.sum()) < FEWEST_SPOTS:
            continue
        r = retrieved[rows] - retrieved[rows].mean(dim=0)
        m = measured[rows] - measured[rows].mean(dim=0)
        length = torch.sqrt(r.square().sum(dim=0) * m.square().sum(dim=0) + TINY)
        found.append(((r * m).sum(dim=0) / length).mean())
    return -torch.stack(found).mean() if found else retrieved.sum() * 0.0


@dataclass(frozen=True)
class Fitted:
    """The recipe on training sections, with members trained when they are first used.

    Attributes
    ----------
    pairs, settings, seed
        What it is fitted on, and how.
    """

    pairs: Pairs
    settings: KernelSettings
    seed: int

    @cached_property
    def axes(self) -> ImageAxes:
        """Principal axes of the training features."""
        return image_axes(self.pairs, context_of(self.pairs, self.settings), self.settings.axes)

    @cached_property
    def components(self) -> Components:
        """Of the training profiles."""
        return profile_components(self.pairs, self.settings)

    @cached_property
    def trained(self) -> Trained:
        """The members."""
        return train(self.axes, self.components.scores, self.pairs, self.settings, seed=self.seed)

    def scores_of(self, others: Pairs) -> NDArray[np.float64]:
        """Return other spots on the axes."""
        seen = with_context(others, context_of(self.pairs, self.settings))
        return (seen - self.axes.mean) @ self.axes.projection

    def embed(self, others: Pairs) -> Embedded:
        """Embed other spots and the training spots."""
        weights, temperature = weights_of(self.trained.shares, self.trained.temperatures)
        queries, keys = (
            side_by_side(self.trained.vectors(s), weights)
            for s in (self.scores_of(others), self.axes.scores)
        )
        return Embedded(unit(queries), unit(keys), temperature)

    def impute(self, target: Target, coordinates: NDArray[np.float64]) -> NDArray[np.floating]:
        """Impute coordinates of held-out spots from those of the training spots, smoothed."""
        W = self.embed(target.outside).weights(totals_of(self.pairs), self.settings)
        return near_by(target, np.asarray(W @ coordinates), self.settings)

    def image_parts(self) -> list[Affine]:
        """Return the image tower of each member."""
        mean = self.axes.mean.astype(np.float32)
        on = self.axes.projection
        return [Affine(mean, (on @ p).astype(np.float32)) for p in self.trained.projections]

    def profile_parts(self) -> list[Affine]:
        """Return the profile tower of each member: a ridge to what its image tower gives."""
        of = self.components
        mean = of.mean.astype(np.float32)
        return [
            Affine(mean, (of.axes @ towards(of.scores, self.axes.scores @ p)).astype(np.float32))
            for p in self.trained.projections
        ]


def towards(scores: NDArray[np.float64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge from profile components, (n, c), to vectors, (n, d): (c, d) coefficients.

    The penalty is the mean squared length of the components, so that those that vary less than
    most count for less.
    """
    lengths = (scores**2).sum(axis=0)
    return np.asarray((scores.T @ vectors) / (lengths + lengths.mean() + TINY)[:, None])


def joined(parts: Sequence[Affine], weights: NDArray[np.float32]) -> Affine | Joined:
    """Return one tower of several parts, or the only one."""
    return parts[0] if len(parts) == 1 else Joined(tuple(parts), weights)


def fit(
    pairs: Pairs,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Fit the recipe; parameters and errors as `bleepdb.training.recipes.linear.fit`."""
    settings = settings_from(KernelSettings, hyper, NAME)
    fitted = Fitted(pairs, settings, seed)
    folds, by = inner_folds(pairs)
    steps, done = 1 + (len(folds) if settings.readout and settings.low_rank else 0), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    def impute(target: Target, inside: NDArray[np.float64]) -> NDArray[np.floating]:
        found = Fitted(target.inside, settings, seed).impute(target, inside)
        step()
        return found

    weights, temperature = weights_of(fitted.trained.shares, fitted.trained.temperatures)
    step()
    of = fitted.components
    rank = min(settings.low_rank, of.axes.shape[1])
    readout = readout_with(pairs, of, settings, impute)
    return Model(
        recipe=NAME,
        hyper=as_json(settings),
        feature_spec=pairs.feature_spec,
        context=context_of(pairs, settings),
        image_tower=joined(fitted.image_parts(), weights),
        profile_tower=joined(fitted.profile_parts(), weights),
        panel=pairs.panel,
        profile_mean=of.mean.astype(np.float32),
        components=of.axes[:, :rank].astype(np.float32) if rank else None,
        readout=readout,
        key=IMAGE,
        retrieval=card.retrieval(pairs, settings, temperature),
        training=card.training(
            pairs,
            seed=seed,
            by=by if readout is not None else card.GIVEN,
            more={"excluded_keys": groups_of(pairs)[1]},
        ),
    )
