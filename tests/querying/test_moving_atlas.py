"""A section replaced or retracted during a query: the search runs again, encoding does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bleepdb.atlas import open_atlas, retract_section
from bleepdb.errors import AtlasCorruptError, AtlasError, AtlasMovedError
from bleepdb.indexing import index_section
from bleepdb.querying import Query, QuerySettings, check_unchanged, query_slide, write_current
from bleepdb.querying import places as seeing
from bleepdb.querying import run as running
from bleepdb.tissue import Spots


@pytest.fixture
def atlas(small, tmp_path):
    with open_atlas(tmp_path / "atlas", create=True) as made:
        for section in small.sections[:2]:
            index_section(section, small.model, made, actor="test")
        yield made


@pytest.fixture
def encoded(monkeypatch):
    """How often the slide was encoded."""
    calls = []
    real = seeing.begin_features

    def watched(*given, **more):
        calls.append(given[0])
        return real(*given, **more)

    monkeypatch.setattr(seeing, "begin_features", watched)
    return calls


def ask(small, atlas, **settings):
    section = small.sections[2]
    query = Query(
        slide_path=section.slide_path,
        slide_mpp=section.slide_mpp,
        spots=Spots(section.barcodes, section.xy_px),
        library_id=section.section,
    )
    (collection,) = atlas.collections()
    chosen = QuerySettings(genes="model", **settings)
    return query_slide(query, small.model, atlas, collection, settings=chosen)


def changed(section, times):
    """The same section with other counts: a revision of its own."""
    counts = section.counts.copy()
    counts.data[: 1 + times] += 1
    return replace(section, counts=counts)


def moving(small, atlas, monkeypatch, name, times, act=None):
    """Replace a section each time before `name` of a run is called, at most `times` times."""
    seen = []
    real = getattr(running, name)

    def meanwhile(*given, **more):
        if len(seen) < times:
            seen.append(1)
            if act is None:
                section = changed(small.sections[0], len(seen))
                index_section(section, small.model, atlas, actor="other")
            else:
                act()
        return real(*given, **more)

    monkeypatch.setattr(running, name, meanwhile)
    return seen


@pytest.mark.parametrize("name", ["fetch_profiles", "refuse_damaged", "survey"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_section_replaced_after_the_search(small, atlas, encoded, monkeypatch, name, times):
    seen = moving(small, atlas, monkeypatch, name, times)
    made = ask(small, atlas)
    assert len(seen) == times
    assert len(encoded) == 1
    (collection,) = atlas.collections()
    live = atlas.read_manifest(collection)
    assert made.facts["generation"] == live.generation
    assert set(made.references["rev"]) <= live.revisions
    monkeypatch.undo()
    np.testing.assert_allclose(made.values(), ask(small, atlas).values(), atol=1e-5)


def test_an_atlas_that_never_rests_gets_the_clear_error(small, atlas, encoded, monkeypatch):
    seen = moving(small, atlas, monkeypatch, "survey", 9)
    with pytest.raises(AtlasError, match=r"replaced or retracted|ask again"):
        ask(small, atlas)
    assert len(seen) == running.TRIES
    assert len(encoded) == 1


def test_damage_is_not_taken_for_movement(small, atlas, monkeypatch):
    calls = []

    def broken(*given, **more):
        calls.append(1)
        raise AtlasCorruptError("a vector is not what was written")

    monkeypatch.setattr(running, "refuse_damaged", broken)
    with pytest.raises(AtlasCorruptError, match="not what was written"):
        ask(small, atlas)
    assert len(calls) == 1


def test_a_section_retracted_before_the_file_takes_its_name(
    small, atlas, encoded, monkeypatch, tmp_path
):
    made = ask(small, atlas)
    (collection,) = atlas.collections()
    gone = small.sections[0].section
    assert gone in set(made.references["section"])
    retract_section(atlas, collection, gone, actor="other")
    with pytest.raises(AtlasMovedError, match=gone):
        check_unchanged(atlas, made)
    path = tmp_path / "imputed.h5ad"
    written = write_current(made, atlas, path)
    assert path.is_file()
    assert set(written.references["section"]) == {small.sections[1].section}
    assert len(encoded) == 1
    check_unchanged(atlas, written)


def test_nothing_is_written_of_an_atlas_that_never_rests(small, atlas, monkeypatch, tmp_path):
    made = ask(small, atlas)
    seen = moving(small, atlas, monkeypatch, "partial", 9)  # the last step before it is written
    path = tmp_path / "imputed.h5ad"
    with pytest.raises(AtlasMovedError, match="run the query again"):
        write_current(made, atlas, path)
    assert len(seen) == running.TRIES
    assert list(tmp_path.glob("*imputed*")) == []
