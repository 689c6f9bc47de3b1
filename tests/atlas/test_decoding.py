"""The helper process decodes what this one would, and nothing depends on it."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.atlas import ExactAtlas, Points, decoding, expression_fields, fetch_profiles, reading
from bleepdb.atlas.decoding import Helper, decoded
from bleepdb.errors import PayloadError


@pytest.fixture
def helped(monkeypatch):
    """Helpers start for any number of spots, on any number of cores; those that did."""
    started = []
    real = Helper.__init__

    def watched(self):
        started.append(self)
        real(self)

    monkeypatch.setattr(decoding, "WORTHWHILE", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(Helper, "__init__", watched)
    monkeypatch.setattr(reading, "RETRIEVE_AT_ONCE", 10)
    return started


@pytest.fixture
def filled(lab):
    with ExactAtlas() as atlas:
        lab.prepare(atlas)
        lab.publish(atlas, "S1", spots=95)
        yield atlas


def payloads(genes, highest):
    rng = np.random.default_rng(genes)
    made = []
    for n in (0, 1, 200):
        places = np.sort(rng.permutation(genes)[:n])
        made.append(expression_fields(places, rng.integers(1, highest, n)))
    return made


@pytest.mark.parametrize(("genes", "highest"), [(300, 5), (300, 2**32 - 1), (70_000, 9)])
def test_a_helper_gives_what_this_process_gives(genes, highest):
    given = payloads(genes, highest)
    with Helper() as helper:
        for part in (given, given[::-1]):
            found = helper.send(part, genes).result(timeout=60)
            for mine, own in zip(found, decoded(part, genes), strict=True):
                for a, b in zip(mine, own, strict=True):
                    assert a.dtype == b.dtype
                    np.testing.assert_array_equal(a, b)


def test_profiles_are_the_same_with_a_helper(filled, lab, helped, monkeypatch):
    ids = lab.joined(lab.section("S1", spots=95)[1]).ids
    found = fetch_profiles(filled, lab.COLLECTION, ids)
    assert len(helped) == 1
    assert helped[0]._process.poll() is not None  # it ended with the fetch
    np.testing.assert_array_equal(found.counts[0].toarray(), lab.counts_of("S1", 0, 95))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fetch_profiles(filled, lab.COLLECTION, ids)
    assert len(helped) == 1


def test_a_helper_that_dies_changes_nothing(filled, lab, helped, monkeypatch):
    real = Helper.send

    def killing(self, *given):
        self._process.kill()
        return real(self, *given)

    monkeypatch.setattr(Helper, "send", killing)
    ids = lab.joined(lab.section("S1", spots=95)[1]).ids
    found = fetch_profiles(filled, lab.COLLECTION, ids)
    np.testing.assert_array_equal(found.counts[0].toarray(), lab.counts_of("S1", 0, 95))
    monkeypatch.setattr(decoding.sys, "executable", "/nowhere/python")
    found = fetch_profiles(filled, lab.COLLECTION, ids)
    np.testing.assert_array_equal(found.counts[0].toarray(), lab.counts_of("S1", 0, 95))


@pytest.mark.parametrize("row", [3, 15, 25, 94])
def test_damage_that_a_helper_meets_is_named_here(filled, lab, helped, row):
    points = lab.joined(lab.section("S1", spots=95)[1])
    payload = {**points.payloads[row], "expr": points.payloads[row - 1]["expr"]}
    one = {n: a[row : row + 1] for n, a in points.vectors.items()}
    filled.upsert(lab.COLLECTION, Points(points.ids[row : row + 1], one, [payload]))
    with pytest.raises(PayloadError, match=f"point {points.ids[row]}: "):
        fetch_profiles(filled, lab.COLLECTION, points.ids)
