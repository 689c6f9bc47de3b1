"""Augmentation: what it may change and what not, and that its generator alone decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed

from bleepdb.training.augment import STAINS, Augmentation, stained, turned


def images(n=8, scales=2, px=6, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.uniform(0.2, 0.95, (n, scales, 3, px, px)), dtype=torch.float64)


def drawn(augmentation, n=8, seed=0):
    return augmentation.draw(n, torch.Generator().manual_seed(seed))


def test_the_eight_ways_are_those_of_a_square_and_all_scales_go_together():
    one = images(1).expand(8, -1, -1, -1, -1)
    made = turned(one, torch.arange(8)).numpy()
    base = one[0].numpy()
    want = [np.rot90(b, k, (-2, -1)) for b in (base, base[..., ::-1]) for k in range(4)]
    np.testing.assert_array_equal(made, np.stack(want))
    assert len({w.tobytes() for w in made}) == 8


def test_all_ways_are_drawn_alike():
    turn = drawn(Augmentation(), 8000).turn
    counts = np.bincount(turn.numpy(), minlength=8)
    assert len(counts) == 8
    assert abs(counts - 1000).max() < 120


def test_nothing_to_do_leaves_tiles_as_they_are():
    x = images()
    off = Augmentation(flips=False)
    assert torch.equal(off.apply(x, drawn(off)), x)


def test_the_generator_decides_and_a_share_is_a_share():
    x = images()
    full = Augmentation(True, 0.2, 0.2, 0.1)
    whole = full.apply(x, drawn(full, seed=3))
    assert torch.equal(whole, full.apply(x, drawn(full, seed=3)))
    assert not torch.equal(whole, full.apply(x, drawn(full, seed=4)))
    part = slice(4, 8)
    torch.testing.assert_close(full.apply(x[part], drawn(full, seed=3)[part]), whole[part])
    before = torch.get_rng_state()
    drawn(full)
    assert torch.equal(torch.get_rng_state(), before)
    # The same numbers are used up whatever is switched on.
    generators = [torch.Generator().manual_seed(1) for _ in "ab"]
    full.draw(5, generators[0])
    Augmentation(flips=False).draw(5, generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("stain", [0.7, 1.0, 1.3])
def test_stains_are_those_of_skimage(stain):
    """Scaling haematoxylin by a factor is what separating, scaling and mixing there gives."""
    x = images(2, 1)
    factors = torch.tensor([stain, 1.0, 1.0], dtype=x.dtype).view(1, 1, 1, 3, 1, 1)
    got = stained(x, factors.expand(2, -1, -1, -1, -1, -1))
    # skimage does not scale its vectors to unit length; a diagonal scaling commutes with that.
    hed = rgb2hed(np.moveaxis(x[:, 0].numpy(), 1, -1))
    hed[..., 0] *= stain
    want = np.moveaxis(hed2rgb(hed), -1, 1)
    inside = (rgb2hed(np.moveaxis(x[:, 0].numpy(), 1, -1)) > 0).all(axis=-1)  # it clips below 0
    assert inside.any()
    where = np.broadcast_to(inside[:, None], want.shape)
    np.testing.assert_allclose(got[:, 0].numpy()[where], want[where], atol=1e-6)
    assert np.linalg.matrix_rank(STAINS) == 3


def test_brightness_and_contrast_are_their_formulas():
    x = images() * 0.5
    bright = Augmentation(flips=False, brightness=0.3)
    given = drawn(bright)
    want = x * given.brightness.double().view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(bright.apply(x, given), want.clamp(0, 1))
    assert (given.brightness - 1).abs().max() <= 0.3
    assert given.brightness.std() > 0.05
    contrast = Augmentation(flips=False, contrast=0.3)
    given = drawn(contrast)
    made = contrast.apply(x, given)
    torch.testing.assert_close(made.mean(dim=(2, 3, 4)), x.mean(dim=(2, 3, 4)))
    spread = made.std(dim=(2, 3, 4)) / x.std(dim=(2, 3, 4))
    torch.testing.assert_close(spread, given.contrast.double()[:, None].expand_as(spread))
