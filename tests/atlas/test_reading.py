"""What readers share: names resolved, manifests pinned, profiles fetched once and right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bleepdb.atlas import (
    ExactAtlas,
    Points,
    fetch_profiles,
    get_panel,
    open_atlas,
    pin,
    put_panel,
    resolve,
    retract_section,
)
from bleepdb.atlas.describing import scores_of
from bleepdb.atlas.panels import panel_blob
from bleepdb.errors import AtlasCorruptError, EmptyAtlasError, PayloadError
from bleepdb.panel import Panel

OTHER = Panel(tuple(f"OTHER{i}" for i in range(25)))


@pytest.fixture
def filled(atlas, lab):
    lab.prepare(atlas)
    put_panel(atlas, lab.COLLECTION, OTHER)
    lab.publish(atlas, "S1", donor="D1")
    lab.publish(atlas, "S2", donor="D2", on=OTHER)
    return atlas


def test_names_resolve(filled, lab):
    for name in ("breast", "Breast", "bleepdb_breast", lab.COLLECTION):
        assert resolve(filled, name) == lab.COLLECTION


@pytest.mark.parametrize("name", ["lung", "", "!!", "bleepdb_lung"])
def test_what_is_there_is_listed(filled, name):
    with pytest.raises(EmptyAtlasError, match="there is: breast"):
        resolve(filled, name)


def test_an_empty_atlas_says_what_to_run(atlas):
    with pytest.raises(EmptyAtlasError, match="bleepdb index"):
        resolve(atlas, "breast")


def test_pinning_needs_something_live(atlas, lab):
    lab.prepare(atlas)
    with pytest.raises(EmptyAtlasError, match="no section is live"):
        pin(atlas, lab.COLLECTION)
    lab.publish(atlas, "S1")
    pinned = pin(atlas, lab.COLLECTION)
    assert pinned.where.must == {"rev": [lab.revision("S1", 0)]}
    assert pinned.manifest == atlas.read_manifest(lab.COLLECTION)
    retract_section(atlas, lab.COLLECTION, "S1", actor="t")
    with pytest.raises(EmptyAtlasError):
        pin(atlas, lab.COLLECTION)


def test_profiles_equal_what_was_counted(filled, lab):
    first, second = (lab.joined(lab.section(n, **k)[1]) for n, k in
                     (("S1", {}), ("S2", {"on": OTHER, "donor": "D2"})))  # fmt: skip
    asked = [second.ids[4], first.ids[0], second.ids[4], first.ids[29], second.ids[1], first.ids[0]]
    calls = []
    found = fetch_profiles(filled, lab.COLLECTION, asked, progress=lambda *a: calls.append(a))
    assert found.ids == tuple(dict.fromkeys(asked))
    assert len(found) == 4
    assert found.section.tolist() == ["S2", "S1", "S1", "S2"]
    assert found.donor.tolist() == ["D2", "D1", "D1", "D2"]
    assert found.barcode.tolist() == ["spot-4", "spot-0", "spot-29", "spot-1"]
    assert found.rev.tolist() == [lab.revision(s, 0) for s in found.section]
    assert found.xy_px.tolist() == [[40, 28], [0, 0], [290, 203], [10, 7]]
    assert found.panel_digests == (OTHER.digest, lab.panel().digest)
    truth = {"S1": lab.counts_of("S1", 0, 30), "S2": lab.counts_of("S2", 0, 30, len(OTHER))}
    for i, (section, barcode) in enumerate(zip(found.section, found.barcode, strict=True)):
        row = found.counts[found.panel[i]][found.row[i]].toarray().ravel()
        expected = truth[section][int(barcode.removeprefix("spot-"))]
        np.testing.assert_array_equal(row, expected)
        assert found.total[i] == expected.sum()
        assert found.library_total[i] == expected.sum() + 5
    assert found.spots_of(0).tolist() == [0, 3]
    assert [m.dtype for m in found.counts] == [np.uint16, np.uint16]
    assert all(m.indptr.dtype == m.indices.dtype for m in found.counts)
    assert calls == [(4, 4)]


def test_nothing_asked(filled, lab):
    found = fetch_profiles(filled, lab.COLLECTION, [])
    assert len(found) == 0
    assert found.xy_px.shape == (0, 2)
    assert (found.panels, found.counts) == ((), ())


def test_each_payload_is_asked_for_once(lab, monkeypatch):
    with ExactAtlas() as atlas:
        lab.prepare(atlas)
        lab.publish(atlas, "S1", spots=1500, batch=1500)
        ids = lab.joined(lab.section("S1", spots=1500)[1]).ids
        asked = []
        retrieve = atlas.retrieve

        def watched(collection, part, **kwargs):
            asked.append(list(part))
            return retrieve(collection, part, **kwargs)

        monkeypatch.setattr(atlas, "retrieve", watched)
        fetch_profiles(atlas, lab.COLLECTION, [*ids, *reversed(ids)])
    assert [len(part) for part in asked] == [1000, 500]
    assert [i for part in asked for i in part] == list(ids)


def test_points_that_went_meanwhile(filled, lab):
    ids = lab.joined(lab.section("S1")[1]).ids
    retract_section(filled, lab.COLLECTION, "S1", actor="t")
    with pytest.raises(AtlasCorruptError, match="ask again"):
        fetch_profiles(filled, lab.COLLECTION, ids[:3])


def test_a_payload_that_does_not_decode_is_named(filled, lab):
    points = lab.joined(lab.section("S1")[1])
    payload = {**points.payloads[5], "expr": points.payloads[6]["expr"]}
    one = {n: a[5:6] for n, a in points.vectors.items()}
    filled.upsert(lab.COLLECTION, Points(points.ids[5:6], one, [payload]))
    with pytest.raises(PayloadError, match=f"point {points.ids[5]}: "):
        fetch_profiles(filled, lab.COLLECTION, points.ids)


def test_panels_are_checked_when_read(filled, lab):
    assert get_panel(filled, lab.COLLECTION, OTHER.digest) == OTHER
    name = panel_blob(OTHER.digest)
    for data in (
        json.dumps(lab.panel().to_json()).encode(),
        b"{",
        b"[]",
        b'{"symbols": ["A", "A"], "gene_ids": []}',
        b'{"symbols": 3, "gene_ids": []}',
    ):
        filled.put_blob(lab.COLLECTION, name, data)
        with pytest.raises(AtlasCorruptError, match="panel"):
            get_panel(filled, lab.COLLECTION, OTHER.digest)
    with pytest.raises(AtlasCorruptError, match="not there"):
        get_panel(filled, lab.COLLECTION, "0" * 64)


def test_a_panel_is_stored_once(tmp_path, lab):
    with open_atlas(tmp_path / "a", create=True) as atlas:
        atlas.ensure(lab.spec())
        assert put_panel(atlas, lab.COLLECTION, OTHER) == OTHER.digest
        path = next((tmp_path / "a").rglob(f"{OTHER.digest}.json"))
        before = path.stat().st_mtime_ns
        put_panel(atlas, lab.COLLECTION, OTHER)
        assert path.stat().st_mtime_ns == before


def test_the_scores_of_a_card_are_summed_up_whatever_stands_in_it():
    genes = {"pcc": [0.5, None, 0.1], "predictable": [1.0, None, 0.0]}
    card = {"scores": {"about": {"held_out": "donor"}, "sets": {"HEG": 0.4}, "genes": genes}}
    assert scores_of(card) == {
        "held_out": "donor", "sets": {"HEG": 0.4}, "predictable": 1, "genes": 3,
    }  # fmt: skip
    for empty in ({}, {"scores": {}}, {"scores": None}, {"scores": []}):
        assert scores_of(empty) is None
    odd = {"scores": {"about": 3, "sets": [], "genes": "x"}}
    assert scores_of(odd) == {"held_out": None, "sets": {}, "predictable": None, "genes": None}
