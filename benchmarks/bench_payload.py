"""Payload bytes and decode time, beside Arrow streams, dense vectors and the entropy of the model.

Goal: at most 1.7 times the entropy of what generated the counts (as bytes; base64 adds a third).
"""

from __future__ import annotations

import binascii

import made
import numpy as np
import pyarrow as pa
import zstandard

from bleepdb.atlas import decode_fields
from bleepdb.counts import runs_of

SPOTS = 2_000


def arrow_stream(genes, counts):
    """The plain way: one Arrow stream with schema a spot."""
    batch = pa.record_batch([pa.array(genes), pa.array(counts)], ["gene", "count"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read_stream(data):
    batch = pa.ipc.open_stream(data).read_next_batch()
    return batch.column(0).to_numpy(), batch.column(1).to_numpy()


def dense(genes, counts):
    row = np.zeros(made.GENES, np.float32)
    row[genes] = counts
    return row.tobytes()


def median_us(function, values, times=5):
    took = [made.timed(lambda: [function(v) for v in values])[1] for _ in range(times)]
    return np.median(took) / len(values) * 1e6


def main():
    spots, entropy = made.spots(SPOTS, entropy_of=SPOTS)
    fields, took = made.timed(made.encoded, spots)
    text = np.mean([len(f["expr"]) for f in fields])
    binary = np.mean([len(binascii.a2b_base64(f["expr"])) for f in fields])
    streams = [arrow_stream(*s) for s in spots]
    packer = zstandard.ZstdCompressor(level=3)
    rows = [
        ("entropy of the model", entropy, None),
        ("bdb1, binary", binary, None),
        ("bdb1, as stored (base64)", text, median_us(decode, fields)),
        ("Arrow stream", np.mean([len(s) for s in streams]), median_us(read_stream, streams)),
        ("Arrow stream, zstd", np.mean([len(packer.compress(s)) for s in streams]), None),
        ("dense float32", len(dense(*spots[0])), None),
    ]
    print(f"{SPOTS:,} spots, median {np.median([len(g) for g, _ in spots]):,.0f} genes")
    for name, size, us in rows:
        speed = "" if us is None else f"   decode {us:5.1f} µs"
        print(f"  {name:26s} {size:9,.0f} bytes  {size / entropy:6.2f} x entropy{speed}")
    runs = median_us(lambda s: runs_of(*s), spots)
    print(
        f"  encode {took / SPOTS * 1e6:.0f} µs a spot; by runs of equal counts, {runs:.0f} µs more"
    )
    print(
        f"payload / entropy: {binary / entropy:.2f} binary (goal 1.70), {text / entropy:.2f} text"
    )


def decode(fields):
    return decode_fields(fields, n_genes=made.GENES)


if __name__ == "__main__":
    main()
