"""Where the tissue lies, its compartments, its gradients and its fibres, on a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bleepdb.simulation.fields import smooth_field
from bleepdb.simulation.settings import ACTS, COMPARTMENTS, GRADIENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.simulation.settings import SimulationSettings

Number = TypeVar("Number", np.float32, np.uint8)

CELL_UM = 8.0
TUMOUR, STROMA = COMPARTMENTS.index("tumour"), COMPARTMENTS.index("stroma")


@dataclass(frozen=True)
class Layout:
    """One section's anatomy on a grid of `CELL_UM` cells, before anything is drawn.

    Attributes
    ----------
    inside
        (n, n) float32, signed distance-like field in µm: positive in tissue, negative on glass.
    labels
        (n, n) uint8, position of the compartment in `COMPARTMENTS` (also given off the tissue).
    gradients
        (K, n, n) float32, mean 0 and SD 1, in the order of `GRADIENTS`.
    along, across
        (n, n) float32, coordinates in µm along and across the fibres.
    stain
        (2, n, n) float32, factors on haematoxylin and eosin that no gene follows.
    """

    inside: NDArray[np.float32]
    labels: NDArray[np.uint8]
    gradients: NDArray[np.float32]
    along: NDArray[np.float32]
    across: NDArray[np.float32]
    stain: NDArray[np.float32]

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """(n, n), where there is tissue."""
        return self.inside > 0

    def at(self, field: NDArray[Number], xy_um: NDArray[np.float64]) -> NDArray[Number]:
        """Values of a field of the grid at places (n, 2), from the nearest cell."""
        cells = np.clip((xy_um / CELL_UM).astype(np.int64), 0, field.shape[-1] - 1)
        return field[..., cells[:, 1], cells[:, 0]]


def lay_out(settings: SimulationSettings, rng: np.random.Generator) -> Layout:
    """Draw one section's anatomy."""
    n = round(settings.field_um / CELL_UM)
    shape = (n, n)
    inside = _outline(n, rng)
    shares = rng.dirichlet(
        np.array([c.share for c in settings.compartments]) * settings.share_concentration
    )
    shares = np.maximum(shares, 0.4 * np.array([c.share for c in settings.compartments]))
    regions = np.stack(
        [smooth_field(rng, shape, settings.region_um / CELL_UM) for _ in COMPARTMENTS]
    )
    regions += 0.12 * np.stack([smooth_field(rng, shape, 2.5) for _ in COMPARTMENTS])
    labels = _partition(regions, shares / shares.sum(), inside > 0)
    septa = np.abs(smooth_field(rng, shape, 45.0 / CELL_UM)) < settings.septum
    labels[(labels == TUMOUR) & septa] = STROMA
    gradients = np.stack(
        [smooth_field(rng, shape, settings.gradient_um / CELL_UM) for _ in GRADIENTS]
    )
    along, across = _fibres(n, rng)
    stain = np.exp(
        settings.stain_sd
        * np.stack([smooth_field(rng, shape, settings.stain_um / CELL_UM) for _ in range(2)])
    ).astype(np.float32)
    return Layout(inside, labels, gradients, along, across, stain)


def _outline(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Tissue as a lobed blob that leaves a rim of glass on every side."""
    y, x = (np.mgrid[0:n, 0:n] + 0.5) / n * 2 - 1
    angle = np.arctan2(y, x)
    lobes = np.zeros_like(angle)
    for k in (1, 2, 3, 5):
        lobes += rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(0.83 + lobes, 0.62, 0.92)
    power = rng.uniform(2.2, 3.4)
    from_centre = (np.abs(x) ** power + np.abs(y) ** power) ** (1 / power)
    rough = 0.012 * smooth_field(rng, (n, n), 3.0)
    return np.asarray((radius + rough - from_centre) * (n * CELL_UM / 2), dtype=np.float32)


def _partition(
    regions: NDArray[np.float32], shares: NDArray[np.float64], tissue: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Give each cell to the highest field, with offsets such that areas meet the shares."""
    offsets = np.zeros(len(shares), dtype=np.float32)
    seen = regions[:, tissue][:, ::7]
    for _ in range(60):
        got = np.bincount((seen + offsets[:, None]).argmax(axis=0), minlength=len(shares))
        offsets += 0.25 * np.log(shares / np.maximum(got / seen.shape[1], 1e-3)).astype(np.float32)
    return np.asarray((regions + offsets[:, None, None]).argmax(axis=0), dtype=np.uint8)


def _fibres(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = (np.mgrid[0:n, 0:n] * CELL_UM).astype(np.float32)
    turn = rng.uniform(0, np.pi)
    sway = [smooth_field(rng, (n, n), 300.0 / CELL_UM) for _ in range(2)]
    wave = smooth_field(rng, (n, n), 60.0 / CELL_UM)
    along = x * np.cos(turn) + y * np.sin(turn) + 150 * sway[0]
    across = -x * np.sin(turn) + y * np.cos(turn) + 220 * sway[1] + 12 * wave
    return along.astype(np.float32), across.astype(np.float32)


def spot_grid(
    settings: SimulationSettings, layout: Layout, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Lay the spots' square grid over the section and keep those on tissue.

    Returns
    -------
    tuple
        (spots, 2) float64 centres (x, y) in µm, and (spots, 2) int64 (column, row) of the grid.
    """
    start = settings.pitch_um * rng.uniform(0.4, 0.6, size=2)
    count = int((settings.field_um - settings.pitch_um * 0.6) // settings.pitch_um) + 1
    columns, rows = np.meshgrid(np.arange(count), np.arange(count))
    grid = np.stack([columns.ravel(), rows.ravel()], axis=1)
    xy = start + grid * settings.pitch_um
    fits = (xy + settings.spot_diameter_um / 2 <= settings.field_um).all(axis=1)
    xy, grid = xy[fits], grid[fits]
    share = disc_means(layout.tissue[None].astype(np.float64), xy, settings.spot_diameter_um)[:, 0]
    kept = share >= settings.least_tissue
    return xy[kept], grid[kept]


def disc_means(
    fields: NDArray[np.float64], xy_um: NDArray[np.float64], diameter_um: float
) -> NDArray[np.float64]:
    """Means of (F, n, n) fields over the discs around places; (places, F) float64."""
    reach = int(diameter_um / 2 / CELL_UM) + 1
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    centre = np.floor(xy_um / CELL_UM).astype(np.int64)
    columns, rows = centre[:, :1] + dx, centre[:, 1:] + dy
    last = fields.shape[-1] - 1
    middle_x, middle_y = (columns + 0.5) * CELL_UM, (rows + 0.5) * CELL_UM
    far = np.hypot(middle_x - xy_um[:, :1], middle_y - xy_um[:, 1:])
    weight = (far <= diameter_um / 2) & (np.minimum(columns, rows) >= 0)
    weight &= np.maximum(columns, rows) <= last
    values = fields[:, np.clip(rows, 0, last), np.clip(columns, 0, last)]
    made = np.einsum("fpk,pk->pf", values, weight / weight.sum(axis=1, keepdims=True))
    return np.asarray(made)


def spot_anatomy(
    settings: SimulationSettings, layout: Layout, xy_um: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Composition of each spot, and its gradients within each compartment.

    Returns
    -------
    tuple
        (spots, C) float64 shares of the spot's area (glass counts for none, so a row may sum to
        less than 1), and (spots, C, K) float64 means of the gradients over that compartment's
        part of the spot, 0 where the gradient does not act or the compartment is absent.
    """
    part = np.stack([(layout.labels == c) & layout.tissue for c in range(len(COMPARTMENTS))])
    size = settings.spot_diameter_um
    shares = disc_means(part.astype(np.float64), xy_um, size)
    gradients = np.zeros((len(xy_um), len(COMPARTMENTS), len(GRADIENTS)))
    for c, acts in enumerate(ACTS):
        for k, does in enumerate(acts):
            if does:
                mean = disc_means((part[c] * layout.gradients[k])[None], xy_um, size)[:, 0]
                gradients[:, c, k] = mean / np.where(shares[:, c] > 0, shares[:, c], 1)
    return shares, gradients
