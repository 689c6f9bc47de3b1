"""Neighbours among the live spots, and what each weighs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bleepdb import names
from bleepdb.atlas.protocol import Hits
from bleepdb.imputation import effective_weights, local_weights
from bleepdb.querying.filters import conditions_of, refuse_empty, where_of
from bleepdb.querying.settings import AUTO, EXACT, EXACT_PRODUCTS, LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.atlas import Atlas, Pinned, Where
    from bleepdb.querying.settings import QuerySettings

QUERIES_A_BATCH = 500
VECTORS_A_BATCH = 1000
RECALL_SAMPLE = 50
DOUBTED = 0.02  # share of places whose approximate answer is asked again exactly
VERIFIED = 1000


@dataclass(frozen=True)
class Neighbours:
    """What a search found, with distinct references numbered.

    Attributes
    ----------
    ids
        References, in order of first appearance; the columns of W.
    columns
        (n, k) int32; -1 where a place has fewer neighbours.
    scores
        (n, k) float32; 0 there.
    exact
        Whether every query was compared with every point.
    recall
        Share of true neighbours that an approximate search found on a sample, in the mean; 1.0
        if exact.
    least_recall
        The same of the worst query of the sample.
    """

    ids: tuple[str, ...]
    columns: NDArray[np.int32]
    scores: NDArray[np.float32]
    exact: bool
    recall: float
    least_recall: float = 1.0

    @property
    def said(self) -> str:
        """One clause on how the search was done, for a person to read."""
        if self.exact:
            return "exact search"
        return (
            f"approximate search, recall {self.recall:.4f} in the mean and {self.least_recall:.2f} "
            f"at least on {min(RECALL_SAMPLE, len(self.columns))} sampled places"
        )


def search(
    atlas: Atlas,
    pinned: Pinned,
    vectors: NDArray[np.float32],
    *,
    key: str,
    k: int,
    settings: QuerySettings,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Find the neighbours of each vector among the live spots that the settings allow.

    With a quota a donor, each donor's best are found first and then the best of all of them,
    which is what going down the whole list and passing over a donor whose quota is full gives.

    Raises
    ------
    EmptyAtlasError
        If the conditions leave nothing to search.
    """
    conditions = conditions_of(settings)
    where = where_of(pinned, settings)
    refuse_empty(atlas, pinned, where, conditions)
    if settings.search == AUTO:
        exact = len(vectors) * float(pinned.manifest.spots) <= EXACT_PRODUCTS
    else:
        exact = settings.search == EXACT
    numbers: dict[str, int] = {}
    columns = np.full((len(vectors), k), -1, dtype=np.int32)
    scores = np.zeros((len(vectors), k), dtype=np.float32)
    donors = None
    if settings.per_donor is not None:
        donors = list(atlas.facet(pinned.collection, names.DONOR, where))

    def ask(rows: NDArray[np.int64], *, all_points: bool) -> Hits:
        def best(among: Where, limit: int) -> Hits:
            return atlas.query_batch(
                pinned.collection,
                vectors[rows],
                using=key,
                limit=limit,
                where=among,
                exact=all_points,
            )

        if donors is None:
            return best(where, k)
        most = min(k, settings.per_donor or k)
        return _merged([best(where.also(must={names.DONOR: [d]}), most) for d in donors], k)

    def answer(rows: NDArray[np.int64], *, all_points: bool) -> None:
        hits = ask(rows, all_points=all_points)
        for row, ids, values in zip(rows, hits.ids, hits.scores, strict=True):
            columns[row] = -1
            scores[row] = 0.0
            columns[row, : len(ids)] = [numbers.setdefault(i, len(numbers)) for i in ids]
            scores[row, : len(ids)] = values

    for start in range(0, len(vectors), QUERIES_A_BATCH):
        rows = np.arange(start, min(start + QUERIES_A_BATCH, len(vectors)))
        answer(rows, all_points=exact)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(vectors))
    if not exact and len(vectors):
        # A graph now and then loses a whole query and gives spots of another part of the tissue.
        # Such answers are far away, so that the furthest ones are asked again, of every point.
        doubted = np.argsort(scores[:, 0], kind="stable")[: math.ceil(DOUBTED * len(vectors))]
        for start in range(0, len(doubted), QUERIES_A_BATCH):
            answer(np.sort(doubted[start : start + QUERIES_A_BATCH]), all_points=True)
        numbers, columns = _renumbered(list(numbers), columns)
    recalls = np.ones(1)
    if not exact and len(vectors):
        sample = np.linspace(0, len(vectors) - 1, min(RECALL_SAMPLE, len(vectors))).astype(np.int64)
        true = ask(sample, all_points=True).ids
        table = list(numbers)
        found = [{table[c] for c in columns[row] if c >= 0} for row in sample]
        recalls = np.array(
            [len(f & set(t)) / max(len(t), 1) for f, t in zip(found, true, strict=True)]
        )
    return Neighbours(
        tuple(numbers), columns, scores, exact, float(recalls.mean()), float(recalls.min())
    )


def _renumbered(
    ids: Sequence[str], columns: NDArray[np.int32]
) -> tuple[dict[str, int], NDArray[np.int32]]:
    """Give references new numbers, in order of first appearance, but for those in no row."""
    used, first = np.unique(columns[columns >= 0], return_index=True)
    order = used[np.argsort(first)]
    new = np.full(len(ids) + 1, -1, dtype=np.int32)  # the last one is for -1
    new[order] = np.arange(len(order))
    return {ids[old]: number for number, old in enumerate(order)}, new[columns]


def _merged(parts: Sequence[Hits], k: int) -> Hits:
    """Return the k best of each query over several answers, equal scores in order of id."""
    ids: list[list[str]] = []
    scores: list[NDArray[np.float32]] = []
    for row in range(len(parts[0].ids)):
        pairs = sorted(
            (-float(score), identity)
            for part in parts
            for identity, score in zip(part.ids[row], part.scores[row], strict=True)
        )[:k]
        ids.append([identity for _, identity in pairs])
        scores.append(np.array([-score for score, _ in pairs], dtype=np.float32))
    return Hits(ids, scores)


def weigh(
    neighbours: Neighbours,
    vectors: NDArray[np.float32],
    keys: NDArray[np.float32] | None,
    *,
    method: str,
    temperature: float,
    ridge: float,
    reference_weights: NDArray[np.float64] | None = None,
) -> sp.csr_matrix:
    """Turn neighbours into W before smoothing, (n, references) CSR float32; see `METHODS`."""
    if method == LOCAL:
        if keys is None:
            message = "the local method needs the neighbours' vectors"
            raise ValueError(message)
        return local_weights(vectors, keys, neighbours.columns, ridge=ridge)
    return effective_weights(
        neighbours.scores,
        neighbours.columns,
        n_references=len(neighbours.ids),
        method=method,
        temperature=temperature,
        reference_weights=reference_weights,
    )


def refuse_damaged(atlas: Atlas, collection: str, ids: Sequence[str], key: str) -> None:
    """Hold the vectors of a sample of the neighbours against their checksums.

    A search trusts the stored vectors, and what a damaged file gives are neighbours too.

    Raises
    ------
    AtlasCorruptError
        If a vector is not what was written.
    """
    vectors_of(atlas, collection, ids[:: 1 + len(ids) // VERIFIED], key)


def vectors_of(atlas: Atlas, collection: str, ids: Sequence[str], key: str) -> NDArray[np.float32]:
    """Return the key vectors of points, (n, d) float32, in the order asked."""
    parts = []
    for start in range(0, len(ids), VECTORS_A_BATCH):
        records = atlas.retrieve(
            collection, ids[start : start + VECTORS_A_BATCH], fields=[], with_vectors=True
        )
        parts += [record.vectors[key] for record in records if record.vectors is not None]
    return np.stack(parts)
