"""The payload codec against an independent reader, and against everything hostile."""

from __future__ import annotations

import base64
import json
import re
import threading
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from bleepdb.atlas import decode_fields, encode, expression_fields
from bleepdb.atlas.payload import arrow_schema
from bleepdb.errors import PayloadError

GENES = 18_000


def documented_reader():
    """The reader printed in the format description, as a function."""
    text = files("bleepdb.schemas").joinpath("bdb1.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)

    def read(expr):
        names = {"expr": expr}
        exec(code, names)  # noqa: S102 - the documentation's own example
        return names["positions"], names["counts"]

    return read


def oracle(fields):
    """Read a payload with pyarrow alone."""
    frame = base64.b64decode(fields["expr"], validate=True)
    message = zstandard.ZstdDecompressor().decompress(frame)
    batch = pa.ipc.read_record_batch(pa.py_buffer(message), arrow_schema(fields["codec"]))
    planes = {
        f.name: c.to_numpy().astype(np.int64) for f, c in zip(batch.schema, batch, strict=True)
    }
    gaps = planes["d0"] + 256 * planes["d1"]
    counts = sum(planes[name] << (8 * int(name[1])) for name in planes if name[0] == "c")
    return np.cumsum(gaps), counts


def spots(most=2**16 - 1):
    rows = st.lists(st.tuples(st.integers(1, 900), st.integers(1, most)), max_size=60)
    return rows.map(
        lambda r: (
            (np.cumsum([g for g, _ in r], dtype=np.int64) - 1, np.array([c for _, c in r], int))
            if r
            else (np.array([], dtype=int), np.array([], dtype=int))
        )
    )


@settings(deadline=None, max_examples=150)
@given(spots())
def test_round_trip_and_independent_reader(spot):
    genes, counts = spot
    fields = expression_fields(genes, counts)
    assert fields["codec"] == "bdb1"
    for found in (decode_fields(fields, n_genes=60_000), oracle(fields)):
        np.testing.assert_array_equal(found[0], genes)
        np.testing.assert_array_equal(found[1], counts)


@settings(deadline=None, max_examples=60)
@given(spots(most=2**32 - 1), st.integers(2**16, 2**32 - 1))
def test_wide_counts_take_the_wide_codec(spot, large):
    genes, counts = np.append(spot[0], 59_999), np.append(spot[1], large)
    fields = expression_fields(genes, counts)
    assert fields["codec"] == "bdb1w"
    for found in (decode_fields(fields, n_genes=60_000), oracle(fields)):
        np.testing.assert_array_equal(found[0], genes)
        np.testing.assert_array_equal(found[1], counts)


def test_dtypes_follow_panel_and_codec():
    small = decode_fields(expression_fields(np.array([3]), np.array([9])), n_genes=65_536)
    large = decode_fields(expression_fields(np.array([3]), np.array([70_000])), n_genes=65_537)
    assert [a.dtype for a in small] == [np.uint16, np.uint16]
    assert [a.dtype for a in large] == [np.uint32, np.uint32]


def test_panels_beyond_sixteen_bits():
    genes = np.array([60_000, 120_000, 180_000])
    found, _ = decode_fields(expression_fields(genes, np.ones(3, int)), n_genes=200_000)
    np.testing.assert_array_equal(found, genes)


def test_the_format_description_reads_it():
    genes, counts = np.array([0, 5, 700, 17_999]), np.array([1, 300, 2, 65_535])
    positions, values = documented_reader()(encode(genes, counts))
    np.testing.assert_array_equal(positions, genes)
    np.testing.assert_array_equal(values, counts)


def test_shipped_arrow_schema_is_the_one_used():
    text = files("bleepdb.schemas").joinpath("bdb1.arrow.json").read_text(encoding="utf-8")
    shipped = json.loads(text)
    for codec in ("bdb1", "bdb1w"):
        columns = [(f.name, str(f.type), f.nullable) for f in arrow_schema(codec)]
        assert columns == [(c["name"], c["type"], c["nullable"]) for c in shipped[codec]]
    assert set(shipped) == {"title", "bdb1", "bdb1w"}


@pytest.mark.parametrize(
    ("genes", "counts", "says"),
    [
        ([1, 1], [1, 1], "rise"),
        ([2, 1], [1, 1], "rise"),
        ([1, 2], [1, 0], "zero"),
        ([1], [65_536], "above 65535"),
        ([1, 2], [1], "2 gene positions for 1 counts"),
        ([-1], [1], "outside"),
        ([70_000], [1], "gap"),
        ([1], [-4], "outside"),
        ([1.0], [1], "float64"),
        ([1], [0.5], "raw integer counts"),
        ([[1]], [1], "one row"),
        ([1], [2**33], "outside"),
    ],
)
def test_what_cannot_be_encoded(genes, counts, says):
    with pytest.raises(PayloadError, match=says):
        encode(np.array(genes), np.array(counts))


def test_threads_may_decode_at_once():
    rng = np.random.default_rng(3)
    made = []
    for _ in range(40):
        genes = np.sort(rng.choice(GENES, 900, replace=False))
        made.append((genes, expression_fields(genes, rng.integers(1, 9, 900))))
    wrong = []

    def work():
        for genes, fields in made * 5:
            if not np.array_equal(decode_fields(fields, n_genes=GENES)[0], genes):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_size_stays_near_the_entropy_of_the_model():
    rng = np.random.default_rng(7)
    rates = np.sort(np.exp(rng.normal(0, 1.55, GENES)))[::-1]
    rates *= 5200 / rates.sum()
    text = bits = 0
    for _ in range(20):
        counts = rng.poisson(rates)
        genes = np.flatnonzero(counts)
        text += len(expression_fields(genes, counts[genes])["expr"])
        # Entropy of Poisson counts, from their own log-likelihood.
        bits += -poisson.logpmf(counts, rates).sum() / np.log(2)
    assert text * 0.75 < 1.7 * bits / 8
