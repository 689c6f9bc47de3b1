"""Scores of a fold: each section by itself, then their mean."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.errors import InputError
from bleepdb.evaluation.held_out import DRAWS, HeldOutTruth, block_pearson, seed_of
from bleepdb.evaluation.intervals import Bootstrap
from bleepdb.evaluation.known import known_ceiling
from bleepdb.metrics import pearson_per_gene, rmse_per_gene, weighted_pearson
from bleepdb.panel import Panel
from bleepdb.simulation import SimulationSettings, simulate
from bleepdb.simulation.truth import write_truth
from bleepdb.splits import block_draws, interval, spatial_blocks
from bleepdb.training import PairedSection, Pairs
from bleepdb.training.tuning import Target


@pytest.fixture(scope="module")
def fold(paired):
    pairs = paired(("A", "B", "B"))
    target = Target(pairs.subset(["S0"]), pairs.subset(["S1", "S2"]))
    held = HeldOutTruth.of(target)
    rng = np.random.default_rng(0)
    return target, held, held.truth + rng.normal(0, 1, held.truth.shape)


def test_the_score_is_the_mean_over_sections(fold):
    _, held, values = fold
    parts = [pearson_per_gene(values[r], held.truth[r]) for r in (slice(0, 81), slice(81, 162))]
    np.testing.assert_allclose(held.pcc(values), np.mean(parts, axis=0))
    moved = values.copy()
    moved[81:] += 5.0  # what separates sections is no prediction of tissue
    np.testing.assert_allclose(held.pcc(moved), held.pcc(values))


def test_a_section_without_a_score_counts_as_zero_and_one_without_the_gene_not_at_all(fold):
    target, held, values = fold
    flat = values.copy()
    flat[:81, 0] = 1.0
    flat[:, 1] = 1.0
    second = pearson_per_gene(values[81:], held.truth[81:])
    assert held.pcc(flat)[0] == pytest.approx(second[0] / 2)
    assert np.isnan(held.pcc(flat)[1])
    lost = target.genes[2]
    kept = np.delete(np.arange(70), lost)
    first, other = target.outside.sections
    poorer = replace(first, counts=first.counts[:, kept], panel=first.panel.take(kept))
    outside = Pairs((poorer, other), target.outside.feature_spec)
    fewer = HeldOutTruth.of(Target(target.inside, outside), target.genes)
    assert not fewer.measured[0, 2]
    assert np.isnan(fewer.truth[:81, 2]).all()
    assert fewer.pcc(values)[2] == pytest.approx(second[2], abs=1e-6)
    ceiling = fewer.ceiling(seed=0)
    assert np.isfinite(ceiling).sum() == np.isfinite(held.ceiling(seed=0)).sum()


def test_genes_that_no_held_out_section_measured_are_in_no_set(fold):
    target, _, _ = fold
    kept = np.arange(70)[6:]  # without the markers
    outside = Pairs(
        tuple(
            replace(s, counts=s.counts[:, kept], panel=s.panel.take(kept))
            for s in target.outside.sections
        ),
        target.outside.feature_spec,
    )
    held = HeldOutTruth.of(Target(target.inside, outside))
    assert "MG" not in held.sets
    assert np.isfinite(held.truth).all()
    assert np.isnan(held.ceiling(seed=0)[:6]).all()


def test_bootstrap_draws_blocks_of_each_section(fold):
    target, held, values = fold
    found = held.samples(values, seed=4)
    assert found["HEG"].shape == (DRAWS,)
    drawn = []
    for number, section in enumerate(target.outside.sections):
        blocks = spatial_blocks(section.positions_um, block_um=500.0)
        assert blocks.max() == 3
        counts = block_draws(blocks, n=DRAWS, seed=seed_of(section.section, 4))[17]
        rows = np.repeat(np.arange(81), counts.astype(int)) + 81 * number
        pcc = pearson_per_gene(values[rows], held.truth[rows])
        drawn.append(np.nan_to_num(pcc)[held.sets["HEG"]].mean())
    assert found["HEG"][17] == pytest.approx(np.mean(drawn))
    assert found["HEG"].std() > 0


def test_other_scores_are_means_where_defined(fold):
    _, held, values = fold
    genes = np.array([0, 3])
    wanted = np.mean(
        [rmse_per_gene(values[r][:, genes], held.truth[r][:, genes]) for r in held.rows]
    )
    assert held.mean(rmse_per_gene, values, genes) == pytest.approx(wanted)
    assert np.isnan(held.mean(pearson_per_gene, np.ones_like(values), genes))


def test_known_ceiling_is_the_score_of_the_truth_itself(tmp_path, paired):
    """And the ceiling estimated from counts lies above: it knows counting noise alone."""
    settings = SimulationSettings.tiny()
    made = simulate(settings, seed=3)
    panel = Panel(tuple(made.sections[0].symbols))
    like = paired(("A",))
    paths, sections = {}, []
    for one in made.sections:
        paths[one.section] = tmp_path / f"{one.section}.h5"
        write_truth(one, paths[one.section])
        order = np.random.default_rng(0).permutation(len(one))[: len(one) - 2]
        section = PairedSection(
            section=one.section,
            donor=one.donor.name,
            digest="0" * 64,
            features=np.zeros((len(order), 2), np.float32),
            positions_um=one.xy_px[order] * settings.mpp,
            counts=sp.csr_matrix(one.counts)[order],
            panel=panel,
            barcodes=one.barcodes[order],
            pitch_um=100.0,
        )
        sections.append((section, one.rates[order]))
    held = Pairs(tuple(s for s, _ in sections[:2]), like.feature_spec)
    inside = Pairs((sections[2][0],), like.feature_spec)
    truth = HeldOutTruth.of(Target(inside, held), np.arange(60))
    wanted = truth.pcc(np.concatenate([np.log1p(1e4 * rates) for _, rates in sections[:2]]))

    class Scored:
        genes = panel
        members = MappingProxyType({"even": np.arange(0, 60, 2), "none": np.zeros(0, np.int64)})

    found = known_ceiling(Scored, held, paths)
    assert found == {"even": pytest.approx(np.nan_to_num(wanted)[::2].mean(), abs=1e-6)}
    estimated = np.nan_to_num(truth.ceiling(seed=0))[::2].mean()
    assert found["even"] < estimated < 1
    swapped = {one: paths[other] for one, other in zip(paths, reversed(paths), strict=True)}
    with pytest.raises(InputError, match="not the truth of section"):
        known_ceiling(Scored, held, swapped)


def test_draws_of_sections_are_independent_and_intervals_shrink_with_blocks():
    """Every section has draws of its own, and more tissue makes an interval narrower."""
    assert seed_of("S1", 0) != seed_of("S2", 0)
    assert seed_of("S1", 0) != seed_of("S1", 1)
    rng = np.random.default_rng(1)
    widths = []
    for side in (10, 20, 40):
        xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * 100.0
        truth = rng.normal(size=(len(xy), 1))
        values = truth + rng.normal(size=truth.shape)
        drawn = block_draws(spatial_blocks(xy, block_um=500.0), n=400, seed=seed_of("S", side))
        low, high = interval(weighted_pearson(values, truth, drawn)[:, 0])
        assert low < np.sqrt(0.5) + 0.1
        assert high > np.sqrt(0.5) - 0.1
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_block_intervals_cover_what_they_should():
    """Of 120 made sections about 95 in 100 intervals hold the true correlation."""
    rng = np.random.default_rng(5)
    xy = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2) * 100.0
    blocks = spatial_blocks(xy, block_um=500.0)
    genes = 120
    # What is shared within a block makes spots alike, which draws of single spots would pass over.
    shared, own = rng.normal(size=(2, blocks.max() + 1, genes)), rng.normal(size=(2, 1600, genes))
    truth = shared[0][blocks] + own[0]
    values = truth + shared[1][blocks] + own[1]
    found = weighted_pearson(values, truth, block_draws(blocks, n=300, seed=2))
    low, high = np.quantile(found, [0.025, 0.975], axis=0)
    covered = ((low <= np.sqrt(0.5)) & (high >= np.sqrt(0.5))).mean()
    assert 0.85 <= covered <= 1.0
    single = weighted_pearson(values, truth, block_draws(np.arange(1600), n=300, seed=2))
    assert (high - low).mean() > 1.5 * np.ptp(
        np.quantile(single, [0.025, 0.975], axis=0), axis=0
    ).mean()


def test_draws_of_a_large_section_take_no_matrix_of_blocks_by_spots():
    n, rng = 20_000, np.random.default_rng(0)
    blocks = np.arange(n) // 25  # dense, the matrix that sums them would take 128 MB
    drawn = block_draws(blocks, n=4, seed=0)
    predicted, truth = rng.normal(size=(2, n, 3)).astype(np.float32)
    tracemalloc.start()
    found = block_pearson(predicted, truth, blocks, drawn)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    np.testing.assert_allclose(found, weighted_pearson(predicted, truth, drawn), atol=1e-9)


def test_over_donors_a_section_without_the_genes_has_no_share():
    """As in the score of its fold, which is the mean over the sections that measured them."""

    def fold(donor, scores):
        parts = [SimpleNamespace(donor=donor, scores={"m": {"MG": s}}) for s in scores]
        return SimpleNamespace(sections=tuple(parts))

    found = {"A": (0.4, np.nan), "B": (0.4,), "C": (0.4, 0.4), "D": (0.4,), "E": (0.4,)}
    bootstrap = Bootstrap([fold(*item) for item in found.items()], 0)
    assert bootstrap.over_donors
    assert bootstrap.interval("m", "MG") == pytest.approx((0.4, 0.4))
