"""Held-out sections imputed by the steps and the code of a query, with all references in memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bleepdb.imputation import (
    Aggregator,
    Group,
    LowRank,
    depth_weights,
    effective_weights,
    mappable,
    nearest,
    smooth,
)
from bleepdb.names import DEPTH_POWER, EXPRESSION
from bleepdb.places import adjacency
from bleepdb.profiles import low_rank_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.encoders import Model
    from bleepdb.panel import Panel
    from bleepdb.training import PairedSection
    from bleepdb.training.tuning import Target


@dataclass(frozen=True)
class Retrieved:
    """Weights of held-out spots on reference spots, from which any gene can be imputed.

    Attributes
    ----------
    weights
        For each held-out section (spots, references) CSR.
    groups
        The references, by panel.
    low_rank
        The model's map, or None.
    """

    weights: tuple[sp.csr_matrix, ...]
    groups: tuple[Group, ...]
    low_rank: LowRank | None

    @property
    def mapped(self) -> int:
        """References that take part in the low-rank map: those with enough of its genes."""
        if self.low_rank is None:
            return 0
        return int(mappable(self.groups, self.low_rank).sum())

    def values(self, genes: Panel, *, denoise: bool = True) -> NDArray[np.float32]:
        """Impute genes, (held-out spots, genes) float32; NaN where no neighbour measured it.

        Without `denoise` the model's low-rank map is left out, as ``query --no-denoise`` does.
        """
        aggregator = Aggregator(self.groups, genes, self.low_rank if denoise else None)
        return np.concatenate([aggregator.impute(W).values for W in self.weights])


def retrieve(
    model: Model, references: Sequence[PairedSection], held_out: Sequence[PairedSection]
) -> Retrieved:
    """Find and weigh the neighbours of held-out spots: embeddings, exact search, smoothing.

    References need not be what the model was trained on: a section that came later is encoded
    with the model as it is, and its counts are scaled on the genes that it shares with the
    model's panel, as an atlas does.

    Parameters
    ----------
    model
        Encodes all of them.
    references
        What is in the atlas.
    held_out
        What asks. No donor is excluded: what is held out must not be among the references.
    """
    keys = np.concatenate([_keys(model, section) for section in references])
    card = model.retrieval
    near = card["smoothing"]
    totals = np.concatenate([np.asarray(s.counts.sum(axis=1)).ravel() for s in references])
    own = depth_weights(totals, float(card.get(DEPTH_POWER, 0.0)))
    weights = []
    for section in held_out:
        queries = model.embed_images(section.features, section.positions_um)
        W = effective_weights(
            *nearest(queries, keys, int(card["k"])),
            n_references=len(keys),
            method=card["method"],
            temperature=float(card["temperature"]),
            reference_weights=own,
        )
        if near["weight"] > 0:
            ring = adjacency(
                section.positions_um, inner_um=near["inner_um"], outer_um=near["outer_um"]
            )
            W = smooth(W, ring, near["weight"])
        weights.append(W)
    return Retrieved(tuple(weights), _groups(model, references), low_rank_of(model))


def predict_with(model: Model, target: Target, genes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Impute the held-out sections of a fold with a model whose atlas is its training sections.

    Parameters
    ----------
    model
        Fitted on ``target.inside``.
    target
        The fold.
    genes
        Positions in the training panel.

    Returns
    -------
    numpy.ndarray
        (held-out spots, genes) float32.
    """
    found = retrieve(model, target.inside.sections, target.outside.sections)
    return found.values(target.inside.panel.take(genes))


def _keys(model: Model, section: PairedSection) -> NDArray[np.float32]:
    if model.key == EXPRESSION:
        return model.embed_profiles(section.profiles_on(model.panel))
    return model.embed_images(section.features, section.positions_um)


def _groups(model: Model, references: Sequence[PairedSection]) -> tuple[Group, ...]:
    """Group the references by the genes that they share with the model; columns in their order."""
    ends = list(accumulate((len(s) for s in references), initial=0))
    alike: dict[str, list[tuple[Panel, sp.csr_matrix, NDArray[np.int64]]]] = {}
    for section, (start, end) in zip(references, pairwise(ends), strict=True):
        shared = model.panel.take(np.sort(section.panel.match(model.panel).right))
        values = sp.csr_matrix(section.profiles_on(shared))
        columns = np.arange(start, end, dtype=np.int64)
        alike.setdefault(shared.digest, []).append((shared, values, columns))
    return tuple(
        Group(
            parts[0][0],
            np.concatenate([columns for _, _, columns in parts]),
            sp.vstack([values for _, values, _ in parts], format="csr"),
        )
        for parts in alike.values()
    )
