"""Several writers on one server: who stages says so, and nobody deletes what others write."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.atlas import (
    ExactAtlas,
    Points,
    Where,
    live_where,
    publish_section,
    retract_section,
    sweep,
    vacuum,
    vector_crc,
)
from bleepdb.atlas import staging as staging_module
from bleepdb.atlas import sweeping as sweeping_module
from bleepdb.atlas.entries import Condemned, now
from bleepdb.atlas.sweeping import delete_revisions
from bleepdb.atlas.verifying import verify
from bleepdb.errors import AtlasCorruptError, AtlasError

LONG_AGO = "2020-01-01T00:00:00+00:00"


class Shared(ExactAtlas):
    """The exact atlas where it must be treated as one that other processes write to."""

    kind = "server"

    def __init__(self):
        super().__init__()
        self.before_delete = lambda: None

    def delete(self, collection, where):
        hook, self.before_delete = self.before_delete, lambda: None
        hook()
        super().delete(collection, where)


@pytest.fixture
def shared(lab):
    atlas = Shared()
    lab.prepare(atlas)
    return atlas


class StoppedError(Exception):
    pass


def stopped(batches, after=1):
    yield from batches[:after]
    raise StoppedError


def stage(atlas, lab, name, version=0, **kwargs):
    """A writer that is killed (or slow) after its first batch."""
    live, batches = lab.section(name, version, **kwargs)
    with pytest.raises(StoppedError):
        publish_section(atlas, lab.COLLECTION, live, stopped(batches), actor="slow")
    return live, batches


def test_who_stages_says_so_and_is_left_alone(shared, lab):
    live, _ = stage(shared, lab, "S1")
    (entry,) = shared.read_manifest(lab.COLLECTION).staging
    assert (entry.revision, entry.section, entry.who) == (live.revision, "S1", "slow")
    lab.publish(shared, "S2")
    assert vacuum(shared, lab.COLLECTION, actor="t") == 0
    assert delete_revisions(shared, lab.COLLECTION, [live.revision]) == 0
    assert sweep(shared, lab.COLLECTION) == 0
    assert shared.count(lab.COLLECTION, Where(must={"rev": [live.revision]})) == 10
    done = lab.publish(shared, "S1")
    assert (done.status, done.written, done.resumed) == ("added", 20, 10)
    # The killed one's word stands until it is given up, so a replacement leaves its points alone.
    assert [s.who for s in shared.read_manifest(lab.COLLECTION).staging] == ["slow"]
    lab.publish(shared, "S1", 1)
    assert shared.facet(lab.COLLECTION, "rev")[live.revision] == 30
    assert vacuum(shared, lab.COLLECTION, abandoned_after_s=-1, actor="t") == 30
    assert shared.read_manifest(lab.COLLECTION).staging == ()
    assert shared.facet(lab.COLLECTION, "section") == {"S1": 30, "S2": 30}


def test_what_was_staged_and_is_damaged_is_written_again(shared, lab):
    stage(shared, lab, "S1")
    del shared._get(lab.COLLECTION).rows.stored[0]["x_px"]
    done = lab.publish(shared, "S1")
    assert (done.status, done.written, done.resumed) == ("added", 30, 0)


def test_a_word_that_was_given_up_is_forgotten_where_all_is_live(shared, lab):
    stage(shared, lab, "S1")
    lab.publish(shared, "S1")
    assert vacuum(shared, lab.COLLECTION, abandoned_after_s=-1, actor="t") == 0
    assert shared.read_manifest(lab.COLLECTION).staging == ()
    assert shared.facet(lab.COLLECTION, "section") == {"S1": 30}


def test_a_retraction_stands_above_a_writer(shared, lab, monkeypatch):
    monkeypatch.setattr(sweeping_module, "STAGING", sweeping_module._Registry())
    lab.publish(shared, "S1")
    lab.publish(shared, "S1", 1)
    live, batches = lab.section("S1", 0)

    def retracted_meanwhile():
        yield batches[0]
        present = shared.read_manifest(lab.COLLECTION)
        # Another has published the same revision, and it was retracted.
        swapped = present.with_section(live, present.log[-1])
        assert shared.swap_manifest(lab.COLLECTION, present.generation, swapped)
        retract_section(shared, lab.COLLECTION, "S1", actor="ethics board")
        yield from batches[1:]

    with pytest.raises(AtlasError, match="run again; nothing became visible"):
        publish_section(shared, lab.COLLECTION, live, retracted_meanwhile(), actor="t")
    assert shared.read_manifest(lab.COLLECTION).live == ()


def test_a_retraction_stands_above_who_stages_another_revision(shared, lab, monkeypatch):
    monkeypatch.setattr(sweeping_module, "STAGING", sweeping_module._Registry())
    lab.publish(shared, "S1")
    lab.publish(shared, "S2")
    live, batches = lab.section("S1", 1)

    def retracted_meanwhile():
        yield batches[0]
        done = retract_section(shared, lab.COLLECTION, "S1", actor="ethics board")
        assert (done.status, done.removed) == ("retracted", 40)
        yield from batches[1:]

    with pytest.raises(AtlasError, match="nothing became visible"):
        publish_section(shared, lab.COLLECTION, live, retracted_meanwhile(), actor="t")
    assert [s.section for s in shared.read_manifest(lab.COLLECTION).live] == ["S2"]


def test_a_retraction_takes_what_a_killed_writer_had_staged(shared, lab):
    lab.publish(shared, "S1")
    stage(shared, lab, "S1", 1)
    stage(shared, lab, "S2")
    retract_section(shared, lab.COLLECTION, "S1", actor="ethics board")
    manifest = shared.read_manifest(lab.COLLECTION)
    assert ([s.section for s in manifest.staging], manifest.condemned) == (["S2"], ())
    assert shared.facet(lab.COLLECTION, "section") == {"S2": 10}


def test_a_writer_that_was_given_up_is_vacuumed_and_told(shared, lab, monkeypatch):
    # The one who vacuums is another process, which does not know of this one's threads.
    monkeypatch.setattr(sweeping_module, "STAGING", sweeping_module._Registry())
    live, batches = lab.section("S1")

    def vacuumed_meanwhile():
        yield batches[0]
        assert vacuum(shared, lab.COLLECTION, abandoned_after_s=-1, actor="t") == 10
        yield from batches[1:]

    with pytest.raises(AtlasError, match="staged 20 points of 30"):
        publish_section(shared, lab.COLLECTION, live, vacuumed_meanwhile(), actor="t")

    def vacuumed_at_the_end():
        yield from batches
        vacuum(shared, lab.COLLECTION, abandoned_after_s=-1, actor="t")
        shared.upsert(lab.COLLECTION, lab.joined(batches))  # what it wrote a moment too late

    with pytest.raises(AtlasError, match="was vacuumed or retracted meanwhile; run again"):
        publish_section(shared, lab.COLLECTION, live, vacuumed_at_the_end(), actor="t")
    assert shared.read_manifest(lab.COLLECTION).live == ()
    assert vacuum(shared, lab.COLLECTION, abandoned_after_s=-1, actor="t") == 30
    assert lab.publish(shared, "S1").status == "added"


def test_back_to_a_revision_that_another_is_deleting(shared, lab, monkeypatch):
    """The first writer has made S1 version 1 live and is about to delete version 0."""
    monkeypatch.setattr(staging_module, "WAIT_CONDEMNED_S", 0.3)
    lab.publish(shared, "S1", 0)

    def back_again():
        # In its place a second writer wants version 0 back. It must wait: its points would go.
        with pytest.raises(AtlasError, match="an earlier deletion of this revision"):
            lab.publish(shared, "S1", 0)

    shared.before_delete = back_again
    assert lab.publish(shared, "S1", 1).status == "replaced"
    manifest = shared.read_manifest(lab.COLLECTION)
    assert manifest.find("S1").revision == lab.revision("S1", 1)
    assert manifest.condemned == ()
    assert lab.publish(shared, "S1", 0).status == "replaced"
    assert shared.facet(lab.COLLECTION, "rev") == {lab.revision("S1", 0): 30}


def test_what_a_killed_deleter_left_is_taken_over(shared, lab):
    lab.publish(shared, "S1", 0)
    present = shared.read_manifest(lab.COLLECTION)
    gone = present.without_section("S1", present.log[-1], condemn=True)
    old = tuple(replace(c, since=LONG_AGO) for c in gone.condemned)
    assert shared.swap_manifest(lab.COLLECTION, present.generation, replace(gone, condemned=old))
    done = lab.publish(shared, "S1", 0)
    assert (done.status, done.written) == ("added", 30)
    assert shared.read_manifest(lab.COLLECTION).condemned == ()


def test_vacuum_takes_over_what_is_condemned_for_long(shared, lab):
    lab.publish(shared, "S1")
    live, batches = lab.section("S9")
    shared.upsert(lab.COLLECTION, batches[0])
    present = shared.read_manifest(lab.COLLECTION)
    fresh = present.with_condemned([Condemned(live.revision, "S9", now())])
    assert shared.swap_manifest(lab.COLLECTION, present.generation, fresh)
    assert vacuum(shared, lab.COLLECTION, actor="t") == 0, "its deleter is at work"
    old = replace(
        fresh, generation=fresh.generation + 1,
        condemned=(Condemned(live.revision, "S9", LONG_AGO),),
    )  # fmt: skip
    assert shared.swap_manifest(lab.COLLECTION, fresh.generation, old)
    assert vacuum(shared, lab.COLLECTION, actor="t") == 10
    after = shared.read_manifest(lab.COLLECTION)
    assert after.condemned == ()
    assert "vacuumed 10 points" in after.log[-1].what
    assert vacuum(shared, lab.COLLECTION, actor="t") == 0
    assert shared.read_manifest(lab.COLLECTION) == after


def test_points_that_nobody_ever_announced_are_vacuumed(shared, lab):
    shared.upsert(lab.COLLECTION, lab.section("S9")[1][0])
    assert vacuum(shared, lab.COLLECTION, actor="t") == 10
    assert shared.count(lab.COLLECTION) == 0


def test_retraction_condemns_deletes_and_forgets(shared, lab):
    lab.publish(shared, "S1")
    done = retract_section(shared, lab.COLLECTION, "S1", actor="t")
    assert (done.status, done.removed) == ("retracted", 30)
    manifest = shared.read_manifest(lab.COLLECTION)
    assert (manifest.live, manifest.condemned) == ((), ())
    assert shared.count(lab.COLLECTION) == 0


def test_a_deletion_that_stood_still_for_too_long_says_what_it_destroyed(shared, lab, monkeypatch):
    lab.publish(shared, "S1")

    def taken_for_dead():
        for module in (sweeping_module, staging_module):
            monkeypatch.setattr(module, "CONDEMNED_S", -1.0)
        assert lab.publish(shared, "S1").status == "added"

    shared.before_delete = taken_for_dead
    with pytest.raises(AtlasCorruptError, match="S1 was published again while its deletion stood"):
        retract_section(shared, lab.COLLECTION, "S1", actor="t")
    assert retract_section(shared, lab.COLLECTION, "S1", actor="t").status == "retracted"
    assert lab.publish(shared, "S1").status == "added"
    assert shared.count(lab.COLLECTION) == 30


def race(*calls):
    failed, gate = [], threading.Barrier(len(calls))

    def guarded(call):
        gate.wait()
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


def race_many(atlas, lab, rounds):
    """Two writers at once, again and again: their own sections, and one that both replace."""
    lab.prepare(atlas)
    commits = 0
    for turn in range(rounds):
        sizes = {0: 10, 1: 20}

        def writer(who, turn=turn, sizes=sizes):
            lab.publish(atlas, f"own-{who}", turn, spots=10)
            lab.publish(atlas, "both", 2 * turn + who, spots=sizes[who])

        race(lambda: writer(0), lambda: writer(1))
        commits += 4
        manifest = atlas.read_manifest(lab.COLLECTION)
        assert len([e for e in manifest.log if "section" in e.what]) == min(commits, 1000)
        for who in (0, 1):
            assert manifest.find(f"own-{who}").revision == lab.revision(f"own-{who}", turn)
        last = manifest.find("both")
        assert last.revision in {lab.revision("both", 2 * turn + who) for who in (0, 1)}
        facet = atlas.facet(lab.COLLECTION, "section", live_where(manifest))
        assert facet == {"both": last.spots, "own-0": 10, "own-1": 10}
    vacuum(atlas, lab.COLLECTION, abandoned_after_s=-1, actor="t")
    assert atlas.count(lab.COLLECTION) == sum(s.spots for s in manifest.live)
    return commits


def test_two_writers_race_and_no_update_is_lost(atlas, lab):
    assert race_many(atlas, lab, 6) == 24


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_writers_race_a_hundred_times(atlas, lab, capsys):
    commits = race_many(atlas, lab, 100)
    with capsys.disabled():
        print(f"{atlas.kind}: 100 races of two writers, {commits} commits, 0 lost")  # noqa: T201


def test_what_was_condemned_in_this_very_second_can_be_vacuumed(shared, lab):
    live, batches = lab.section("S9")
    shared.upsert(lab.COLLECTION, batches[0])
    present = shared.read_manifest(lab.COLLECTION)
    for _ in range(3):  # one of them within the second
        fresh = present.with_condemned([Condemned(live.revision, "S9", now())])
        assert shared.swap_manifest(lab.COLLECTION, present.generation, fresh)
        shared.upsert(lab.COLLECTION, batches[0])
        assert vacuum(shared, lab.COLLECTION, abandoned_after_s=-1, actor="t") == 10
        present = shared.read_manifest(lab.COLLECTION)
        assert present.condemned == ()


def other_bits(lab, name):
    """The same section as another machine encodes it: the same revision, other last digits."""
    live, batches = lab.section(name)
    made = []
    for points in batches:
        vectors = {}
        for key, array in points.vectors.items():
            changed = array.copy()
            changed.view(np.uint32)[:, 0] ^= 1
            vectors[key] = changed
        payloads = [
            {**p, "vcrc": vector_crc({n: a[i] for n, a in vectors.items()})}
            for i, p in enumerate(points.payloads)
        ]
        made.append(Points(points.ids, vectors, payloads))
    return live, made


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_two_machines_that_encode_one_section_leave_it_sound(shared, lab, first):
    """The second begins after `first` batches of the first, and is done before it goes on."""
    live, batches = lab.section("S1")
    _, others = other_bits(lab, "S1")
    said = []

    def interrupted():
        yield from batches[:first]
        done = publish_section(shared, lab.COLLECTION, live, others, actor="other")
        said.append(done.status)
        yield from batches[first:]

    mine = publish_section(shared, lab.COLLECTION, live, interrupted(), actor="one")
    assert (said, mine.status) == (["added"], "unchanged")
    report = verify(shared, lab.COLLECTION)
    assert report.faults == (), report.faults
    assert shared.read_manifest(lab.COLLECTION).staging == ()


def test_two_machines_in_turn_leave_what_is_there_under_its_own_digest(shared, lab):
    """The second has overwritten half of the first one's points when the first publishes."""
    live, batches = lab.section("S1")
    _, others = other_bits(lab, "S1")

    def slow():
        yield others[0]
        yield others[1]
        done = publish_section(shared, lab.COLLECTION, live, batches, actor="quick")
        assert done.status == "added"
        shared.upsert(lab.COLLECTION, batches[2])
        yield others[2]

    assert publish_section(shared, lab.COLLECTION, live, slow(), actor="slow").status == "unchanged"
    assert verify(shared, lab.COLLECTION).faults == ()


def test_published_by_another_and_retracted_since_is_no_success(shared, lab):
    live, batches = lab.section("S1")
    real, calls = shared.read_manifest, []

    def retracting(collection):
        manifest = real(collection)
        if manifest.find("S1") and not calls:
            calls.append(1)
        elif calls == [1]:
            calls.append(2)
            shared.read_manifest = real
            retract_section(shared, collection, "S1", actor="board")
            return real(collection)
        return manifest

    def watched():
        yield batches[0]
        assert lab.publish(shared, "S1").status == "added"
        _, changed = other_bits(lab, "S1")
        shared.read_manifest = retracting
        yield changed[1]

    with pytest.raises(AtlasError, match="vacuumed or retracted meanwhile"):
        publish_section(shared, lab.COLLECTION, live, watched(), actor="slow")
    assert shared.read_manifest(lab.COLLECTION).live == ()
