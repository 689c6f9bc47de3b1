"""Inner folds: hyperparameters are chosen on training sections, never on what is held out."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from bleepdb.gene_sets import choose
from bleepdb.metrics import mean_score, pearson_per_gene
from bleepdb.places import adjacency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from bleepdb.training.pairs import PairedSection, Pairs

NO_FOLDS = "none (one section)"
Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Target:
    """What a fold is scored on: gene sets chosen inside, truth outside.

    Attributes
    ----------
    inside, outside
        Training and held-out sections.
    """

    inside: Pairs
    outside: Pairs

    @cached_property
    def sets(self) -> dict[str, NDArray[np.int64]]:
        """Gene sets chosen on the training sections: name -> positions in their panel.

        Genes that the held-out sections did not measure cannot be scored and are left out.
        """
        measured = np.zeros(len(self.inside.panel), dtype=bool)
        measured[self.inside.panel.match(self.outside.panel).left] = True
        chosen = choose(self.inside.profiles, self.inside.panel)
        return {name: found[measured[found]] for name, found in chosen.items()}

    @cached_property
    def genes(self) -> NDArray[np.int64]:
        """All genes of the sets, rising."""
        return np.unique(np.concatenate(list(self.sets.values())))

    @cached_property
    def where(self) -> dict[str, NDArray[np.int64]]:
        """Where the genes of each set stand in `genes`."""
        return {name: np.searchsorted(self.genes, found) for name, found in self.sets.items()}

    @cached_property
    def truth(self) -> NDArray[np.float32]:
        """(spots, `genes`) measured log1p profiles of the held-out sections."""
        panel = self.inside.panel
        parts = [s.profiles_on(panel)[:, self.genes] for s in self.outside.sections]
        return np.concatenate(parts)

    def score(self, values: NDArray[np.floating]) -> float:
        """Mean over gene sets of the mean correlation per gene; undefined ones count as 0."""
        pcc = pearson_per_gene(values, self.truth)
        return float(np.mean([mean_score(pcc[w])[0] for w in self.where.values() if len(w)]))


def inner_folds(pairs: Pairs) -> tuple[list[tuple[str, ...]], str]:
    """Return the sections that each inner fold holds out, and what the folds are.

    One donor at a time where there are several, else one section at a time; none where there is
    one section.
    """
    if len(pairs.donors) > 1:
        groups = [tuple(s.section for s in pairs.sections if s.donor == d) for d in pairs.donors]
        return groups, "leave one donor out"
    if len(pairs.sections) > 1:
        return [(name,) for name in pairs.names], "leave one section out (one donor)"
    return [], NO_FOLDS


@dataclass(frozen=True)
class Tuned(Generic[Candidate]):
    """What inner folds chose, and what they chose from.

    Attributes
    ----------
    chosen
        One of the candidates, or what stands in where there are no folds.
    by
        What the folds were.
    tried
        Candidates and their mean scores over the folds, in the order given; empty without folds.
    """

    chosen: Candidate
    by: str
    tried: tuple[tuple[Candidate, float], ...] = ()

    def of(self, kind: Callable[[Candidate], Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return what was tried as the card keeps it; `kind` names a candidate's values."""
        return [{"hyper": dict(kind(c)), "score": round(score, 6)} for c, score in self.tried]


def choose_among(
    pairs: Pairs,
    candidates: Sequence[Candidate],
    predict: Callable[[Target, Sequence[Candidate]], Iterable[NDArray[np.floating]]],
    *,
    otherwise: Candidate,
    progress: Callable[[int, int], None] | None = None,
) -> Tuned[Candidate]:
    """Choose among candidates by the mean score over inner folds.

    Parameters
    ----------
    pairs
        Training sections.
    candidates
        What to choose from: penalties, settings, anything that `predict` understands.
    predict
        Fits on a fold's inside and gives, for each candidate, values (spots, genes) of its
        outside for the fold's genes.
    otherwise
        What to take where there are no inner folds: the cautious choice for new tissue.
    progress
        Called with (folds done, folds).

    Raises
    ------
    ValueError
        If there are no candidates.
    """
    if not candidates:
        message = "nothing to choose from"
        raise ValueError(message)
    folds, by = inner_folds(pairs)
    if not folds:
        return Tuned(otherwise, by)
    scores = np.zeros(len(candidates))
    for number, held in enumerate(folds):
        inside = pairs.subset([n for n in pairs.names if n not in held])
        target = Target(inside, pairs.subset(held))
        scores += [target.score(values) for values in predict(target, candidates)]
        if progress is not None:
            progress(number + 1, len(folds))
    means = (scores / len(folds)).tolist()
    best = candidates[int(scores.argmax())]
    return Tuned(best, by, tuple(zip(candidates, means, strict=True)))


def choose_penalty(
    pairs: Pairs,
    candidates: Sequence[float],
    predict: Callable[[Target, Sequence[float]], Sequence[NDArray[np.floating]]],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, str]:
    """Choose a penalty by the mean score over inner folds.

    Parameters
    ----------
    pairs, candidates, predict, progress
        As `choose_among`.

    Returns
    -------
    tuple
        The penalty, and what the folds were. Without folds: the largest candidate, which is the
        cautious one for new tissue.
    """
    found = choose_among(pairs, candidates, predict, otherwise=max(candidates), progress=progress)
    return float(found.chosen), found.by


@dataclass(frozen=True)
class Stage:
    """One step of a prediction.

    Attributes
    ----------
    reads
        Names of the hyperparameters that this step depends on.
    run
        Takes what the step before gave (None for the first) and the settings.
    """

    reads: tuple[str, ...]
    run: Callable[[Any, Any], Any]


def staged(candidates: Sequence[Any], stages: Sequence[Stage]) -> Iterator[Any]:
    """Run the same steps for each candidate, and none of them twice for the same values.

    Parameters
    ----------
    candidates
        Settings. Those that agree in what early steps read are best put side by side, as `grid`
        does: of each step only the last result is kept.
    stages
        The steps, in order.

    Yields
    ------
    Any
        What the last step gives, for each candidate.
    """
    keys: list[tuple[Any, ...]] = []
    results: list[Any] = []
    for candidate in candidates:
        for number, stage in enumerate(stages):
            key = tuple(getattr(candidate, name) for name in stage.reads)
            if number < len(keys) and keys[number] == key:
                continue
            del keys[number:], results[number:]
            results.append(stage.run(results[-1] if results else None, candidate))
            keys.append(key)
        yield results[-1]


def grid(settings: Candidate, choices: Mapping[str, str]) -> tuple[Candidate, ...]:
    """Return settings with every combination of the values that are to be chosen.

    Parameters
    ----------
    settings
        A dataclass.
    choices
        Field -> field of its candidates, early steps first; the last varies fastest. A field
        whose default is None is chosen unless it is given; one with a value of its own is chosen
        where it has candidates.
    """
    defaults = {f.name: f.default for f in fields(settings)}  # type: ignore[arg-type] # a dataclass
    tried = {
        name: getattr(settings, several)
        for name, several in choices.items()
        if getattr(settings, several)
        and (getattr(settings, name) is None or defaults[name] is not None)
    }
    return tuple(
        replace(settings, **dict(zip(tried, values, strict=True)))  # type: ignore[type-var] # a dataclass
        for values in product(*tried.values())
    )


def smoothed(
    values: NDArray[np.floating],
    sections: Sequence[PairedSection],
    *,
    ring_um: tuple[float, float],
    weight: float,
) -> NDArray[np.floating]:
    """Mix the values of each place with the mean over adjacent places of its section.

    This is what smoothing the rows of W does to anything linear in it.

    Parameters
    ----------
    values
        (spots, anything), one section after the other.
    sections
        Where the spots are.
    ring_um
        Inner and outer radius of what is adjacent.
    weight
        Share of the adjacent places; 0 for none.
    """
    if weight <= 0:
        return values
    parts = []
    start = 0
    for section in sections:
        block = values[start : start + len(section)]
        ring = adjacency(section.positions_um, inner_um=ring_um[0], outer_um=ring_um[1])
        around = np.asarray(ring @ block)
        alone = np.diff(ring.indptr) == 0
        around[alone] = block[alone]
        parts.append((1 - weight) * block + weight * around)
        start += len(section)
    return np.concatenate(parts)
