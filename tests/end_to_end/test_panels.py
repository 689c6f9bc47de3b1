"""Sections measured on different genes in one collection: what is averaged, said and refused."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest

LOST, ADDED = 20, 7


def row(section, donor, counts, folder, species="human"):
    image = folder / f"{donor}-1.jpg"
    return f"{section},{donor},breast,{species},{counts},{image},1.6\n"


HEAD = "section,donor,tissue,species,expression,image,mpp\n"


@pytest.fixture(scope="module")
def other_panel(sections, tmp_path_factory):
    """The second donor's section without 20 of its 60 genes, and with 7 that nobody else has."""
    made = ad.read_h5ad(sections.parent / "donor-b-1.h5ad")
    extra = np.random.default_rng(0).poisson(3.0, size=(made.n_obs, ADDED))
    kept = made[:, LOST:]
    counts = np.concatenate([np.asarray(kept.X.todense() if hasattr(kept.X, "todense") else kept.X),
                             extra], axis=1).astype(np.int32)  # fmt: skip
    other = ad.AnnData(counts, obs=made.obs)
    other.var_names = [*kept.var_names, *(f"EXTRA{i}" for i in range(ADDED))]
    other.obsm["spatial"], other.uns["spatial"] = made.obsm["spatial"], made.uns["spatial"]
    path = tmp_path_factory.mktemp("panels") / "donor-b-other.h5ad"
    other.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def atlas(lab, other_panel, sections, cli):
    """Two sections on two panels, indexed by the command line."""
    folder = other_panel.parent
    sheet = folder / "samples.csv"
    sheet.write_text(
        HEAD
        + row("A", "donor-a", sections.parent / "donor-a-1.h5ad", sections.parent)
        + row("B", "donor-b", other_panel, sections.parent)
    )
    answer = cli("index", sheet, "--model", lab.model, "--atlas", folder / "atlas")
    assert answer.code == 0, answer.err
    assert "60/60 by symbol" in answer.out
    assert "the model's panel" in answer.out
    assert "40/60 by symbol" in answer.out
    assert "40 shared genes" in answer.out
    return folder / "atlas"


def query(cli, lab, atlas, out, *more):
    answer = cli(
        "query", lab.slide, "--atlas", atlas, "--tissue", "breast", "--slide-mpp", 1.6,
        "--spots", lab.spots, "--genes", "all", "--out", out, *more,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return ad.read_h5ad(out)


def log_profiles(counts, shared):
    totals = counts[:, shared].sum(axis=1, keepdims=True)
    return np.log1p(counts * (1e4 / np.maximum(totals, 1)))


def test_each_gene_is_averaged_over_those_that_measured_it(
    lab, atlas, other_panel, sections, tmp_path, cli
):
    made = query(
        cli, lab, atlas, tmp_path / "o.h5ad",
        "--method", "average", "--k", 4, "--smoothing", 0, "--no-denoise",
    )  # fmt: skip
    a, b = ad.read_h5ad(sections.parent / "donor-a-1.h5ad"), ad.read_h5ad(other_panel)
    assert set(made.var_names) == set(a.var_names) | set(b.var_names)
    dense = {name: np.asarray(x.to_df()) for name, x in (("A", a), ("B", b))}
    profiles = {
        "A": log_profiles(dense["A"], np.arange(60)),
        # Scaled on the genes that it shares with the model, its own seven left out of the sum.
        "B": log_profiles(dense["B"], np.arange(40)),
    }
    frames = {"A": a, "B": b}
    references = made.uns["bleepdb"]["references"]
    neighbours, weights = made.obsm["bleepdb_neighbors"], made.obsm["bleepdb_weights"]
    share = np.zeros(made.n_vars)
    for i in range(made.n_obs):
        rows = references.iloc[neighbours[i][neighbours[i] >= 0]]
        for j, gene in enumerate(made.var_names):
            values, w = [], []
            for (_, at), weight in zip(rows.iterrows(), weights[i], strict=False):
                frame = frames[at["section"]]
                if gene in frame.var_names:
                    place = frame.obs_names.get_loc(at["barcode"])
                    values.append(profiles[at["section"]][place, frame.var_names.get_loc(gene)])
                    w.append(weight)
            share[j] += len(values) / len(rows)
            expected = np.average(values, weights=w) if values else np.nan
            np.testing.assert_allclose(made.X[i, j], expected, atol=1e-5)
    np.testing.assert_allclose(made.var["coverage"], share / made.n_obs, atol=1e-5)
    lost = made.var.loc[a.var_names[:LOST], "coverage"]
    added = made.var.loc[[f"EXTRA{i}" for i in range(ADDED)], "coverage"]
    assert (lost < 1).all()
    assert (added < 1).all()
    assert (made.var.loc[b.var_names[:40], "coverage"] == 1).all()
    assert np.isnan(made[:, "EXTRA0"].X).any(), "unmeasured is not zero"


def test_what_the_map_needs_whole_is_taken_from_those_that_measured_it(lab, atlas, tmp_path, cli):
    """Denoised values rest on references of the model's whole panel, and are all there."""
    made = query(cli, lab, atlas, tmp_path / "o.h5ad")
    card = json.loads(made.uns["bleepdb"]["run_card"])["facts"]
    assert card["settings"]["denoise"]
    genes = [g for g in made.var_names if not g.startswith("EXTRA")]
    assert np.isfinite(made[:, genes].X).all()


@pytest.mark.parametrize("fault", ["few", "mouse"])
def test_too_few_genes_or_another_species_is_refused(lab, atlas, sections, tmp_path, cli, fault):
    made = ad.read_h5ad(sections.parent / "donor-c-1.h5ad")
    if fault == "few":
        made = made[:, :29].copy()
    path = tmp_path / "donor-c.h5ad"
    made.write_h5ad(path)
    sheet = tmp_path / "s.csv"
    species = "mouse" if fault == "mouse" else "human"
    sheet.write_text(HEAD + row("C", "donor-c", path, sections.parent, species))
    before = sorted((p, p.stat().st_mtime_ns) for p in atlas.rglob("manifest.json"))
    answer = cli("index", sheet, "--model", lab.model, "--atlas", atlas)
    assert answer.code == 2
    says = "less than 50%" if fault == "few" else "species"
    assert says in answer.err
    assert "Traceback" not in answer.err
    assert sorted((p, p.stat().st_mtime_ns) for p in atlas.rglob("manifest.json")) == before
    listed = json.loads(cli("atlas", "list", "--atlas", atlas, "--json").out)
    live = listed[0]["live"] if isinstance(listed, list) else listed["collections"][0]["live"]
    assert [s["section"] for s in live] == ["A", "B"]
