"""The average recipe: one search over one vector gives the joint softmax of both recipes."""

from __future__ import annotations

import numpy as np
import pytest

from bleepdb.encoders import load_model, save_model
from bleepdb.encoders.towers import weights_of
from bleepdb.errors import InputError
from bleepdb.evaluation.imputing import predict_with
from bleepdb.training import fit
from bleepdb.training.recipes.average import AverageSettings, Both
from bleepdb.training.tuning import Target

SHARED = {"axes": 10, "components": 6, "low_rank": 4, "k": 20}
KERNEL = {"targets": 4, "dimension": 8, "members": 2, "epochs": 5}
SMALL = SHARED | KERNEL | {"alphas": [1.0, 1e3]}


def test_weights_give_the_joint_softmax():
    weights, temperature = weights_of((0.7, 0.3), (0.1, 0.02))
    assert (weights**2).sum() == pytest.approx(1)
    cosines = np.array([0.4, -0.9])
    want = 0.7 * 0.4 / 0.1 + 0.3 * -0.9 / 0.02
    assert (weights**2 @ cosines) / temperature == pytest.approx(want, rel=1e-5)


def test_the_space_holds_both_recipes_as_they_are(pairs_of):
    pairs = pairs_of("a", "b")
    joint = fit(pairs, "average", hyper=SMALL | {"share": 0.25}, seed=4)
    one = fit(pairs, "linear", hyper=SHARED | {"alphas": [1.0, 1e3]})
    other = fit(pairs, "kernel", hyper=SHARED | KERNEL, seed=4)
    assert joint.hyper["alpha"] == one.hyper["alpha"]
    assert joint.dimension == one.dimension + other.dimension
    s = pairs.sections[1]

    def logits(model):
        made = model.embed_images(s.features, s.positions_um)
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
        return made @ made.T / model.retrieval["temperature"]

    np.testing.assert_allclose(logits(joint), 0.75 * logits(one) + 0.25 * logits(other), atol=5e-3)
    profiles = s.profiles_on(joint.panel)
    a, b = one.embed_profiles(profiles), other.embed_profiles(profiles)
    got = joint.embed_profiles(profiles)
    w = joint.image_tower.weights[0]
    np.testing.assert_allclose(got[:, :6], w * a, atol=1e-5)
    np.testing.assert_allclose(got[:, 6:], np.sqrt(1 - w**2) * b, atol=1e-5)


def test_a_fold_imputes_as_the_fitted_model_does(pairs_of):
    pairs = pairs_of("a", "b", "c")
    target = Target(pairs.subset(["s0", "s2"]), pairs.subset(["s1"]))
    model = fit(target.inside, "average", hyper=SMALL | {"alpha": 20.0, "readout": 0})
    settings = AverageSettings(**SMALL | {"alpha": 20.0})
    got = next(Both(target, settings, 0).predict_each([settings]))
    np.testing.assert_allclose(got, predict_with(model, target, target.genes), atol=1e-3)


def test_the_share_is_chosen_on_inner_folds_where_it_has_candidates(pairs_of):
    pairs = pairs_of("a", "b")
    hyper = SMALL | {"shares": [0.1, 0.9]}
    model = fit(pairs, "average", hyper=hyper)
    tried = model.training["tried"]
    assert [t["hyper"] for t in tried] == [
        {"alpha": 1.0}, {"alpha": 1e3}, {"share": 0.1}, {"share": 0.9},
    ]  # fmt: skip
    scores = [t["score"] for t in tried[2:]]
    for share, want in zip((0.1, 0.9), scores, strict=True):
        settings = AverageSettings(**SMALL | {"share": share, "alpha": model.hyper["alpha"]})
        folds = [
            Target(pairs.subset([inside]), pairs.subset([outside]))
            for inside, outside in (("s1", "s0"), ("s0", "s1"))
        ]
        found = [t.score(next(Both(t, settings, 0).predict_each([settings]))) for t in folds]
        assert np.mean(found) == pytest.approx(want, abs=1e-5)
    assert model.hyper["share"] == (0.1, 0.9)[int(np.argmax(scores))]
    assert model.training["inner_folds"] == "leave one donor out"


def test_one_section_keeps_the_share_and_has_no_readout(pairs_of, tmp_path):
    model = fit(pairs_of("a"), "average", hyper=SMALL | {"shares": [0.1, 0.9]})
    assert model.hyper["share"] == 0.5
    assert model.hyper["alpha"] == 1e3
    assert model.readout is None
    assert "none" in model.training["inner_folds"]
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", check_here=False)
    assert again.space_id == model.space_id
    assert again.image_tower.kind == "joined"


def test_settings_out_of_range_are_refused_by_name(pairs_of):
    for wrong in ({"share": 0.0}, {"share": 1.0}, {"shares": [0.5, 2.0]}, {"loss": "log"}):
        name = next(iter(wrong))
        with pytest.raises(InputError, match=f"out of range for the recipe average: {name}"):
            fit(pairs_of("a"), "average", hyper=wrong)
