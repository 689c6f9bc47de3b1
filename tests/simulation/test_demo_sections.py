"""The sections that the demo makes: texture and nuclei, not mean colour, carry the signal."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bleepdb.gene_sets import choose
from bleepdb.metrics import mean_score, pearson_per_gene
from bleepdb.normalise import log1p_cp10k
from bleepdb.panel import Panel
from bleepdb.simulation import SimulationSettings, ceiling, simulate
from bleepdb.simulation.settings import COMPARTMENTS, GRADIENTS

LIMIT = 0.6


def tile_colours(section, mpp, field_um):
    """Mean RGB of the square field around each spot, cut at the image's edge; (spots, 3)."""
    half = field_um / mpp / 2
    made = []
    for x, y in section.xy_px:
        rows = slice(max(0, round(y - half)), round(y + half))
        columns = slice(max(0, round(x - half)), round(x + half))
        made.append(section.image[rows, columns][::2, ::2].mean(axis=(0, 1)))
    return np.array(made)


def ridge(train_x, train_y, test_x, alpha=1.0):
    mean, sd = train_x.mean(axis=0), train_x.std(axis=0)
    a, t = (train_x - mean) / sd, (test_x - mean) / sd
    middle = train_y.mean(axis=0)
    return (
        t @ np.linalg.solve(a.T @ a + alpha * np.eye(a.shape[1]), a.T @ (train_y - middle)) + middle
    )


def colour_ratios(simulation, field_um):
    """For each gene set, the score of mean colour over the ceiling; mean over held-out donors."""
    sections = simulation.sections
    x = [tile_colours(s, simulation.settings.mpp, field_um) for s in sections]
    counts = [s.counts.toarray() for s in sections]
    y = [log1p_cp10k(c, c.sum(axis=1, keepdims=True)) for c in counts]
    top = [ceiling(s.rates, s.counts) for s in sections]
    panel = Panel(sections[0].symbols)
    scores = {}
    for donor in simulation.settings.donors:
        train = [i for i, s in enumerate(sections) if s.donor != donor]
        sets = choose(np.concatenate([y[i] for i in train]), panel)
        for i in (i for i, s in enumerate(sections) if s.donor == donor):
            made = ridge(
                np.concatenate([x[j] for j in train]), np.concatenate([y[j] for j in train]), x[i]
            )
            pcc = pearson_per_gene(made, y[i])
            for name, genes in sets.items():
                pair = mean_score(pcc[genes])[0], mean_score(top[i][genes])[0]
                scores.setdefault(name, []).append(pair)
    return {name: np.divide(*np.sum(pairs, axis=0)) for name, pairs in scores.items()}


@pytest.fixture(scope="module")
def made():
    """What the demo makes."""
    return simulate()


@pytest.mark.parametrize("field_um", [100.0, 175.0, 400.0])
def test_mean_colour_stays_below_the_limit(made, field_um):
    ratios = colour_ratios(made, field_um)
    assert {"HEG", "HVG", "V50", "MG"} <= set(ratios)
    assert max(ratios.values()) < LIMIT, ratios


def test_the_condition_can_fail():
    """Compartments that differ in colour, evenly stained, are read from it across donors."""
    plain = SimulationSettings(sections_per_donor=1, mpp=2.0)
    grounds = ((0.9, 0.1), (0.1, 0.9), (1.6, 0.9), (0.0, 0.2), (0.5, 0.5))
    vivid = dataclasses.replace(
        plain,
        stain_sd=0.0,
        compartments=tuple(
            dataclasses.replace(c, ground=g)
            for c, g in zip(plain.compartments, grounds, strict=True)
        ),
    )
    assert max(colour_ratios(simulate(plain), 175.0).values()) < LIMIT
    assert colour_ratios(simulate(vivid), 175.0)["HEG"] > LIMIT


def test_compartments_look_different_though_their_colour_is_alike(made):
    """Between compartments mean colour differs little, the share of dark pixels much."""
    for donor in made.settings.donors:
        colours, dark, shares = [], [], []
        for s in (s for s in made.sections if s.donor == donor):
            colours.append(tile_colours(s, made.settings.mpp, 100.0))
            half = round(50 / made.settings.mpp)
            tiles = [
                s.image[round(y) - half : round(y) + half, round(x) - half : round(x) + half, 0]
                for x, y in s.xy_px
            ]
            dark.append(np.array([(tile < 0.55 * donor.glass[0]).mean() for tile in tiles]))
            shares.append(s.shares)
        colours, dark, shares = map(np.concatenate, (colours, dark, shares))
        pure = [shares[:, c] > 0.9 for c in range(len(COMPARTMENTS))]
        assert min(p.sum() for p in pure) >= 3
        middles = np.array([colours[p].mean(axis=0) for p in pure])
        assert np.ptp(middles, axis=0).max() < 30
        share = [dark[p].mean() for p in pure]
        assert max(share) > 3 * min(share)


def test_the_demo_s_sections_have_the_stated_size(made):
    assert len(made.sections) == 6
    assert all(140 <= len(s) <= 210 for s in made.sections)
    assert all(s.counts.shape[1] == 400 for s in made.sections)
    for s in made.sections:
        assert 0.6 < mean_score(ceiling(s.rates, s.counts)[s.rates.mean(axis=0) > 0.005])[0] < 0.95


def test_gradients_move_genes_inside_a_compartment(made):
    """More than a class label: among spots of one compartment the rates still differ."""
    tumour, grade = COMPARTMENTS.index("tumour"), GRADIENTS.index("grade")
    gene = made.sections[0].symbols.index("MKI67")
    for s in made.sections:
        pure = s.shares[:, tumour] > 0.95
        assert pure.sum() >= 5
        slope = np.polyfit(s.gradients[pure, tumour, grade], np.log(s.rates[pure, gene]), 1)[0]
        assert slope > 0.25
