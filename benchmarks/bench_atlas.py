"""Payload, ingest and search of an atlas, each beside a floor or a peer in the same run.

Made spots: about 2,700 of 18,000 genes expressed, embeddings of 64 dimensions. Set SPOTS to
change their number. Times of a shared machine vary; read the ratios.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bleepdb.atlas import (
    CollectionSpec,
    LiveSection,
    Manifest,
    Points,
    Where,
    decode_fields,
    expression_fields,
    fetch_profiles,
    open_atlas,
    point_id,
    prepare_collection,
    publish_section,
    put_panel,
    vector_crc,
)
from bleepdb.files import digest
from bleepdb.names import KEYWORD_FIELDS
from bleepdb.panel import Panel

GENES, DIMENSION, QUERIES, K = 18_000, 64, 1_000, 50
SPOTS = int(os.environ.get("SPOTS", "10000"))
DISTINCT = 2_000


def made_spots(rng):
    """Counts of distinct spots as (genes, counts), genes ordered by mean."""
    base = np.sort(np.exp(rng.normal(0, 1.55, GENES)))[::-1]
    base /= base.sum()
    spots = []
    for _ in range(DISTINCT):
        drawn = rng.poisson(rng.gamma(2.0, rng.lognormal(np.log(5200), 0.45) * base / 2.0))
        genes = np.flatnonzero(drawn)
        spots.append((genes, drawn[genes]))
    return spots


def arrow_stream(genes, counts):
    """The plain way: one Arrow stream with schema a spot."""
    batch = pa.record_batch(
        [pa.array(genes.astype(np.uint16)), pa.array(counts.astype(np.uint16))], ["gene", "count"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def timed(function, *arguments):
    start = time.perf_counter()
    value = function(*arguments)
    return value, time.perf_counter() - start


def payload(spots):
    fields, pack = timed(lambda: [expression_fields(g, c) for g, c in spots])
    _, unpack = timed(lambda: [decode_fields(f, n_genes=GENES) for f in fields])
    ours = np.mean([len(f["expr"]) for f in fields])
    stream = np.mean([len(arrow_stream(g, c)) for g, c in spots[:200]])
    dense = GENES * 4
    print(f"payload, median {np.median([len(g) for g, _ in spots]):,.0f} genes a spot")
    print(f"  bdb1 text     {ours:9,.0f} bytes   {ours / dense:.3f} of dense float32")
    print(f"  Arrow stream  {stream:9,.0f} bytes   {stream / ours:.2f} x ours")
    print(f"  dense float32 {dense:9,.0f} bytes   {dense / ours:.2f} x ours")
    print(f"  encode {pack / len(spots) * 1e6:.0f} µs, decode {unpack / len(spots) * 1e6:.0f} µs")
    return fields


def fill(atlas, fields, vectors):
    panel = Panel(tuple(f"G{i}" for i in range(GENES)))
    name, space = "bleepdb_bench_00000000", digest("bench")
    spec = CollectionSpec(name, "bleepdb_bench", {"image": DIMENSION}, KEYWORD_FIELDS)
    manifest = Manifest(
        collection=name, tissue="bench", species="human", space_id=space, model_digest=space,
        key="image", vectors={"image": DIMENSION},
    )  # fmt: skip
    prepare_collection(atlas, spec, manifest, actor="bench")
    held = put_panel(atlas, name, panel)
    revision = digest("revision")[:32]
    ids = [point_id("s", revision, f"b{i}") for i in range(len(vectors))]

    def batches():
        for start in range(0, len(vectors), 500):
            rows = range(start, min(start + 500, len(vectors)))
            payloads = [
                {
                    "rev": revision, "section": "s", "donor": "d", "species": "human",
                    "tissue": "bench", "assay": "made", "barcode": f"b{i}", "x_px": 0.0,
                    "y_px": 0.0, "panel": held,
                    "library_total": fields[i % DISTINCT]["total"],
                    "vcrc": vector_crc({"image": vectors[i]}),
                } | fields[i % DISTINCT]
                for i in rows
            ]  # fmt: skip
            block = slice(rows.start, rows.stop)
            yield Points(ids[block], {"image": vectors[block]}, payloads)

    live = LiveSection("s", revision, len(vectors), "d", digest("section"))
    _, seconds = timed(lambda: publish_section(atlas, name, live, batches(), actor="bench"))
    return name, ids, Where(must={"rev": [revision]}), seconds


def main():
    rng = np.random.default_rng(0)
    fields = payload(made_spots(rng))
    vectors = rng.normal(size=(SPOTS, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.normal(size=(QUERIES, DIMENSION)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)

    def floor():
        scores = queries @ vectors.T
        best = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        return np.take_along_axis(scores, best, axis=1)

    with tempfile.TemporaryDirectory() as folder, open_atlas(Path(folder), create=True) as atlas:
        name, ids, live, seconds = fill(atlas, fields, vectors)
        print(f"ingest, {SPOTS:,} spots: {SPOTS / seconds:,.0f} a second, all checks included")
        _, optimise = timed(atlas.optimize, name)
        print(f"index built in {optimise:.1f} s")
        _, base = timed(floor)
        for exact in (True, False):
            asked = lambda exact=exact: atlas.query_batch(  # noqa: E731 - one expression, timed
                name, queries, using="image", limit=K, where=live, exact=exact
            )
            asked()
            found, took = timed(asked)
            label = "exact" if exact else "approximate"
            line = f"search {label:11s} {QUERIES:,} x {K}: {took:.2f} s, {took / base:.2f} x NumPy"
            if not exact:
                true = np.argsort(-(queries @ vectors.T), axis=1)[:, :K]
                number = {point: i for i, point in enumerate(ids)}
                recall = [
                    len({number[p] for p in hit} & set(t.tolist())) / K
                    for hit, t in zip(found.ids, true, strict=True)
                ]
                line += f", recall mean {np.mean(recall):.4f}, least {np.min(recall):.2f}"
            print(line)
        some = ids[: min(SPOTS, 5_000)]
        _, took = timed(fetch_profiles, atlas, name, some)
        print(f"fetch and decode: {took / len(some) * 1e6:.0f} µs a distinct spot")


if __name__ == "__main__":
    main()
