"""Ingest: spots a second into the embedded atlas, every check included, beside a plain file.

The peer writes the same vectors with NumPy and the same counts as one Arrow file, encoded by
nobody and checked by nobody. Goal: at least .15 of its speed.
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


def plain(folder, spots, vectors):
    """Vectors by NumPy, and counts, barcodes and sections as an Arrow file."""
    np.save(folder / "vectors.npy", vectors)
    with pa.OSFile(str(folder / "spots.arrow"), "wb") as file:
        writer = None
        for start in range(0, len(vectors), 1000):
            rows = range(start, min(start + 1000, len(vectors)))
            batch = pa.record_batch(
                {
                    "barcode": pa.array([f"b{i}" for i in rows]),
                    "section": pa.array([f"s{i // made.SECTION_SPOTS}" for i in rows]),
                    "genes": pa.array([spots[i % len(spots)][0] for i in rows]),
                    "counts": pa.array([spots[i % len(spots)][1] for i in rows]),
                }
            )
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        writer.close()
    os.sync()


def ours(folder, spots, vectors):
    """Counts to payloads, points, all checks, the commit, on disk."""
    with open_atlas(folder / "atlas", create=True) as atlas:
        made.fill(atlas, made.Fields(spots), vectors)
        atlas.flush(made.NAME)
    os.sync()


def main():
    spots, _ = made.spots(entropy_of=1)
    vectors, _ = made.embeddings(SPOTS, 1)
    took = {"plain": [], "ours": []}
    for _ in range(ROUNDS):
        for name, way in (("plain", plain), ("ours", ours)):
            with tempfile.TemporaryDirectory() as folder:
                took[name].append(made.timed(way, Path(folder), spots, vectors)[1])
    base, mine = (np.median(took[name]) for name in ("plain", "ours"))
    print(f"{SPOTS:,} spots, medians of {ROUNDS}, encoding included")
    print(f"  NumPy + Arrow file  {SPOTS / base:9,.0f} a second")
    print(f"  embedded atlas      {SPOTS / mine:9,.0f} a second")
    print(f"ingest: {base / mine:.2f} of the plain file (goal .15)")


if __name__ == "__main__":
    main()
