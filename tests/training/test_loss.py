"""The loss beside its formula, written again in NumPy; its gradients beside finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bleepdb.training.loss import Objective, bleep_loss, stable_targets


def softmax_rows(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def reference(images, profiles, temperature, targets=None):
    n = len(images)
    logits, within = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            logits[i, j] = profiles[i] @ images[j] / temperature
            within[i, j] = (images[i] @ images[j] + profiles[i] @ profiles[j]) / 2 / temperature
    targets = softmax_rows(within) if targets is None else targets
    rows = -(targets * np.log(softmax_rows(logits))).sum(axis=1)
    columns = -(targets.T * np.log(softmax_rows(logits.T))).sum(axis=1)
    return float((rows.mean() + columns.mean()) / 2)


def views(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * 0.6, rng.normal(size=(n, d)) * 0.6


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (5, 8), (40, 16)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_equals_the_formula(n, d, temperature):
    images, profiles = views(n, d, seed=n)
    want = reference(images, profiles, temperature)
    got = bleep_loss(torch.tensor(images), torch.tensor(profiles), temperature=temperature)
    assert float(got) == pytest.approx(want, abs=1e-10)
    single = bleep_loss(
        torch.tensor(images, dtype=torch.float32),
        torch.tensor(profiles, dtype=torch.float32),
        temperature=temperature,
    )
    assert float(single) == pytest.approx(want, rel=1e-6, abs=1e-6)


def test_gradients_equal_finite_differences_through_the_targets_too():
    images, profiles = views(4, 3)
    x = [torch.tensor(v, requires_grad=True) for v in (images, profiles)]
    bleep_loss(*x, temperature=0.8).backward()
    step = 1e-5
    for which, values in enumerate((images, profiles)):
        for place in np.ndindex(values.shape):
            ends = []
            for sign in (1, -1):
                moved = [images.copy(), profiles.copy()]
                moved[which][place] += sign * step
                ends.append(reference(*moved, 0.8))
            want = (ends[0] - ends[1]) / (2 * step)
            assert float(x[which].grad[place]) == pytest.approx(want, abs=1e-7)


def reference_targets(features, profiles, temperature):
    n = len(features)
    x, y = (z - z.mean(axis=0) for z in (features, profiles))
    within = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            cosines = [z[i] @ z[j] / np.sqrt((z[i] @ z[i]) * (z[j] @ z[j])) for z in (x, y)]
            within[i, j] = sum(cosines) / 2 / temperature
    return softmax_rows(within)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_stable_targets_equal_their_formula(temperature):
    images, profiles = views(20, 6, seed=3)
    rng = np.random.default_rng(1)
    features, genes = rng.normal(size=(20, 50)) * 9 + 4, rng.random((20, 30))
    targets = reference_targets(features, genes, temperature)
    got = stable_targets(torch.tensor(features), torch.tensor(genes), temperature=temperature)
    np.testing.assert_allclose(got.numpy(), targets, atol=1e-12)
    loss = Objective(0.8, "stable", temperature)(
        *(torch.tensor(z) for z in (images, profiles, features, genes))
    )
    assert float(loss) == pytest.approx(reference(images, profiles, 0.8, targets), abs=1e-10)
    assert Objective(0.8, "published")(*map(torch.tensor, (images, profiles))) == pytest.approx(
        reference(images, profiles, 0.8), abs=1e-10
    )


def test_no_gradient_flows_through_stable_targets():
    x = [torch.tensor(v, requires_grad=True) for v in (*views(6, 3), *views(6, 4, seed=2))]
    Objective(1.0, "stable")(*x).backward()
    assert x[0].grad is not None
    assert x[1].grad is not None
    assert x[2].grad is None
    assert x[3].grad is None
