"""The kernel recipe beside plain formulas: what is attended to, what is lost, what is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bleepdb.encoders import load_model, save_model
from bleepdb.errors import InputError
from bleepdb.evaluation.imputing import predict_with
from bleepdb.training import fit
from bleepdb.training.recipes import kernel
from bleepdb.training.recipes.kernel import KernelSettings
from bleepdb.training.tuning import Target

SMALL = {"axes": 10, "components": 6, "low_rank": 4, "k": 20, "targets": 4, "dimension": 8,
         "members": 2, "epochs": 30, "learning_rate": 0.02}  # fmt: skip


def test_attention_averages_other_groups_by_a_softmax():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(9, 5))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    y, group = rng.normal(size=(9, 3)), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    got, there = kernel.attend(
        torch.tensor(v), torch.tensor(y), torch.tensor(group), torch.tensor(7.0)
    )
    want = np.empty_like(y)
    for i in range(9):
        others = np.flatnonzero(group != group[i])
        w = np.exp(7.0 * v[others] @ v[i])
        want[i] = w @ y[others] / w.sum()
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)
    assert there.all()
    alone = kernel.attend(
        torch.tensor(v), torch.tensor(y), torch.zeros(9, dtype=torch.int64), torch.tensor(7.0)
    )[1]
    assert not alone.any()


def test_the_losses_are_minus_the_correlation_within_sections_and_the_relative_error():
    rng = np.random.default_rng(1)
    r, m = rng.normal(size=(12, 2)), rng.normal(size=(12, 2))
    section = np.repeat([0, 1, 2], [5, 5, 2])  # two spots have no correlation
    there = np.ones(12, dtype=bool)
    there[0] = False
    args = [torch.tensor(a) for a in (r, m, section, there)]
    want = -np.mean(
        [
            np.corrcoef(r[rows, c], m[rows, c])[0, 1]
            for rows in (slice(1, 5), slice(5, 10))
            for c in (0, 1)
        ]
    )
    assert float(kernel.loss_of(*args, "correlation")) == pytest.approx(want, abs=1e-5)
    error = ((r - m)[1:] ** 2).sum() / (m[1:] ** 2).sum()
    assert float(kernel.loss_of(*args, "mse")) == pytest.approx(error)
    shifted = [args[0] * 3 + 5 * args[2][:, None], *args[1:]]
    assert float(kernel.loss_of(*shifted, "correlation")) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(
    ("donors", "told"),
    [
        ("aab", "same donor"),
        ("aaa", "same section (one donor)"),
        ("a", "same third of the section (one section)"),
    ],
)
def test_who_cannot_answer_in_training(pairs_of, donors, told):
    pairs = pairs_of(*donors)
    groups, by = kernel.groups_of(pairs)
    assert by == told
    assert len(groups) == len(pairs)
    if donors == "aab":
        assert groups.tolist() == (pairs.section_of_spot == 2).astype(int).tolist()
    elif donors == "aaa":
        assert groups.tolist() == pairs.section_of_spot.tolist()
    else:
        assert len(np.unique(groups)) == 9
    assert fit(pairs, "kernel", hyper=SMALL).training["excluded_keys"] == told


@pytest.mark.parametrize("loss", ["correlation", "mse"])
def test_training_makes_the_retrieved_average_predict(pairs_of, loss):
    pairs = pairs_of("a", "b", "c")
    target = Target(pairs.subset(["s0", "s1"]), pairs.subset(["s2"]))
    scores = []
    for epochs in (1, 60):
        hyper = SMALL | {"epochs": epochs, "loss": loss, "readout": 0}
        model = fit(target.inside, "kernel", hyper=hyper)
        scores.append(target.score(predict_with(model, target, target.genes)))
    assert scores[1] > scores[0] + 0.02


def test_a_fold_imputes_as_the_fitted_model_does(pairs_of):
    pairs = pairs_of("a", "b", "c")
    target = Target(pairs.subset(["s0", "s2"]), pairs.subset(["s1"]))
    model = fit(target.inside, "kernel", hyper=SMALL | {"readout": 0})
    fitted = kernel.Fitted(target.inside, KernelSettings(**SMALL), 0)
    of = fitted.components
    got = of.mean + fitted.impute(target, of.scores[:, :4]) @ of.axes[:, :4].T
    every = np.arange(len(target.inside.panel))
    np.testing.assert_allclose(got, predict_with(model, target, every), atol=1e-3)


def test_members_stand_side_by_side_and_their_softmax_is_the_product(pairs_of):
    pairs = pairs_of("a", "b")
    model = fit(pairs, "kernel", hyper=SMALL)
    assert model.dimension == 16
    fitted = kernel.Fitted(pairs, KernelSettings(**SMALL), 0)
    s = pairs.sections[0]
    whole = model.embed_images(s.features, s.positions_um)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    scores = fitted.axes.scores[: len(s)]
    want = 0
    for p, t in zip(fitted.trained.projections, fitted.trained.temperatures, strict=True):
        z = scores @ p
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        want = want + 0.5 * z @ z.T / t
    got = whole @ whole.T / model.retrieval["temperature"]
    np.testing.assert_allclose(got, want, atol=2e-2)
    single = fit(pairs, "kernel", hyper=SMALL | {"members": 1})
    assert single.image_tower.kind == "affine"
    assert single.retrieval["temperature"] != SMALL.get("start_temperature", 0.1)  # learnt


def test_the_seed_decides_and_the_global_generator_is_left_alone(pairs_of):
    pairs = pairs_of("a", "b")
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = fit(pairs, "kernel", hyper=SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert fit(pairs, "kernel", hyper=SMALL, seed=1).space_id == first.space_id
    assert fit(pairs, "kernel", hyper=SMALL, seed=2).space_id != first.space_id
    parts = first.image_tower.parts
    assert np.abs(parts[0].matrix - parts[1].matrix).max() > 0.01


def test_many_spots_are_trained_in_parts_that_cover_all_of_them():
    torch.manual_seed(0)
    parts = kernel.batches(10, 4)
    assert sorted(torch.cat(parts).tolist()) == list(range(10))
    assert max(len(p) for p in parts) <= 4
    assert [len(p) for p in kernel.batches(4, 4)] == [4]


def test_training_in_parts_and_reverse_search(pairs_of, tmp_path):
    pairs = pairs_of("a", "b", "c")
    inside = pairs.subset(["s0", "s1"])
    model = fit(inside, "kernel", hyper=SMALL | {"batch": 40})
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", check_here=False)
    held = pairs.sections[2]
    image = again.embed_images(held.features, held.positions_um)
    profile = again.embed_profiles(held.profiles_on(again.panel))
    cosines = profile @ image.T
    own = np.diag(cosines).mean()
    assert own > cosines.mean() + 0.2


def test_settings_out_of_range_are_refused_by_name(pairs_of):
    for wrong in ({"loss": "log"}, {"members": 0}, {"dropout": 1.0}, {"members": 100}):
        name = next(iter(wrong))
        with pytest.raises(InputError, match=f"out of range for the recipe kernel: {name}"):
            fit(pairs_of("a"), "kernel", hyper=wrong)


def test_progress_ends_where_it_said(pairs_of):
    for donors, recipe in (
        ("abc", "kernel"),
        ("a", "kernel"),
        ("abc", "average"),
        ("a", "average"),
    ):
        seen = []
        hyper = SMALL | {"epochs": 1}
        fit(pairs_of(*donors), recipe, hyper=hyper, progress=lambda *a: seen.append(a))  # noqa: B023
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_one_projection_is_what_reference_steps_give(pairs_of):
    """Two steps of AdamW on the loss, written plainly with autograd."""
    pairs = pairs_of("a", "b")
    settings = replace(KernelSettings(**SMALL), epochs=2, dropout=0.0, weight_decay=0.0)
    fitted = kernel.Fitted(pairs, settings, 0)
    size = np.sqrt((fitted.axes.scores**2).sum(1).mean())
    x = torch.tensor(fitted.axes.scores / size, dtype=torch.float32)
    y = torch.tensor(fitted.components.scores[:, :4], dtype=torch.float32)
    section = torch.tensor(pairs.section_of_spot)
    got, tau = kernel.train_member(x, y, section, section, settings, seed=3)
    torch.manual_seed(3)
    p = (torch.randn(x.shape[1], 8) / np.sqrt(x.shape[1])).requires_grad_()
    log = torch.tensor(float(np.log(10.0)), requires_grad=True)
    adam = torch.optim.Adam([p, log], lr=settings.learning_rate)
    for _ in range(2):
        z = torch.nn.functional.normalize(x @ p, dim=1)
        loss = 0
        for k in (0, 1):
            rows, others = section == k, section != k
            r = torch.softmax(z[rows] @ z[others].T * log.exp(), 1) @ y[others]
            for c in range(4):
                loss = loss - torch.corrcoef(torch.stack([r[:, c], y[rows, c]]))[0, 1] / 8
        adam.zero_grad()
        loss.backward()
        adam.step()
    np.testing.assert_allclose(got, p.detach().numpy(), atol=1e-5)
    assert tau == pytest.approx(float(torch.exp(-log.detach())), rel=1e-5)
