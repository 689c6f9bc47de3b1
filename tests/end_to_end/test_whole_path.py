"""Train, index, query, explain: what comes out is what the formulas say, on every kind of atlas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest

from bleepdb.atlas import ExactAtlas, open_atlas, resolve, retract_section
from bleepdb.atlas.whole_folder import RESERVE
from bleepdb.encoders import extract, load_model
from bleepdb.explaining import explain, find_gene, find_tile
from bleepdb.files import file_digest
from bleepdb.indexing import index_section, model_of
from bleepdb.normalise import log1p_cp10k
from bleepdb.places import adjacency
from bleepdb.querying import (
    Query,
    QuerySettings,
    open_imputed,
    parse_conditions,
    query_slide,
)
from bleepdb.tissue import Spots, load_section, read_sheet


@pytest.fixture(scope="module")
def trained(lab):
    return load_model(lab.model)


@pytest.fixture(scope="module")
def measured(lab):
    """The sections of the two training donors, and the held-out one."""
    return [load_section(row).section for row in read_sheet(lab.sheet)]


@pytest.fixture(scope="module")
def exact(trained, measured):
    atlas = ExactAtlas()
    for section in measured[:2]:
        index_section(section, trained, atlas)
    return atlas


def ask(section, **settings):
    query = Query(
        slide_path=section.slide_path,
        slide_mpp=section.slide_mpp,
        spots=Spots(section.barcodes, section.xy_px),
        library_id=section.section,
    )
    return query, QuerySettings(**{"genes": "model", **settings})


def impute(section, model, atlas, **settings):
    query, chosen = ask(section, **settings)
    return query_slide(query, model, atlas, resolve(atlas, "breast"), settings=chosen)


def brute_force(section, model, references, *, k, weigh):
    """The same from the sections themselves: embed, multiply, sort, average."""

    def embed(one):
        features = extract(
            one.slide_path,
            one.xy_px,
            slide_mpp=one.slide_mpp,
            spec=model.feature_spec,
            backbone=model.backbone(),
        )
        return model.embed_images(features, one.xy_um)

    keys = np.concatenate([embed(r) for r in references])
    counts = np.concatenate([r.counts.toarray() for r in references])
    profiles = log1p_cp10k(counts, counts.sum(axis=1, keepdims=True))
    depth = counts.sum(axis=1)
    scores = embed(section) @ keys.T
    made = np.zeros((len(section), profiles.shape[1]))
    for i, row in enumerate(scores):
        best = np.argsort(-row, kind="stable")[:k]
        made[i] = np.average(profiles[best], axis=0, weights=weigh(row[best], depth[best]))
    return made


@pytest.mark.parametrize(
    ("method", "k", "weigh"),
    [
        ("simple", 5, lambda s, _: (np.arange(len(s)) == 0).astype(float)),
        ("average", 50, lambda s, _: np.ones_like(s)),
        ("weighted", 20, lambda s, _: np.exp(-(2 - 2 * s))),
        ("softmax", 30, lambda s, depth: np.exp((s - s.max()) / 0.1) * np.sqrt(depth)),
    ],
)
def test_an_embedded_atlas_gives_what_numpy_gives(lab, trained, measured, method, k, weigh):
    with open_atlas(lab.atlas) as atlas:
        found = impute(
            measured[2], trained, atlas,
            method=method, k=k, temperature=0.1, smoothing=0.0, denoise=False,
        ).values()  # fmt: skip
    wanted = brute_force(measured[2], trained, measured[:2], k=k, weigh=weigh)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("method", ["softmax", "local"])
def test_exact_and_embedded_agree_with_all_that_the_card_says(
    lab, trained, measured, exact, method
):
    with open_atlas(lab.atlas) as atlas:
        one = impute(measured[2], trained, atlas, method=method, k=25)
    other = impute(measured[2], trained, exact, method=method, k=25)
    np.testing.assert_allclose(one.values(), other.values(), atol=1e-5)
    np.testing.assert_allclose(np.asarray(one.weights.sum(axis=1)).ravel(), 1.0, atol=1e-5)
    assert (one.weights.data < 0).any() == (method == "local")


def test_smoothing_and_low_rank_are_what_they_say(trained, measured, exact):
    section = measured[2]
    plain = impute(section, trained, exact, smoothing=0.0, denoise=False).values()
    near = trained.retrieval["smoothing"]
    ring = adjacency(section.xy_um, inner_um=near["inner_um"], outer_um=near["outer_um"])
    mixed = np.where((np.diff(ring.indptr) > 0)[:, None], 0.7 * plain + 0.3 * (ring @ plain), plain)
    U, mean = trained.components.astype(float), trained.profile_mean.astype(float)
    assert not np.allclose(trained.readout, trained.components)
    wanted = mean + (mixed - mean) @ U @ trained.readout.astype(float).T
    np.testing.assert_allclose(impute(section, trained, exact).values(), wanted, atol=2e-5)


def test_the_file_holds_what_it_promises(lab, measured):
    made = ad.read_h5ad(lab.imputed)
    section = measured[2]
    assert made.obs_names.tolist() == [f"donor-c-1:{b}" for b in section.barcodes]
    assert made.X.dtype == np.float32
    assert made.shape == (len(section), len(section.panel))
    np.testing.assert_array_equal(made.obsm["spatial"], section.xy_px)
    assert made.obsm["spatial"].dtype == np.float64
    neighbours, weights = made.obsm["bleepdb_neighbors"], made.obsm["bleepdb_weights"]
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    assert (weights[neighbours < 0] == 0).all()
    references = made.uns["bleepdb"]["references"]
    assert set(references["donor"]) == {"donor-a", "donor-b"}
    assert neighbours.max() == len(references) - 1
    assert made.layers["neighbor_sd"].shape == made.shape
    assert (made.var["coverage"] == 1).all()
    entry = made.uns["spatial"]["donor-c-1"]
    assert entry["images"]["hires"].dtype == np.uint8
    assert set(entry["scalefactors"]) >= {"tissue_hires_scalef", "spot_diameter_fullres"}
    card = json.loads(made.uns["bleepdb"]["run_card"])
    assert card["facts"]["generation"] == 3  # two sections, and the field that can be filtered
    assert set(card["facts"]["live_sections"]) == {"donor-a-1", "donor-b-1"}


def test_any_hundred_values_are_recomputed_from_payloads(lab):
    opened = open_imputed(lab.imputed)
    rng = np.random.default_rng(0)
    pairs = [
        (int(r), int(c))
        for r, c in zip(
            rng.integers(len(opened.obs), size=100), rng.integers(len(opened.var), size=100),
            strict=True,
        )
    ]  # fmt: skip
    with open_atlas(lab.atlas) as atlas:
        model = model_of(atlas, resolve(atlas, "breast"))
        found = explain(opened, model, atlas, pairs)
    gaps = [abs(e.stored - e.evidence.value) for e in found]
    assert max(gaps) < 1e-5
    for entry in found:
        total = entry.evidence.constant + sum(row["contribution"] for row in entry.rows)
        assert total == pytest.approx(entry.stored, abs=1e-5)


def test_evidence_that_was_withdrawn_is_said_to_be(trained, measured, tmp_path):
    atlas = ExactAtlas()
    for section in measured[:2]:
        index_section(section, trained, atlas)
    query, settings = ask(measured[2])
    collection = resolve(atlas, "breast")
    made = query_slide(query, trained, atlas, collection, settings=settings)
    made.write(tmp_path / "o.h5ad")
    retract_section(atlas, collection, "donor-b-1", actor="test")
    opened = open_imputed(tmp_path / "o.h5ad")
    entry = explain(opened, trained, atlas, [(0, 0)])[0]
    assert entry.evidence is None
    assert entry.withdrawn == ("donor-b-1 (donor-b)",)


def test_an_excluded_donor_does_not_answer(trained, measured, exact):
    made = impute(measured[2], trained, exact, exclude_donors=("donor-a",))
    assert set(made.references["donor"]) == {"donor-b"}
    query, settings = ask(measured[0])
    made = query_slide(
        Query(**{**query.__dict__, "donor": "donor-a"}),
        trained, exact, resolve(exact, "breast"), settings=settings,
    )  # fmt: skip
    assert set(made.references["donor"]) == {"donor-b"}
    assert made.facts["in_training_donor"]


def test_a_slide_that_answers_for_itself_is_warned_of(trained, measured, exact):
    made = impute(measured[0], trained, exact)
    assert any("answers for itself" in text for text in made.facts["warnings"])
    own = measured[0].section
    for where, warned in (
        (f"section!={own}", False), ("donor=donor-b", False), ("donor!=donor-b", True),
        (f"section={own}", True),
    ):  # fmt: skip
        made = impute(measured[0], trained, exact, where=parse_conditions(where))
        said = any("answers for itself" in text for text in made.facts["warnings"])
        assert said == warned, where


def test_an_atlas_that_outgrew_its_model_is_warned_of(trained, measured):
    """The model knows donors a and b: where others answer, its low-rank map is named."""
    from dataclasses import replace

    atlas = ExactAtlas()
    index_section(measured[0], trained, atlas)
    for i in range(2):
        index_section(replace(measured[2], section=f"later-{i}"), trained, atlas)
    said = [t for t in impute(measured[1], trained, atlas).facts["warnings"] if "came after" in t]
    assert len(said) == 1
    assert len(measured[2]) < len(measured[0]), "so that one later section is less than half"
    assert f"{2 * len(measured[2])} of {len(measured[0]) + 2 * len(measured[2])} live" in said[0]
    for settings in ({"denoise": False}, {}):
        if not settings:
            retract_section(atlas, resolve(atlas, "breast"), "later-0", actor="t")
        made = impute(measured[1], trained, atlas, **settings)
        assert not [t for t in made.facts["warnings"] if "came after" in t]


def test_a_gene_that_some_sections_lack_is_averaged_over_the_others(trained, measured):
    """donor-b-1 loses ten genes; nobody has measured a zero there."""
    from dataclasses import replace

    lost = measured[1].panel.symbols[:10]
    keep = np.arange(10, len(measured[1].panel))
    fewer = replace(
        measured[1],
        counts=measured[1].counts[:, keep].tocsr(),
        panel=measured[1].panel.take(keep),
    )
    atlas = ExactAtlas()
    for section in (measured[0], fewer):
        index_section(section, trained, atlas)
    made = impute(measured[2], trained, atlas, smoothing=0.0, denoise=False, method="average", k=9)
    values, W = made.values(), made.weights.toarray()
    of_a = (made.references["donor"] == "donor-a").to_numpy()
    genes = [made.var.index.get_loc(name) for name in lost]
    none = W[:, of_a].sum(axis=1) == 0
    assert np.isnan(values[np.ix_(none, genes)]).all()
    assert np.isfinite(values[np.ix_(~none, genes)]).all()
    assert (made.var["coverage"].to_numpy()[genes] < 1).all()
    alone = impute(
        measured[2], trained, atlas,
        smoothing=0.0, denoise=False, method="average", k=9, exclude_sections=("donor-a-1",),
    )  # fmt: skip
    lacking = [name in lost for name in alone.var.index]
    assert np.isnan(alone.values()[:, lacking]).all()


def test_indexing_again_changes_nothing(lab, cli):
    before = {p: file_digest(p) for p in sorted(lab.atlas.rglob("manifest.json"))}
    answer = cli(
        "index", lab.sheet, "--model", lab.model, "--atlas", lab.atlas,
        "--exclude-donor", "donor-c", "--field", "stain", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert {entry["status"] for entry in json.loads(answer.out)} == {"unchanged"}
    assert {p: file_digest(p) for p in before} == before


def test_the_same_places_at_two_strides_agree(trained, measured, exact):
    """A grid twice as dense holds the same places; context and smoothing see the same tissue."""
    section = measured[2]
    query, settings = ask(section)
    step = trained.pitch_um / section.slide_mpp
    low, high = section.xy_px.min(axis=0), section.xy_px.max(axis=0)
    columns, rows = (int((h - a) // step) for h, a in zip(high, low, strict=True))
    coarse = np.array(
        [low + step * np.array([i, j]) for j in range(rows + 1) for i in range(columns + 1)]
    )
    half = step / 2
    fine = np.array(
        [low + half * np.array([i, j]) for j in range(2 * rows + 1) for i in range(2 * columns + 1)]
    )

    def values(places):
        names = np.array([f"{x:.3f},{y:.3f}" for x, y in places])
        asked = Query(**{**query.__dict__, "spots": Spots(names, places)})
        made = query_slide(asked, trained, exact, resolve(exact, "breast"), settings=settings)
        return dict(zip(names.tolist(), made.values(), strict=True))

    one, two = values(coarse), values(fine)
    a, b = (np.stack([v[name] for name in one]) for v in (one, two))
    varied = a.std(axis=0) > 1e-3
    r = [np.corrcoef(a[:, g], b[:, g])[0, 1] for g in np.flatnonzero(varied)]
    assert np.median(r) > 0.95
    # Two strides differ by far less than places do.
    assert np.abs(a - b).mean() < 0.25 * a.std(axis=0).mean() + 0.01


def test_squidpy_draws_the_output_as_it_is(lab, tmp_path):
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import matplotlib; matplotlib.use('Agg')\n"
        "import anndata, matplotlib.pyplot as plt, squidpy as sq\n"
        f"a = anndata.read_h5ad({str(lab.imputed)!r})\n"
        "sq.pl.spatial_scatter(a, color=a.var_names[0])\n"
        f"plt.savefig({str(tmp_path / 'drawn.png')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    from PIL import Image

    assert np.asarray(Image.open(tmp_path / "drawn.png").convert("L")).std() > 5


def test_tiles_over_the_tissue_where_no_spots_are_given(lab, tmp_path, cli):
    out = tmp_path / "tiles.h5ad"
    answer = cli(
        "query", lab.slide, "--atlas", lab.atlas, "--tissue", "breast", "--slide-mpp", 1.6,
        "--genes", "ERBB2,KRT8", "--out", out, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    made = ad.read_h5ad(out)
    assert made.var_names.tolist() == ["ERBB2", "KRT8"]
    assert json.loads(answer.out)["places"] == made.n_obs
    gaps = np.diff(np.unique(made.obs["x_px"]))
    np.testing.assert_allclose(gaps, 200 / 1.6)
    assert np.isfinite(made.X).all()


def test_explain_names_spots_and_gives_the_value_back(lab, cli):
    opened = open_imputed(lab.imputed)
    x, y = opened.xy_px[3]
    answer = cli("explain", lab.imputed, "--at", f"{x + 4},{y}", "--gene", "ERBB2", "--json")
    assert answer.code == 0, answer.err
    entry = json.loads(answer.out)[0]
    assert entry["tile"] == opened.obs.index[3]
    assert entry["recomputed"] == pytest.approx(entry["stored"], abs=1e-5)
    assert entry["held_out"] is None  # this model was never evaluated
    assert {n["donor"] for n in entry["neighbours"]} == {"donor-a", "donor-b"}
    assert find_tile(opened, at=None, tile=str(opened.obs.index[3])) == 3
    assert opened.var.index[find_gene(opened, "ERBB2")] == "ERBB2"


def test_the_demo_refuses_a_folder_that_it_did_not_make(tmp_path, cli):
    (tmp_path / "thesis.txt").write_text("years of work")
    answer = cli("demo", "--out", tmp_path)
    assert answer.code == 2
    assert "did not make" in answer.err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_part_files_are_left_behind(lab):
    left = [p for p in Path(lab.folder).rglob("*") if ".part" in p.name]
    assert left == []


def test_a_disk_without_room_is_refused_before_anything_is_written(cli, lab, tmp_path, monkeypatch):
    out = tmp_path / "out.h5ad"
    words = (
        "query", lab.slide, "--atlas", lab.atlas, "--tissue", "breast", "--slide-mpp", 1.6,
        "--spots", lab.spots, "--genes", "all", "--out", out,
    )  # fmt: skip
    for free in (0, RESERVE + 10_000):  # at once; and when it is known how large the file will be
        room = SimpleNamespace(total=2**40, used=0, free=free)
        monkeypatch.setattr("bleepdb.atlas.whole_folder.shutil.disk_usage", lambda _, r=room: r)
        answer = cli(*words)
        assert answer.code == 2
        assert f"error: {out}: " in answer.err
        assert "are free on this disk" in answer.err
        assert list(tmp_path.iterdir()) == []
    enough = SimpleNamespace(total=2**40, used=0, free=RESERVE + 2**24)
    monkeypatch.setattr("bleepdb.atlas.whole_folder.shutil.disk_usage", lambda _: enough)
    assert cli(*words).code == 0
    assert 10_000 < out.stat().st_size < 2**24
