"""The manifest: written and read back, bounded, and never believed when it was changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.atlas import LiveSection, LogEntry, Manifest, live_where
from bleepdb.atlas.entries import Condemned, Copy, Staging
from bleepdb.atlas.manifest import MOST_LOG
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.files import digest

NOW = LogEntry("somebody", "2026-01-02T03:04:05+00:00", "did something")


def live(name, version=0, spots=3):
    return LiveSection(name, digest(name, str(version)), spots, "D1", digest("content", name), {})


@pytest.fixture
def full(lab):
    made = lab.manifest()
    for name in ("S2", "S1", "S3"):
        made = made.with_section(live(name), NOW, panels=[digest("panel")])
    return made


def test_round_trip(full):
    assert Manifest.from_bytes(full.to_bytes()) == full
    assert full.generation == 3
    assert [s.section for s in full.live] == ["S1", "S2", "S3"]
    assert full.spots == 9
    assert full.panels == (digest("panel"),)


VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.text(max_size=300), st.text(max_size=600)), max_size=5),
    st.dictionaries(st.text(max_size=20), VALUES, max_size=5),
)
def test_any_text_survives(lab, log, provenance):
    made = lab.manifest()
    for who, what in log:
        entry = LogEntry.now(who, what or "-")
        made = made.with_section(replace(live("S1"), provenance=provenance), entry)
    try:
        data = made.to_bytes()
    except AtlasError:
        # NaN, infinity and lone surrogates are no JSON: refused when written, so never stored.
        return
    assert Manifest.from_bytes(data) == made


def test_a_section_is_replaced_and_retracted(full):
    newer = full.with_section(live("S2", version=1), NOW)
    assert [s.section for s in newer.live] == ["S1", "S2", "S3"]
    assert newer.find("S2").revision == digest("S2", "1")
    gone = newer.without_section("S1", NOW)
    assert gone.find("S1") is None
    assert gone.generation == full.generation + 2
    assert full.find("S1") is not None, "a manifest is never edited"


def test_readers_filter_on_live_revisions(full, lab):
    assert live_where(full).must == {"rev": sorted(digest(s, "0") for s in ("S1", "S2", "S3"))}
    assert live_where(lab.manifest()).must == {"rev": []}, "nothing live matches nothing"


def test_the_log_is_bounded(lab):
    made = lab.manifest()
    for i in range(MOST_LOG + 5):
        made = made.with_fields([], LogEntry("w", NOW.when, f"change {i}"))
    assert len(made.log) == MOST_LOG
    assert made.log[-1].what == f"change {MOST_LOG + 4}"
    assert Manifest.from_bytes(made.to_bytes()) == made


def test_every_flipped_byte_is_noticed(full):
    data = full.to_bytes()
    rng = np.random.default_rng(5)
    refused = []
    for at in rng.choice(len(data), 400, replace=False):
        made = bytearray(data)
        made[at] ^= 1 << rng.integers(8)
        try:
            found = Manifest.from_bytes(bytes(made), where="manifest.json")
        except AtlasError as error:
            refused.append(error)
        else:
            assert found == full
    assert len(refused) > 350
    assert all(e.hint and e.where == "manifest.json" for e in refused)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": -1},
        {"generation": 2.5},
        {"live": [{"section": "S1"}]},
        {"key": "nowhere"},
        {"extra": 1},
        {"codec": "other"},
        {"vectors": {}},
        {"tissue": "Breast"},
        {"space_id": "Z" * 64},
    ],
)
def test_what_breaks_the_schema(full, change):
    document = {**full.to_json(), **change}
    with pytest.raises(AtlasCorruptError):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff", b"9" * 5000, b"[" * 100_000, b'{"version": NaN}']
)
def test_what_is_no_manifest(data):
    with pytest.raises(AtlasCorruptError):
        Manifest.from_bytes(data)


def test_nan_does_not_escape_as_another_error(full):
    document = full.to_json()
    document["live"][0]["provenance"] = {"x": float("nan")}
    with pytest.raises(AtlasCorruptError):
        Manifest.from_bytes(json.dumps(document).encode())


def test_a_newer_manifest_asks_for_an_upgrade(full):
    with pytest.raises(AtlasError, match="upgrade bleepdb"):
        Manifest.from_json({**full.to_json(), "version": 3})


def test_a_manifest_of_version_1_is_read(full):
    """Version 1 had no digests of points, no staging, condemned revisions or copies."""
    data = Path(__file__).with_name("manifest_v1.json").read_bytes()
    read = Manifest.from_bytes(data)
    assert [(s.section, s.spots, s.points_digest) for s in read.live] == [("S1", 3, None)]
    assert (read.generation, read.staging, read.condemned, read.copies) == (1, (), (), ())
    assert Manifest.from_bytes(read.to_bytes()) == read
    assert json.loads(read.to_bytes())["version"] == 2


def test_staging_condemned_and_copies_come_and_go(full):
    staged = full.with_staging(Staging("ab" * 16, "S9", "w", NOW.when, "0a" * 8))
    assert staged.stages("ab" * 16)
    assert staged.log == full.log, "a writer at work is no change that a log tells of"
    live9 = replace(live("S9"), revision="ab" * 16)
    both = staged.with_staging(Staging("ab" * 16, "S9", "x", NOW.when, "0b" * 8))
    assert both.without_staging("0a" * 8).stages("ab" * 16)
    kept = both.with_section(live9, NOW, token="0a" * 8, condemn=True)
    assert kept.with_section(live("S9", version=1), NOW, condemn=True).condemned == (), (
        "another writer stages it"
    )
    done = staged.with_section(live9, NOW, token="0a" * 8, condemn=True)
    assert (done.stages("ab" * 16), done.condemned) == (False, ())
    newer = done.with_section(live("S9", version=1), NOW, condemn=True)
    assert newer.condemns("ab" * 16)
    assert newer.without_section("S1", NOW, condemn=True).condemns(digest("S1", "0"))
    assert not newer.without_condemned({"ab" * 16}).condemns("ab" * 16)
    twice = staged.with_condemned([Condemned("ab" * 16, "S9", NOW.when)])
    assert (twice.stages("ab" * 16), twice.condemns("ab" * 16)) == (False, True)
    copied = newer.with_copy(Copy("export", "/x", "w", NOW.when), NOW)
    again = copied.with_copy(Copy("export", "/x", "w", NOW.when), NOW)
    assert [c.where for c in again.copies] == ["/x"]
    assert Manifest.from_bytes(again.to_bytes()) == again


def test_a_section_or_revision_twice_is_refused(full):
    twice = replace(full, live=(*full.live, replace(full.live[0], section="S9")))
    with pytest.raises(AtlasCorruptError, match="twice"):
        Manifest.from_json(twice.to_json())


@pytest.mark.parametrize("change", [{"tissue": "No Slug"}, {"key": ""}, {"generation": -2}])
def test_a_bad_manifest_is_not_written(full, change):
    with pytest.raises(AtlasError):
        replace(full, **change).to_bytes()
