"""Digests of points: the same for the same content however it is packed, another for any change."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.atlas import decode_fields, expression_fields
from bleepdb.atlas.digests import point_digest, section_digest


@pytest.fixture
def point(lab):
    points = lab.joined(lab.section("S1", spots=3, stage="II")[1])
    payload = dict(points.payloads[1])
    vectors = {name: array[1] for name, array in points.vectors.items()}
    genes, counts = decode_fields(payload, n_genes=60)
    return points.ids[1], payload, vectors, genes, counts


def test_how_it_is_packed_does_not_matter(point):
    identity, payload, vectors, genes, counts = point
    wanted = point_digest(*point)
    other = {k: payload[k] for k in reversed(payload)} | {"expr": "packed otherwise"}
    wider = (genes.astype(np.uint32), counts.astype(np.int64))
    backwards = {k: vectors[k] for k in reversed(vectors)}
    assert point_digest(identity, other, backwards, *wider) == wanted
    assert point_digest(identity, payload | {"x_px": 10}, vectors, genes, counts) == wanted
    assert payload["x_px"] == 10.0


def test_what_an_engine_reads_back_has_the_same_digest(atlas, lab):
    """Positions to three decimals; vectors to the bit; numbers as numbers."""
    lab.prepare(atlas)
    rng = np.random.default_rng(0)
    points = lab.joined(lab.section("S1", spots=400)[1])
    for payload in points.payloads:
        payload["x_px"], payload["y_px"] = (round(float(v), 3) for v in rng.normal(size=2) * 1e5)
    atlas.upsert(lab.COLLECTION, points)
    read = atlas.retrieve(lab.COLLECTION, points.ids, with_vectors=True)
    for i, record in enumerate(read):
        assert record.payload == points.payloads[i]
        found = decode_fields(record.payload, n_genes=60)
        given = {name: array[i] for name, array in points.vectors.items()}
        assert point_digest(record.id, record.payload, record.vectors, *found) == point_digest(
            points.ids[i], points.payloads[i], given, *found
        )


@pytest.mark.parametrize(
    "change",
    [{"donor": "D2"}, {"stage": "III"}, {"extra": ""}, {"x_px": 10.001}, {"y_px": -7.0},
     {"vcrc": 1}, {"library_total": 10**9}, {"panel": "0" * 64}, {"barcode": "spot-01"}],
)  # fmt: skip
def test_any_field_matters(point, change):
    identity, payload, vectors, genes, counts = point
    assert point_digest(identity, payload | change, vectors, genes, counts) != point_digest(*point)


def test_a_field_less_matters(point):
    identity, payload, vectors, genes, counts = point
    less = {k: v for k, v in payload.items() if k != "stage"}
    assert point_digest(identity, less, vectors, genes, counts) != point_digest(*point)


def test_any_bit_of_a_vector_and_any_count_matters(point):
    identity, payload, vectors, genes, counts = point
    wanted = point_digest(*point)
    for name in vectors:
        changed = vectors[name].copy()
        changed.view(np.uint32)[3] ^= 1
        assert point_digest(identity, payload, {**vectors, name: changed}, genes, counts) != wanted
    swapped = dict(zip(vectors, reversed(vectors.values()), strict=True))
    assert point_digest(identity, payload, swapped, genes, counts) != wanted
    # The sum, the number of genes and all fields stay; the profile does not.
    more = counts.copy()
    more[0], more[1] = more[0] + 1, more[1] + 1
    assert point_digest(identity, payload, vectors, genes, more) != wanted
    assert point_digest(identity, payload, vectors, counts, genes) != wanted


def test_a_section_is_its_points_in_any_order():
    points = {str(i): bytes([i]) * 32 for i in range(5)}
    wanted = section_digest(points)
    assert section_digest(dict(reversed(points.items()))) == wanted
    assert section_digest({**points, "3": bytes(32)}) != wanted
    assert section_digest({k: v for k, v in points.items() if k != "3"}) != wanted


def test_the_codec_itself_is_not_part_of_it(point):
    identity, payload, vectors, genes, counts = point
    again = payload | {"expr": expression_fields(genes, counts)["expr"]}
    assert point_digest(identity, again, vectors, genes, counts) == point_digest(*point)
