"""Panels: identity, matching, refusal of doubles and of mixed species."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.errors import GeneError
from bleepdb.normalise import log1p_cp10k, normalise_rows
from bleepdb.panel import Panel, read_gene_list

names = st.lists(
    st.text("ABCDEFGH123", min_size=1, max_size=4), unique=True, min_size=1, max_size=30
)


@settings(deadline=None)
@given(names, names)
def test_matching_equals_a_search_by_hand(left, right):
    found = Panel(tuple(left)).match(Panel(tuple(right)))
    wanted = [(i, right.index(s)) for i, s in enumerate(left) if s in right]
    assert list(zip(found.left.tolist(), found.right.tolist(), strict=True)) == wanted


@given(names)
def test_a_panel_comes_back_from_json_with_its_digest(symbols):
    panel = Panel(tuple(symbols))
    again = Panel.from_json(panel.to_json())
    assert again == panel
    assert again.digest == panel.digest


def test_ids_go_before_symbols_and_lose_their_version():
    left = Panel(("A", "B"), ("ENSG00000000001.3", "ENSG00000000002"))
    right = Panel(("B", "A"), ("ENSG00000000001", "ENSG00000000009"))
    found = left.match(right)
    assert found.by == "gene_id"
    assert found.left.tolist() == [0]
    assert found.right.tolist() == [0]


def test_symbols_match_where_one_side_has_no_ids():
    left = Panel(("A", "B"), ("ENSG00000000001", "ENSG00000000002"))
    found = left.match(Panel(("B",)))
    assert (found.by, found.left.tolist()) == ("symbol", [1])


def test_a_symbol_that_stands_twice_names_no_one_gene():
    left = Panel(("A", "A", "B"), ("ENSG00000000001", "ENSG00000000002", "ENSG00000000003"))
    assert left.match(Panel(("A", "B"))).left.tolist() == [2]


def test_doubles_and_mixed_species_are_refused_by_name():
    with pytest.raises(GeneError, match="A"):
        Panel(("A", "A"))
    with pytest.raises(GeneError, match="human, mouse"):
        Panel(("A", "b"), ("ENSG00000000001", "ENSMUSG00000000001"))


def test_find_takes_symbols_and_ids():
    panel = Panel(("A", "B"), ("ENSG00000000001", "ENSG00000000002"))
    assert panel.find(["B", "ENSG00000000001.7", "X"]).tolist() == [1, 0, -1]


def test_a_gene_list_is_read_and_an_empty_one_refused(tmp_path):
    path = tmp_path / "genes.csv"
    path.write_text("# markers\nERBB2,x\n\nKRT8\nERBB2\n")
    assert read_gene_list(path) == ["ERBB2", "KRT8"]
    path.write_text("# nothing\n")
    with pytest.raises(GeneError, match="names no gene"):
        read_gene_list(path)
    with pytest.raises(GeneError, match="no such gene list"):
        read_gene_list(tmp_path / "no.txt")


def test_normalisation_equals_its_formula_and_keeps_empty_spots_zero():
    counts = np.array([[0, 3, 7], [0, 0, 0]])
    wanted = np.log1p(counts / np.array([[10], [1]]) * 1e4)
    made = log1p_cp10k(counts, counts.sum(1, keepdims=True))
    np.testing.assert_allclose(made, wanted, rtol=1e-6)
    flat = normalise_rows(np.array([3, 7]), np.array([0, 2, 2]), np.array([10, 0]))
    np.testing.assert_allclose(flat, wanted[0, 1:], rtol=1e-6)
