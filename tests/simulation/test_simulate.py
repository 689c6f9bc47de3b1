"""The simulator: same bytes for a seed, anatomy that holds together, counts as they are said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bleepdb.metrics import pearson_per_gene
from bleepdb.normalise import log1p_cp10k
from bleepdb.simulation import SimulationSettings, ceiling, simulate
from bleepdb.simulation.sections import draw_counts
from bleepdb.simulation.settings import ACTS, COMPARTMENTS, GRADIENTS

TINY = SimulationSettings.tiny()


@pytest.fixture(scope="module")
def tiny():
    return simulate(TINY, seed=3)


def arrays(section):
    yield from (section.image, section.counts.toarray(), section.xy_px, section.rates)
    yield from (section.shares, section.gradients)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_threads(tiny, monkeypatch):
    monkeypatch.setattr("bleepdb.simulation.sections.THREADS", 1)
    again = simulate(TINY, seed=3)
    assert again.settings == tiny.settings
    for a, b in zip(tiny.sections, again.sections, strict=True):
        assert a.barcodes.tolist() == b.barcodes.tolist()
        assert all(x.tobytes() == y.tobytes() for x, y in zip(arrays(a), arrays(b), strict=True))


def test_another_seed_gives_other_tissue(tiny):
    other = simulate(dataclasses.replace(TINY, donors=TINY.donors[:1]), seed=4).sections[0]
    assert (other.image != tiny.sections[0].image).mean() > 0.3


def test_sections_are_what_the_settings_ask_for(tiny):
    assert [s.section for s in tiny.sections] == ["donor-a-1", "donor-b-1", "donor-c-1"]
    for s in tiny.sections:
        n, size = len(s), round(TINY.field_um / TINY.mpp)
        assert 25 <= n <= 60
        assert s.image.shape == (size, size, 3)
        assert s.image.dtype == np.uint8
        assert s.counts.shape == s.rates.shape == (n, TINY.genes)
        assert s.counts.dtype == np.int64
        assert s.counts.has_sorted_indices
        assert (s.counts.data > 0).all()
        assert len(set(s.symbols)) == TINY.genes
        assert len(set(s.barcodes.tolist())) == n
        assert {"ERBB2", "COL1A1", "CD74", "IGKC", "MT-CO1", "GENE0001"} <= set(s.symbols)


def test_progress_counts_the_sections():
    seen = []
    simulate(TINY, seed=0, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_spots_lie_on_tissue_at_the_stated_pitch_with_glass_around(tiny):
    for s in tiny.sections:
        assert (s.xy_px > 0).all()
        assert (s.xy_px < s.image.shape[0]).all()
        apart = np.hypot(*(s.xy_px[:, None] - s.xy_px[None]).transpose(2, 0, 1)) * TINY.mpp
        np.fill_diagonal(apart, np.inf)
        assert apart.min(axis=1) == pytest.approx(TINY.pitch_um)
        rim = np.concatenate([s.image[:8].reshape(-1, 3), s.image[-8:].reshape(-1, 3)])
        assert np.median(rim, axis=0) == pytest.approx(s.donor.glass, abs=1.5)
        x, y = np.round(s.xy_px).astype(int).T
        darker = np.mean(
            [s.image[b - 20 : b + 20, a - 20 : a + 20, 1].mean() for a, b in zip(x, y, strict=True)]
        )
        assert darker < s.donor.glass[1] - 50


def test_truth_holds_together(tiny):
    acts = np.array(ACTS)
    assert acts.shape == (len(COMPARTMENTS), len(GRADIENTS))
    for s in tiny.sections:
        assert s.rates.sum(axis=1) == pytest.approx(1)
        assert (s.rates > 0).all()
        assert (s.shares >= 0).all()
        assert (s.shares.sum(axis=1) >= TINY.least_tissue - 1e-9).all()
        assert (s.shares.sum(axis=1) <= 1 + 1e-9).all()
        assert not s.gradients[:, ~acts].any()
        assert not s.gradients[s.shares == 0].any()


def test_depth_and_stain_differ_by_donor(tiny):
    depth = [np.median(s.counts.toarray().sum(axis=1)) for s in tiny.sections]
    for got, donor in zip(depth, TINY.donors, strict=True):
        assert got == pytest.approx(donor.depth, rel=0.25)
    assert len({d.depth for d in TINY.donors}) == 3
    colours = np.array([s.image[s.image[..., 1] < 200].mean(axis=0) for s in tiny.sections])
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2)[np.triu_indices(3, 1)]
    assert apart.min() > 3


def test_libraries_vary_and_counts_are_overdispersed_as_stated():
    rng = np.random.default_rng(0)
    rates = np.full((4000, 5), 0.2)
    donor = dataclasses.replace(TINY.donors[0], depth=1000)
    made = draw_counts(TINY, donor, rates, np.ones(4000), rng).toarray()
    libraries = np.log(made.sum(axis=1))
    noise = (1 / 1000) + 1 / (5 * TINY.dispersion)  # of the log, besides the library's own
    assert libraries.std() == pytest.approx(np.sqrt(TINY.library_sd**2 + noise), rel=0.05)
    flat = dataclasses.replace(TINY, library_sd=0.0)
    made = draw_counts(flat, donor, rates, np.ones(4000), rng).toarray().ravel()
    assert made.mean() == pytest.approx(200, rel=0.02)
    assert made.var() == pytest.approx(200 + 200**2 / TINY.dispersion, rel=0.08)


def test_a_spot_with_more_rna_has_the_larger_library():
    quiet = dataclasses.replace(TINY, library_sd=0.0)
    amount = np.repeat([1.0, 4.0], 500)
    rng = np.random.default_rng(1)
    made = draw_counts(quiet, TINY.donors[0], np.full((1000, 4), 0.25), amount, rng)
    totals = np.asarray(made.sum(axis=1)).ravel()
    ratio = totals[500:].mean() / totals[:500].mean()
    assert ratio == pytest.approx(4**TINY.library_power, rel=0.02)


def test_ceiling_is_the_correlation_of_truth_and_draw(tiny):
    for s in tiny.sections:
        counts = s.counts.toarray()
        got = ceiling(s.rates, s.counts)
        for gene in range(TINY.genes):
            drawn = np.log1p(counts[:, gene] / counts.sum(axis=1) * 1e4)
            if np.ptp(drawn) == 0:
                assert np.isnan(got[gene])
                continue
            brute = np.corrcoef(np.log1p(s.rates[:, gene] * 1e4), drawn)[0, 1]
            assert got[gene] == pytest.approx(brute, abs=1e-6)
        assert np.array_equal(got, ceiling(s.rates, counts), equal_nan=True)
        assert 0.3 < np.nanmean(got) < 1


def test_ceiling_rises_to_one_with_depth_and_bounds_a_worse_profile(tiny):
    s = tiny.sections[0]
    endless = np.round(s.rates * 1e9)
    assert np.nanmin(ceiling(s.rates, endless)) > 0.9999
    counts = s.counts.toarray()
    y = log1p_cp10k(counts, counts.sum(axis=1, keepdims=True))
    blurred = np.log1p(1e4 * (0.5 * s.rates + 0.5 * s.rates[::-1]))
    worse = pearson_per_gene(blurred, y)
    assert np.nanmean(worse) < np.nanmean(ceiling(s.rates, s.counts)) - 0.1


def test_a_constant_gene_has_no_ceiling():
    rates = np.array([[0.5, 0.5], [0.3, 0.7], [0.2, 0.8]])
    assert np.isnan(ceiling(rates, np.array([[0, 5], [0, 9], [0, 2]]))).all()


def test_settings_are_frozen_and_versioned():
    settings = SimulationSettings()
    assert settings.version == "1"
    assert hash(settings) == hash(SimulationSettings())
    assert sum(c.share for c in settings.compartments) == pytest.approx(1)
    assert [c.name for c in settings.compartments] == list(COMPARTMENTS)
    assert SimulationSettings.tiny().version == settings.version
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.mpp = 1.0
