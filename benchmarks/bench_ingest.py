"""Ingest: spots a second into the embedded atlas, every check included, beside plain files.

Three peers, since they answer different questions, each with NumPy for the vectors:

encoded by both
    From raw counts to an Arrow file of payloads in our codec. The same work but for the engine,
    the checks, the indexes and the commit.
same payloads
    The same where the payloads are there already and neither side encodes: a file that only copies.
raw counts
    An Arrow file of raw genes and counts beside our whole way: a file four times as large.

Goal: at least .15 of the speed of a plain file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import made
import numpy as np
import pyarrow as pa

from bleepdb.atlas import open_atlas

SPOTS = int(os.environ.get("SPOTS", "20000"))
ROUNDS = 3


def plain(folder, spots, vectors, columns):
    """Vectors by NumPy, and all else as an Arrow file."""
    np.save(folder / "vectors.npy", vectors)
    with pa.OSFile(str(folder / "spots.arrow"), "wb") as file:
        writer = None
        for start in range(0, len(vectors), 1000):
            rows = range(start, min(start + 1000, len(vectors)))
            batch = pa.record_batch(
                {
                    "barcode": pa.array([f"b{i}" for i in rows]),
                    "section": pa.array([f"s{i // made.SECTION_SPOTS}" for i in rows]),
                    **columns([spots[i % len(spots)] for i in rows]),
                }
            )
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        writer.close()
    os.sync()


def raw(spots):
    return {"genes": pa.array([g for g, _ in spots]), "counts": pa.array([c for _, c in spots])}


def payloads(fields):
    return {name: pa.array([f[name] for f in fields]) for name in fields[0]}


def ours(folder, fields, vectors):
    """Points, all checks, the commit, on disk."""
    with open_atlas(folder / "atlas", create=True) as atlas:
        made.fill(atlas, fields, vectors)
        atlas.flush(made.NAME)
    os.sync()


def median_s(way, *given):
    took = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            took.append(made.timed(way, Path(folder), *given)[1])
    return np.median(took)


def main():
    spots, _ = made.spots(entropy_of=1)
    vectors, _ = made.embeddings(SPOTS, 1)
    fields, encoding = made.timed(made.encoded, spots)
    alone = len(spots) / encoding
    print(f"{SPOTS:,} spots, medians of {ROUNDS}; encoding alone {alone:,.0f} a second")
    for name, peer, mine in (
        ("encoded by both", (made.Fields(spots), vectors, payloads), made.Fields(spots)),
        ("same payloads", (fields, vectors, payloads), fields),
        ("raw counts", (spots, vectors, raw), made.Fields(spots)),
    ):
        base, took = median_s(plain, *peer), median_s(ours, mine, vectors)
        print(
            f"  {name:15s} plain file {SPOTS / base:8,.0f} a second, embedded atlas "
            f"{SPOTS / took:7,.0f}: {base / took:.2f} of it (goal .15)"
        )


if __name__ == "__main__":
    main()
