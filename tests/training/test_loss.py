"""The loss beside its formula, written again in NumPy; its gradients beside finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bleepdb.training.loss import bleep_loss


def reference(images, profiles, temperature):
    def softmax_rows(x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    n = len(images)
    logits, within = np.empty((n, n)), np.empty((n, n))
    for i in range(n):
        for j in range(n):
            logits[i, j] = profiles[i] @ images[j] / temperature
            within[i, j] = (images[i] @ images[j] + profiles[i] @ profiles[j]) / 2 / temperature
    targets = softmax_rows(within)
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
