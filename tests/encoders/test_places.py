"""Adjacent places: a brute-force oracle, and the same ring on two grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.places import adjacency


@given(seed=st.integers(0, 10_000), n=st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_equals_brute_force(seed, n):
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 12, (n, 2)) * 50.0  # a grid, so that many stand at equal distances
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    near = (apart >= 60) & (apart <= 160) & ~np.eye(n, dtype=bool)
    want = near / np.maximum(near.sum(axis=1, keepdims=True), 1)
    got = adjacency(places, inner_um=60, outer_um=160)
    assert got.dtype == np.float32
    assert got.indices.dtype == np.int32
    np.testing.assert_allclose(got.toarray(), want, atol=1e-7)


def test_no_place_is_beside_itself_even_where_two_stand_on_one_point():
    got = adjacency(np.zeros((2, 2)), inner_um=0, outer_um=1).toarray()
    np.testing.assert_array_equal(got, [[0, 1], [1, 0]])


def test_a_linear_field_keeps_its_mean_on_a_grid_of_half_the_pitch():
    def field_at_centre(pitch):
        x, y = np.meshgrid(np.arange(-600, 601, pitch), np.arange(-600, 601, pitch))
        places = np.column_stack([x.ravel(), y.ravel()]).astype(float)
        centre = int(np.flatnonzero((places == 0).all(axis=1))[0])
        ring = adjacency(places, inner_um=100, outer_um=300)
        return (ring @ (3 + places @ [0.01, 0.02]))[centre]

    assert field_at_centre(200) == pytest.approx(3, abs=1e-5)
    assert field_at_centre(100) == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.full((2, 2), np.nan), np.zeros(4)])
def test_positions_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="positions"):
        adjacency(bad, inner_um=0, outer_um=1)


def test_radii_out_of_order_are_refused():
    with pytest.raises(ValueError, match="ring"):
        adjacency(np.zeros((2, 2)), inner_um=2, outer_um=1)
