"""Conditions and quotas of a search: read, refused, and equal to brute force."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bleepdb.atlas import EmbeddedAtlas, ExactAtlas, pin
from bleepdb.errors import AtlasError, EmptyAtlasError, InputError
from bleepdb.querying import Condition, QuerySettings, parse_conditions
from bleepdb.querying import search as searching
from bleepdb.querying.filters import conditions_of, refuse_unknown
from bleepdb.querying.search import search


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stage=II", [("stage", ("II",), False)]),
        ("donor!=P3,stage=II", [("donor", ("P3",), True), ("stage", ("II",), False)]),
        (" donor != P3 , stage=I|II ", [("donor", ("P3",), True), ("stage", ("I", "II"), False)]),
        ('stage="a,b"|c', [("stage", ("a,b", "c"), False)]),
        ('stage=" x "', [("stage", (" x ",), False)]),
        ("stage=a=b", [("stage", ("a=b",), False)]),
        ("stage=a b", [("stage", ("a b",), False)]),
    ],
)
def test_conditions_are_read(text, expected):
    assert [(c.field, c.values, c.negated) for c in parse_conditions(text)] == expected


@pytest.mark.parametrize(
    "text", ["", " ", "stage", "stage=", "=II", 'stage="a', "stage=a|", "a=b,,c=d", "1=2"]
)
def test_what_is_no_condition_is_shown(text):
    with pytest.raises(InputError, match="is no condition"):
        parse_conditions(text)


VALUES = st.text(st.characters(codec="utf-8", exclude_characters='"'), min_size=1).filter(
    lambda v: v.strip() and "\n" not in v
)


@given(
    st.lists(
        st.builds(
            Condition,
            st.sampled_from(["donor", "stage", "x-y_1"]),
            st.lists(VALUES, min_size=1, max_size=3).map(tuple),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_what_is_shown_reads_back(conditions):
    assert list(parse_conditions(",".join(map(str, conditions)))) == conditions


SECTIONS = {"S1": ("D1", "I"), "S2": ("D1", "II"), "S3": ("D2", "II"), "S4": ("D3", "I")}


@pytest.fixture(scope="module", params=["exact", "embedded"])
def atlas(request, atlas_lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")
    made = ExactAtlas() if request.param == "exact" else EmbeddedAtlas(folder / "a", create=True)
    with made:
        atlas_lab.prepare(made)
        for name, (donor, stage) in SECTIONS.items():
            atlas_lab.publish(made, name, donor=donor, stage=stage, spots=40)
        # What is staged and not live must not be found by any condition.
        made.upsert(atlas_lab.COLLECTION, atlas_lab.section("S9", donor="D1", stage="II")[1][0])
        yield made


def truth(lab, keeps, queries, k, per_donor=None):
    """Brute force: all live points that `keeps` keeps, in order, a quota a donor."""
    rows = []
    for name, (donor, stage) in SECTIONS.items():
        points = lab.joined(lab.section(name, donor=donor, stage=stage, spots=40)[1])
        if keeps(SimpleNamespace(name=name, donor=donor, stage=stage)):
            rows += zip(points.ids, points.vectors["image"], [donor] * 40, strict=True)
    found = []
    for query in queries:
        order = sorted((-np.float32(v @ query), i, d) for i, v, d in rows)
        taken, given = [], {}
        for _, identity, donor in order:
            if len(taken) < k and given.get(donor, 0) < (per_donor or k):
                given[donor] = given.get(donor, 0) + 1
                taken.append(identity)
        found.append(taken)
    return found


CASES = {
    "nothing": ({}, lambda _: True),
    "where": ({"where": "stage=II"}, lambda p: p.stage == "II"),
    "where not": ({"where": "donor!=D1"}, lambda p: p.donor != "D1"),
    "both": ({"where": "donor!=D2,stage=II"}, lambda p: p.donor != "D2" and p.stage == "II"),
    "several": ({"where": "donor=D2|D3"}, lambda p: p.donor in {"D2", "D3"}),
    "twice": ({"where": "donor=D1|D2,donor=D2|D3"}, lambda p: p.donor == "D2"),
    "donor": ({"exclude_donors": ("D1",)}, lambda p: p.donor != "D1"),
    "section": ({"exclude_sections": ("S2", "S4")}, lambda p: p.name in {"S1", "S3"}),
    "all of them": (
        {"where": "stage=II", "exclude_donors": ("D2",), "exclude_sections": ("S1",)},
        lambda p: p.name == "S2",
    ),
}


@pytest.mark.parametrize("per_donor", [None, 1, 4, 100])
@pytest.mark.parametrize("name", CASES)
def test_a_search_equals_brute_force_with_the_same_filter(atlas, atlas_lab, name, per_donor):
    given, keeps = CASES[name]
    settings = QuerySettings(
        **{k: v if k != "where" else parse_conditions(v) for k, v in given.items()},
        per_donor=per_donor,
    )
    queries = atlas_lab.unit(np.random.default_rng(4), 6)
    pinned = pin(atlas, atlas_lab.COLLECTION)
    found = search(atlas, pinned, queries, key="image", k=15, settings=settings)
    ids = [[found.ids[c] for c in row if c >= 0] for row in found.columns]
    assert ids == truth(atlas_lab, keeps, queries, 15, per_donor)


def test_conditions_that_leave_nothing(atlas, atlas_lab):
    settings = QuerySettings(where=parse_conditions("donor=D3,stage=II"))
    with pytest.raises(EmptyAtlasError, match="nothing is left to search with donor=D3, stage=II"):
        search(
            atlas,
            pin(atlas, atlas_lab.COLLECTION),
            atlas_lab.unit(np.random.default_rng(0), 1),
            key="image",
            k=3,
            settings=settings,
        )


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"exclude_donors": ("D8",)}, InputError, "no spot with donor 'D8'; there is D1, D2, D3"),
        ({"exclude_sections": ("S9",)}, InputError, "no spot with section 'S9'"),
        ({"where": parse_conditions("stage!=IV")}, InputError, "there is I, II"),
        ({"where": parse_conditions("stagee=I")}, AtlasError, "no filterable field 'stagee'"),
    ],
)
def test_a_slip_in_a_name_is_refused(atlas, atlas_lab, settings, error, says):
    pinned = pin(atlas, atlas_lab.COLLECTION)
    with pytest.raises(error, match=says):
        refuse_unknown(atlas, pinned, conditions_of(QuerySettings(**settings)))


@pytest.mark.parametrize("settings", [{"per_donor": 0}, {"search": "quick"}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(InputError):
        QuerySettings(**settings)


def test_the_kind_of_search_can_be_chosen(atlas, atlas_lab, monkeypatch):
    pinned = pin(atlas, atlas_lab.COLLECTION)
    queries = atlas_lab.unit(np.random.default_rng(0), 3)

    def ask(how):
        settings = QuerySettings(search=how, per_donor=2)
        return search(atlas, pinned, queries, key="image", k=5, settings=settings)

    assert ask("exact").exact
    assert ask("auto").exact
    monkeypatch.setattr(searching, "EXACT_PRODUCTS", 0)
    assert not ask("auto").exact
    assert ask("exact").exact
    found = ask("approximate")
    assert (found.exact, found.recall, found.least_recall) == (False, 1.0, 1.0)
    assert "recall 1.0000" in found.said
    assert "at least on 3 sampled places" in found.said
