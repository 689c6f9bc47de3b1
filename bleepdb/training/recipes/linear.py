"""The `linear` recipe: two closed-form towers on a frozen backbone, and retrieval between images.

1. Image features of several levels and scales, followed by half their mean over adjacent spots;
   standardised on the training spots, 256 principal axes.
2. Expression: log1p profiles, centred, 50 principal components, each divided by the square root
   of its SD.
3. The image tower is a ridge from (1) to (2). Its penalty is chosen on inner folds that leave one
   donor out, or one section where all are of one donor.
4. Keys of the atlas are reference *images* through the same tower.
5. A place takes the softmax-weighted mean of its nearest spots' profiles,
6. projected on the first 20 components, and
7. mixed with 0.3 of the mean over adjacent places.

Everything that is fitted is fitted on the training sections.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.encoders import Affine, Context, Model
from bleepdb.encoders.towers import unit
from bleepdb.gene_sets import choose
from bleepdb.imputation import effective_weights, nearest
from bleepdb.metrics import mean_score, pearson_per_gene
from bleepdb.names import IMAGE
from bleepdb.places import adjacency
from bleepdb.training.affine import ImageAxes, image_axes, principal_axes, with_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from bleepdb.training.pairs import Pairs

NAME: Final = "linear"


@dataclass(frozen=True)
class LinearSettings:
    """Hyperparameters, as measured on real sections.

    Attributes
    ----------
    axes, components, whitening
        Principal axes of the features; components of the profiles, and the power of their SD by
        which they are divided.
    alpha
        The ridge penalty; None: chosen from `alphas` on inner folds.
    alphas
        Candidates. Where there are no inner folds the largest is taken, which is the cautious one
        for a new donor.
    k, temperature
        Neighbours and their softmax.
    low_rank
        Components that are kept of an imputed profile.
    context, smoothing
        Weight of adjacent places in the features, and in the result.
    ring
        Inner and outer radius of what is adjacent, as multiples of the training pitch.
    """

    axes: int = 256
    components: int = 50
    whitening: float = 0.5
    alpha: float | None = None
    alphas: tuple[float, ...] = (1e3, 3e3, 1e4)
    k: int = 200
    temperature: float = 0.1
    low_rank: int = 20
    context: float = 0.5
    smoothing: float = 0.3
    ring: tuple[float, float] = (0.5, 1.5)


@dataclass(frozen=True)
class _Profiles:
    """Training profiles on their principal components."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    scores: NDArray[np.float64]
    spread: NDArray[np.float64]


def _context(pairs: Pairs, settings: LinearSettings) -> Context | None:
    if settings.context <= 0:
        return None
    inner, outer = (r * pairs.pitch_um for r in settings.ring)
    return Context(inner, outer, settings.context)


def _profiles(pairs: Pairs, settings: LinearSettings) -> _Profiles:
    y = pairs.profiles
    mean = y.mean(axis=0, dtype=np.float64)
    centred = y - mean
    axes, _ = principal_axes(centred, settings.components)
    scores = centred @ axes
    spread = np.maximum(scores.std(axis=0), 1e-12) ** settings.whitening
    return _Profiles(mean, axes, scores, spread)


def fit(
    pairs: Pairs,
    *,
    hyper: Mapping[str, Any] | None = None,
    seed: int = 0,
    axes: ImageAxes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Fit the recipe.

    Parameters
    ----------
    pairs
        Training sections, encoded.
    hyper
        Fields of `LinearSettings` that differ from the default.
    seed
        Recorded; nothing here is drawn.
    axes
        `image_axes` of these pairs, where they are known already.
    progress
        Called with (inner fits done, inner fits).

    Returns
    -------
    Model
        Without calibration embeddings and scores.
    """
    settings = LinearSettings(**dict(hyper or {}))
    by = "given"
    if settings.alpha is None:
        alpha, by = tune(pairs, settings, progress=progress)
        settings = replace(settings, alpha=alpha)
    assert settings.alpha is not None  # noqa: S101 - set just now
    context = _context(pairs, settings)
    on = axes or image_axes(pairs, context, settings.axes)
    of = _profiles(pairs, settings)
    matrix = on.projection @ on.solve(of.scores / of.spread, settings.alpha)
    rank = min(settings.low_rank, of.axes.shape[1])
    inner, outer = (r * pairs.pitch_um for r in settings.ring)
    return Model(
        recipe=NAME,
        hyper={**asdict(settings), "alphas": list(settings.alphas), "ring": list(settings.ring)},
        feature_spec=pairs.feature_spec,
        context=context,
        image_tower=Affine(on.mean.astype(np.float32), matrix.astype(np.float32)),
        profile_tower=Affine(of.mean.astype(np.float32), (of.axes / of.spread).astype(np.float32)),
        panel=pairs.panel,
        profile_mean=of.mean.astype(np.float32),
        components=of.axes[:, :rank].astype(np.float32) if rank else None,
        key=IMAGE,
        retrieval={
            "method": "softmax",
            "k": settings.k,
            "temperature": settings.temperature,
            "smoothing": {"inner_um": inner, "outer_um": outer, "weight": settings.smoothing},
        },
        training={
            "sections": [
                {"section": s.section, "donor": s.donor, "digest": s.digest, "spots": len(s)}
                for s in pairs.sections
            ],
            "pitch_um": pairs.pitch_um,
            "seed": seed,
            "inner_folds": by,
        },
    )


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
    return [], "none (one section)"


def tune(
    pairs: Pairs,
    settings: LinearSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, str]:
    """Choose the ridge penalty on inner folds of the training sections.

    The score of a penalty is the mean over folds and gene sets of the mean correlation per gene,
    with the whole of the recipe behind it: retrieval, low-rank map and smoothing.

    Returns
    -------
    tuple
        The penalty, and what the folds were. Without folds: the largest candidate.
    """
    folds, by = inner_folds(pairs)
    if not folds:
        return max(settings.alphas), by
    scores = np.zeros(len(settings.alphas))
    for number, held in enumerate(folds):
        inside = pairs.subset([n for n in pairs.names if n not in held])
        outside = pairs.subset(held)
        scores += _inner_scores(inside, outside, settings)
        if progress is not None:
            progress(number + 1, len(folds))
    return float(settings.alphas[int(scores.argmax())]), by


def _inner_scores(inside: Pairs, outside: Pairs, settings: LinearSettings) -> NDArray[np.float64]:
    context = _context(inside, settings)
    on = image_axes(inside, context, settings.axes)
    of = _profiles(inside, settings)
    sets = choose(inside.profiles, inside.panel)
    genes = np.unique(np.concatenate(list(sets.values())))
    where = {name: np.searchsorted(genes, chosen) for name, chosen in sets.items()}
    truth = np.concatenate([s.profiles_on(inside.panel)[:, genes] for s in outside.sections])
    queries = (with_context(outside, context) - on.mean) @ on.projection
    rank = min(settings.low_rank, of.axes.shape[1]) or of.axes.shape[1]
    made = np.zeros(len(settings.alphas))
    for i, alpha in enumerate(settings.alphas):
        tower = on.solve(of.scores / of.spread, alpha)
        keys = unit((on.scores @ tower).astype(np.float32))
        found = nearest(unit((queries @ tower).astype(np.float32)), keys, settings.k)
        W = effective_weights(
            *found, n_references=len(keys), method="softmax", temperature=settings.temperature
        )
        means = np.asarray(W @ of.scores[:, :rank])
        values = (
            of.mean[genes] + _smoothed(means, outside, inside, settings) @ of.axes[genes, :rank].T
        )
        pcc = pearson_per_gene(values, truth)
        made[i] = np.mean([mean_score(pcc[w])[0] for w in where.values() if len(w)])
    return made


def _smoothed(
    means: NDArray[np.float64], outside: Pairs, inside: Pairs, settings: LinearSettings
) -> NDArray[np.float64]:
    """Mix each place's coordinates with those of adjacent places of its section."""
    if settings.smoothing <= 0:
        return means
    inner, outer = (r * inside.pitch_um for r in settings.ring)
    parts = []
    start = 0
    for section in outside.sections:
        block = means[start : start + len(section)]
        ring = adjacency(section.positions_um, inner_um=inner, outer_um=outer)
        around = ring @ block
        alone = np.diff(ring.indptr) == 0
        around[alone] = block[alone]
        parts.append((1 - settings.smoothing) * block + settings.smoothing * around)
        start += len(section)
    return np.concatenate(parts)
