"""Gene sets against scanpy, and what must hold of them on panels of any size."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb import gene_sets
from bleepdb.metrics import moran_per_gene
from bleepdb.normalise import log1p_cp10k
from bleepdb.panel import Panel
from bleepdb.places import adjacency


def drawn(n=60, g=400, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.lognormal(0, 1.5, g)
    kind = rng.gamma(rng.uniform(0.3, 5, g), 1.0, (n, g))
    counts = rng.poisson(level * kind)
    return log1p_cp10k(counts, counts.sum(1, keepdims=True))


def panel_of(g):
    return Panel(tuple(f"G{i}" for i in range(g)))


@pytest.fixture(scope="module")
def c2(her2st):
    with gzip.open(her2st / "C2.tsv.gz", "rt") as lines:
        symbols = tuple(next(lines).rstrip("\n").split("\t")[1:])
        counts = np.loadtxt((line.split("\t", 1)[1] for line in lines), delimiter="\t")
    return log1p_cp10k(counts, counts.sum(1, keepdims=True)), Panel(symbols)


def scanpy_choice(profiles, n):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own imports warn
        sc = pytest.importorskip("scanpy")
        ad = pytest.importorskip("anndata")
        data = ad.AnnData(profiles.astype(np.float64))
        sc.pp.highly_variable_genes(data, n_top_genes=n)
    return data.var


@pytest.mark.parametrize("n", [20, 150])
def test_highly_variable_equals_scanpy(n):
    profiles = drawn()
    theirs = scanpy_choice(profiles, n)
    np.testing.assert_allclose(
        gene_sets.normalised_dispersion(profiles),
        theirs["dispersions_norm"].to_numpy(float),
        rtol=1e-6,
    )
    np.testing.assert_array_equal(
        gene_sets.highly_variable(profiles, n), theirs["highly_variable"].to_numpy()
    )


def test_highly_variable_equals_scanpy_on_a_real_section(c2):
    profiles, _ = c2
    theirs = scanpy_choice(profiles, 1000)["highly_variable"].to_numpy()
    ours = gene_sets.highly_variable(profiles, 1000)
    assert ours.sum() >= 1000
    # Genes seen once tie up to rounding in the last place.
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.995


def test_genes_that_do_not_vary_are_never_chosen():
    profiles = drawn(g=50)
    profiles[:, :30] = 0
    chosen = gene_sets.highly_variable(profiles, 50)
    assert chosen.sum() == 20
    assert not chosen[:30].any()
    assert not gene_sets.highly_variable(np.zeros((5, 4), np.float32), 2).any()


def test_blocks_do_not_change_the_choice(monkeypatch):
    profiles = drawn()
    whole = gene_sets.normalised_dispersion(profiles)
    monkeypatch.setattr(gene_sets, "GENES_A_BLOCK", 33)
    np.testing.assert_allclose(gene_sets.normalised_dispersion(profiles), whole)


@settings(deadline=None, max_examples=20)
@given(st.integers(4, 150), st.integers(0, 999))
def test_sets_are_sorted_unique_and_at_most_half_of_a_small_panel(g, seed):
    sets = gene_sets.choose(drawn(n=15, g=g, seed=seed), panel_of(g))
    for name, genes in sets.items():
        assert genes.dtype == np.int64
        assert (np.diff(genes) > 0).all()
        assert len(genes) > 0
        if not name.startswith("HVG"):
            assert len(genes) <= max(g // 2, 1)


@settings(deadline=None, max_examples=20)
@given(st.integers(4, 150), st.integers(0, 999))
def test_variable_genes_are_half_of_a_small_panel_and_what_ties_with_the_last(g, seed):
    profiles = drawn(n=15, g=g, seed=seed)
    found = gene_sets.normalised_dispersion(profiles)
    last = np.sort(found[~np.isnan(found)])[::-1][min(g // 2, (~np.isnan(found)).sum()) - 1]
    wanted = np.flatnonzero(np.nan_to_num(found, nan=-np.inf) >= last)
    assert gene_sets.choose(profiles, panel_of(g))["HVG"].tolist() == wanted.tolist()


def test_sets_are_what_they_say(c2):
    profiles, panel = c2
    sets = gene_sets.choose(profiles, panel)
    assert {k: len(v) for k, v in sets.items()} == {
        "HEG": 50, "HVG": pytest.approx(1000, abs=60), "HVGd": 1000, "V50": 50, "MG": 24,
    }  # fmt: skip
    lowest = profiles.mean(0)[sets["HEG"]].min()
    assert (np.delete(profiles.mean(0), sets["HEG"]) <= lowest).all()
    lowest = profiles.var(0)[sets["V50"]].min()
    assert (np.delete(profiles.var(0), sets["V50"]) <= lowest).all()
    assert ((profiles[:, sets["HVGd"]] > 0).mean(0) >= 0.1).all()
    assert "ERBB2" in panel.take(sets["MG"]).symbols


def test_columns_must_be_the_panel():
    with pytest.raises(ValueError, match="columns"):
        gene_sets.choose(drawn(g=10), panel_of(9))


def test_mitochondrial_and_ribosomal_genes_are_told_by_name():
    names = ("MT-CO1", "mt-Nd1", "RPL3", "RPS27A", "RPLP0", "RPSA", "Rps4x", "RPL36AL",
             "RPS6KA1", "MTOR", "MRPL3", "RPRD1A", "RPS19BP1", "ERBB2")  # fmt: skip
    panel = Panel(names)
    assert gene_sets.is_mito_or_ribo(panel).tolist() == [True] * 8 + [False] * 6
    sets = {"a": np.arange(14), "b": np.array([0, 2])}
    left = gene_sets.without_mito_ribo(sets, panel)
    assert left.keys() == {"a"}
    assert panel.take(left["a"]).symbols == names[8:]


def rings_of(sides):
    made = []
    for side in sides:
        at = np.arange(side) * 100.0
        xy = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
        made.append(adjacency(xy, inner_um=1, outer_um=110))
    return made


def test_without_places_the_sets_are_the_five_that_tuning_takes():
    profiles, panel = drawn(n=52), panel_of(400)
    alone = gene_sets.choose(profiles, panel)
    with_places = gene_sets.choose(profiles, panel, rings=rings_of((6, 4)))
    assert with_places.keys() - alone.keys() == {"SVG", "ALL"}
    for name, genes in alone.items():
        np.testing.assert_array_equal(with_places[name], genes)
    assert with_places["ALL"].tolist() == list(range(400))


def test_spatially_variable_genes_vary_in_space_within_sections():
    profiles, rings = drawn(n=52, g=200), rings_of((6, 4))
    slope = np.concatenate([np.repeat(np.arange(6.0), 6), np.repeat(np.arange(4.0), 4)])
    profiles[:, 7] = slope
    profiles[:, 8] = np.repeat([0.5, 9.0], [36, 16])  # tells sections apart, and no more
    profiles[:, 9] = 0
    profiles[0, 9] = 5.0  # in hardly any spot
    found = gene_sets.spatial_variability(profiles, rings)
    assert found.argmax() == 7
    assert found[8] == 0
    wanted = [
        np.nan_to_num(moran_per_gene(profiles[rows], ring)) for rows, ring in
        zip((slice(0, 36), slice(36, 52)), rings, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(found, np.mean(wanted, axis=0))
    chosen = gene_sets.choose(profiles, panel_of(200), rings=rings)["SVG"]
    assert 7 in chosen
    assert not {8, 9} & set(chosen.tolist())
    assert len(chosen) == 50
    detected = (profiles > 0).mean(axis=0) >= 0.1
    assert detected[chosen].all()
    others = np.setdiff1d(np.flatnonzero(detected), chosen)
    assert found[others].max() <= found[chosen].min()


def test_places_must_be_those_of_the_profiles():
    with pytest.raises(ValueError, match="places"):
        gene_sets.choose(drawn(n=50), panel_of(400), rings=rings_of((6, 4)))
