"""Searching an atlas: exclusions, and the recall check beside an approximate search."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.atlas import Hits, pin
from bleepdb.errors import EmptyAtlasError
from bleepdb.querying import QuerySettings
from bleepdb.querying import search as searching
from bleepdb.querying.search import search, vectors_of

K = 5


class Lossy:
    """An atlas whose approximate search passes over the best neighbour of every query."""

    def __init__(self, atlas):
        self.atlas = atlas

    def __getattr__(self, name):
        return getattr(self.atlas, name)

    def query_batch(self, collection, vectors, *, limit, exact, **more):
        lost = 0 if exact else 1
        hits = self.atlas.query_batch(collection, vectors, limit=limit + lost, exact=exact, **more)
        return Hits([i[lost:] for i in hits.ids], [s[lost:] for s in hits.scores])


@pytest.fixture(scope="module")
def pinned(small):
    (collection,) = small.atlas.collections()
    return pin(small.atlas, collection)


def ask(small, pinned, atlas=None, **settings):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(70, small.model.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = QuerySettings(**settings)
    found = search(atlas or small.atlas, pinned, vectors, key="image", k=K, settings=chosen)
    return vectors, found


def test_exact_search_equals_a_full_sort(small, pinned, monkeypatch):
    monkeypatch.setattr(searching, "QUERIES_A_BATCH", 32)
    vectors, found = ask(small, pinned)
    keys = vectors_of(small.atlas, pinned.collection, found.ids, "image")
    assert found.exact
    assert found.recall == 1.0
    assert len(set(found.ids)) == len(found.ids)
    own = (vectors[:, None] * keys[found.columns]).sum(axis=-1)
    np.testing.assert_allclose(own, found.scores, atol=1e-6)
    pages = small.atlas.scroll(pinned.collection, where=pinned.where, fields=[], with_vectors=True)
    all_keys = np.stack([record.vectors["image"] for page in pages for record in page])
    full = -np.sort(-(vectors @ all_keys.T), axis=1)[:, :K]
    np.testing.assert_allclose(found.scores, full, atol=1e-6)


def test_recall_is_measured_where_search_is_not_exact(small, pinned, monkeypatch):
    monkeypatch.setattr(searching, "EXACT_PRODUCTS", 0)
    monkeypatch.setattr(searching, "DOUBTED", 0.0)
    _, right = ask(small, pinned)
    assert not right.exact
    assert right.recall == 1.0
    _, found = ask(small, pinned, Lossy(small.atlas))
    assert found.recall == pytest.approx((K - 1) / K)
    # The exact answers of the sample measure; they do not mix into the result.
    assert found.scores[:, 0].mean() < right.scores[:, 0].mean()


def test_excluded_donors_and_sections_do_not_answer(small, pinned):
    sections = {s.section: s.donor for s in small.sections[:2]}
    first, second = sections
    for given in ({"exclude_donors": (sections[first],)}, {"exclude_sections": (first,)}):
        _, found = ask(small, pinned, **given)
        answering = small.atlas.retrieve(
            pinned.collection, list(found.ids), fields=["section"], with_vectors=False
        )
        assert {r.payload["section"] for r in answering} == {second}
    with pytest.raises(EmptyAtlasError, match="nothing is left to search"):
        ask(small, pinned, exclude_sections=tuple(sections))


class Forgetful(Lossy):
    """An atlas whose approximate search loses whole queries: it gives what is furthest away."""

    def __init__(self, atlas, lost):
        super().__init__(atlas)
        self.lost, self.seen = lost, 0

    def query_batch(self, collection, vectors, *, exact, **more):
        asked = vectors.copy()
        if not exact:
            rows = np.arange(self.seen, self.seen + len(vectors))
            self.seen += len(vectors)
            asked[np.isin(rows, self.lost)] *= -1
        hits = self.atlas.query_batch(collection, asked, exact=exact, **more)
        if exact:
            return hits
        flipped = np.isin(rows, self.lost)
        scores = [-s if f else s for s, f in zip(hits.scores, flipped, strict=True)]
        return Hits(hits.ids, scores)


def test_a_query_that_the_graph_lost_is_asked_again(small, pinned, monkeypatch):
    monkeypatch.setattr(searching, "QUERIES_A_BATCH", 32)
    _, right = ask(small, pinned)
    _, found = ask(small, pinned, Forgetful(small.atlas, [3, 40]), search="approximate")
    assert not found.exact
    ids = [[found.ids[c] for c in row] for row in found.columns]
    assert ids == [[right.ids[c] for c in row] for row in right.columns]
    np.testing.assert_allclose(found.scores, right.scores, atol=1e-6)
    assert (found.recall, found.least_recall) == (1.0, 1.0)
    # Nothing of the wrong answers is fetched later.
    assert set(found.ids) == {i for row in ids for i in row}
    assert len(found.ids) == len(set(found.ids))
    assert [found.columns.ravel().tolist().index(n) for n in range(len(found.ids))] == sorted(
        found.columns.ravel().tolist().index(n) for n in range(len(found.ids))
    )
    monkeypatch.setattr(searching, "DOUBTED", 0.0)
    _, lost = ask(small, pinned, Forgetful(small.atlas, [0, 40]), search="approximate")
    assert lost.least_recall < 1.0, "else the test could not fail"
