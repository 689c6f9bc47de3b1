"""Cells and glands: a bank of drawn stamps, where they go, and pressing them into the stains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from bleepdb.simulation.settings import ACTS, GRADIENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.simulation.layout import Layout
    from bleepdb.simulation.settings import Cell, SimulationSettings

VARIANTS = 24
SIZE_STEPS = np.array([-2.0, -1.2, -0.4, 0.4, 1.2, 2.0])
OVERSAMPLE = 2
AT_ONCE = 2048  # stamps pressed together, so that index arrays stay small
ACTS_ON = np.array(ACTS)


@dataclass(frozen=True)
class Bank:
    """Stamps of one kind of cell.

    Attributes
    ----------
    steps
        (sizes,) SDs of the gradient that each size stands for; 0 alone where size is constant.
    stamps
        (sizes, variants, 2, side, side) float32: haematoxylin and eosin to add. The variants
        turn evenly through half a circle.
    """

    steps: NDArray[np.float64]
    stamps: NDArray[np.float32]


def make_bank(cell: Cell, mpp: float, rng: np.random.Generator) -> Bank:
    """Draw the stamps of one kind of cell, each with an offset of less than a pixel."""
    slope = sum(size for _, size, _ in cell.responses)
    steps = SIZE_STEPS if slope else np.zeros(1)
    factors = np.exp(slope * steps)
    reach = max(cell.semi_um[0] * 1.25, cell.cytoplasm[0] * 1.15) * factors.max()
    half = int(np.ceil(reach / mpp)) + 1
    turns = np.arange(VARIANTS) * np.pi / VARIANTS
    stamps = [[_draw(cell, f, t, half, mpp, rng) for t in turns] for f in factors]
    return Bank(steps, np.array(stamps, dtype=np.float32))


def _draw(
    cell: Cell, factor: float, turn: float, half: int, mpp: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw one cell as (2, side, side) haematoxylin and eosin."""
    side = 2 * half + 1
    y, x = (np.mgrid[0 : side * OVERSAMPLE, 0 : side * OVERSAMPLE] + 0.5) / OVERSAMPLE - side / 2
    shift = rng.uniform(-0.5, 0.5, 2)
    x, y = (x - shift[0]) * mpp, (y - shift[1]) * mpp
    turn += rng.normal(0, 0.12)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    a, b = np.array(cell.semi_um) * factor * np.exp(rng.normal(0, 0.09, 2))
    angle = np.arctan2(v, u)
    bumps = sum(
        rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
    )
    off = rng.normal(0, 0.12, 2) * cell.cytoplasm[0]  # the nucleus sits off the cell's centre
    far = np.hypot((u - off[0]) / a, (v - off[1]) / b) / (1 + bumps)
    edge = mpp / min(a, b) * 0.7
    body = np.clip((1 - far) / edge + 0.5, 0, 1)
    rough = gaussian_filter(rng.standard_normal(x.shape), 0.7 / mpp * OVERSAMPLE)
    rough *= cell.speckle / max(float(rough.std()), 1e-9)
    level = cell.chromatin * np.exp(rng.normal(0, 0.12))
    rim = cell.rim * np.exp(-(((far - 0.9) / 0.16) ** 2))
    h = level * np.clip(1 + rough + rim / max(cell.chromatin, 1e-9), 0.1, None) * body
    for _ in range(cell.nucleoli):
        at = rng.uniform(-0.5, 0.5, 2) * (a, b)
        spot = np.hypot(u - off[0] - at[0], v - off[1] - at[1])
        h += 0.55 * np.exp(-((spot / (0.85 * factor)) ** 2)) * body
    e = 0.12 * body
    radius, cyto_h, cyto_e = cell.cytoplasm
    if radius:
        radius *= factor**0.5
        wide = np.hypot(u / (radius * 1.05), v / (radius * 0.92)) / (1 + 1.5 * bumps)
        plasm = np.clip((1 - wide) / 0.45, 0, 1) * (1 - body)
        h, e = h + cyto_h * plasm, e + cyto_e * plasm
    both = np.stack([h, e])
    fine = both.reshape(2, side, OVERSAMPLE, side, OVERSAMPLE)
    return np.asarray(fine.mean(axis=(2, 4)), dtype=np.float32)


def lattice(
    size_um: float, spacing_um: float, rng: np.random.Generator, jitter: float = 0.24
) -> NDArray[np.float64]:
    """Jittered hexagonal lattice over a square; (n, 2) places (x, y) in µm."""
    rows = int(size_um / (spacing_um * 0.866))
    columns = int(size_um / spacing_um)
    x = (np.arange(columns) + 0.5)[None] + 0.5 * (np.arange(rows) % 2)[:, None]
    y = np.broadcast_to((np.arange(rows) + 0.5)[:, None] * 0.866, x.shape)
    at = np.stack([x.ravel(), y.ravel()], axis=1) * spacing_um
    return at + rng.normal(0, jitter * spacing_um, at.shape)


def respond(
    layout: Layout, labels: NDArray[np.uint8], at: NDArray[np.float64], cell: Cell, which: int
) -> NDArray[np.float64]:
    """Effect of the gradients on the log of size (`which` 1) or number (2) at places."""
    total = np.zeros(len(at))
    for response in cell.responses:
        k = GRADIENTS.index(response[0])
        if response[which]:
            total += response[which] * layout.at(layout.gradients[k], at) * ACTS_ON[labels, k]
    return total


def place(
    settings: SimulationSettings, layout: Layout, cell: Cell, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Places (n, 2) in µm of one kind of cell, and the compartment of each."""
    at = lattice(settings.field_um, cell.spacing_um, rng)
    draw = rng.uniform(size=len(at))
    at_inside = layout.at(layout.inside, at) > 3
    at, draw = at[at_inside], draw[at_inside]
    labels = layout.at(layout.labels, at)
    per_mm2 = np.array(cell.per_mm2)[labels] * np.exp(respond(layout, labels, at, cell, 2))
    kept = draw < per_mm2 * (cell.spacing_um**2 * 0.866 * 1e-6)
    return at[kept], labels[kept]


def press(
    layers: NDArray[np.float32], stamps: NDArray[np.float32], at_px: NDArray[np.float64]
) -> None:
    """Add stamps (n, layers, side, side) to (layers, height, width), centred at (n, 2) pixels.

    Stamps that would cross the edge are left out. The layers must be contiguous in memory.
    """
    side = stamps.shape[-1]
    height, width = layers.shape[1:]
    corner = np.floor(at_px).astype(np.int64) - side // 2
    fits = (corner >= 0).all(axis=1) & (corner + side <= (width, height)).all(axis=1)
    corner, stamps = corner[fits], stamps[fits]
    within = (np.arange(side)[:, None] * width + np.arange(side)).ravel()
    where = ((corner[:, 1] * width + corner[:, 0])[:, None] + within).ravel()
    for layer, values in zip(layers, stamps.swapaxes(0, 1), strict=True):
        np.add.at(layer.reshape(-1), where, values.ravel())


def press_cells(
    settings: SimulationSettings,
    layout: Layout,
    banks: dict[str, Bank],
    displaced: NDArray[np.float32],
    stains: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Place all kinds of cells outside the glands and press them into the stains.

    Parameters
    ----------
    settings, layout, banks
        What to draw, where, and with which stamps.
    displaced
        (height, width), where glands are.
    stains
        (2, height, width) haematoxylin and eosin, changed in place.
    rng
        Source of the places.
    """
    dy, dx = np.gradient(layout.across)
    along = np.arctan2(-dx, dy).astype(np.float32)  # at right angles to the gradient of `across`
    last = stains.shape[-1] - 1
    for cell in settings.cells:
        at, labels = place(settings, layout, cell, rng)
        pixel = np.clip((at / settings.mpp).astype(np.int64), 0, last)
        free = displaced[pixel[:, 1], pixel[:, 0]] < 0.5
        at, labels = at[free], labels[free]
        bank = banks[cell.name]
        slope = sum(r[1] for r in cell.responses)
        size = respond(layout, labels, at, cell, 1) / (slope or 1.0)
        step = np.abs(bank.steps - size[:, None]).argmin(axis=1)
        variant = rng.integers(VARIANTS, size=len(at))
        if cell.aligned:
            turn = layout.at(along, at) + rng.normal(0, 0.2, len(at))
            variant = np.round(turn / np.pi * VARIANTS).astype(np.int64) % VARIANTS
        for start in range(0, len(at), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            press(stains, bank.stamps[step[part], variant[part]], at[part] / settings.mpp)
