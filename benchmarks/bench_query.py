"""The end-to-end query: 3,000 places x K neighbours on 50,000 references x 18,000 genes.

Each mode runs in a process of its own, in random order, and the medians of ROUNDS rounds are
printed beside each other:

floor
    Everything in memory, loading excluded: GEMM, top-k, and a gathered sparse average of values
    that were normalised beforehand.
hnsw, exact
    bleepdb as it is: atlas opened, search, profiles fetched, weights, values. Cold: with an empty
    cache of decoded spots, which is filled. Warm: with that cache.
naive
    The payload with every hit, decoded anew each time.
dense
    As BLEEP does it: a dense matrix in memory, loading excluded, np.average a query.

All have the same threads. REFERENCES, QUERIES, ROUNDS and THREADS choose other sizes; BENCH_FOLDER
keeps the data between runs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

REFERENCES = int(os.environ.get("REFERENCES", "50000"))
QUERIES = int(os.environ.get("QUERIES", "3000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
THREADS = os.environ.get("THREADS") or str(len(os.sched_getaffinity(0)))
JOBS = ((50, "average"), (200, "softmax"))
OURS = ("hnsw cold", "hnsw warm", "exact cold", "exact warm")
MODES = ("floor", *OURS, "naive", "dense")
GOALS = {"hnsw cold": 2.1, "hnsw warm": 1.3, "exact cold": 3.5}
TEMPERATURE = 0.1


# --- in a process of its own ------------------------------------------------------------------


def make(folder):
    """The atlas, and what floor and dense load."""
    import made
    import numpy as np

    from bleepdb.atlas import open_atlas
    from bleepdb.counts import Counts, runs_of

    spots, _ = made.spots(entropy_of=1)
    references, queries = made.embeddings(REFERENCES, QUERIES)
    np.save(folder / "references.npy", references)
    np.save(folder / "queries.npy", queries)
    with open_atlas(folder / "atlas", create=True) as atlas:
        made.fill(atlas, made.encoded(spots), references)
        atlas.optimize(made.NAME)
    counts = Counts.joined(made.GENES, [runs_of(*spot) for spot in spots])
    values = counts.normalised(counts.totals())
    matrix = values.rows(np.arange(REFERENCES) % len(spots)).sorted_indices()
    for name in ("indptr", "indices", "data"):
        np.save(folder / f"{name}.npy", getattr(matrix, name))
    dense = np.lib.format.open_memmap(
        folder / "dense.npy", "w+", np.float32, (REFERENCES, made.GENES)
    )
    for start in range(0, REFERENCES, 1000):
        dense[start : start + 1000] = matrix[start : start + 1000].toarray()
    dense.flush()


def weights_of(scores, method):
    import numpy as np

    if method == "average":
        return np.full(scores.shape, 1 / scores.shape[1], np.float32)
    w = np.exp((scores - scores.max(axis=1, keepdims=True)) / TEMPERATURE)
    return (w / w.sum(axis=1, keepdims=True)).astype(np.float32)


def brute(references, queries, k):
    import numpy as np

    columns = np.empty((len(queries), k), np.int64)
    best = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), 250):
        scores = queries[start : start + 250] @ references.T
        found = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        columns[start : start + 250] = found
        best[start : start + 250] = np.take_along_axis(scores, found, axis=1)
    return columns, best


def in_threads(function, n):
    """Call with ranges of queries, one a thread."""
    cuts = [n * i // int(THREADS) for i in range(int(THREADS) + 1)]
    with ThreadPoolExecutor(int(THREADS)) as pool:
        for done in [pool.submit(function, a, b) for a, b in pairwise(cuts)]:
            done.result()


def floor(folder, k, method, clock):
    import numpy as np
    import scipy.sparse as sp

    references, queries = np.load(folder / "references.npy"), np.load(folder / "queries.npy")
    parts = [np.load(folder / f"{name}.npy") for name in ("data", "indices", "indptr")]
    matrix = sp.csr_matrix(tuple(parts), shape=(len(references), parts[1].max() + 1))
    out = np.empty((len(queries), matrix.shape[1]), np.float32)
    clock.start()
    columns, scores = brute(references, queries, k)
    clock.lap("search")
    weights = weights_of(scores, method)

    def average(a, b):
        for i in range(a, b):
            out[i] = matrix[columns[i]].T @ weights[i]

    in_threads(average, len(queries))
    clock.lap("average")
    return out, {}


def dense(folder, k, method, clock):
    import numpy as np

    references, queries = np.load(folder / "references.npy"), np.load(folder / "queries.npy")
    clock.start()
    matrix = np.load(folder / "dense.npy")
    loading = clock.lap("loading")
    out = np.empty((len(queries), matrix.shape[1]), np.float32)
    clock.start()
    columns, scores = brute(references, queries, k)
    clock.lap("search")
    weights = weights_of(scores, method)
    for i in range(len(queries)):
        out[i] = np.average(matrix[columns[i]], axis=0, weights=weights[i])
    clock.lap("average")
    return out, {"loading": loading}


def ours(folder, k, method, clock, *, exact):
    """The same calls as `bleepdb query` makes once the tiles are encoded."""
    import made
    import numpy as np

    from bleepdb.atlas import fetch_profiles, pin
    from bleepdb.imputation import Aggregator
    from bleepdb.profiles import reference_groups
    from bleepdb.querying import QuerySettings
    from bleepdb.querying.rows import WeightRows
    from bleepdb.querying.search import refuse_damaged, search

    queries = np.load(folder / "queries.npy")
    out = np.empty((len(queries), made.GENES), np.float32)
    settings = QuerySettings(k=k, search="exact" if exact else "approximate")
    clock.start()
    with counting(folder) as atlas:
        pinned = pin(atlas, made.NAME)
        clock.lap("open")
        found = search(atlas, pinned, queries, key=made.KEY, k=k, settings=settings)
        clock.lap("search")
        profiles = fetch_profiles(atlas, made.NAME, found.ids, cache=True)
        clock.lap("fetch")
        refuse_damaged(atlas, made.NAME, found.ids, made.KEY)
        clock.lap("check")
    rows = WeightRows.of(found, queries, None, method=method, temperature=TEMPERATURE, ridge=1.0)
    panel = profiles.panels[0]
    aggregator = Aggregator(reference_groups(profiles, panel), panel)
    for block, W in rows.blocks():
        out[block] = aggregator.impute(W).values
    clock.lap("average")
    return out, {"bytes": atlas.moved, "distinct": len(found.ids), "recall": found.recall}


def naive(folder, k, method, clock):
    import made
    import numpy as np
    import scipy.sparse as sp

    from bleepdb.atlas import decode_fields, pin
    from bleepdb.normalise import log1p_cp10k

    queries = np.load(folder / "queries.npy")
    out = np.empty((len(queries), made.GENES), np.float32)
    clock.start()
    with counting(folder) as atlas:
        where = pin(atlas, made.NAME).where
        for start in range(0, len(queries), 50):
            hits = atlas.query_batch(
                made.NAME, queries[start : start + 50], using=made.KEY, limit=k, where=where
            )
            for i, (ids, scores) in enumerate(zip(hits.ids, hits.scores, strict=True), start):
                fields = ("codec", "nnz", "total", "expr")
                records = atlas.retrieve(made.NAME, ids, fields=fields)
                spots = [decode_fields(r.payload, n_genes=made.GENES) for r in records]
                values = [log1p_cp10k(c, r.payload["total"]) for (_, c), r in
                          zip(spots, records, strict=True)]  # fmt: skip
                ends = np.concatenate([[0], np.cumsum([len(v) for v in values])])
                genes = np.concatenate([g for g, _ in spots]).astype(np.int32)
                matrix = sp.csc_matrix(
                    (np.concatenate(values), genes, ends), shape=(made.GENES, len(ids))
                )
                out[i] = matrix @ weights_of(scores[None], method)[0]
    clock.lap("all")
    return out, {"bytes": atlas.moved}


def counting(folder):
    """The atlas, adding up the bytes of expression that leave it."""
    from bleepdb.atlas import EmbeddedAtlas

    class Counting(EmbeddedAtlas):
        moved = 0

        def retrieve(self, *given, **more):
            records = super().retrieve(*given, **more)
            self.moved += sum(len(r.payload.get("expr", "")) for r in records)
            return records

    return Counting(folder / "atlas")


class Clock:
    """Seconds by stage."""

    def __init__(self):
        self.laps = {}

    def start(self):
        import time

        self._now = time.perf_counter
        self.laps = {}
        self._last = self._now()

    def lap(self, name):
        now = self._now()
        self.laps[name] = now - self._last
        self._last = now
        return self.laps[name]


def peak_mb():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def child(mode, folder, k, method):
    clock = Clock()
    if mode == "make":
        make(folder)
        return
    if mode in OURS:
        out, more = ours(folder, k, method, clock, exact=mode.startswith("exact"))
    else:
        out, more = {"floor": floor, "dense": dense, "naive": naive}[mode](folder, k, method, clock)
    check = [float(out[:, ::7].sum()), float((out[::3, ::5] ** 2).sum())]
    print(json.dumps({"laps": clock.laps, "peak": peak_mb(), "check": check, **more}))


# --- in the process that was started ----------------------------------------------------------


def run(mode, folder, k=0, method="-"):
    cache = folder / f"cache-{k}-{mode.split()[0]}"
    if mode.endswith("cold"):
        shutil.rmtree(cache, ignore_errors=True)
    environment = {
        **os.environ, "BLEEPDB_CACHE": str(cache), "THREADS": THREADS,
        "OMP_NUM_THREADS": THREADS, "OPENBLAS_NUM_THREADS": THREADS,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, "--child", mode, str(folder), str(k), method],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{mode} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def median(values):
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def report(k, method, found):
    total = {mode: median([sum(r["laps"].values()) for r in runs]) for mode, runs in found.items()}
    peak = {mode: median([r["peak"] for r in runs]) for mode, runs in found.items()}
    print(f"\n{QUERIES:,} places x {k} ({method}) on {REFERENCES:,} references, {THREADS} threads")
    for mode, runs in found.items():
        laps = {name: median([r["laps"][name] for r in runs]) for name in runs[0]["laps"]}
        goal = f" (goal {GOALS[mode]})" if mode in GOALS else ""
        more = f", loading {runs[0]['loading']:.1f} s before" if "loading" in runs[0] else ""
        if "recall" in runs[0]:
            more += f", recall {runs[0]['recall']:.4f}"
        print(
            f"  {mode:10s} {total[mode]:7.2f} s  {total[mode] / total['floor']:5.2f} x floor{goal}"
            f"  peak {peak[mode]:6,.0f} MB  "
            + ", ".join(f"{name} {took:.2f}" for name, took in laps.items())
            + more
        )
    cold = found["hnsw cold"][0]
    print(
        f"  payload bytes: {cold['bytes'] / 2**20:,.0f} MB for {cold['distinct']:,} distinct spots,"
        f" {cold['bytes'] / found['naive'][0]['bytes']:.3f} of naive (goal .27)"
    )
    for mode in OURS:
        print(f"  peak memory, {mode}: {peak[mode] / peak['dense']:.3f} of dense (goal .333)")
    exact = [found[mode][0]["check"] for mode in ("floor", "dense", "naive", "exact cold")]
    apart = max(abs(a / b - 1) for row in exact for a, b in zip(row, exact[0], strict=True))
    print(f"  checksums of the exact modes agree to {apart:.1e}")


def main():
    kept = os.environ.get("BENCH_FOLDER")
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "dense.npy").is_file():
            run("make", folder)
        for k, method in JOBS:
            found = {mode: [] for mode in MODES}
            for round_ in range(ROUNDS):
                order = random.Random(round_).sample(
                    ("floor", "hnsw", "exact", "naive", "dense"), 5
                )
                for one in order:
                    for mode in (
                        (f"{one} cold", f"{one} warm") if one in {"hnsw", "exact"} else (one,)
                    ):
                        found[mode].append(run(mode, folder, k, method))
            report(k, method, found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()
