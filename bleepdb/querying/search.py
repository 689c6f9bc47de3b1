"""Neighbours among the live spots, and what each weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bleepdb import names
from bleepdb.errors import EmptyAtlasError
from bleepdb.imputation import effective_weights, local_weights
from bleepdb.querying.settings import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.atlas import Atlas, Pinned
    from bleepdb.querying.settings import QuerySettings

QUERIES_A_BATCH = 500
VECTORS_A_BATCH = 1000
RECALL_SAMPLE = 50
VERIFIED = 1000
EXACT_PRODUCTS = 1e9  # queries x points: up to here exact search is cheap


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
        Share of true neighbours that an approximate search found on a sample; 1.0 if exact.
    """

    ids: tuple[str, ...]
    columns: NDArray[np.int32]
    scores: NDArray[np.float32]
    exact: bool
    recall: float


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
    """Find the neighbours of each vector among the live spots that are not excluded.

    Raises
    ------
    EmptyAtlasError
        If the exclusions leave nothing to search.
    """
    excluded: dict[str, Sequence[str]] = {}
    if settings.exclude_donors:
        excluded[names.DONOR] = settings.exclude_donors
    if settings.exclude_sections:
        excluded[names.SECTION] = settings.exclude_sections
    where = pinned.where.also(must_not=excluded)
    if excluded and not atlas.count(pinned.collection, where):
        raise EmptyAtlasError(
            f"nothing is left without {', '.join(v for vs in excluded.values() for v in vs)}",
            where=f"{atlas.location}/{pinned.collection}",
            hint="exclude less, or index more sections",
        )
    exact = len(vectors) * float(pinned.manifest.spots) <= EXACT_PRODUCTS
    numbers: dict[str, int] = {}
    columns = np.full((len(vectors), k), -1, dtype=np.int32)
    scores = np.zeros((len(vectors), k), dtype=np.float32)

    def ask(rows: NDArray[np.int64], *, all_points: bool) -> list[list[str]]:
        hits = atlas.query_batch(
            pinned.collection, vectors[rows], using=key, limit=k, where=where, exact=all_points
        )
        if all_points is exact:
            for row, ids, values in zip(rows, hits.ids, hits.scores, strict=True):
                columns[row, : len(ids)] = [numbers.setdefault(i, len(numbers)) for i in ids]
                scores[row, : len(ids)] = values
        return hits.ids

    for start in range(0, len(vectors), QUERIES_A_BATCH):
        rows = np.arange(start, min(start + QUERIES_A_BATCH, len(vectors)))
        ask(rows, all_points=exact)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(vectors))
    recall = 1.0
    if not exact:
        sample = np.linspace(0, len(vectors) - 1, min(RECALL_SAMPLE, len(vectors))).astype(np.int64)
        true = ask(sample, all_points=True)
        table = list(numbers)
        found = [{table[c] for c in columns[row] if c >= 0} for row in sample]
        shares = [len(f & set(t)) / max(len(t), 1) for f, t in zip(found, true, strict=True)]
        recall = float(np.mean(shares))
    return Neighbours(tuple(numbers), columns, scores, exact, recall)


def weigh(
    neighbours: Neighbours,
    vectors: NDArray[np.float32],
    keys: NDArray[np.float32] | None,
    *,
    method: str,
    temperature: float,
    ridge: float,
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
