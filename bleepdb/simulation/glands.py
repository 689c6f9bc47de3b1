"""Glands: rings of epithelium around a lumen, drawn from a bank, wider where they secrete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bleepdb.simulation.nuclei import SIZE_STEPS, VARIANTS, lattice, make_bank, press
from bleepdb.simulation.settings import COMPARTMENTS, GRADIENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.simulation.layout import Layout
    from bleepdb.simulation.settings import SimulationSettings

SHAPES = 10
OUTER_UM = 44.0
NUCLEUS_EVERY_UM = 7.0
GLAND = COMPARTMENTS.index("gland")
SECRETION = GRADIENTS.index("secretion")


def make_glands(settings: SimulationSettings, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the bank of glands.

    Returns
    -------
    numpy.ndarray
        (sizes, shapes, 3, side, side) float32: the share of the ground that the gland displaces,
        and the haematoxylin and eosin of its wall. Sizes follow `SIZE_STEPS` of secretion.
    """
    mpp = settings.mpp
    side = 2 * int(np.ceil(OUTER_UM * 1.6 / mpp)) + 1
    nuclei = make_bank(settings.epithelium, mpp, rng).stamps[0]
    made = np.zeros((len(SIZE_STEPS), SHAPES, 3, side, side), dtype=np.float32)
    y, x = (np.mgrid[0:side, 0:side] - side // 2) * mpp
    angle = np.arctan2(y, x)
    ripple = 1 + 0.15 * rng.standard_normal((SHAPES, side, side))
    for size, step in enumerate(SIZE_STEPS):
        for shape in range(SHAPES):
            waves = rng.normal(0, 0.08, 3), rng.uniform(0, 2 * np.pi, 3)
            outer = OUTER_UM * np.exp(rng.normal(0, 0.13)) * (1 + 0.04 * step)
            inner = outer * np.clip(0.40 + 0.10 * step, 0.12, 0.66)
            far = np.hypot(x, y) / _wavy(angle, waves)
            within = np.clip((outer - far) / mpp + 0.5, 0, 1)
            lumen = np.clip((inner - far) / (1.5 * mpp) + 0.5, 0, 1)
            wall = np.clip(within - lumen, 0, 1) * ripple[shape]
            stamp = made[size, shape]
            stamp[0] = within
            stamp[1:] = np.array(settings.gland_wall)[:, None, None] * wall
            rings = [outer - 6.5]
            if outer - inner > 24:
                rings.append(outer - 16.0)
            for radius in rings:
                count = int(2 * np.pi * radius / NUCLEUS_EVERY_UM)
                theta = (np.arange(count) + rng.uniform(-0.25, 0.25, count)) / count * 2 * np.pi
                reach = (radius + rng.normal(0, 1.2, count)) * _wavy(theta, waves)
                at = np.stack([np.cos(theta), np.sin(theta)], axis=1) * (reach / mpp)[:, None]
                variant = np.round(theta / np.pi * VARIANTS).astype(np.int64) % VARIANTS
                press(stamp[1:], nuclei[variant], at + side // 2 + 0.5)
    return made


def _wavy(
    angle: NDArray[np.float64], waves: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Relative radius of a lobed outline at an angle."""
    made = np.ones_like(angle)
    for k, (height, phase) in enumerate(zip(*waves, strict=True), start=2):
        made += height * np.cos(k * angle + phase)
    return made


def press_glands(
    settings: SimulationSettings,
    layout: Layout,
    bank: NDArray[np.float32],
    size_px: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Place the glands of a section.

    Returns
    -------
    numpy.ndarray
        (3, size_px, size_px) float32: share of the ground displaced, and what the walls add.
    """
    at = lattice(settings.field_um, settings.gland_spacing_um, rng, jitter=0.10)
    fits = (layout.at(layout.inside, at) > OUTER_UM) & (layout.at(layout.labels, at) == GLAND)
    at = at[fits]
    secretion = layout.at(layout.gradients[SECRETION], at)
    step = np.abs(SIZE_STEPS - secretion[:, None]).argmin(axis=1)
    made = np.zeros((3, size_px, size_px), dtype=np.float32)
    press(made, bank[step, rng.integers(SHAPES, size=len(at))], at / settings.mpp)
    np.clip(made[0], 0, 1, out=made[0])
    return made
