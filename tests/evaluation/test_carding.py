"""A card is filled with scores of what the model is, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bleepdb.encoders import model_from_blobs, model_to_blobs
from bleepdb.errors import InputError
from bleepdb.evaluation import Settings
from bleepdb.evaluation.carding import settings_of
from bleepdb.training import fit

WHERE = Path("model")


def read_back(model):
    return model_from_blobs(model_to_blobs(model))


def test_a_model_with_hyperparameters_of_its_own_is_refused(paired):
    pairs = paired(("A", "B"))
    model = read_back(fit(pairs, hyper={"k": 20, "smoothing": 0.0}))
    with pytest.raises(InputError, match=r"trained with k=20, smoothing=0\.0, and folds"):
        settings_of(model, Settings(), chosen=False, where=WHERE)


@pytest.mark.parametrize("recipe", ["linear", "kernel", "average"])
def test_a_model_of_the_defaults_is_taken_and_stands_first(paired, recipe):
    """What inner folds chose is no hyperparameter of its own."""
    model = fit(paired(("A", "B")), "linear")
    if recipe != "linear":
        from bleepdb.training.recipes import recipe_named
        from bleepdb.training.recipes.settings import as_json

        chosen = {"alpha": 300.0} if recipe == "average" else {}
        hyper = as_json(recipe_named(recipe).settings()) | chosen
        model = replace(model, recipe=recipe, hyper=hyper)
    found = settings_of(read_back(model), Settings(), chosen=False, where=WHERE)
    assert found.recipes[0] == recipe
    assert sorted(found.recipes) == ["average", "kernel", "linear"]


def test_epochs_of_bleep_are_those_of_the_evaluation(paired):
    model = fit(paired(("A", "B")), "bleep", hyper={"epochs": 2})
    settings_of(model, Settings(epochs=2), chosen=False, where=WHERE)
    with pytest.raises(InputError, match="trained with epochs=2"):
        settings_of(model, Settings(epochs=3), chosen=False, where=WHERE)
