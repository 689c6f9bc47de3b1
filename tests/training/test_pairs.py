"""Pairs: genes that all sections share, and profiles scaled on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.encoders import Context
from bleepdb.errors import GeneError, SectionError
from bleepdb.panel import Panel
from bleepdb.training.affine import block_scale, image_axes
from bleepdb.training.pairs import pitch_of


def measured_on(section, names):
    """The same spots, measured on the genes named; unknown names are new genes of count 1."""
    counts = section.counts.toarray()
    columns = [counts[:, int(n[1:])] if n[0] == "G" else np.ones(len(counts), int) for n in names]
    return replace(
        section, counts=sp.csr_matrix(np.stack(columns, axis=1)), panel=Panel(tuple(names))
    )


def test_the_panel_is_what_all_share_in_the_order_of_the_first(pairs_of):
    pairs = pairs_of("a", "a", "b")
    one, two, three = pairs.sections
    names = [f"G{i}" for i in range(40)]
    mixed = replace(
        pairs,
        sections=(
            measured_on(one, names[::-1]),
            measured_on(two, [*names[:30], "X1", "X2"]),
            measured_on(three, names[5:]),
        ),
    )
    assert mixed.panel.symbols == tuple(names[5:30][::-1])
    # Without the second section its genes come back: a fold has the panel of its own sections.
    assert mixed.subset(["s0", "s2"]).panel.symbols == tuple(names[5:][::-1])


def test_profiles_are_scaled_on_shared_genes_and_unknown_where_not_measured(pairs_of):
    section = measured_on(pairs_of("a").sections[0], [f"G{i}" for i in range(20)])
    panel = Panel(("G3", "NEW", "G7", "G1"))
    counts = section.counts.toarray()
    shared = counts[:, [3, 7, 1]].astype(float)
    want = np.log1p(1e4 * shared / np.maximum(shared.sum(axis=1, keepdims=True), 1))
    made = section.profiles_on(panel)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[:, [0, 2, 3]], want, rtol=1e-5)
    assert np.isnan(made[:, 1]).all()


def test_profiles_and_features_stand_section_by_section(pairs_of):
    pairs = pairs_of("a", "b")
    sizes = [len(s) for s in pairs.sections]
    assert len(pairs) == sum(sizes)
    assert pairs.donors == ("a", "b")
    np.testing.assert_array_equal(pairs.section_of_spot, np.repeat([0, 1], sizes))
    for i, section in enumerate(pairs.sections):
        mine = pairs.section_of_spot == i
        np.testing.assert_array_equal(pairs.features[mine], section.features)
        np.testing.assert_array_equal(pairs.profiles[mine], section.profiles_on(pairs.panel))


def test_a_subset_keeps_the_order_and_names_what_is_not_there(pairs_of):
    pairs = pairs_of("a", "b", "c")
    assert pairs.subset(["s2", "s0"]).names == ("s0", "s2")
    with pytest.raises(ValueError, match="s9"):
        pairs.subset(["s0", "s9"])
    with pytest.raises(ValueError, match="no sections"):
        pairs.subset([])


def test_sections_that_share_too_little_are_refused(pairs_of):
    pairs = pairs_of("a", "b")
    other = measured_on(pairs.sections[1], [*(f"G{i}" for i in range(10)), "X1", "X2"])
    with pytest.raises(GeneError, match="sections s0, s1 share 10 genes"):
        replace(pairs, sections=(pairs.sections[0], other)).panel  # noqa: B018


def test_the_pitch_is_the_median_distance_of_adjacent_spots():
    x, y = np.meshgrid(np.arange(5) * 100.0, np.arange(4) * 100.0)
    places = np.column_stack([x.ravel(), y.ravel()])
    places[0] = [-1000, -1000]  # one spot far out does not matter
    assert pitch_of(places) == 100.0
    with pytest.raises(SectionError, match="1 spots have no pitch"):
        pitch_of(places[:1])


def test_levels_and_scales_weigh_the_same_whatever_their_width(pairs_of):
    pairs = pairs_of("A", "A")
    width = pairs.features.shape[1]
    blocks = np.array([0] * 4 + [1] * (width - 4))
    told = replace(pairs, blocks=blocks)
    scale = block_scale(told)
    assert [(scale[blocks == b] ** 2).sum() for b in (0, 1)] == pytest.approx([width / 2] * 2)
    np.testing.assert_array_equal(block_scale(pairs), 1)
    assert told.subset(["s0"]).blocks is blocks
    for context, whole in ((None, 1280), (Context(100.0, 300.0, 0.5), 1280 / 2 * 1.25)):
        axes = image_axes(told, context, rank=10**6)
        assert (axes.singular**2).sum() / len(told) == pytest.approx(whole, rel=1e-4)
        back = np.linalg.norm(axes.projection, axis=1)[:width] * told.features.std(axis=0)
        ratio = (back[blocks == 0] ** 2).mean() / (back[blocks == 1] ** 2).mean()
        assert ratio == pytest.approx((width - 4) / 4, rel=0.05)
