"""Vectors as text: every bit of a float32 comes back, in about half of the bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bleepdb.atlas import Points, vector_crc
from bleepdb.atlas.server_points import short_floats

ODD = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 2**-126, 2**-149, 1e-45, 7.038531e-26, 3.4028235e38, 1e10]


def through_json(numbers):
    return np.array(json.loads(json.dumps(numbers)), dtype=np.float32)


def same_bits(a, b):
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_any_float32_comes_back(numbers):
    array = np.array(numbers, dtype=np.float32)
    assert same_bits(through_json(short_floats(array)), array)


def test_odd_float32_come_back_even_from_a_reader_that_errs_in_the_last_bit():
    array = np.array([*ODD, *np.negative(ODD)], dtype=np.float32)
    short = short_floats(array)
    assert same_bits(through_json(short), array)
    for towards in (np.inf, -np.inf):
        near = np.nextafter(np.array(short), towards)
        assert np.array_equal(near[np.abs(array) > 2**-120].astype(np.float32),
                              array[np.abs(array) > 2**-120])  # fmt: skip


def test_many_float32_come_back():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=2_000_000, dtype=np.uint32)
    array = bits.view(np.float32)
    array = array[np.isfinite(array)]
    assert same_bits(np.array(short_floats(array)).astype(np.float32), array)


def test_a_number_whose_shortest_text_would_be_rounded_twice_is_left_in_full():
    """7.038531e-26 is nearest to one float32, and its float64 is a tie between two."""
    array = np.array([7.038531e-26], dtype=np.float64).astype(np.float32)
    for one in (array, np.nextafter(array, np.float32(0)), np.nextafter(array, np.float32(1))):
        assert same_bits(through_json(short_floats(one)), one)


def test_the_text_is_about_half_as_long(lab):
    array = lab.unit(np.random.default_rng(0), 100, 256)
    assert len(json.dumps(short_floats(array))) < 0.65 * len(json.dumps(array.tolist()))
    assert np.shape(short_floats(array)) == array.shape


@pytest.mark.wire
def test_every_bit_comes_back_from_the_server(server, lab):
    rng = np.random.default_rng(3)
    server.ensure(lab.spec(dimension=256))
    points = lab.joined(lab.section("S1", spots=200, dimension=256)[1])
    image = points.vectors["image"].astype(np.float64)
    image *= np.exp2(-rng.integers(0, 60, size=image.shape))  # small numbers beside large ones
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    vectors = {**points.vectors, "image": image.astype(np.float32)}
    payloads = [
        {**p, "vcrc": vector_crc({n: a[i] for n, a in vectors.items()})}
        for i, p in enumerate(points.payloads)
    ]
    server.upsert(lab.COLLECTION, Points(points.ids, vectors, payloads))
    found = server.retrieve(lab.COLLECTION, points.ids, with_vectors=True)
    for name, array in vectors.items():
        assert same_bits(np.stack([r.vectors[name] for r in found]), array)
