"""A section's anatomy drawn as an H&E image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from bleepdb.simulation.fields import texture
from bleepdb.simulation.glands import make_glands, press_glands
from bleepdb.simulation.layout import CELL_UM
from bleepdb.simulation.nuclei import Bank, make_bank, press_cells
from bleepdb.simulation.settings import GRADIENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bleepdb.simulation.layout import Layout
    from bleepdb.simulation.settings import Donor, SimulationSettings

TEXTURE_PX = 1024  # edge of the periodic textures; a power of two, so that wrapping is a mask
WRAP = TEXTURE_PX - 1
STRIP_PX = 256  # rows drawn together: temporaries stay in the processor's cache
FIBROSIS = GRADIENTS.index("fibrosis")


@dataclass(frozen=True)
class Palette:
    """What all sections are drawn from: textures, cells, glands.

    Attributes
    ----------
    bundles, wisps
        Coarse and fine fibrous textures; columns run along the fibres.
    grain, clumps, ragged
        Fine, coarse and middling round textures.
    noise
        Sensor noise, SD 1.
    banks, glands
        Stamps.
    """

    bundles: NDArray[np.float32]
    wisps: NDArray[np.float32]
    grain: NDArray[np.float32]
    clumps: NDArray[np.float32]
    ragged: NDArray[np.float32]
    noise: NDArray[np.float32]
    banks: dict[str, Bank]
    glands: NDArray[np.float32]


def make_palette(settings: SimulationSettings, rng: np.random.Generator) -> Palette:
    """Draw textures and stamps for the settings' pixel size."""
    um = 1 / settings.mpp
    return Palette(
        bundles=texture(rng, TEXTURE_PX, 4.5 * um, 50 * um),
        wisps=texture(rng, TEXTURE_PX, 1.1 * um, 18 * um),
        grain=texture(rng, TEXTURE_PX, 0.8 * um, 0.8 * um),
        clumps=texture(rng, TEXTURE_PX, 3.2 * um, 3.2 * um),
        ragged=texture(rng, TEXTURE_PX, 6.0 * um, 6.0 * um),
        noise=rng.standard_normal((TEXTURE_PX, TEXTURE_PX), dtype=np.float32),
        banks={cell.name: make_bank(cell, settings.mpp, rng) for cell in settings.cells},
        glands=make_glands(settings, rng),
    )


def render(
    settings: SimulationSettings,
    layout: Layout,
    palette: Palette,
    donor: Donor,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Draw a section as (height, width, 3) RGB uint8.

    Stain amounts are drawn first (ground, glands, cells), then turned into light by the
    Beer-Lambert law with the donor's stain vectors, blurred, and given sensor noise.
    """
    size = round(settings.field_um / settings.mpp)
    layers = press_glands(settings, layout, palette.glands, size, rng)
    displaced, stains = layers[0], layers[1:]
    start = rng.integers(TEXTURE_PX, size=(5, 2))
    for rows in _strips(size):
        _add_ground(settings, layout, palette, start, rows, displaced[rows], stains[:, rows])
    press_cells(settings, layout, palette.banks, displaced, stains, rng)
    clear = np.empty((size, size, 3), dtype=np.uint8)
    for rows in _strips(size):
        unevenness = np.stack([_zoom(f, settings, size, rows) for f in layout.stain])
        clear[rows] = np.clip(_light(stains[:, rows] * unevenness, donor) + 0.5, 0, 255)
    blurred = Image.fromarray(clear).filter(ImageFilter.GaussianBlur(donor.blur_um / settings.mpp))
    image = np.asarray(blurred)
    for rows in _strips(size):
        at = rng.integers(TEXTURE_PX, size=(3, 2))
        for channel in range(3):
            noise = donor.noise * _tile(palette.noise, at[channel], rows, size)
            clear[rows, :, channel] = np.clip(image[rows, :, channel] + noise + 0.5, 0, 255)
    return clear


def _strips(size: int) -> Iterator[slice]:
    for top in range(0, size, STRIP_PX):
        yield slice(top, min(top + STRIP_PX, size))


def _tile(
    field: NDArray[np.float32], start: NDArray[np.int64], rows: slice, width: int
) -> NDArray[np.float32]:
    """Cut rows of a periodic texture that begins at `start`."""
    down = (np.arange(rows.start, rows.stop) + start[0]) & WRAP
    right = (np.arange(width) + start[1]) & WRAP
    return np.asarray(field[down[:, None], right])


def _zoom(
    field: NDArray[np.float32], settings: SimulationSettings, size: int, rows: slice
) -> NDArray[np.float32]:
    """Bilinear rows of a field of the coarse grid, at the image's pixels."""
    scale = settings.mpp / CELL_UM
    last = float(field.shape[0])
    box = (0.0, rows.start * scale, min(size * scale, last), min(rows.stop * scale, last))
    shape = (size, rows.stop - rows.start)
    return np.asarray(Image.fromarray(field).resize(shape, Image.Resampling.BILINEAR, box=box))


def _add_ground(
    settings: SimulationSettings,
    layout: Layout,
    palette: Palette,
    start: NDArray[np.int64],
    rows: slice,
    displaced: NDArray[np.float32],
    stains: NDArray[np.float32],
) -> None:
    """Add to rows of the stains what lies between the nuclei, outside the glands."""
    size = stains.shape[-1]
    scale = settings.mpp / CELL_UM
    ragged = _tile(palette.ragged, start[0], rows, size)
    fine = _tile(palette.clumps, start[1], rows, size)
    last = layout.labels.shape[0] - 1
    middle = np.arange(size, dtype=np.float32) + 0.5
    row = (middle[rows, None] + 4.0 / settings.mpp * ragged) * scale
    column = (middle + 4.0 / settings.mpp * fine) * scale
    labels = layout.labels[
        np.clip(row.astype(np.int32), 0, last), np.clip(column.astype(np.int32), 0, last)
    ]
    inside = _zoom(layout.inside, settings, size, rows) + 3.0 * ragged + 1.5 * fine
    tissue = np.clip(inside / 3.0 + 0.5, 0, 1)

    down = _zoom(layout.across, settings, size, rows) / settings.mpp
    right = _zoom(layout.along, settings, size, rows) / settings.mpp
    down, right = down.astype(np.int32), right.astype(np.int32)
    bundles = palette.bundles[(down + start[2, 0]) & WRAP, (right + start[2, 1]) & WRAP]
    wisps = palette.wisps[(down + start[3, 0]) & WRAP, (right + start[3, 1]) & WRAP]
    grain = _tile(palette.grain, start[4], rows, size)
    fibrosis = _zoom(layout.gradients[FIBROSIS], settings, size, rows)

    parts = settings.compartments
    fibres = np.array([c.fibres for c in parts], dtype=np.float32)[labels]
    grains = np.array([c.grain for c in parts], dtype=np.float32)[labels]
    # Loose tissue is torn by clefts between its bundles; fibrous tissue is dense and coarse.
    cleft = np.clip((bundles + 1.45 + 0.35 * fibrosis + 0.3 * wisps) / 0.5, 0, 1)
    weave = 0.35 * wisps + (0.30 + 0.12 * fibrosis) * bundles
    fibrous = np.maximum(1 + weave, 0.2) * cleft
    rough = np.maximum(1 + 0.25 * grain + 0.45 * grains * fine * (1 + 0.5 * grain), 0.05)
    texture_e = (1 + fibres * (fibrous - 1)) * rough
    texture_h = (1 + fibres * (cleft - 1)) * (1 + grains * 0.5 * (ragged * 0.6 + grain * 0.4))
    left = tissue * (1 - displaced)
    for stain, look in enumerate((np.maximum(texture_h, 0), texture_e)):
        level = np.array([c.ground[stain] for c in parts], dtype=np.float32)[labels]
        stains[stain] += level * look * left


def _light(stains: NDArray[np.float32], donor: Donor) -> NDArray[np.float32]:
    """Beer-Lambert: (2, rows, width) stain amounts as (rows, width, 3) light, 0 to 255."""
    vectors = np.array([donor.haematoxylin, donor.eosin])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.array(donor.strength)[:, None]
    made = np.empty((*stains.shape[1:], 3), dtype=np.float32)
    for channel, glass in enumerate(donor.glass):
        h, e = (np.float32(v) for v in -vectors[:, channel])
        made[..., channel] = np.float32(glass) * np.exp(h * stains[0] + e * stains[1])
    return made
