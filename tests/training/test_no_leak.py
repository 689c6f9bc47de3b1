"""What is held out changes nothing that is fitted: every recipe, to the last bit.

The held-out section is planted with what a leak would take up: genes that only vary there and
lead any list of variable genes, genes that follow the tile's features, other features by far, and
a depth of its own. A leak that is made on purpose shows that the comparison would see one.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.encoders import model_to_blobs
from bleepdb.evaluation.imputing import predict_with
from bleepdb.names import MODEL_CARD_FILE
from bleepdb.training import RECIPES, fit
from bleepdb.training.tuning import Target

SMALL = {"axes": 10, "components": 6, "low_rank": 4, "k": 20, "epochs": 3, "dimension": 8,
         "members": 2, "variable_genes": 10}  # fmt: skip
HELD, TIED, SILENT = "s3", (5, 6, 7), (30, 31)


def small(recipe):
    """Hyperparameters that make a recipe quick, as far as it has them."""
    has = vars(RECIPES[recipe].settings())
    return {name: value for name, value in SMALL.items() if name in has}


def quiet(pairs):
    """Genes that no training section varies in."""
    sections = []
    for s in pairs.sections:
        counts = s.counts.toarray()
        counts[:, SILENT] = 0
        sections.append(replace(s, counts=sp.csr_matrix(counts)))
    return replace(pairs, sections=tuple(sections))


def planted(pairs):
    """The same sections, the held-out one with a signal that a leak would take up."""
    *others, held = pairs.sections
    assert held.section == HELD
    counts = held.counts.toarray() * 3
    for number, gene in enumerate(TIED):
        counts[:, gene] = 800 * (held.features[:, number] > 0)
    counts[:, SILENT] = np.random.default_rng(0).integers(0, 900, (len(held), len(SILENT)))
    made = replace(
        held,
        counts=sp.csr_matrix(counts),
        features=held.features * 9 + 4,
        positions_um=held.positions_um * 1.7,
        pitch_um=held.pitch_um * 1.7,
        digest="f" * 64,
    )
    return replace(pairs, sections=(*others, made))


def fitted(pairs, recipe):
    """All that a recipe leaves: the bytes of the tensors and the card, less when it was made."""
    blobs = dict(model_to_blobs(fit(pairs, recipe, hyper=small(recipe), seed=2)))
    card = json.loads(blobs.pop(MODEL_CARD_FILE))
    del card["made"], card["checksum"]
    return blobs, card


@pytest.fixture(params=["aabb", "aaaa", "abcd"])
def pairs(request, pairs_of):
    return quiet(pairs_of(*request.param))


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_that_is_fitted_knows_what_is_held_out(pairs, recipe):
    target = Target(pairs.subset(["s0", "s1", "s2"]), pairs.subset([HELD]))
    other = planted(pairs)
    again = Target(other.subset(["s0", "s1", "s2"]), other.subset([HELD]))
    tensors, card = fitted(target.inside, recipe)
    assert fitted(again.inside, recipe) == (tensors, card)
    assert {name: found.tolist() for name, found in again.sets.items()} == {
        name: found.tolist() for name, found in target.sets.items()
    }
    np.testing.assert_array_equal(again.genes, target.genes)
    # The comparison sees a leak: the same fit with the held-out section among the training ones.
    leaky, leaked = fitted(pairs, recipe), fitted(other, recipe)
    assert leaky[0] != leaked[0]
    assert leaky[1]["space_id"] != leaked[1]["space_id"]
    assert leaky[1]["space_id"] != card["space_id"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_planted_signal_scores_only_where_it_leaks(pairs_of, recipe):
    other = planted(quiet(pairs_of("a", "b", "c", "d")))
    honest = Target(other.subset(["s0", "s1", "s2"]), other.subset([HELD]))
    leaky = Target(other, other.subset([HELD]))
    genes, truth = np.array(TIED), other.sections[3].profiles_on(other.panel)
    hyper = small(recipe) | {"k": 5}
    if "low_rank" in hyper:
        hyper["low_rank"] = 0
    if recipe == "bleep":
        hyper |= {"batch": 64, "epochs": 150, "dimension": 32, "variable_genes": 40}
    scores = []
    for target in (honest, leaky):
        found = predict_with(fit(target.inside, recipe, hyper=hyper), target, genes)
        pcc = [np.corrcoef(found[:, i], truth[:, g])[0, 1] for i, g in enumerate(genes)]
        scores.append(np.mean(pcc))
    assert scores[1] > scores[0] + 0.3, scores


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_order_of_sections_that_a_sheet_happens_to_have_is_no_knowledge(pairs_of, recipe):
    """Relabelled donors change inner folds and what is excluded, and nothing of the held-out."""
    pairs = quiet(pairs_of("a", "b", "c", "a"))
    renamed = replace(pairs, sections=(*pairs.sections[:3], replace(pairs.sections[3], donor="z")))
    inside = ["s0", "s1", "s2"]
    assert fitted(renamed.subset(inside), recipe) == fitted(pairs.subset(inside), recipe)
