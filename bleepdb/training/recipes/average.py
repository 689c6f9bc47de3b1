"""The `average` recipe: the spaces of `linear` and `kernel` in one vector.

Both recipes' unit vectors stand side by side, weighted so that the softmax over the joint dot
product is ``exp(share * kernel cosine / its temperature + (1 - share) * linear cosine / its
temperature)``: the geometric mean of the two recipes' weights. One search over one vector finds
the neighbours. On real sections this comes within 0.001 of averaging the two predictions.

The penalty of `linear` is chosen on inner folds as there, and the share where it has candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.encoders import Affine, Joined, Model
from bleepdb.encoders.towers import side_by_side, unit, weights_of
from bleepdb.names import IMAGE
from bleepdb.training.recipes import card, kernel, linear
from bleepdb.training.recipes.kernel import KernelSettings, groups_of
from bleepdb.training.recipes.linear import Folded, LinearSettings
from bleepdb.training.recipes.settings import as_json, settings_from
from bleepdb.training.recipes.surroundings import (
    Embedded,
    context_of,
    near_by,
    readout_with,
    to_genes,
    totals_of,
)
from bleepdb.training.tuning import Stage, Target, choose_among, grid, inner_folds, staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs

NAME: Final = "average"
CHOICES: Final = {"share": "shares"}
"""What inner folds may choose of the mixture, and where its candidates stand."""


@dataclass(frozen=True)
class AverageSettings(KernelSettings):
    """Hyperparameters of both recipes, and of the mixture.

    Attributes
    ----------
    alpha, alphas, temperature
        Of the linear recipe.
    share
        Of the kernel's cosine in the joint softmax; above 0 and below 1.
    shares
        Candidates for inner folds; where there are none the share stays.
    """

    alpha: float | None = None
    alphas: tuple[float, ...] = LinearSettings.alphas
    temperature: float = LinearSettings.temperature
    share: float = 0.5
    shares: tuple[float, ...] = ()

    @classmethod
    def recipe(cls) -> str:
        """Return the recipe whose settings these are."""
        return NAME

    def holds(self) -> dict[str, bool]:
        """Return, for each further hyperparameter, whether it can be used."""
        return super().holds() | {
            "alpha": self.alpha is None or self.alpha > 0,
            "alphas": len(self.alphas) > 0 and min(self.alphas) > 0,
            "temperature": self.temperature > 0,
            "share": 0 < self.share < 1,
            "shares": all(0 < s < 1 for s in self.shares),
        }

    def of(self, kind: type[Any]) -> Any:  # noqa: ANN401 - either recipe's settings
        """Return the settings of one of the two recipes."""
        return kind(
            **{f.name: getattr(self, f.name) for f in fields(kind) if hasattr(self, f.name)}
        )


class Both:
    """Both recipes on the inside of a fold, embedding its outside."""

    def __init__(self, target: Target, settings: AverageSettings, seed: int) -> None:
        self.target = target
        self.settings = settings
        self.linear = Folded.of(target, settings.of(LinearSettings))
        self.kernel = kernel.Fitted(target.inside, settings.of(KernelSettings), seed)
        self.totals = totals_of(target.inside)
        self._own: tuple[Embedded, Embedded] | None = None

    def embed(self, share: float) -> Embedded:
        """Embed the held-out and the training spots in the joint space."""
        if self._own is None:
            own = self.linear.embed(self.settings.of(LinearSettings))
            self._own = own, self.kernel.embed(self.target.outside)
        one, other = self._own
        weights, temperature = weights_of((1 - share, share), (one.temperature, other.temperature))
        return Embedded(
            unit(side_by_side([one.queries, other.queries], weights)),
            unit(side_by_side([one.keys, other.keys], weights)),
            temperature,
        )

    def impute(
        self, settings: AverageSettings, coordinates: NDArray[np.float64]
    ) -> NDArray[np.floating]:
        """Impute coordinates of the held-out spots from those of the training spots, smoothed."""
        return near_by(self.target, self._average(settings, coordinates), settings)

    def predict_each(self, candidates: Sequence[AverageSettings]) -> Iterator[NDArray[np.float64]]:
        """Impute the target's genes for settings that differ in what `CHOICES` names."""
        of = self.linear.components
        rank = min(self.settings.low_rank, of.scores.shape[1]) or of.scores.shape[1]

        def average(_: None, chosen: AverageSettings) -> NDArray[np.float64]:
            means = self._average(chosen, of.scores[:, :rank])
            return to_genes(self.target, of, means, chosen)

        return staged(candidates, [Stage(tuple(CHOICES), average)])

    def _average(
        self, settings: AverageSettings, coordinates: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        W = self.embed(settings.share).weights(self.totals, settings)
        return np.asarray(W @ coordinates)


def fit(
    pairs: Pairs,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Fit the recipe; parameters and errors as `bleepdb.training.recipes.linear.fit`."""
    settings = settings_from(AverageSettings, hyper, NAME)
    steps, done = 2 + len(inner_folds(pairs)[0]), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    penalty = linear.tune(pairs, settings.of(LinearSettings))
    settings = replace(settings, alpha=penalty.chosen.alpha)
    step()
    inner: dict[tuple[str, ...], Both] = {}

    def both(target: Target) -> Both:
        """Fit an inner fold once, for the share and for the readout."""
        if target.outside.names not in inner:
            inner[target.outside.names] = Both(target, settings, seed)
            step()
        return inner[target.outside.names]

    tried = penalty.of(lambda s: {"alpha": s.alpha})
    candidates = grid(settings, CHOICES)
    if len(candidates) > 1:
        share = choose_among(
            pairs, candidates, lambda t, c: both(t).predict_each(c), otherwise=settings
        )
        settings = share.chosen
        tried += share.of(lambda s: {name: getattr(s, name) for name in CHOICES})
    one = linear.fit(pairs, hyper=as_json(replace(settings.of(LinearSettings), readout=0.0)))
    fitted = kernel.Fitted(pairs, settings.of(KernelSettings), seed)
    own = fitted.trained
    step()
    weights, temperature = weights_of(
        (1 - settings.share, *(settings.share * s for s in own.shares)),
        (settings.temperature, *own.temperatures),
    )
    of = fitted.components
    readout = readout_with(pairs, of, settings, lambda t, inside: both(t).impute(settings, inside))
    parts = [(one.image_tower, fitted.image_parts()), (one.profile_tower, fitted.profile_parts())]
    image, profile = (
        Joined((first, *rest), weights) for first, rest in parts if isinstance(first, Affine)
    )
    return replace(
        one,
        recipe=NAME,
        hyper=as_json(settings),
        context=context_of(pairs, settings),
        image_tower=image,
        profile_tower=profile,
        readout=readout,
        key=IMAGE,
        retrieval=card.retrieval(pairs, settings, temperature),
        training=card.training(
            pairs,
            seed=seed,
            by=inner_folds(pairs)[1] if tried or readout is not None else penalty.by,
            more={"tried": tried, "excluded_keys": groups_of(pairs)[1]},
        ),
    )
