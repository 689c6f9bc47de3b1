"""One suite of questions to every kind of atlas; brute force in NumPy knows the answers.

The fixture `atlas` names the kinds. A further one joins by becoming one of its parameters.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.atlas import Atlas, CollectionSpec, LogEntry, Points, Where, vector_crc, write_snapshot
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, SpaceMismatchError

SECTIONS = {"S1": ("D1", "I"), "S2": ("D1", "II"), "S3": ("D2", "II"), "S4": ("D3", None)}


def fill(atlas, lab):
    """Write four sections of three donors, not through the commit protocol."""
    lab.prepare(atlas)
    for name, (donor, stage) in SECTIONS.items():
        fields = {"stage": stage} if stage else {}
        points = lab.joined(lab.section(name, donor=donor, spots=40, **fields)[1])
        atlas.upsert(lab.COLLECTION, points)
    return atlas


@pytest.fixture
def filled(atlas, lab):
    return fill(atlas, lab)


@pytest.fixture(scope="module", params=["itself", "snapshot"])
def asked(request, shared_atlas, lab, tmp_path_factory):
    """A filled atlas that a test may ask, but not change; and the snapshot of one of each kind."""
    if request.param == "itself":
        yield fill(shared_atlas, lab)
        return
    lab.prepare(shared_atlas)
    for name, (donor, stage) in SECTIONS.items():
        fields = {"stage": stage} if stage else {}
        lab.publish(shared_atlas, name, donor=donor, spots=40, **fields)
    path = tmp_path_factory.mktemp("snapshots") / "lab.snapshot"
    with write_snapshot(shared_atlas, path, actor="test") as made:
        yield made


@pytest.fixture(scope="module")
def truth(lab):
    """All points of `filled`, in order of their ids."""
    made = []
    for name, (donor, stage) in SECTIONS.items():
        fields = {"stage": stage} if stage else {}
        made += lab.section(name, donor=donor, spots=40, **fields)[1]
    points = lab.joined(made)
    order = np.argsort(points.ids)
    return Points(
        [points.ids[i] for i in order],
        {n: a[order] for n, a in points.vectors.items()},
        [points.payloads[i] for i in order],
    )


def holds(payload, where):
    return all(payload.get(k) in v for k, v in where.must.items()) and not any(
        payload.get(k) in v for k, v in where.must_not.items()
    )


FILTERS = {
    "none": Where(),
    "one": Where(must={"donor": ["D1"]}),
    "any": Where(must={"donor": ["D1", "D3"]}),
    "and": Where(must={"donor": ["D1", "D2"], "stage": ["II"]}),
    "not": Where(must_not={"section": ["S1", "S4"]}),
    "not where absent": Where(must_not={"stage": ["II"]}),
    "both": Where(must={"donor": ["D1", "D2"]}, must_not={"section": ["S2"]}),
    "contradiction": Where(must={"donor": ["D1"]}, must_not={"donor": ["D1"]}),
    "empty list": Where(must={"donor": []}),
    "empty list beside": Where(must={"donor": [], "stage": ["II"]}),
    "not nothing": Where(must_not={"donor": []}),
    "unknown value": Where(must={"donor": ["nobody"]}),
    "odd text": Where(must_not={"donor": ["'; drop", "D1\0", "é"]}),
}


def test_it_is_an_atlas(atlas):
    assert isinstance(atlas, Atlas)
    assert atlas.kind in {"exact", "embedded", "server"}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("using", ["image", "expression"])
def test_neighbours_equal_brute_force(asked, truth, lab, name, using):
    where = FILTERS[name]
    queries = lab.unit(np.random.default_rng(1), 7)
    hits = asked.query_batch(lab.COLLECTION, queries, using=using, limit=15, where=where)
    rows = [i for i, p in enumerate(truth.payloads) if holds(p, where)]
    for query, ids, scores in zip(queries, hits.ids, hits.scores, strict=True):
        expected = truth.vectors[using][rows] @ query
        best = np.argsort(-expected, kind="stable")[:15]
        assert ids == [truth.ids[rows[i]] for i in best]
        np.testing.assert_allclose(scores, expected[best], atol=1e-5)
        assert scores.dtype == np.float32


@pytest.mark.parametrize("name", FILTERS)
def test_counts_and_facets(asked, truth, lab, name):
    where = FILTERS[name]
    kept = [p for p in truth.payloads if holds(p, where)]
    assert asked.count(lab.COLLECTION, where) == len(kept)
    for field in ("donor", "section", "stage"):
        values = [p[field] for p in kept if field in p]
        expected = {v: values.count(v) for v in sorted(set(values))}
        found = asked.facet(lab.COLLECTION, field, where)
        assert found == expected
        assert list(found) == list(expected)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("batch", [7, 1000])
def test_scroll_goes_through_all_in_order_of_id(asked, truth, lab, name, batch):
    where = FILTERS[name]
    parts = list(asked.scroll(lab.COLLECTION, where=where, fields=["donor"], batch=batch))
    assert all(0 < len(p) <= batch for p in parts)
    expected = [
        (i, p["donor"]) for i, p in zip(truth.ids, truth.payloads, strict=True) if holds(p, where)
    ]
    assert [(r.id, r.payload["donor"]) for p in parts for r in p] == expected
    assert all(r.payload.keys() == {"donor"} and r.vectors is None for p in parts for r in p)


def test_retrieve_keeps_the_order_asked_and_every_bit(asked, truth, lab):
    rng = np.random.default_rng(2)
    rows = [*rng.permutation(len(truth)), 3, 3]
    wanted = [truth.ids[i] for i in rows]
    found = asked.retrieve(lab.COLLECTION, wanted, with_vectors=True)
    assert [r.id for r in found] == wanted
    for record, row in zip(found, rows, strict=True):
        assert record.payload == truth.payloads[row]
        for name, array in truth.vectors.items():
            np.testing.assert_array_equal(record.vectors[name], array[row])
            assert record.vectors[name].dtype == np.float32


@pytest.mark.parametrize("with_vectors", [False, True])
def test_only_the_fields_asked_for(asked, truth, lab, with_vectors):
    def ask(fields):
        return asked.retrieve(
            lab.COLLECTION, truth.ids[:2], fields=fields, with_vectors=with_vectors
        )[0].payload

    assert ask(["donor", "x_px", "no_such"]).keys() == {"donor", "x_px"}
    assert ask([]) == {}
    assert ask(None).keys() == truth.payloads[0].keys()
    assert ask(["vcrc"]).keys() == {"vcrc"}


def test_missing_points_are_named(asked, truth, lab):
    unknown = str(uuid.uuid4())
    with pytest.raises(AtlasCorruptError, match=f"1 of 2 .*{unknown}"):
        asked.retrieve(lab.COLLECTION, [truth.ids[0], unknown])


def test_equal_scores_come_in_order_of_id(atlas, lab):
    lab.prepare(atlas)
    points = lab.joined(lab.section("S1", spots=40)[1])
    image = points.vectors["image"].copy()
    image[:30] = image[0]
    vectors = {**points.vectors, "image": image}
    payloads = [
        {**p, "vcrc": vector_crc({n: a[i] for n, a in vectors.items()})}
        for i, p in enumerate(points.payloads)
    ]
    atlas.upsert(lab.COLLECTION, Points(points.ids, vectors, payloads))
    tied = sorted(points.ids[:30])
    for limit in (1, 5, 29, 30):
        hits = atlas.query_batch(lab.COLLECTION, image[:1], using="image", limit=limit)
        assert hits.ids[0] == tied[:limit]


def test_a_limit_above_the_number_of_points(asked, lab):
    queries = lab.unit(np.random.default_rng(1), 2)
    hits = asked.query_batch(lab.COLLECTION, queries, using="image", limit=10_000)
    assert [len(i) for i in hits.ids] == [160, 160]
    none = asked.query_batch(lab.COLLECTION, queries[:0], using="image", limit=3)
    assert (none.ids, none.scores) == ([], [])


def test_more_points_than_one_batch(atlas, lab):
    lab.prepare(atlas)
    points = lab.joined(lab.section("S1", spots=2300)[1])
    atlas.upsert(lab.COLLECTION, points)
    assert atlas.count(lab.COLLECTION) == 2300
    found = atlas.retrieve(lab.COLLECTION, points.ids, fields=["barcode"])
    assert [r.payload["barcode"] for r in found] == [p["barcode"] for p in points.payloads]
    queries = points.vectors["image"][:1200]
    hits = atlas.query_batch(lab.COLLECTION, queries, using="image", limit=1)
    assert [i[0] for i in hits.ids] == list(points.ids[:1200])


def test_writing_again_replaces(filled, truth, lab):
    payload = {**truth.payloads[0], "donor": "D9"}
    vectors = {n: a[:1] for n, a in truth.vectors.items()}
    filled.upsert(lab.COLLECTION, Points(truth.ids[:1], vectors, [payload]))
    assert filled.count(lab.COLLECTION) == 160
    assert filled.count(lab.COLLECTION, Where(must={"donor": ["D9"]})) == 1


def test_what_is_given_is_copied(atlas, lab):
    lab.prepare(atlas)
    points = lab.joined(lab.section("S1")[1])
    atlas.upsert(lab.COLLECTION, points)
    before = points.payloads[0]["donor"]
    points.payloads[0]["donor"] = "changed"
    points.vectors["image"][0] *= -1
    found = atlas.retrieve(lab.COLLECTION, points.ids[:1], with_vectors=True)[0]
    assert found.payload["donor"] == before
    points.vectors["image"][0] *= -1
    np.testing.assert_array_equal(found.vectors["image"], points.vectors["image"][0])


def test_delete_takes_what_matches(filled, lab):
    filled.delete(lab.COLLECTION, Where(must={"donor": ["D1"]}, must_not={"section": ["S2"]}))
    assert filled.facet(lab.COLLECTION, "section") == {"S2": 40, "S3": 40, "S4": 40}
    filled.delete(lab.COLLECTION, Where(must={"donor": []}))
    assert filled.count(lab.COLLECTION) == 120


@pytest.mark.parametrize("where", [Where(), Where(must_not={"donor": []})])
def test_delete_without_a_condition_is_refused(asked, lab, where):
    with pytest.raises(AtlasError, match="remove everything"):
        asked.delete(lab.COLLECTION, where)
    assert asked.count(lab.COLLECTION) == 160


QUESTIONS = {
    "query": lambda a, c, w: a.query_batch(
        c, np.eye(1, 8, dtype=np.float32), using="image", limit=1, where=w
    ),
    "scroll": lambda a, c, w: a.scroll(c, where=w),
    "count": lambda a, c, w: a.count(c, w),
    "facet": lambda a, c, w: a.facet(c, "donor", w),
    "delete": lambda a, c, w: a.delete(c, w),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("where", [Where({"donr": ["D1"]}), Where({}, {"barcode": ["spot-1"]})])
def test_a_field_that_cannot_be_filtered_is_refused(asked, lab, question, where):
    with pytest.raises(AtlasError, match=r"no filterable field .*filterable here: .*donor"):
        QUESTIONS[question](asked, lab.COLLECTION, where)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_collection_that_is_not_there(asked, question):
    with pytest.raises(EmptyAtlasError, match="no collection 'nowhere'"):
        QUESTIONS[question](asked, "nowhere", Where({"donor": ["D1"]}))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"using": "sound"}, SpaceMismatchError),
        ({"queries": np.ones((2, 9), np.float32)}, SpaceMismatchError),
        ({"queries": np.ones(8, np.float32)}, SpaceMismatchError),
        ({"queries": np.full((1, 8), np.nan, np.float32)}, AtlasError),
        ({"limit": 0}, AtlasError),
    ],
)
def test_queries_that_cannot_be_answered(asked, lab, change, error):
    given = {"queries": np.eye(1, 8, dtype=np.float32), "using": "image", "limit": 1, **change}
    with pytest.raises(error):
        asked.query_batch(lab.COLLECTION, **given)


def test_ids_that_are_none(asked, lab):
    with pytest.raises(AtlasError, match="no UUID"):
        asked.retrieve(lab.COLLECTION, ["x"])


def test_generations(atlas, lab):
    first = lab.prepare(atlas)
    assert atlas.read_manifest(lab.COLLECTION) == first
    second = first.with_fields(["scanner"], LogEntry.now("t", "a field"))
    assert not atlas.swap_manifest(lab.COLLECTION, -1, replace(second, generation=0))
    assert atlas.swap_manifest(lab.COLLECTION, 0, second)
    assert not atlas.swap_manifest(lab.COLLECTION, 0, second)
    assert atlas.read_manifest(lab.COLLECTION) == second


@pytest.mark.parametrize("change", [{"generation": 5}, {"collection": "other"}, {"key": ""}])
def test_a_manifest_that_cannot_follow(atlas, lab, change):
    first = lab.prepare(atlas)
    new = replace(first.with_fields(["scanner"], LogEntry.now("t", "x")), **change)
    with pytest.raises(AtlasError):
        atlas.swap_manifest(lab.COLLECTION, 0, new)
    assert atlas.read_manifest(lab.COLLECTION) == first


def test_a_collection_without_manifest_is_empty(atlas, lab):
    atlas.ensure(lab.spec())
    with pytest.raises(EmptyAtlasError, match="bleepdb index"):
        atlas.read_manifest(lab.COLLECTION)


def test_racing_swaps_lose_nothing(atlas, lab):
    lab.prepare(atlas)
    lost = []

    def work(who):
        for turn in range(25):
            while True:
                present = atlas.read_manifest(lab.COLLECTION)
                new = present.with_fields([f"f{who}-{turn}"], LogEntry.now(who, f"{turn}"))
                if atlas.swap_manifest(lab.COLLECTION, present.generation, new):
                    break
                lost.append(who)

    threads = [threading.Thread(target=work, args=(w,)) for w in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = atlas.read_manifest(lab.COLLECTION)
    assert end.generation == 50
    expected = {f"f{w}-{i}" for w in "ab" for i in range(25)}
    assert expected <= set(end.keyword_fields)
    assert len(end.log) == 50


def test_aliases_switch_in_one_step(atlas, lab):
    atlas.ensure(lab.spec())
    other = replace(lab.spec(), name="bleepdb_breast_other")
    atlas.ensure(other)
    assert atlas.aliases() == {}
    atlas.set_alias(lab.ALIAS, lab.COLLECTION)
    atlas.set_alias(lab.ALIAS, other.name)
    assert atlas.aliases() == {lab.ALIAS: other.name}
    with pytest.raises(EmptyAtlasError):
        atlas.set_alias(lab.ALIAS, "nowhere")
    atlas.drop(other.name)
    assert atlas.aliases() == {}
    assert atlas.collections() == [lab.COLLECTION]


def test_ensure_adds_fields_and_refuses_other_vectors(filled, lab):
    filled.ensure(lab.spec())
    filled.ensure(lab.spec(fields=("scanner", "donor")))
    for name in ("scanner", "donor", "stage"):
        filled.facet(lab.COLLECTION, name)
    with pytest.raises(SpaceMismatchError):
        filled.ensure(lab.spec(dimension=9))
    with pytest.raises(SpaceMismatchError):
        filled.ensure(replace(lab.spec(), vectors={"image": lab.DIMENSION}))
    assert filled.count(lab.COLLECTION) == 160


def test_a_field_indexed_later_finds_earlier_points(atlas, lab):
    atlas.ensure(lab.spec(fields=("rev",)))
    atlas.upsert(lab.COLLECTION, lab.joined(lab.section("S1", donor="D7")[1]))
    with pytest.raises(AtlasError):
        atlas.count(lab.COLLECTION, Where({"donor": ["D7"]}))
    atlas.ensure(lab.spec())
    assert atlas.count(lab.COLLECTION, Where({"donor": ["D7"]})) == 30
    assert atlas.facet(lab.COLLECTION, "donor") == {"D7": 30}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"}, {"name": ""}, {"name": ".hidden"}, {"alias": "a/b"}, {"vectors": {}},
        {"vectors": {"image": 0}}, {"keyword_fields": ("a.b",)}, {"name": "a\n"},
    ],
)  # fmt: skip
def test_specs_that_cannot_be_kept(atlas, lab, change):
    with pytest.raises(AtlasError):
        atlas.ensure(replace(lab.spec(), **change))
    assert atlas.collections() == []


def test_drop_leaves_nothing(filled, lab):
    filled.put_blob(lab.COLLECTION, "model.json", b"{}")
    filled.drop(lab.COLLECTION)
    filled.drop(lab.COLLECTION)
    assert (filled.collections(), filled.aliases()) == ([], {})
    lab.prepare(filled)
    assert filled.count(lab.COLLECTION) == 0
    assert filled.get_blob(lab.COLLECTION, "model.json") is None


def test_documents(atlas, lab):
    atlas.ensure(lab.spec())
    assert atlas.list_blobs(lab.COLLECTION) == []
    assert atlas.get_blob(lab.COLLECTION, "model.json") is None
    data = bytes(range(256)) * 100
    atlas.put_blob(lab.COLLECTION, "panels/ab.json", b"1")
    atlas.put_blob(lab.COLLECTION, "model.json", b"old")
    atlas.put_blob(lab.COLLECTION, "model.json", data)
    assert atlas.get_blob(lab.COLLECTION, "model.json") == data
    assert atlas.list_blobs(lab.COLLECTION) == ["model.json", "panels/ab.json"]
    atlas.drop_blob(lab.COLLECTION, "model.json")
    atlas.drop_blob(lab.COLLECTION, "model.json")
    assert atlas.list_blobs(lab.COLLECTION) == ["panels/ab.json"]
    assert atlas.get_blob(lab.COLLECTION, "model.json") is None


@pytest.mark.parametrize("size", [0, 1, 786_432, 786_433, 3 * 2**20])
def test_documents_of_any_size(atlas, lab, size):
    atlas.ensure(lab.spec())
    data = np.random.default_rng(size).bytes(size)
    atlas.put_blob(lab.COLLECTION, "model/weights", data)
    assert atlas.get_blob(lab.COLLECTION, "model/weights") == data
    assert atlas.count(lab.COLLECTION) == 0
    assert list(atlas.scroll(lab.COLLECTION)) == []
    atlas.put_blob(lab.COLLECTION, "model/weights", data[::-1])
    assert atlas.get_blob(lab.COLLECTION, "model/weights") == data[::-1]
    assert atlas.list_blobs(lab.COLLECTION) == ["model/weights"]


def test_documents_and_manifest_are_no_points(filled, truth, lab):
    filled.put_blob(lab.COLLECTION, "model.json", b"{}")
    assert filled.count(lab.COLLECTION) == len(truth)
    every = Where(must_not={"donor": ["nobody"], "section": ["none"]})
    assert filled.count(lab.COLLECTION, every) == len(truth)
    assert [r.id for part in filled.scroll(lab.COLLECTION) for r in part] == list(truth.ids)
    filled.delete(lab.COLLECTION, every)
    assert filled.count(lab.COLLECTION) == 0
    assert filled.get_blob(lab.COLLECTION, "model.json") == b"{}"
    assert filled.read_manifest(lab.COLLECTION).generation == 0


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "", "a/../b", ".x", "a/.b", "a/b/c", "a\\b", "x\n"]
)
def test_document_names_stay_inside(atlas, lab, name):
    atlas.ensure(lab.spec())
    with pytest.raises(AtlasError, match="cannot be the name"):
        atlas.put_blob(lab.COLLECTION, name, b"")
    with pytest.raises(AtlasError, match="cannot be the name"):
        atlas.get_blob(lab.COLLECTION, name)


def test_flush_and_optimize_change_no_answer(filled, truth, lab):
    query = lab.unit(np.random.default_rng(9), 3)
    before = filled.query_batch(lab.COLLECTION, query, using="image", limit=9)
    filled.flush(lab.COLLECTION)
    filled.optimize(lab.COLLECTION)
    after = filled.query_batch(lab.COLLECTION, query, using="image", limit=9, exact=False)
    assert before.ids == after.ids


def test_a_closed_atlas_says_so(filled, lab):
    filled.close()
    filled.close()
    for call in (
        filled.collections,
        lambda: filled.count(lab.COLLECTION),
        lambda: filled.read_manifest(lab.COLLECTION),
        lambda: filled.ensure(lab.spec()),
    ):
        with pytest.raises(AtlasError, match="was closed"):
            call()


def test_collections_do_not_see_each_other(filled, lab):
    other = CollectionSpec("bleepdb_lung_x", "bleepdb_lung", {"image": 3}, ("donor",))
    filled.ensure(other)
    assert filled.collections() == [lab.COLLECTION, "bleepdb_lung_x"]
    assert filled.count("bleepdb_lung_x") == 0
    assert filled.count(lab.COLLECTION) == 160
