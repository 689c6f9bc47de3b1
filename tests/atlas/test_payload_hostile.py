"""Payloads that are broken, contradict themselves, or want to be bombs."""

from __future__ import annotations

import base64
import struct
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from bleepdb.atlas import decode, decode_fields, expression_fields
from bleepdb.atlas.digests import point_digest
from bleepdb.errors import PayloadError

GENES = 18_000


def based(data):
    return base64.b64encode(data).decode()


def wrapped(message, *, checksum=True, size=True, level=3):
    compressor = zstandard.ZstdCompressor(
        level=level, write_checksum=checksum, write_content_size=size
    )
    return based(compressor.compress(message))


def message_of(planes, schema=None, **options):
    arrays = [pa.array(np.asarray(p, dtype=np.uint8)) for p in planes]
    names = [f"p{i}" for i in range(len(planes))]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema, names=None if schema else names)
    if not options:
        return batch.serialize().to_pybytes()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_batch(batch)
    # A stream is the schema's message, the batch's, and an end mark of eight bytes.
    stream = sink.getvalue().to_pybytes()
    reader = pa.BufferReader(stream)
    pa.ipc.read_message(reader)
    return stream[reader.tell() : -8]


PLANES = ([1, 2, 3], [0, 0, 0], [5, 6, 7], [0, 0, 0])  # genes 1, 3, 6; counts 5, 6, 7
GOOD = message_of(PLANES)


def read(text, *, n_genes=10, nnz=3, total=18, codec="bdb1"):
    return decode(text, n_genes=n_genes, nnz=nnz, total=total, codec=codec)


def test_the_hand_made_message_is_good():
    genes, counts = read(wrapped(GOOD))
    assert genes.tolist() == [1, 3, 6]
    assert counts.tolist() == [5, 6, 7]


def with_nulls():
    columns = [pa.array(p, pa.uint8()) for p in PLANES]
    columns[2] = pa.array([5, None, 7], pa.uint8())
    return pa.RecordBatch.from_arrays(columns, names=list("abcd")).serialize().to_pybytes()


def changed(at, value, kind):
    made = bytearray(GOOD)
    struct.pack_into(kind, made, at, value)
    return bytes(made)


def pair(first, second):
    """Where a buffer or column of these two 64-bit numbers stands in the good message."""
    return GOOD.index(struct.pack("<qq", first, second), 8)


METADATA = struct.unpack_from("<I", GOOD, 4)[0]
BODY_LENGTH = GOOD.index(struct.pack("<q", len(GOOD) - 8 - METADATA), 8)


MALFORMED = {
    "no text": (None, "not text"),
    "bytes": (wrapped(GOOD).encode(), "not text"),
    "empty": ("", "zstd frame is broken"),
    "line break": (wrapped(GOOD)[:20] + "\n" + wrapped(GOOD)[20:], "no strict base64"),
    "blank": (" " + wrapped(GOOD), "no strict base64"),
    "no padding": (based(b"abcd").rstrip("="), "no strict base64"),
    "url alphabet": ("-_" + wrapped(GOOD)[2:], "no strict base64"),
    "not ascii": ("é" + wrapped(GOOD)[1:], "no strict base64"),
    "lone surrogate": ("\ud800" + wrapped(GOOD)[1:], "no strict base64"),
    "text after padding": (based(b"abcd") + "AAAA", "no strict base64"),
    "no zstd": (based(b"x" * 50), "zstd frame is broken"),
    "no checksum": (wrapped(GOOD, checksum=False), "lacks its checksum"),
    "no content size": (wrapped(GOOD, size=False), "declares more bytes"),
    "two frames": (based(base64.b64decode(wrapped(GOOD)) * 2), "unused data"),
    "bytes after the frame": (based(base64.b64decode(wrapped(GOOD)) + b"\0"), "unused data"),
    "frame cut off": (based(base64.b64decode(wrapped(GOOD))[:-1]), "did not decompress"),
    "skippable frame": (based(struct.pack("<II", 0x184D2A50, 4) + b"abcd"), "lacks its checksum"),
    "too large": (wrapped(GOOD + bytes(2000)), "declares more bytes"),
    "bytes after the message": (wrapped(GOOD + bytes(8)), "not exactly one"),
    "two messages": (wrapped(GOOD + GOOD), "not exactly one"),
    "message cut off": (wrapped(GOOD[:-1]), "not exactly one"),
    "metadata cut off": (wrapped(GOOD[:100]), "is cut off"),
    "only a prefix": (wrapped(GOOD[:6]), "points outside"),
    "no message": (wrapped(b"hello, world" * 10), "no Arrow message"),
    "schema message": (
        wrapped(pa.schema([("d0", pa.uint8())]).serialize().to_pybytes()),
        "no record batch",
    ),
    "whole stream": (
        wrapped(pa.schema([("d0", pa.uint8())]).serialize().to_pybytes() + GOOD),
        "no record batch",
    ),
    "more rows": (wrapped(message_of([[1, 2, 3, 1], [0] * 4, [5] * 4, [0] * 4])), "holds 4 rows"),
    "fewer rows": (wrapped(message_of([[1, 2], [0] * 2, [5] * 2, [0] * 2])), "holds 2 rows"),
    "fewer columns": (wrapped(message_of(PLANES[:3])), "lists 3 parts"),
    "more columns": (wrapped(message_of([*PLANES, [0, 0, 0]])), "lists 5 parts"),
    "missing values": (wrapped(with_nulls()), "missing values"),
    "compressed inside": (wrapped(message_of(PLANES, compression="zstd")), "compressed inside"),
    "lz4 inside": (wrapped(message_of(PLANES, compression="lz4")), "compressed inside"),
    "buffer beyond the body": (wrapped(changed(pair(24, 3), 10**6, "<q")), "does not fit its body"),
    "buffer before the body": (wrapped(changed(pair(24, 3), -8, "<q")), "does not fit its body"),
    "buffer too short": (wrapped(changed(pair(24, 3) + 8, 2, "<q")), "does not fit its body"),
    "column of other rows": (wrapped(changed(pair(3, 0), 4, "<q")), "other rows"),
    "body length": (wrapped(changed(BODY_LENGTH, 2**40, "<q")), "not exactly one"),
    "metadata length": (wrapped(changed(4, 2**31, "<I")), "is cut off"),
    "root offset": (wrapped(changed(8, 2**32 - 1, "<I")), "points outside"),
    "no continuation": (wrapped(changed(0, 0, "<I")), "no Arrow message"),
    "gap zero": (wrapped(message_of([[1, 0, 3], [0] * 3, [5, 6, 7], [0] * 3])), "do not rise"),
    "beyond the panel": (
        wrapped(message_of([[1, 2, 7], [0] * 3, [5, 6, 7], [0] * 3])),
        "do not rise",
    ),
    "far beyond the panel": (
        wrapped(message_of([[1, 2, 255], [0, 0, 255], [5, 6, 7], [0] * 3])),
        "do not rise",
    ),
    "count zero": (
        wrapped(message_of([[1, 2, 3], [0] * 3, [0, 11, 7], [0] * 3])),
        "stored count is zero",
    ),
    "other sum": (wrapped(message_of([[1, 2, 3], [0] * 3, [5, 6, 8], [0] * 3])), "do not add up"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_payloads(name):
    text, says = MALFORMED[name]
    with pytest.raises(PayloadError, match=says):
        read(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"nnz": 4},
        {"nnz": 2},
        {"nnz": -1},
        {"nnz": "3"},
        {"nnz": 3.0},
        {"nnz": None},
        {"nnz": True},
        {"nnz": 10**5000},
        {"nnz": -(10**5000)},
        {"total": 17},
        {"total": None},
        {"total": 10**5000},
        {"total": float("nan")},
        {"n_genes": 6},
        {"n_genes": 0},
        {"codec": "bdb1w"},
        {"codec": "bdb2"},
        {"codec": None},
        {"codec": 10**5000},
        {"codec": ["bdb1"]},
    ],
)
def test_fields_that_contradict_the_payload(changes):
    with pytest.raises(PayloadError):
        read(wrapped(GOOD), **changes)


def peak_of(call):
    tracemalloc.start()
    try:
        with pytest.raises(PayloadError) as caught:
            call()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


def zeros_frame(size):
    out = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj(size=size)
    parts = [out.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return based(b"".join([*parts, out.flush()]))


def test_a_zstd_bomb_is_refused_at_its_header():
    bomb = zeros_frame(2**28)
    assert len(bomb) < 40_000
    peak, says = peak_of(lambda: read(bomb, n_genes=GENES, nnz=2700, total=5000))
    assert "declares more bytes" in says
    assert peak < 200_000


def test_an_arrow_bomb_is_refused_before_it_unfolds():
    # Small enough for the declared limit, and it would unfold to 16 million rows a column.
    rows = 2**24
    message = message_of([np.zeros(rows, np.uint8)] * 4, compression="zstd")
    text = wrapped(message)
    assert len(text) < 40_000
    peak, says = peak_of(lambda: read(text, n_genes=GENES, nnz=GENES, total=5000))
    assert f"holds {rows} rows" in says
    assert peak < 200_000
    # With rows that agree, the compression itself is what is refused.
    small = message_of([np.zeros(GENES, np.uint8)] * 4, compression="zstd")
    peak, says = peak_of(lambda: read(wrapped(small), n_genes=GENES, nnz=GENES, total=5000))
    assert "compressed inside" in says
    assert peak < 200_000


def digest_of(fields, found):
    """What `verify` compares with the manifest: the digest of a point with these counts."""
    about = {"x_px": 1.0, "y_px": 2.0, "library_total": 10**6, "vcrc": 7, "section": "S1"}
    identity = "19c440a3-0bfc-5987-a233-4d7194b69493"
    return point_digest(identity, {**about, **fields}, {"image": np.ones(4, np.float32)}, *found)


def mutate(turns, seed):
    """Change a payload in six ways; each is refused, equal, or a forgery that a digest tells."""
    rng = np.random.default_rng(seed)
    genes = np.sort(rng.choice(GENES, 400, replace=False))
    counts = rng.integers(1, 2000, 400)
    fields = expression_fields(genes, counts)
    frame = base64.b64decode(fields["expr"])
    message = zstandard.ZstdDecompressor().decompress(frame)
    refused = equal = different = 0

    def flipped(data, times, most):
        made = bytearray(data)
        for _ in range(times):
            made[rng.integers(min(most, len(made)))] ^= 1 << rng.integers(8)
        return bytes(made)

    original = digest_of(fields, decode_fields(fields, n_genes=GENES))
    for turn in range(turns):
        kind = turn % 6
        forged = False
        if kind == 0:
            text = based(flipped(frame, 1, len(frame)))
        elif kind == 1:
            text = fields["expr"][: rng.integers(len(fields["expr"]))]
        elif kind == 2:
            at = rng.integers(len(fields["expr"]))
            junk = "!\n= é\0"[rng.integers(6)]
            text = fields["expr"][:at] + junk + fields["expr"][at + 1 :]
        elif kind == 3:  # a valid frame around damaged metadata
            text, forged = wrapped(flipped(message, rng.integers(1, 4), 360)), True
        elif kind == 4:
            text = wrapped(message[: rng.integers(len(message))])
        else:  # a valid frame around damaged values: a forgery, which the sum mostly catches
            text, forged = wrapped(flipped(message, rng.integers(1, 4), len(message))), True
        try:
            found = decode_fields({**fields, "expr": text}, n_genes=GENES)
        except PayloadError:
            refused += 1
            continue
        same = np.array_equal(found[0], genes) and np.array_equal(found[1], counts)
        if same:
            equal += 1
        else:
            assert forged, "an accident passed for another profile"
            assert int(found[1].sum(dtype=np.int64)) == fields["total"]
            # Whoever can write valid checksums can write another profile: `verify` flags it.
            assert digest_of({**fields, "expr": text}, found) != original
            different += 1
    assert refused + equal + different == turns
    return refused, equal, different


def test_thousands_of_mutations_are_refused_or_equal():
    refused, _, different = mutate(6000, 20260)
    assert refused > 4000
    assert different > 0


@pytest.mark.slow
def test_a_hundred_thousand_mutations(capsys):
    mutate(6, 0)  # what is allocated once and kept
    tracemalloc.start()
    try:
        found = mutate(100_000, 20261)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with capsys.disabled():
        print(  # noqa: T201 - the figure is what the test is for
            f"100,000 mutations: {found[0]} refused, {found[1]} equal, {found[2]} forged and told "
            f"by their digest; peak {peak / 1e6:.2f} MB"
        )
    # A payload of this size may take 4 bytes a gene and a kilobyte; nothing grows over it.
    assert peak < 1_000_000
