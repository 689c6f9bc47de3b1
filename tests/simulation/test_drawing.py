"""The parts of the drawing against slow, plain twins."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.simulation import SimulationSettings
from bleepdb.simulation.fields import smooth_field, texture
from bleepdb.simulation.glands import make_glands
from bleepdb.simulation.layout import CELL_UM, disc_means, lay_out, spot_anatomy, spot_grid
from bleepdb.simulation.nuclei import lattice, make_bank, place, press
from bleepdb.simulation.settings import ACTS, COMPARTMENTS, GRADIENTS

TINY = SimulationSettings.tiny()


def test_pressing_adds_each_stamp_where_it_belongs_even_where_they_overlap():
    rng = np.random.default_rng(0)
    stamps = rng.random((40, 2, 5, 5), dtype=np.float32)
    at = rng.uniform(-3, 33, (40, 2))
    got = np.zeros((2, 30, 30), dtype=np.float32)
    press(got, stamps, at)
    want = np.zeros((2, 30, 30))
    for stamp, (x, y) in zip(stamps, np.floor(at).astype(int), strict=True):
        if 2 <= x < 28 and 2 <= y < 28:
            want[:, y - 2 : y + 3, x - 2 : x + 3] += stamp
    assert want.any()
    assert np.allclose(got, want, atol=1e-5)


def test_means_over_discs_are_means_over_discs():
    rng = np.random.default_rng(1)
    fields = rng.random((2, 20, 20))
    places = rng.uniform(0, 20 * CELL_UM, (15, 2))
    got = disc_means(fields, places, 60.0)
    middle = (np.arange(20) + 0.5) * CELL_UM
    for (x, y), row in zip(places, got, strict=True):
        near = np.hypot(middle[None] - x, middle[:, None] - y) <= 30.0
        assert row == pytest.approx(fields[:, near].mean(axis=1))


def test_smooth_fields_are_standardised_and_smooth():
    field = smooth_field(np.random.default_rng(2), (80, 90), 6.0)
    assert field.shape == (80, 90)
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(field, axis=0)).mean() < 0.25


def test_textures_tile_without_a_seam_and_run_along_their_columns():
    made = texture(np.random.default_rng(3), 128, 1.0, 8.0)
    assert made.std() == pytest.approx(1, abs=1e-4)
    step = np.abs(np.diff(made, axis=1)).mean()
    assert np.abs(made[:, 0] - made[:, -1]).mean() < 2 * step
    assert step < 0.3 * np.abs(np.diff(made, axis=0)).mean()


def test_compartments_meet_their_shares_and_all_are_there():
    layout = lay_out(SimulationSettings(), np.random.default_rng(4))
    area = np.bincount(layout.labels[layout.tissue], minlength=5) / layout.tissue.sum()
    assert area.sum() == pytest.approx(1)
    for got, compartment in zip(area, SimulationSettings().compartments, strict=True):
        assert 0.3 * compartment.share < got < 2.5 * compartment.share
    edge = np.concatenate([layout.inside[[0, -1]].ravel(), layout.inside[:, [0, -1]].ravel()])
    assert (edge < 0).all()


def test_spots_know_their_anatomy():
    layout = lay_out(TINY, np.random.default_rng(5))
    xy, grid = spot_grid(TINY, layout, np.random.default_rng(6))
    shares, _ = spot_anatomy(TINY, layout, xy)
    assert np.diff(np.unique(grid[:, 0])).max() == 1
    for (x, y), row in zip(xy, shares, strict=True):
        middle = (np.arange(layout.labels.shape[0]) + 0.5) * CELL_UM
        near = np.hypot(middle[None] - x, middle[:, None] - y) <= TINY.spot_diameter_um / 2
        for c in range(len(COMPARTMENTS)):
            part = (layout.labels[near] == c) & layout.tissue[near]
            assert row[c] == pytest.approx(part.mean())


def test_cells_live_where_they_belong_and_in_their_number():
    settings = SimulationSettings()
    layout = lay_out(settings, np.random.default_rng(7))
    for cell in settings.cells:
        at, labels = place(settings, layout, cell, np.random.default_rng(8))
        assert (layout.at(layout.inside, at) > 0).all()
        counts = np.bincount(labels, minlength=5)
        for c, per_mm2 in enumerate(cell.per_mm2):
            here = (layout.labels == c) & (layout.inside > 3)
            log = sum(
                number * layout.gradients[GRADIENTS.index(name)][here]
                for name, _, number in cell.responses
                if ACTS[c][GRADIENTS.index(name)]
            )
            most = 1e6 / (cell.spacing_um**2 * 0.866)
            wanted = np.minimum(per_mm2 * np.exp(log) * np.ones(here.sum()), most).sum()
            wanted *= CELL_UM**2 * 1e-6
            assert counts[c] == pytest.approx(wanted, abs=1 + 4 * wanted**0.5 + 0.02 * wanted)


def test_no_two_of_a_lattice_stand_on_each_other():
    at = lattice(300.0, 10.0, np.random.default_rng(9), jitter=0.05)
    apart = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 6
    assert len(at) == pytest.approx(300**2 / (100 * 0.866), rel=0.05)


def test_nuclei_grow_with_their_gradient_and_keep_within_their_stamp():
    tumour = TINY.cells[0]
    bank = make_bank(tumour, 0.8, np.random.default_rng(10))
    area = (bank.stamps[:, :, 0] > 0.25).sum(axis=(2, 3)).mean(axis=1)
    assert (np.diff(area) > 0).all()
    border = np.concatenate(
        [bank.stamps[..., [0, -1], :].ravel(), bank.stamps[..., [0, -1]].ravel()]
    )
    assert np.abs(border).max() < 0.02
    lymphocyte = make_bank(TINY.cells[1], 0.8, np.random.default_rng(11)).stamps
    assert (lymphocyte[:, :, 0] > 0.25).sum(axis=(2, 3)).mean() < 0.6 * np.median(area)


def test_glands_have_a_lumen_that_widens_with_secretion():
    bank = make_glands(SimulationSettings(), np.random.default_rng(12))
    lumen = ((bank[:, :, 0] > 0.99) & (bank[:, :, 2] < 0.02)).sum(axis=(2, 3)).mean(axis=1)
    assert lumen[0] > 0
    assert lumen[-1] > 3 * lumen[0]
    assert not bank[..., [0, -1], :].any()
