"""`verify` finds each kind of damage, all of it, and is not stopped by any."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from bleepdb.atlas import (
    EmbeddedAtlas,
    ExactAtlas,
    SnapshotAtlas,
    expression_fields,
    publish_section,
    put_panel,
    reporting,
    vector_crc,
    verify,
    write_snapshot,
)
from bleepdb.errors import EmptyAtlasError
from bleepdb.files import canonical_json, digest
from bleepdb.panel import Panel

SPOTS = {"S1": 40, "S2": 30}


@pytest.fixture
def sound(atlas, lab):
    """Each kind of atlas, with two sections."""
    lab.prepare(atlas)
    for name, spots in SPOTS.items():
        lab.publish(atlas, name, spots=spots, donor=f"D-{name}")
    return atlas


@pytest.fixture
def exact(lab):
    atlas = ExactAtlas()
    lab.prepare(atlas)
    for name, spots in SPOTS.items():
        lab.publish(atlas, name, spots=spots, donor=f"D-{name}")
    return atlas


def told(report):
    return [str(f) for f in report.faults]


def test_a_sound_collection_has_no_fault(sound, lab, tmp_path):
    seen = []
    report = verify(sound, lab.COLLECTION, progress=lambda done, total: seen.append((done, total)))
    assert report.sound, told(report)
    assert report.generation == sound.read_manifest(lab.COLLECTION).generation
    assert {(s.section, s.spots, s.found, s.digest, s.faults) for s in report.sections} == {
        ("S1", 40, 40, "equal", 0),
        ("S2", 30, 30, "equal", 0),
    }
    assert seen[-1] == (70, 70)
    assert report.notes == ("no model is stored beside this collection",)
    json.dumps(report.to_json())
    with write_snapshot(sound, tmp_path / "a.snapshot", actor="t") as made:
        assert verify(made, lab.COLLECTION).sound


def test_what_is_not_there_cannot_be_verified(exact, lab):
    with pytest.raises(EmptyAtlasError):
        verify(exact, "nowhere")
    exact.ensure(replace(lab.spec(), name="bleepdb_breast_new"))
    with pytest.raises(EmptyAtlasError):
        verify(exact, "bleepdb_breast_new")


# --- damaged points ---------------------------------------------------------------------------


def rows(atlas, lab):
    return atlas._get(lab.COLLECTION).rows


def row_of(atlas, lab, name, which=0):
    found = [i for i, p in enumerate(rows(atlas, lab).stored) if p["section"] == name]
    return found[which]


def flipped(atlas, lab):
    rows(atlas, lab).vectors["image"].view(np.uint32)[row_of(atlas, lab, "S1"), 3] ^= 1


def moved(atlas, lab):
    """A vector with its checksum, but another one than was published."""
    row, kept = row_of(atlas, lab, "S1"), rows(atlas, lab)
    kept.vectors["image"][row] *= -1
    vectors = {n: a[row] for n, a in kept.vectors.items()}
    kept.stored[row]["vcrc"] = vector_crc(vectors)


def forged(atlas, lab):
    """Other counts of the same number and sum, with all their checksums."""
    row = row_of(atlas, lab, "S1")
    payload = rows(atlas, lab).stored[row]
    genes = np.arange(payload["nnz"])
    counts = np.ones(payload["nnz"], dtype=np.int64)
    counts[-1] = payload["total"] - payload["nnz"] + 1
    payload.update(expression_fields(genes, counts))


def edit(**fields):
    def do(atlas, lab):
        rows(atlas, lab).stored[row_of(atlas, lab, "S1")].update(fields)
        rows(atlas, lab)._columns.clear()

    return do


def without_point(atlas, lab):
    kept = atlas._get(lab.COLLECTION)
    gone = np.zeros(len(kept.rows), dtype=bool)
    gone[row_of(atlas, lab, "S1")] = True
    kept.rows = kept.rows.without(gone)


def without_field(atlas, lab):
    del rows(atlas, lab).stored[row_of(atlas, lab, "S1")]["x_px"]


def without_panel(atlas, lab):
    del atlas._get(lab.COLLECTION).blobs[f"panels/{lab.panel().digest}.json"]


def other_panel(atlas, lab):
    data = canonical_json(Panel(tuple("ABC")).to_json())
    atlas._get(lab.COLLECTION).blobs[f"panels/{lab.panel().digest}.json"] = data


def other_manifest(**changes):
    def do(atlas, lab):
        kept = atlas._get(lab.COLLECTION)
        live = tuple(replace(s, **changes) if s.section == "S1" else s for s in kept.manifest.live)
        kept.manifest = replace(kept.manifest, live=live)

    return do


DAMAGES = {
    "a flipped bit of a vector": (flipped, ["section S1: the vectors of point"]),
    "a vector moved with its checksum": (moved, ["section S1: .*digest differs"]),
    "forged counts": (forged, ["section S1: .*digest differs"]),
    "a changed place": (edit(x_px=5.5), ["section S1: .*digest differs"]),
    "a further field": (edit(stage="IV"), ["section S1: .*digest differs"]),
    "another barcode": (edit(barcode="spot-x"), ["its id is not that of spot 'spot-x'"]),
    "another section's name": (edit(section="S2"), ["its section is 'S2', not 'S1'"]),
    "another donor": (edit(donor="D9"), ["its donor is 'D9', not 'D-S1'"]),
    "another species": (edit(species="mouse"), ["its species is 'mouse'"]),
    "an unknown panel": (edit(panel="0" * 64), ["panel 0{12} is not one of the manifest's"]),
    "another total": (edit(total=1), ["the counts do not add up to total"]),
    "a cut payload": (edit(expr="AAAA"), ["zstd frame"]),
    "a field gone": (without_field, ["lacks 'x_px'"]),
    "a point gone": (without_point, ["39 of its 40 points are there"]),
    "another revision": (
        edit(rev="f" * 32),
        ["39 of its 40 points are there"],
    ),
    "a panel gone": (
        without_panel,
        ["this panel of genes is not there", "S1: the counts of 40", "S2: the counts of 30"],
    ),
    "another panel": (other_panel, ["panel's digest is wrong", "S1: the counts", "S2: the counts"]),
    "another donor in the manifest": (
        other_manifest(donor="D9"),
        ["its donor is 'D-S1', not 'D9'"] * 40,
    ),
    "another digest in the manifest": (other_manifest(points_digest="0" * 64), ["digest differs"]),
    "an alias into the void": (
        lambda a, _: a._aliases.update(bleepdb_lung="gone"),
        ["alias bleepdb_lung: points at gone, which is not there"],
    ),
    "an alias of another tissue": (
        lambda a, lab: a._aliases.update(bleepdb_lung=lab.COLLECTION),
        ["alias bleepdb_lung: points at a collection of breast"],
    ),
    "a field without index": (
        lambda a, lab: setattr(
            a._get(lab.COLLECTION), "spec", lab.spec(fields=lab.FIELDS[:-1])
        ),
        ["field stage: cannot be filtered"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_a_fault_and_nothing_else_is(exact, lab, name):
    spoil, expected = DAMAGES[name]
    spoil(exact, lab)
    report = verify(exact, lab.COLLECTION)
    assert not report.sound
    found = told(report)
    assert len(found) == len(expected), found
    for said, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, said), said
    assert {s.section for s in report.sections} == {"S1", "S2"}
    if "panel" not in name and "alias" not in name:
        assert next(s for s in report.sections if s.section == "S2").digest == "equal"


def test_all_faults_of_many_points_are_found_and_the_list_is_capped(exact, lab, monkeypatch):
    monkeypatch.setattr(reporting, "MOST_FAULTS", 5)
    image = rows(exact, lab).vectors["image"]
    image[:, 0] += 0.5
    report = verify(exact, lab.COLLECTION)
    assert (len(report.faults), report.further) == (5, 65)
    assert [s.faults for s in report.sections] == [40, 30]


def test_a_digest_that_an_old_manifest_does_not_hold_is_said(exact, lab):
    other_manifest(points_digest=None)(exact, lab)
    report = verify(exact, lab.COLLECTION)
    assert report.sound
    assert [s.digest for s in report.sections] == ["not recorded", "equal"]
    assert any("kept no digest" in n for n in report.notes)


def test_dead_points_are_notes_and_no_faults(exact, lab):
    exact.upsert(lab.COLLECTION, lab.section("S9", spots=7)[1][0])
    put_panel(exact, lab.COLLECTION, Panel(tuple("ABC")))
    report = verify(exact, lab.COLLECTION)
    assert report.sound
    assert any("7 points of 1 revisions are orphans" in n for n in report.notes)
    assert any("1 stored panels" in n for n in report.notes)
    exact._aliases.clear()
    assert "the alias bleepdb_breast is not there" in verify(exact, lab.COLLECTION).notes


def test_fields_of_points_that_cannot_be_filtered_are_noted(exact, lab):
    live, batches = lab.section("S3", batch=30)
    for payload in batches[0].payloads:
        payload["scanner"] = "X"
    publish_section(exact, lab.COLLECTION, live, batches, actor="t")
    report = verify(exact, lab.COLLECTION)
    assert report.sound
    assert "section S3: scanner cannot be filtered" in report.notes


# --- the model --------------------------------------------------------------------------------


def with_model(lab, weights=b"weights", **changes):
    sha = hashlib.sha256(weights).hexdigest()
    card = {"weights_sha256": sha, "space_id": lab.SPACE, **changes}
    card["checksum"] = digest("model", canonical_json(card))
    return json.dumps(card).encode(), weights, sha


def test_the_model_is_compared_with_the_manifest_and_its_card(lab):
    card, weights, sha = with_model(lab)
    atlas = ExactAtlas()
    lab.prepare(atlas, model_digest=sha)
    lab.publish(atlas, "S1")

    def faults(**blobs):
        for name, data in blobs.items():
            kind = "weights.safetensors" if name == "weights" else "model.json"
            if data is None:
                atlas.drop_blob(lab.COLLECTION, f"model/{kind}")
            else:
                atlas.put_blob(lab.COLLECTION, f"model/{kind}", data)
        return [f.what for f in verify(atlas, lab.COLLECTION).faults]

    assert faults(card=card, weights=weights) == []
    assert verify(atlas, lab.COLLECTION).notes == ()
    assert faults(card=card, weights=b"x") == [
        "is not the model that the manifest names",
        "is of another model than the collection",
    ]
    assert faults(card=card, weights=None) == ["weights.safetensors is missing"]
    assert faults(card=card.replace(b"a", b"b", 1), weights=weights) != []
    assert faults(card=b"[]", weights=weights)[0].startswith("cannot be read")
    other = with_model(lab, space_id="0" * 64)[0]
    assert faults(card=other, weights=weights) == ["is of another model than the collection"]


# --- files of an embedded atlas and of a snapshot -----------------------------------------------


def test_a_truncated_id_map_is_reported(folder, lab):
    (path,) = (folder / "collections" / lab.COLLECTION).glob(
        "shard*/segments/*/mutable_id_tracker.mappings"
    )
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size // 3)
    with EmbeddedAtlas(folder) as atlas:
        report = verify(atlas, lab.COLLECTION)
    assert any("of its" in f.what and "spots" in f.what for f in report.faults), told(report)


def test_flipped_bytes_of_vectors_are_reported_each(folder, lab):
    (path,) = (folder / "collections" / lab.COLLECTION).glob(
        "shard*/segments/*/vector_storage-image/vectors/chunk_0.mmap"
    )
    data = bytearray(path.read_bytes())
    for row in (3, 50, 109):
        data[32 * row + 1] ^= 4
    path.write_bytes(data)
    with EmbeddedAtlas(folder) as atlas:
        report = verify(atlas, lab.COLLECTION)
    assert len(report.faults) == 3
    assert all("are not what was written" in f.what for f in report.faults)
    assert sum(s.found for s in report.sections) == 110


def test_a_damaged_manifest_is_a_fault(folder, lab):
    path = folder / "collections" / lab.COLLECTION / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"spots": 60', b'"spots": 61'))
    with EmbeddedAtlas(folder) as atlas:
        report = verify(atlas, lab.COLLECTION)
    assert report.generation is None
    assert "checksum" in report.faults[0].what


def test_a_changed_file_of_a_snapshot_is_a_fault(exact, tmp_path, lab):
    path = tmp_path / "a.snapshot"
    write_snapshot(exact, path, actor="t").close()
    (file,) = path.glob("*/points.arrow")
    data = bytearray(file.read_bytes())
    text = next(exact.scroll(lab.COLLECTION))[0].payload["expr"].encode()
    data[data.find(text) + 30] ^= 1
    file.write_bytes(data)
    with SnapshotAtlas(path) as atlas:
        report = verify(atlas, lab.COLLECTION)
    assert [f.where.split()[0] for f in report.faults] == ["files", "section"]


def test_nothing_is_changed(exact, lab):
    before = exact.read_manifest(lab.COLLECTION)
    flipped(exact, lab)
    verify(exact, lab.COLLECTION)
    assert exact.read_manifest(lab.COLLECTION) == before
