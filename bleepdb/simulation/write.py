"""A simulation as files: what a lab would have, and beside it the truth that no lab has."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from PIL import Image

from bleepdb.errors import InputError
from bleepdb.files import whole_file
from bleepdb.metrics import pearson_per_gene
from bleepdb.names import SPATIAL
from bleepdb.normalise import TARGET_SUM, log1p_cp10k
from bleepdb.simulation.settings import COMPARTMENTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from bleepdb.simulation.simulate import SimulatedSection, Simulation

SHEET = "samples.csv"
COLUMNS = (
    "section", "donor", "tissue", "species", "assay", "expression", "image", "mpp", "stain",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What the simulator knows of one section.

    Attributes
    ----------
    rates
        (spots, genes) float64, shares of each spot's RNA.
    barcodes, symbols
        Names of the rows and columns.
    shares
        (spots, compartments) float64, areas, in the order of `compartments`.
    compartments
        Their names.
    """

    rates: NDArray[np.float64]
    barcodes: NDArray[np.str_]
    symbols: NDArray[np.str_]
    shares: NDArray[np.float64]
    compartments: NDArray[np.str_]


def ceiling(rates: ArrayLike, counts: Any) -> NDArray[np.float64]:  # noqa: ANN401 - dense or CSR
    """Best PCC that any prediction can expect: of the true profile with the drawn one, per gene.

    Parameters
    ----------
    rates
        (spots, genes) true shares of the RNA.
    counts
        (spots, genes) drawn counts, dense or sparse.

    Returns
    -------
    numpy.ndarray
        (genes,) float64, Pearson correlation over the spots of ``log1p(1e4 * rate)`` with
        log1p CP10k of the counts; NaN where a gene is constant.
    """
    drawn = counts.toarray() if sp.issparse(counts) else np.asarray(counts)
    true = np.log1p(np.asarray(rates, dtype=np.float64) * TARGET_SUM)
    return pearson_per_gene(true, log1p_cp10k(drawn, drawn.sum(axis=1, keepdims=True)))


def write(simulation: Simulation, folder: Path) -> Path:
    """Write each section's ``.h5ad``, ``.jpg`` and ``.truth.npz``, then the sample sheet.

    The sheet is written last, so that where it stands everything it names stands too. Paths in
    it are relative to `folder`.

    Returns
    -------
    Path
        The sample sheet.
    """
    settings = simulation.settings
    folder.mkdir(parents=True, exist_ok=True)
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(COLUMNS)
    for made in simulation.sections:
        name = made.section
        with whole_file(folder / f"{name}.h5ad") as part:
            _annotated(simulation, made).write_h5ad(part, compression="gzip")
        with whole_file(folder / f"{name}.jpg") as part:
            dpi = 25_400 / settings.mpp
            Image.fromarray(made.image).save(
                part, quality=settings.jpeg_quality, subsampling=0, dpi=(dpi, dpi)
            )
        with whole_file(folder / f"{name}.truth.npz") as part, part.open("wb") as handle:
            np.savez_compressed(
                handle,
                rates=made.rates,
                barcodes=made.barcodes,
                symbols=np.array(made.symbols),
                shares=made.shares,
                compartments=np.array(COMPARTMENTS),
            )
        table.writerow(
            (name, made.donor.name, settings.tissue, settings.species, settings.assay,
             f"{name}.h5ad", f"{name}.jpg", settings.mpp, "H&E")
        )  # fmt: skip
    with whole_file(folder / SHEET) as part:
        part.write_text(lines.getvalue(), encoding="utf-8")
    return folder / SHEET


def _annotated(simulation: Simulation, made: SimulatedSection) -> ad.AnnData:
    settings = simulation.settings
    data = ad.AnnData(
        X=made.counts.astype(np.int32),
        obs=pd.DataFrame(index=pd.Index(made.barcodes.astype(object))),
        var=pd.DataFrame(index=pd.Index(list(made.symbols))),
    )
    data.obs["in_tissue"] = np.ones(len(made), dtype=np.int8)
    data.obsm[SPATIAL] = made.xy_px
    data.uns[SPATIAL] = {
        made.section: {
            "scalefactors": {
                "spot_diameter_fullres": settings.spot_diameter_um / settings.mpp,
                "microns_per_pixel": settings.mpp,
            }
        }
    }
    data.uns["simulation"] = {"version": settings.version, "seed": simulation.seed}
    return data


def read_truth(path: Path) -> Truth:
    """Read a ``.truth.npz`` that `write` made. Pickled arrays are refused.

    Raises
    ------
    InputError
        If the file is missing, is no such file, or lacks a part.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return Truth(**{part: found[part] for part in Truth.__dataclass_fields__})
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"is not the truth of a simulated section ({error})",
            where=path,
            hint="write the simulation again",
        ) from error
