"""The commit protocol: added, resumed, replaced, retracted, and visible whole or not at all."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import pytest

from bleepdb.atlas import (
    Points,
    Where,
    live_where,
    pin,
    point_id,
    prepare_collection,
    publish_section,
    put_panel,
    retract_section,
    sweep,
    vacuum,
)
from bleepdb.errors import (
    AtlasCorruptError,
    AtlasError,
    EmptyAtlasError,
    SpaceMismatchError,
)
from bleepdb.panel import Panel


@pytest.fixture
def ready(atlas, lab):
    lab.prepare(atlas)
    return atlas


def visible(atlas, lab):
    """Spots a section that a reader sees."""
    where = live_where(atlas.read_manifest(lab.COLLECTION))
    return atlas.facet(lab.COLLECTION, "section", where)


class InterruptedWriterError(Exception):
    pass


def broken_off(batches, after):
    yield from itertools.islice(batches, after)
    raise InterruptedWriterError


def test_ids_are_fixed_and_apart():
    assert point_id("S1", "ab", "spot-1") == "19c440a3-0bfc-5987-a233-4d7194b69493"
    made = {point_id(s, r, b) for s in ("S1", "S2") for r in ("ab", "cd") for b in ("x", "y")}
    assert len(made) == 8
    assert point_id("a", "bc", "d") != point_id("ab", "c", "d")
    with pytest.raises(AtlasError, match="NUL"):
        point_id("S1", "ab", "x\0y")


def test_added_then_unchanged(ready, lab):
    first = lab.publish(ready, "S1")
    assert (first.status, first.written, first.resumed, first.removed) == ("added", 30, 0, 0)
    before = ready.read_manifest(lab.COLLECTION)

    def never():
        raise AssertionError("the batches of a live revision are not read")
        yield

    live, _ = lab.section("S1")
    second = publish_section(ready, lab.COLLECTION, live, never(), actor="test")
    assert (second.status, second.written) == ("unchanged", 0)
    assert ready.read_manifest(lab.COLLECTION) == before
    assert visible(ready, lab) == {"S1": 30}
    assert before.log[-1].who == "test"
    assert "added section S1: 30 spots" in before.log[-1].what
    assert before.panels == (lab.panel().digest,)


def test_an_interrupted_section_is_invisible_then_resumed(ready, lab):
    lab.publish(ready, "S0")
    live, batches = lab.section("S1")
    with pytest.raises(InterruptedWriterError):
        publish_section(ready, lab.COLLECTION, live, broken_off(batches, 2), actor="test")
    assert visible(ready, lab) == {"S0": 30}
    assert ready.count(lab.COLLECTION) == 50
    done = publish_section(ready, lab.COLLECTION, live, batches, actor="test")
    assert (done.status, done.written, done.resumed) == ("added", 10, 20)
    assert visible(ready, lab) == {"S0": 30, "S1": 30}


def test_a_batch_staged_in_part_is_completed(ready, lab):
    live, batches = lab.section("S1")
    first = batches[0]
    ready.upsert(
        lab.COLLECTION,
        Points(first.ids[3:6], {n: a[3:6] for n, a in first.vectors.items()}, first.payloads[3:6]),
    )
    done = publish_section(ready, lab.COLLECTION, live, batches, actor="test")
    assert (done.written, done.resumed) == (27, 3)
    assert visible(ready, lab) == {"S1": 30}


def test_a_changed_section_replaces_the_old_in_one_swap(ready, lab):
    lab.publish(ready, "S1")
    lab.publish(ready, "S2")
    seen = []
    live, batches = lab.section("S1", 1, spots=45)

    def watched():
        for batch in batches:
            yield batch
            seen.append(visible(ready, lab))

    done = publish_section(ready, lab.COLLECTION, live, watched(), actor="test")
    assert (done.status, done.written, done.removed) == ("replaced", 45, 30)
    assert all(s == {"S1": 30, "S2": 30} for s in seen)
    assert visible(ready, lab) == {"S1": 45, "S2": 30}
    assert ready.count(lab.COLLECTION) == 75
    assert "replaced section S1" in ready.read_manifest(lab.COLLECTION).log[-1].what


def test_back_to_an_earlier_revision(ready, lab):
    for version in (0, 1, 0):
        lab.publish(ready, "S1", version)
    assert ready.facet(lab.COLLECTION, "rev") == {lab.revision("S1", 0): 30}


def test_the_next_writer_sweeps_what_others_left(ready, lab):
    lab.publish(ready, "S1")
    live, batches = lab.section("S9")
    with pytest.raises(InterruptedWriterError):
        publish_section(ready, lab.COLLECTION, live, broken_off(batches, 1), actor="test")
    if ready.kind == "server":  # who left it may be at work: only after a day it is given up
        assert lab.publish(ready, "S2").removed == 0
        assert vacuum(ready, lab.COLLECTION, abandoned_after_s=-1, actor="t") == 10
    else:
        done = lab.publish(ready, "S2")
        assert (done.status, done.removed) == ("added", 10)
    assert ready.facet(lab.COLLECTION, "section") == {"S1": 30, "S2": 30}


def test_sweep_deletes_orphans_and_nothing_else(ready, lab):
    if ready.kind == "server":
        pytest.skip("not for atlases that several processes write to; see test_sharing.py")
    lab.publish(ready, "S1")
    assert sweep(ready, lab.COLLECTION) == 0
    live, batches = lab.section("S9")
    ready.upsert(lab.COLLECTION, batches[0])
    assert sweep(ready, lab.COLLECTION, keep={live.revision}) == 0
    assert sweep(ready, lab.COLLECTION) == 10
    assert sweep(ready, lab.COLLECTION) == 0
    assert visible(ready, lab) == {"S1": 30}


def test_retraction_leaves_no_point(ready, lab):
    lab.publish(ready, "S1", donor="D1")
    lab.publish(ready, "S2", donor="D2")
    done = retract_section(ready, lab.COLLECTION, "S1", actor="ethics board")
    assert (done.status, done.removed) == ("retracted", 30)
    assert ready.facet(lab.COLLECTION, "donor") == {"D2": 30}
    manifest = ready.read_manifest(lab.COLLECTION)
    assert manifest.find("S1") is None
    assert (manifest.log[-1].who, "retracted section S1" in manifest.log[-1].what) == (
        "ethics board",
        True,
    )
    again = retract_section(ready, lab.COLLECTION, "S1", actor="ethics board")
    assert (again.status, again.removed) == ("unchanged", 0)
    assert ready.read_manifest(lab.COLLECTION) == manifest


def test_a_retraction_that_was_interrupted_is_finished(ready, lab):
    lab.publish(ready, "S1")
    present = ready.read_manifest(lab.COLLECTION)
    gone = present.without_section("S1", present.log[0])
    assert ready.swap_manifest(lab.COLLECTION, present.generation, gone)
    done = retract_section(ready, lab.COLLECTION, "S1", actor="test")
    assert (done.status, done.removed) == ("unchanged", 30)
    assert ready.count(lab.COLLECTION) == 0


def spoil(points, **changes):
    payloads = [dict(p) for p in points.payloads]
    payloads[-1].update(changes)
    return Points(points.ids, points.vectors, payloads)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rev": "0" * 64}, "has rev"),
        ({"section": "S2"}, "has section 'S2'"),
        ({"donor": "D9"}, "has donor 'D9', not 'D1'"),
        ({"species": "mouse"}, "has species 'mouse'"),
        ({"tissue": "lung"}, "has tissue 'lung'"),
        ({"barcode": "spot-0"}, "wrong id"),
        ({"panel": "0" * 64}, "was not stored"),
        ({"nnz": -1}, "'nnz'"),
    ],
)
def test_a_spot_that_does_not_belong_publishes_nothing(ready, lab, changes, says):
    live, batches = lab.section("S1")
    with pytest.raises(AtlasError, match=says):
        publish_section(
            ready, lab.COLLECTION, live, [*batches[:2], spoil(batches[2], **changes)], actor="t"
        )
    assert visible(ready, lab) == {}


def test_a_spot_twice_publishes_nothing(ready, lab):
    live, batches = lab.section("S1")
    with pytest.raises(AtlasError, match="'spot-0' stands twice"):
        publish_section(ready, lab.COLLECTION, live, [*batches, batches[0]], actor="t")
    assert visible(ready, lab) == {}


@pytest.mark.parametrize("stated", [29, 31])
def test_another_number_than_stated_publishes_nothing(ready, lab, stated):
    live, batches = lab.section("S1")
    with pytest.raises(AtlasCorruptError, match=f"30 given, {stated} stated"):
        publish_section(ready, lab.COLLECTION, replace(live, spots=stated), batches, actor="t")
    assert visible(ready, lab) == {}


def test_an_empty_section_is_refused(ready, lab):
    live, _ = lab.section("S1")
    with pytest.raises(AtlasError, match="manifest schema"):
        publish_section(ready, lab.COLLECTION, replace(live, spots=0), [], actor="t")
    assert visible(ready, lab) == {}


def test_publishing_into_nothing(atlas, lab):
    live, batches = lab.section("S1")
    with pytest.raises(EmptyAtlasError):
        publish_section(atlas, lab.COLLECTION, live, batches, actor="t")
    with pytest.raises(EmptyAtlasError):
        retract_section(atlas, lab.COLLECTION, "S1", actor="t")


# --- preparing --------------------------------------------------------------------------------


def test_prepare_is_idempotent_and_gives_the_alias_once(atlas, lab):
    first = lab.prepare(atlas)
    assert first.generation == 0
    assert lab.prepare(atlas) == first
    assert atlas.aliases() == {lab.ALIAS: lab.COLLECTION}
    other = replace(lab.spec(), name="bleepdb_breast_other")
    prepare_collection(atlas, other, lab.manifest(collection=other.name), actor="t")
    assert atlas.aliases() == {lab.ALIAS: lab.COLLECTION}, "switching is a step of its own"


def test_prepare_adds_fields(atlas, lab):
    lab.prepare(atlas)
    spec = lab.spec(fields=(*lab.FIELDS, "scanner"))
    made = prepare_collection(atlas, spec, lab.manifest(), actor="t")
    assert made.keyword_fields == (*lab.FIELDS, "scanner")
    assert made == atlas.read_manifest(lab.COLLECTION)
    assert atlas.count(lab.COLLECTION, Where({"scanner": ["x"]})) == 0


@pytest.mark.parametrize(
    "change", [{"model_digest": "0" * 64}, {"key": "expression"}, {"species": "mouse"}]
)
def test_prepare_refuses_another_model(atlas, lab, change):
    lab.prepare(atlas)
    with pytest.raises(SpaceMismatchError, match=next(iter(change))):
        prepare_collection(atlas, lab.spec(), lab.manifest(**change), actor="t")


# --- several writers and readers --------------------------------------------------------------


def run(*calls):
    failed = []

    def guarded(call):
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(c,)) for c in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_writers_in_threads_do_not_sweep_each_other(ready, lab):
    def writer(name):
        for version in range(6):
            lab.publish(ready, name, version)

    run(*(lambda n=n: writer(n) for n in ("S1", "S2", "S3")))
    assert visible(ready, lab) == {"S1": 30, "S2": 30, "S3": 30}
    assert ready.count(lab.COLLECTION) == 90
    # On a server a writer also says what it stages, and forgets what it has deleted.
    generation = ready.read_manifest(lab.COLLECTION).generation
    assert generation == (18 if ready.kind != "server" else 18 * 2 + 15)
    assert len(ready.read_manifest(lab.COLLECTION).log) == 18


def test_two_writers_of_one_section(ready, lab):
    run(*(lambda v=v: lab.publish(ready, "S1", v % 2) for v in range(6)))
    assert visible(ready, lab) == {"S1": 30}
    vacuum(ready, lab.COLLECTION, abandoned_after_s=-1, actor="t")
    assert ready.count(lab.COLLECTION) == 30


def test_a_pinned_reader_never_sees_half(ready, lab):
    sizes = {0: 30, 1: 45}
    lab.publish(ready, "S1", 0, spots=30)
    seen, stop = set(), threading.Event()

    def reader():
        while not stop.is_set():
            pinned = pin(ready, lab.COLLECTION)
            number = ready.count(lab.COLLECTION, pinned.where)
            # What was counted counts only if the manifest still stands.
            if ready.read_manifest(lab.COLLECTION).generation == pinned.manifest.generation:
                seen.add(number)

    def writer():
        try:
            for version in range(1, 20):
                lab.publish(ready, "S1", version % 2, spots=sizes[version % 2])
        finally:
            stop.set()

    run(reader, writer)
    # The swap precedes the deletion: a pinned count that still stands is of a whole revision.
    assert seen <= {30, 45}
    assert seen


def test_a_second_panel_lives_in_the_same_collection(ready, lab):
    other = Panel(tuple(f"OTHER{i}" for i in range(25)))
    put_panel(ready, lab.COLLECTION, other)
    lab.publish(ready, "S1")
    lab.publish(ready, "S2", on=other)
    manifest = ready.read_manifest(lab.COLLECTION)
    assert manifest.panels == tuple(sorted([lab.panel().digest, other.digest]))
