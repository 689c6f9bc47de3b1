"""Folds never leak, blocks hold together, and the interval covers what it should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb import splits
from bleepdb.errors import InputError

names = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.sampled_from("XYZ"), min_size=2, max_size=9
)


@settings(deadline=None, max_examples=50)
@given(names)
def test_each_section_is_tested_once_and_never_trains_its_own_fold(donor_of):
    folds = splits.leave_one_section_out(donor_of)
    assert [s for f in folds for s in f.test] == list(donor_of)
    for fold in folds:
        assert set(fold.train) | set(fold.test) == set(donor_of)
        assert not set(fold.train) & set(fold.test)
        assert fold.held_out == "section"


@settings(deadline=None, max_examples=50)
@given(names)
def test_no_donor_stands_on_both_sides(donor_of):
    if len(set(donor_of.values())) < 2:
        with pytest.raises(InputError, match="2 donors"):
            splits.leave_one_donor_out(donor_of)
        return
    folds = splits.leave_one_donor_out(donor_of)
    assert sorted(s for f in folds for s in f.test) == sorted(donor_of)
    for fold in folds:
        assert {donor_of[s] for s in fold.test} == {fold.name}
        assert fold.name not in {donor_of[s] for s in fold.train}
        assert set(fold.train) | set(fold.test) == set(donor_of)
        assert fold.held_out == "donor"


def test_one_section_is_refused():
    with pytest.raises(InputError, match="2 sections"):
        splits.leave_one_section_out({"a": "X"})


def test_blocks_are_squares():
    xy = np.array([[10.0, 5], [14, 9], [20.5, 5], [10, 15.5], [1000, 1000]])
    assert splits.spatial_blocks(xy, block_um=10).tolist() == [0, 0, 1, 2, 3]
    assert splits.spatial_blocks(np.zeros((0, 2)), block_um=10).shape == (0,)
    with pytest.raises(ValueError, match="positive"):
        splits.spatial_blocks(xy, block_um=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.floats(1, 500), st.integers(0, 99))
def test_blocks_have_no_gaps_and_reach_no_further_than_their_edge(n, edge, seed):
    xy = np.random.default_rng(seed).uniform(0, 1000, (n, 2))
    labels = splits.spatial_blocks(xy, block_um=edge)
    assert set(labels) == set(range(labels.max() + 1))
    for block in range(labels.max() + 1):
        assert (np.ptp(xy[labels == block], axis=0) <= edge).all()


def test_a_block_is_drawn_whole():
    blocks = np.array([0, 0, 1, 2, 2, 2])
    drawn = splits.block_draws(blocks, n=500, seed=0)
    assert drawn.shape == (500, 6)
    for block in range(3):
        assert (np.ptp(drawn[:, blocks == block], axis=1) == 0).all()
    firsts = drawn[:, [0, 2, 3]]
    assert (firsts.sum(1) == 3).all()
    assert firsts.mean(0) == pytest.approx([1, 1, 1], abs=0.15)
    np.testing.assert_array_equal(splits.block_draws(blocks, n=500, seed=0), drawn)


def test_the_interval_of_blocks_is_wider_where_neighbours_are_alike():
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(30), 20)
    values = rng.normal(size=30)[blocks] + 0.1 * rng.normal(size=600)

    def width(labels):
        drawn = splits.block_draws(labels, n=400, seed=2)
        low, high = splits.interval(drawn @ values / drawn.sum(1))
        return high - low

    assert width(blocks) > 3 * width(np.arange(600))


def test_interval_is_the_percentiles_and_refuses_nan():
    assert splits.interval(np.arange(101.0), level=0.9) == pytest.approx((5, 95))
    with pytest.raises(ValueError, match="NaN"):
        splits.interval([1.0, np.nan])
