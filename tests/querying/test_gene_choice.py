"""Which genes get values, and that panels with and without ids still meet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.errors import GeneError
from bleepdb.imputation import Aggregator, Group
from bleepdb.panel import Panel
from bleepdb.querying import genes as choosing
from bleepdb.querying.genes import choose_genes


@dataclass(frozen=True)
class Met:
    """The panels that a query met, as `Profiles` names them."""

    panels: tuple[Panel, ...]


def scored(model, pcc, predictable):
    n = len(model.panel)
    genes = {"pcc": pcc, "noise_ceiling": [1.0] * n, "predictable": predictable}
    return model.with_scores({"genes": genes})


@pytest.fixture
def met(small):
    return Met((small.model.panel,))


def test_sets_by_name(small, met):
    model = small.model
    assert choose_genes("model", model, met) == model.panel
    extra = Panel((*model.panel.symbols[:3], "NEW"))
    union = choose_genes("all", model, Met((extra, model.panel)))
    assert union.symbols == (*model.panel.symbols, "NEW")


def test_names_are_taken_in_their_order_and_unknown_ones_warned_of(small, met, caplog):
    s = small.model.panel.symbols
    found = choose_genes((s[7], "NOPE", s[2], s[7]), small.model, met)
    assert found.symbols == (s[7], s[2])
    assert "NOPE" in caplog.text
    with pytest.raises(GeneError, match="none of the 2 genes asked for"):
        choose_genes(("NOPE", "NADA"), small.model, met)


def test_predictable_needs_scores_and_a_predictable_gene(small, met):
    with pytest.raises(GeneError, match="no held-out scores"):
        choose_genes("predictable", small.model, met)
    n = len(small.model.panel)
    none = scored(small.model, [0.1] * n, [0.0] * n)
    with pytest.raises(GeneError, match="no predictable gene"):
        choose_genes("predictable", none, met)
    # Without a wish the highest expressed ones stand in.
    assert len(choose_genes(None, none, met)) == n


def test_by_default_the_best_predictable_ones(small, met, monkeypatch):
    n = len(small.model.panel)
    pcc = [i / n for i in range(n)]
    pcc[50] = None  # never scored
    model = scored(small.model, pcc, [float(i % 2 == 0) for i in range(n)])
    wanted = tuple(small.model.panel.symbols[i] for i in range(0, n, 2))
    assert choose_genes(None, model, met).symbols == wanted
    assert choose_genes("predictable", model, met).symbols == wanted
    monkeypatch.setattr(choosing, "MOST_GENES", 3)
    best = choose_genes(None, model, met).symbols
    assert best == tuple(small.model.panel.symbols[i] for i in (54, 56, 58))


def test_without_scores_the_highest_expressed(small, met, monkeypatch):
    monkeypatch.setattr(choosing, "MOST_GENES", 4)
    found = choose_genes(None, small.model, met)
    best = np.sort(np.argsort(-small.model.profile_mean)[:4])
    assert found.symbols == tuple(small.model.panel.symbols[i] for i in best)


def named(i):
    return f"ENSG{i:011d}"


def test_a_model_without_ids_meets_panels_that_have_them(small):
    """The genes of the model keep their values where other genes come with an id."""
    model = small.model
    n = len(model.panel)
    other = Panel((*model.panel.symbols, "NEW"), tuple(named(i) for i in range(n + 1)))
    plain = Panel((*model.panel.symbols[:5], "OLD"))
    union = choose_genes("all", model, Met((other, plain)))
    assert union.symbols == (*model.panel.symbols, "NEW", "OLD")
    assert union.gene_ids == (*other.gene_ids, "")
    groups = [
        Group(other, np.array([0]), sp.csr_matrix(np.full((1, n + 1), 2.0, np.float32))),
        Group(plain, np.array([1]), sp.csr_matrix(np.full((1, 6), 4.0, np.float32))),
    ]
    W = sp.csr_matrix(np.array([[0.5, 0.5]], dtype=np.float32))
    values = Aggregator(groups, union).impute(W).values[0]
    np.testing.assert_allclose(values[:5], 3.0)  # both measured these
    np.testing.assert_allclose(values[5 : n + 1], 2.0)
    assert values[n + 1] == 4.0


def test_an_id_is_never_given_twice(small):
    s = small.model.panel.symbols
    model = replace(small.model, panel=Panel(s, (named(0), *("",) * (len(s) - 1))))
    # The second panel calls another gene by the id that the model's first gene has.
    clash = Panel((s[1], "Z"), (named(0), named(1)))
    union = choose_genes("all", model, Met((clash,)))
    assert union.gene_ids[0] == named(0)
    assert union.symbols[-1] == "Z"
