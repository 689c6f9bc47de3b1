"""Search: time and recall@50 of the embedded atlas beside a GEMM with top-k in memory.

Data are clustered as tissue is (see made.py). Goals at 200k: mean recall at least .999, no query
under .9, with the HNSW settings of bleepdb (m=32, ef_construct=256, ef=128).

SIZES=10000,50000 chooses sizes; --million adds one.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import made
import numpy as np

from bleepdb.atlas import open_atlas
from bleepdb.atlas.manifest import live_where

SIZES = [int(n) for n in os.environ.get("SIZES", "10000,50000,200000").split(",")]
QUERIES, K, BATCH, ROUNDS = 1_000, 50, 500, 3


def floor(queries, references):
    """Scores and columns of the K best of each query, all in memory."""
    found = np.empty((len(queries), K), np.int64)
    for start in range(0, len(queries), 250):
        scores = queries[start : start + 250] @ references.T
        best = np.argpartition(scores, scores.shape[1] - K, axis=1)[:, -K:]
        found[start : start + 250] = best
    return found


def ask(atlas, queries, exact):
    where = live_where(atlas.read_manifest(made.NAME))
    ids = []
    for start in range(0, len(queries), BATCH):
        ids += atlas.query_batch(
            made.NAME, queries[start : start + BATCH],
            using=made.KEY, limit=K, where=where, exact=exact,
        ).ids  # fmt: skip
    return ids


def measure(size, fields):
    references, queries = made.embeddings(size, QUERIES)
    true, base = made.timed(floor, queries, references)
    base = np.median(
        [base, *(made.timed(floor, queries, references)[1] for _ in range(ROUNDS - 1))]
    )
    number = {identity: i for i, identity in enumerate(made.identities(size))}
    print(f"{size:,} references, {QUERIES:,} queries x {K}: GEMM and top-k {base:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        with open_atlas(Path(folder), create=True) as atlas:
            _, wrote = made.timed(made.fill, atlas, fields, references)
            _, built = made.timed(atlas.optimize, made.NAME)
        print(f"  written in {wrote:.0f} s, graph built in {built:.0f} s")
        with open_atlas(Path(folder)) as atlas:
            ask(atlas, queries[:10], exact=False)
            for exact in (True, False):
                found, took = made.timed(ask, atlas, queries, exact)
                took = np.median(
                    [took, *(made.timed(ask, atlas, queries, exact)[1] for _ in range(ROUNDS - 1))]
                )
                recall = np.array(
                    [
                        len({number[i] for i in ids} & set(best.tolist())) / K
                        for ids, best in zip(found, true, strict=True)
                    ]
                )
                name = "exact" if exact else "HNSW"
                print(
                    f"  {name:5s} {took:6.2f} s, {took / base:.2f} x GEMM; recall mean "
                    f"{recall.mean():.4f}, least {recall.min():.2f}"
                    + ("" if exact else " (goals .999 and .90)")
                )


def main():
    spots, _ = made.spots(500, entropy_of=1)
    fields = made.encoded(spots)
    for size in [*SIZES, *([1_000_000] if "--million" in sys.argv else [])]:
        measure(size, fields)


if __name__ == "__main__":
    main()
