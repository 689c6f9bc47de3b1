"""Rows are judged before the first is written, by the rules of the shipped schema."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.atlas import Points, Where, vector_crc
from bleepdb.atlas.checks import check_points, payload_fault
from bleepdb.contracts import faults
from bleepdb.errors import AtlasError, SpaceMismatchError


@pytest.fixture(scope="module")
def row(lab):
    return lab.section("S1", stage="II")[1][0].payloads[0]


def test_the_made_rows_follow_the_schema(row):
    assert faults("point", row) == []
    assert payload_fault(row) is None


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**54)
    | st.floats()
    | st.text(max_size=300)
    | st.sampled_from(["", "a" * 64, "a" * 64 + "\n", "bdb1", "breast", "Breast", "S-1", "-", []])
)
NAMES = st.sampled_from(
    ["rev", "section", "donor", "species", "tissue", "assay", "barcode", "x_px", "panel", "nnz",
     "total", "library_total", "vcrc", "codec", "expr", "stage", "1st", "a b", "x" * 64, "a-b_c"]
)  # fmt: skip


@settings(deadline=None, max_examples=600)
@given(NAMES, VALUES, st.booleans())
def test_the_fast_check_agrees_with_the_schema(row, name, value, drop):
    changed = {k: v for k, v in row.items() if not (drop and k == name)}
    if not drop:
        changed[name] = value
    fast, slow = payload_fault(changed), faults("point", changed)
    if slow:
        assert fast is not None, slow
    elif fast is not None:
        # Three things that JSON Schema cannot say, or says otherwise.
        whole_float = isinstance(value, float) and value.is_integer()
        not_a_number = isinstance(value, float) and value != value  # noqa: PLR0124 - NaN
        sums = changed["total"] > changed["library_total"]
        assert whole_float or not_a_number or sums, fast


def test_the_checksum_is_crc32_of_the_bytes_in_order_of_names():
    vectors = {"b": np.array([1, 2], np.float32), "a": np.array([3], np.float32)}
    data = np.array([3, 1, 2], "<f4").tobytes()
    assert vector_crc(vectors) == zlib.crc32(data)


def points(lab):
    return lab.joined(lab.section("S1", spots=20)[1])


def changed(given, *, ids=None, vectors=None, payloads=None):
    return Points(ids or given.ids, vectors or given.vectors, payloads or given.payloads)


def spoiled(given, name, row, value):
    array = given.vectors[name].copy()
    array[row] = value
    return {**given.vectors, name: array}


def bad_rows(lab):
    good = points(lab)
    half = {n: a.astype(np.float16) for n, a in good.vectors.items()}
    fewer = {n: a[1:] for n, a in good.vectors.items()}
    wide = {n: np.pad(a, ((0, 0), (0, 1))) for n, a in good.vectors.items()}
    other = [dict(p) for p in good.payloads]
    other[7]["vcrc"] ^= 1
    short = [dict(p) for p in good.payloads]
    del short[19]["donor"]
    return {
        "NaN": (changed(good, vectors=spoiled(good, "image", 7, np.nan)), "row 7"),
        "infinite": (changed(good, vectors=spoiled(good, "expression", 19, np.inf)), "row 19"),
        "zero": (changed(good, vectors=spoiled(good, "image", 3, 0)), "norm 0"),
        "long": (changed(good, vectors={n: a * 1.01 for n, a in good.vectors.items()}), "row 0"),
        "float16": (changed(good, vectors=half), "float16"),
        "dimension": (changed(good, vectors=wide), "not float32"),
        "a vector short": (changed(good, vectors={"image": good.vectors["image"]}), "vectors"),
        "a row short": (changed(good, vectors=fewer), "float32"),
        "id": (changed(good, ids=[*good.ids[:-1], "nonsense"]), "nonsense"),
        "id in capitals": (changed(good, ids=[good.ids[0].upper(), *good.ids[1:]]), "UUID"),
        "id twice": (changed(good, ids=[good.ids[1], *good.ids[1:]]), "twice"),
        "payload short": (changed(good, payloads=good.payloads[1:]), "19 payloads"),
        "field short": (changed(good, payloads=short), "row 19.*'donor'"),
        "checksum": (changed(good, payloads=other), "row 7.*vcrc"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", range(14))
def test_one_bad_row_and_nothing_is_written(lab, atlas, kind):
    name, (bad, says) = list(bad_rows(lab).items())[kind]
    lab.prepare(atlas)
    with pytest.raises(AtlasError, match=says):
        atlas.upsert(lab.COLLECTION, bad)
    assert atlas.count(lab.COLLECTION) == 0, name
    atlas.upsert(lab.COLLECTION, points(lab))
    assert atlas.count(lab.COLLECTION) == 20


def test_another_dimension_is_another_space(lab):
    with pytest.raises(SpaceMismatchError):
        check_points(lab.spec(dimension=9), points(lab), where="here")


def test_values_under_must_intersect():
    both = Where(must={"donor": ["A", "B"]}).also({"donor": ["B", "C"]}, {"section": ["S"]})
    assert both == Where({"donor": ["B"]}, {"section": ["S"]})
