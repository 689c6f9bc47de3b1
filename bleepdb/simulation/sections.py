"""Draw sections of several donors: anatomy, image, true rates, counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bleepdb.simulation.layout import lay_out, spot_anatomy, spot_grid
from bleepdb.simulation.programmes import draw_programmes, for_donor
from bleepdb.simulation.render import make_palette, render
from bleepdb.simulation.settings import SimulationSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bleepdb.simulation.programmes import Programmes
    from bleepdb.simulation.render import Palette
    from bleepdb.simulation.settings import Donor

THREADS = 2


@dataclass(frozen=True)
class SimulatedSection:
    """One made section with its truth.

    Attributes
    ----------
    section
        Its name: the donor's, a hyphen and a number.
    donor
        What is the donor's own.
    image
        (height, width, 3) uint8 RGB.
    counts
        (spots, genes) CSR int64, sorted indices, no stored zeros.
    symbols
        One a gene.
    barcodes
        (spots,) str: column and row of the grid, ``7x12``.
    xy_px
        (spots, 2) float64, centres (x, y) in pixels of `image`.
    rates
        (spots, genes) float64, the true share of each gene in the spot's RNA; rows sum to 1.
    shares
        (spots, compartments) float64, area of each compartment in the spot.
    gradients
        (spots, compartments, gradients) float64.
    """

    section: str
    donor: Donor
    image: NDArray[np.uint8]
    counts: sp.csr_matrix
    symbols: tuple[str, ...]
    barcodes: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    rates: NDArray[np.float64]
    shares: NDArray[np.float64]
    gradients: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.barcodes)


@dataclass(frozen=True)
class Simulation:
    """All sections, donor by donor, and what made them."""

    settings: SimulationSettings
    seed: int
    sections: tuple[SimulatedSection, ...]


def simulate(
    settings: SimulationSettings | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Make the sections.

    The same settings and seed give the same bytes (on one machine with one set of libraries;
    another processor may round an exponential otherwise).

    Parameters
    ----------
    settings
        What to make; None: `SimulationSettings()`.
    seed
        Of every random choice. Each section has a stream of its own, so the order in which
        threads draw them does not matter.
    progress
        Called with (sections done, sections in all).
    """
    settings = settings or SimulationSettings()
    donors, per_donor = settings.donors, settings.sections_per_donor
    genes_seed, palette_seed, *streams = np.random.SeedSequence(seed).spawn(
        2 + len(donors) * (1 + per_donor)
    )
    programmes = draw_programmes(settings.genes, np.random.default_rng(genes_seed))
    palette = make_palette(settings, np.random.default_rng(palette_seed))
    jobs = []
    for donor in donors:
        own, *streams = streams
        theirs = for_donor(programmes, settings.donor_programme_sd, np.random.default_rng(own))
        for number in range(1, per_donor + 1):
            stream, *streams = streams
            jobs.append((f"{donor.name}-{number}", donor, theirs, np.random.default_rng(stream)))
    made = []
    with ThreadPoolExecutor(THREADS) as pool:
        for section in pool.map(lambda job: _section(settings, palette, *job), jobs):
            made.append(section)
            if progress is not None:
                progress(len(made), len(jobs))
    return Simulation(settings, seed, tuple(made))


def _section(
    settings: SimulationSettings,
    palette: Palette,
    name: str,
    donor: Donor,
    programmes: Programmes,
    rng: np.random.Generator,
) -> SimulatedSection:
    layout = lay_out(settings, rng)
    xy_um, grid = spot_grid(settings, layout, rng)
    shares, gradients = spot_anatomy(settings, layout, xy_um)
    rna = np.array([c.rna for c in settings.compartments])
    rates, amount = programmes.rates(shares, gradients, rna)
    counts = draw_counts(settings, donor, rates, amount, rng)
    image = render(settings, layout, palette, donor, rng)
    return SimulatedSection(
        section=name,
        donor=donor,
        image=image,
        counts=counts,
        symbols=programmes.symbols,
        barcodes=np.array([f"{column}x{row}" for column, row in grid]),
        xy_px=xy_um / settings.mpp,
        rates=rates,
        shares=shares,
        gradients=gradients,
    )


def draw_counts(
    settings: SimulationSettings,
    donor: Donor,
    rates: NDArray[np.float64],
    amount: NDArray[np.float64],
    rng: np.random.Generator,
) -> sp.csr_matrix:
    """Draw Poisson-gamma counts, with libraries that vary and grow with the spot's RNA.

    Parameters
    ----------
    settings, donor
        Depth and its variation.
    rates
        (spots, genes) shares of the RNA.
    amount
        (spots,) RNA of the spot, relative.
    rng
        Source of the draws.

    Returns
    -------
    scipy.sparse.csr_matrix
        (spots, genes) int64.
    """
    relative = (amount / np.median(amount)) ** settings.library_power
    library = donor.depth * relative * np.exp(rng.normal(0, settings.library_sd, len(rates)))
    shape = settings.dispersion
    mean = library[:, None] * rates * rng.gamma(shape, 1 / shape, rates.shape)
    made = sp.csr_matrix(rng.poisson(mean).astype(np.int64))
    made.sort_indices()
    return made
