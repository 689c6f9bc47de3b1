"""Neighbours whose scores are equal at the limit: those with the lowest ids are kept."""

from __future__ import annotations

from operator import gt
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.atlas.protocol import Hits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Row = list[float]
    Found = Sequence[tuple[float, str]]


def nearest(
    rows: Sequence[Row],
    limit: int,
    search: Callable[[Sequence[Row], int], Sequence[Found]],
    *,
    at_once: int = 1000,
) -> Hits:
    """Ask an engine that breaks ties as it likes; answer with equal scores in order of rising id.

    One neighbour more than asked for tells whether points tie at the limit. Where they do, ever
    more are asked for until the last one scores less.

    Parameters
    ----------
    rows
        Query vectors.
    limit
        Neighbours a query.
    search
        Called with rows and a limit; gives (score, id) pairs a row, best first.
    at_once
        Rows a call.
    """
    ids: list[list[str]] = []
    scores: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        for row, first in zip(part, search(part, limit + 1), strict=True):
            found, asked = first, limit + 1
            while len(found) == asked and found[-1][0] == found[limit - 1][0]:
                asked *= 2
                found = search([row], asked)[0]
            values = [score for score, _ in found]
            if not all(map(gt, values, values[1:])):  # equal scores are rare
                found = sorted(found, key=lambda hit: (-hit[0], hit[1]))
                values = [score for score, _ in found]
            ids.append([identity for _, identity in found[:limit]])
            scores.append(np.array(values[:limit], dtype=np.float32))
    return Hits(ids, scores)
