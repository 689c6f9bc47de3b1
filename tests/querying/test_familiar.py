"""How familiar a place is: own spots are asked without their own donor, on every kind of atlas."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bleepdb import names
from bleepdb.atlas import ExactAtlas, open_atlas, pin, retract_section
from bleepdb.indexing import index_section
from bleepdb.querying import Query, QuerySettings, parse_conditions, query_slide
from bleepdb.querying import familiar as asking
from bleepdb.querying.familiar import FOLDER, Familiar, familiar, flagged
from bleepdb.tissue import Spots


def spots(atlas):
    (collection,) = atlas.collections()
    return [r for block in atlas.scroll(collection, with_vectors=True) for r in block]


def oracle(records, field=names.DONOR):
    """Top similarity of each spot among those of others, from the vectors alone."""
    vectors = np.stack([r.vectors[names.IMAGE] for r in records])
    of = np.array([r.payload[field] for r in records])
    scores = vectors @ vectors.T
    scores[of[:, None] == of[None]] = -np.inf
    return np.sort(scores.max(axis=1))


def test_own_spots_are_asked_without_their_own_donor(small):
    pinned = pin(small.atlas, small.atlas.collections()[0])
    found = familiar(small.atlas, pinned, QuerySettings(), key=names.IMAGE)
    assert found.left_out == names.DONOR
    np.testing.assert_allclose(found.similarity, oracle(spots(small.atlas)), atol=1e-6)


def test_where_one_donor_is_left_sections_are_left_out_and_one_section_tells_nothing(small):
    from dataclasses import replace

    atlas = ExactAtlas()
    first = small.sections[0]
    for name in ("one", "two"):
        index_section(replace(first, section=name), small.model, atlas, actor="test")
    (collection,) = atlas.collections()
    found = familiar(atlas, pin(atlas, collection), QuerySettings(), key=names.IMAGE)
    assert found.left_out == names.SECTION
    np.testing.assert_allclose(found.similarity, oracle(spots(atlas), names.SECTION), atol=1e-6)
    np.testing.assert_allclose(found.similarity, 1.0, atol=1e-6)  # the twin is found
    alone = QuerySettings(where=parse_conditions("section=one"))
    nothing = familiar(atlas, pin(atlas, collection), alone, key=names.IMAGE)
    assert not len(nothing.similarity)
    assert "one section" in nothing.said
    assert np.isnan(nothing.score(np.array([0.5], np.float32))).all()
    assert not flagged(nothing.score(np.array([0.5], np.float32))).any()


def test_the_score_is_the_share_that_is_as_far_or_farther():
    usual = Familiar(np.array([0.1, 0.2, 0.2, 0.9], np.float32))
    given = np.array([0.05, 0.1, 0.2, 0.5, 0.9, 1.0, np.nan], np.float32)
    np.testing.assert_array_equal(
        usual.score(given), np.array([0, 0.25, 0.75, 0.75, 1, 1, np.nan], np.float32)
    )
    assert flagged(usual.score(given)).tolist() == [True] + [False] * 6
    many = Familiar(np.linspace(0, 1, 1001, dtype=np.float32)[1:])
    assert flagged(many.score(np.array([0.0085, 0.0105], np.float32))).tolist() == [True, False]


@pytest.fixture
def kinds(small, tmp_path):
    """The same two sections in an embedded atlas, and in a snapshot of it."""
    from bleepdb.atlas import write_snapshot

    with open_atlas(tmp_path / "atlas", create=True) as made:
        for section in small.sections[:2]:
            index_section(section, small.model, made, actor="test")
        with write_snapshot(made, tmp_path / "copy.snapshot", actor="test") as copy:
            yield made, copy


def test_all_kinds_of_atlas_say_the_same(small, kinds):
    (collection,) = small.atlas.collections()
    wanted = familiar(small.atlas, pin(small.atlas, collection), QuerySettings(), key=names.IMAGE)
    for atlas in kinds:
        found = familiar(atlas, pin(atlas, collection), QuerySettings(), key=names.IMAGE)
        assert found.left_out == wanted.left_out
        np.testing.assert_allclose(found.similarity, wanted.similarity, atol=1e-5)


def test_what_is_usual_is_kept_until_the_next_generation(small, kinds, monkeypatch, tmp_path):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    atlas, _ = kinds
    (collection,) = atlas.collections()
    asked = []
    real = type(atlas).query_batch

    def watched(self, *given, **more):
        asked.append(given)
        return real(self, *given, **more)

    monkeypatch.setattr(type(atlas), "query_batch", watched)

    def ask(**settings):
        before = len(asked)
        found = familiar(atlas, pin(atlas, collection), QuerySettings(**settings), key="image")
        return found, len(asked) - before

    first, cost = ask()
    assert cost == 2  # one search a donor
    again, cost = ask()
    assert cost == 0
    np.testing.assert_array_equal(first.similarity, again.similarity)
    _, cost = ask(exclude_donors=("donor-a",))  # one section is left: nothing to search
    assert cost == 0
    _, cost = ask()
    assert cost == 0, "other conditions have entries of their own"
    (kept,) = (tmp_path / "cache" / FOLDER).glob("*.json")
    kept.write_text("{")  # damaged: asked again
    assert ask()[1] == 2
    index_section(small.sections[2], small.model, atlas, actor="test")
    assert ask()[1] == 3
    retract_section(atlas, collection, small.sections[2].section, actor="test")
    assert ask()[1] == 2
    document = json.loads(kept.read_text())
    assert len(document["entries"]) == 1, "those of earlier generations are gone"


def test_the_sample_is_bounded_and_always_the_same(small, monkeypatch):
    monkeypatch.setattr(asking, "SAMPLE", 60)
    pinned = pin(small.atlas, small.atlas.collections()[0])
    one, two = (familiar(small.atlas, pinned, QuerySettings(), key=names.IMAGE) for _ in range(2))
    assert len(one.similarity) == 60
    np.testing.assert_array_equal(one.similarity, two.similarity)
    assert set(one.similarity.tolist()) < set(
        np.float32(oracle(spots(small.atlas))).round(7).tolist()
    ) | set(one.similarity.tolist())
    monkeypatch.setattr(asking, "LEAST_SAMPLE", 61)
    assert "fewer than 61" in familiar(small.atlas, pinned, QuerySettings(), key="image").said


def test_places_are_held_against_what_is_usual(small):
    section = small.sections[2]
    (collection,) = small.atlas.collections()
    query = Query(
        slide_path=section.slide_path,
        slide_mpp=section.slide_mpp,
        spots=Spots(section.barcodes, section.xy_px),
    )
    made = query_slide(query, small.model, small.atlas, collection)
    top = made.obs[names.TOP_SIMILARITY].to_numpy()
    usual = oracle(spots(small.atlas))
    wanted = np.array([(usual <= t + 1e-6).mean() for t in top])
    np.testing.assert_allclose(made.obs[names.OOD_SCORE], wanted, atol=0.02)
    assert made.obs[names.OOD].dtype == bool
    assert made.obs[names.OOD].mean() < 0.5
    assert made.facts["ood"] == {"spots": len(usual), "without_own": "donor", "unknown": ""}


def test_what_is_farther_than_all_own_spots_is_flagged(small):
    """Two donors with the same section: own spots find themselves, and other tissue does not."""
    from dataclasses import replace

    atlas = ExactAtlas()
    first = small.sections[0]
    for donor in ("one", "two"):
        section = replace(first, section=donor, donor=donor)
        index_section(section, small.model, atlas, actor="test")
    (collection,) = atlas.collections()
    for section, strange in ((small.sections[2], True), (first, False)):
        spots_of = Spots(section.barcodes, section.xy_px)
        query = Query(section.slide_path, section.slide_mpp, spots_of)
        made = query_slide(query, small.model, atlas, collection)
        assert (made.obs[names.TOP_SIMILARITY] < 0.9999).all() == strange
        assert (made.obs[names.OOD] == strange).all()
