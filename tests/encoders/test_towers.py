"""Towers: rings, unknown values, unit length, and tensors that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.encoders.towers import Affine, Context, Joined, Projection, tower_from, unit
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


def joined():
    rng = np.random.default_rng(3)
    one = Affine(rng.random(6).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32))
    return Joined((one, projection()), np.sqrt([0.2, 0.8]).astype(np.float32))


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


@pytest.mark.parametrize("tower", [affine(), projection(), joined()])
def test_tensors_make_the_same_tower(tower):
    x = np.random.default_rng(0).random((5, tower.inputs)).astype(np.float32)
    made = tower_from(tower.kind, tower.tensors())
    np.testing.assert_array_equal(made(x), tower(x))
    assert (made.inputs, made.dimension) == (tower.inputs, tower.dimension)


@pytest.mark.parametrize("tower", [affine(), projection(), joined()])
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


def test_joined_parts_have_unit_length_together_and_their_cosines_weigh_their_squares():
    tower = joined()
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    got = tower(x)
    assert got.dtype == np.float32
    assert got.shape == (7, tower.dimension) == (7, 8)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    one, other = (unit(part(x)) for part in tower.parts)
    np.testing.assert_allclose(got @ got.T, 0.2 * one @ one.T + 0.8 * other @ other.T, atol=1e-5)


def test_joined_parts_that_do_not_fit_each_other_are_refused():
    whole = joined().tensors()
    one = {k: v for k, v in whole.items() if k.startswith("0.")}
    wrong = [
        {"weights": whole["weights"]},
        {k: v for k, v in whole.items() if not k.startswith("0.")},
        whole | {"weights": np.array([0.9, 0.9], np.float32)},
        whole | {"weights": np.array([1.0, 0.0], np.float32)},
        whole | {"weights": np.array([1.0], np.float32)},
        whole | {"2.joined.weights": whole["weights"]},
        whole | {"0.projection.mean": whole["0.affine.mean"]},
        whole | {"x.affine.mean": whole["0.affine.mean"]},
        whole | {"mean": whole["0.affine.mean"]},
        whole | {"0.affine.matrix": whole["0.affine.matrix"][:5]},
        one | {"weights": np.ones(1, np.float32)} | {f"{i}.{k[2:]}": v for k, v in one.items()
                                                     for i in range(1, 80)},
    ]  # fmt: skip
    for tensors in wrong:
        with pytest.raises(ModelError):
            tower_from("joined", tensors)
    # Parts of another width each.
    narrow = {f"1.affine.{k}": v for k, v in affine().tensors().items()}
    with pytest.raises(ModelError, match="do not fit"):
        tower_from("joined", one | narrow | {"weights": whole["weights"]})
