"""Sections as labs have them, a Space Ranger folder among them, through train, index and query."""

from __future__ import annotations

import gzip
import json
import shutil

import anndata as ad
import numpy as np
import pytest
from scipy.io import mmwrite


@pytest.fixture(scope="module")
def outs(sections, tmp_path_factory):
    """A made section as a Space Ranger 2 folder: mtx, positions with header, scale factors."""
    made = ad.read_h5ad(sections.parent / "donor-a-1.h5ad")
    folder = tmp_path_factory.mktemp("run") / "outs"
    matrix, spatial = folder / "filtered_feature_bc_matrix", folder / "spatial"
    matrix.mkdir(parents=True)
    spatial.mkdir()
    with gzip.open(matrix / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, made.X.T.tocoo(), field="integer")
    with gzip.open(matrix / "barcodes.tsv.gz", "wt") as file:
        file.writelines(f"{name}\n" for name in made.obs_names)
    with gzip.open(matrix / "features.tsv.gz", "wt") as file:
        file.writelines(
            f"ENSG{i:011d}\t{name}\tGene Expression\n" for i, name in enumerate(made.var_names)
        )
    lines = ["barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"]
    step = 200 / 1.6
    for name, (x, y) in zip(made.obs_names, made.obsm["spatial"], strict=True):
        # A square grid of 200 µm stands for Visium's hexagonal one: mpp comes from the sheet.
        lines.append(f"{name},1,{round(y / step)},{round(x / step)},{y},{x}")
    lines.append("AAAA-1,0,0,0,1,1")
    (spatial / "tissue_positions.csv").write_text("\n".join(lines) + "\n")
    (spatial / "scalefactors_json.json").write_text(
        json.dumps(
            {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1,
             "spot_diameter_fullres": 60.0, "fiducial_diameter_fullres": 90.0}
        )
    )  # fmt: skip
    shutil.copyfile(sections.parent / "donor-a-1.jpg", folder.parent / "slide.jpg")
    return folder


def test_a_space_ranger_folder_goes_through_train_index_and_query(outs, sections, tmp_path, cli):
    sheet = tmp_path / "samples.csv"
    sheet.write_text(
        "section,donor,tissue,expression,image,mpp\n"
        f"run,A,Breast,{outs},{outs.parent / 'slide.jpg'},1.6\n"
        f"other,B,Breast,{sections.parent / 'donor-b-1.h5ad'},"
        f"{sections.parent / 'donor-b-1.jpg'},1.6\n"
    )
    model, atlas, out = tmp_path / "model", tmp_path / "atlas", tmp_path / "out.h5ad"
    answer = cli("train", sheet, "--out", model, "--tile-px", 64, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["genes"] == 60
    answer = cli("index", sheet, "--model", model, "--atlas", atlas, "--json")
    assert answer.code == 0, answer.err
    assert [e["status"] for e in json.loads(answer.out)] == ["added", "added"]
    positions = outs / "spatial" / "tissue_positions.csv"
    answer = cli(
        "query", outs.parent / "slide.jpg", "--atlas", atlas, "--tissue", "breast",
        "--slide-mpp", 1.6, "--spots", positions, "--donor", "A", "--genes", "all", "--out", out,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    made = ad.read_h5ad(out)
    assert made.n_obs == len(positions.read_text().splitlines()) - 2
    assert set(made.uns["bleepdb"]["references"]["donor"]) == {"B"}
    assert np.isfinite(made.X).all()
    assert (made.var["gene_ids"] != "").sum() == 60


def test_a_single_section_needs_no_sheet(sections, tmp_path, cli):
    answer = cli(
        "train", sections.parent / "donor-a-1.h5ad", "--donor", "A", "--tissue", "breast",
        "--image", sections.parent / "donor-a-1.jpg", "--slide-mpp", 1.6, "--tile-px", 64,
        "--out", tmp_path / "model", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["inner_folds"] == "none (one section)"


def test_imputed_and_measured_are_compared_by_name(lab, sections, tmp_path, cli):
    report = tmp_path / "report.json"
    answer = cli(
        "evaluate", "--pred", lab.imputed, "--truth", sections.parent / "donor-c-1.h5ad",
        "--slide-mpp", 1.6, "--json-out", report,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(report.read_text())
    assert found["joined_by"] == "name"
    assert found["places"] == 32
    measured = ad.read_h5ad(sections.parent / "donor-c-1.h5ad")
    imputed = ad.read_h5ad(lab.imputed)
    counts = measured.X.toarray()
    truth = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    gene = imputed.var_names.get_loc("ERBB2")
    wanted = np.corrcoef(truth[:, measured.var_names.get_loc("ERBB2")], imputed.X[:, gene])[0, 1]
    place = found["genes"]["symbol"].index("ERBB2")
    assert abs(found["genes"]["pcc"][place] - wanted) < 1e-3


def test_held_out_scores_reach_the_card_and_choose_the_genes(lab, tmp_path, cli):
    model = tmp_path / "model"
    shutil.copytree(lab.model, model)
    report = tmp_path / "scores.json"
    answer = cli(
        "evaluate", lab.sheet, "--by", "donor", "--card", model, "--json-out", report,
        "--permutations", 5, "--epochs", 3, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out) == json.loads(report.read_text())
    card = json.loads((model / "model.json").read_text())
    flags = card["scores"]["genes"]["predictable"]
    assert len(flags) == 60
    assert 0 < sum(flags) < 60
    answer = cli(
        "query", lab.slide, "--atlas", lab.atlas, "--tissue", "breast", "--slide-mpp", 1.6,
        "--model", model, "--spots", lab.spots, "--out", tmp_path / "o.h5ad",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    made = ad.read_h5ad(tmp_path / "o.h5ad")
    assert made.n_vars == sum(flags)
    assert made.var["predictable"].all()
    assert np.isfinite(made.var["pcc"]).all()
    # What each command says of it is what the card says.
    told = json.loads(cli("inspect", model, "--json").out)
    assert told["facts"]["predictable genes"] == sum(flags)
    told = json.loads(cli("inspect", tmp_path / "o.h5ad", "--json").out)
    assert told["facts"]["predictable genes"] == made.n_vars
    gene, tile = made.var_names[0], made.obs_names[0]
    asked = ("explain", tmp_path / "o.h5ad", "--tile", tile, "--gene", gene)
    (entry,) = json.loads(cli(*asked, "--json").out)
    place = card["expression"]["panel"]["symbols"].index(gene)
    for name in ("pcc", "noise_ceiling", "predictable"):
        assert entry["held_out"][name] == pytest.approx(card["scores"]["genes"][name][place])
    assert f"held-out correlation {made.var['pcc'].iloc[0]:.2f}" in cli(*asked).out
