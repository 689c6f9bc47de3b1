"""Towers: rings, unknown values, unit length, and tensors that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.encoders.towers import Affine, Context, Projection, tower_from, unit
from bleepdb.errors import ModelError


def affine():
    rng = np.random.default_rng(1)
    return Affine(rng.random(4).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32))


def projection():
    rng = np.random.default_rng(2)
    f = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in {
            "mean": 3, "scale": 3, "fill": 3, "w1": (5, 3), "b1": 5, "w2": (5, 5), "b2": 5,
            "gain": 5, "shift": 5,
        }.items()
    }  # fmt: skip
    return Projection(columns=np.array([0, 2, 5]), inputs=6, **f)


def test_context_is_the_weighted_mean_of_the_ring_and_oneself_where_alone():
    places = np.array([[0, 0], [100, 0], [0, 100], [250, 0], [5000, 5000]], float)
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    got = Context(50, 160, 0.5).append(x, places)
    # 100 apart: (0, 1), (0, 2); about 141: (1, 2); 150: (1, 3).
    around = [x[[1, 2]].mean(0), x[[0, 2, 3]].mean(0), x[[0, 1]].mean(0), x[1], x[4]]
    np.testing.assert_array_equal(got[:, :2], x)
    np.testing.assert_allclose(got[:, 2:], 0.5 * np.array(around), rtol=1e-6)
    assert got.dtype == np.float32


def test_the_same_places_at_two_strides_agree():
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(2, 16)) / 700

    def at(stride):
        y, x = np.mgrid[0:2000:stride, 0:2000:stride]
        places = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
        return places, unit(
            Context(50, 150, 0.5).append(np.sin(places @ waves).astype(np.float32), places)
        )

    coarse, a = at(100)
    fine, b = at(50)
    row = {tuple(p): i for i, p in enumerate(fine)}
    same = [row[tuple(p)] for p in coarse]
    cosine = (a * b[same]).sum(axis=1)
    assert cosine.min() > 0.99
    assert cosine.mean() > 0.999


def test_unit_rows_have_length_one_and_zeros_become_the_first_axis():
    x = np.array([[3, 4, 0], [0, 0, 0], [1e-12, 0, 0]], dtype=np.float32)
    got = unit(x)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(got[1], [1, 0, 0])
    np.testing.assert_allclose(got[0], [0.6, 0.8, 0], atol=1e-6)
    assert got.dtype == np.float32


def test_an_unknown_gene_counts_as_the_mean():
    tower = affine()
    x = np.random.default_rng(0).random((5, 4)).astype(np.float32)
    known, unknown = x.copy(), x.copy()
    known[:, 2], unknown[:, 2] = tower.mean[2], np.nan
    np.testing.assert_allclose(tower(unknown), tower(known), atol=1e-6)

    head = projection()
    x = np.random.default_rng(0).random((5, 6)).astype(np.float32)
    known, unknown = x.copy(), x.copy()
    known[:, 5], unknown[:, 5] = head.fill[2], np.nan
    unknown[:, 1] = np.nan  # a gene that is not used
    np.testing.assert_allclose(head(unknown), head(known), atol=1e-6)


@pytest.mark.parametrize("tower", [affine(), projection()])
def test_tensors_make_the_same_tower(tower):
    x = np.random.default_rng(0).random((5, tower.inputs)).astype(np.float32)
    made = tower_from(tower.kind, tower.tensors())
    np.testing.assert_array_equal(made(x), tower(x))
    assert (made.inputs, made.dimension) == (tower.inputs, tower.dimension)


@pytest.mark.parametrize("tower", [affine(), projection()])
def test_tensors_that_are_missing_misshapen_or_not_finite_are_refused(tower):
    whole = tower.tensors()
    for name, value in whole.items():
        with pytest.raises(ModelError):
            tower_from(tower.kind, {k: v for k, v in whole.items() if k != name})
        with pytest.raises(ModelError):
            tower_from(tower.kind, whole | {name: value.reshape(-1)[:0]})
        if value.dtype == np.float32:
            broken = value.copy()
            broken.flat[0] = np.nan
            with pytest.raises(ModelError):
                tower_from(tower.kind, whole | {name: broken})


def test_a_matrix_that_is_a_row_fractional_columns_and_unknown_kinds_are_refused():
    with pytest.raises(ModelError):
        tower_from("affine", affine().tensors() | {"matrix": np.zeros(4, np.float32)})
    for columns in (np.array([0.0, 2.0, 5.0]), np.array([0, 2, 6]), np.array([0, 2, -1])):
        with pytest.raises(ModelError):
            tower_from("projection", projection().tensors() | {"columns": columns})
    with pytest.raises(ModelError, match="kind"):
        tower_from("forest", {})
