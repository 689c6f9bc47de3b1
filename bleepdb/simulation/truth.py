"""What the simulator knows and no lab does: the true rates, and the score that they allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.sparse as sp

from bleepdb.errors import InputError
from bleepdb.files import whole_file
from bleepdb.metrics import pearson_per_gene
from bleepdb.normalise import TARGET_SUM, log1p_cp10k
from bleepdb.simulation.settings import COMPARTMENTS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from bleepdb.simulation.sections import SimulatedSection

FORMAT = "bleepdb-truth-1"


@dataclass(frozen=True)
class Truth:
    """What the simulator knows of one section.

    Attributes
    ----------
    rates
        (spots, genes) float64, shares of each spot's RNA; rows sum to 1.
    shares
        (spots, compartments) float64, share of each spot's area.
    barcodes, symbols, compartments
        Names of the spots, genes and compartments.
    """

    rates: NDArray[np.float64]
    shares: NDArray[np.float64]
    barcodes: tuple[str, ...]
    symbols: tuple[str, ...]
    compartments: tuple[str, ...]


def ceiling(rates: ArrayLike, counts: Any) -> NDArray[np.float64]:  # noqa: ANN401 - dense or sparse
    """Return the PCC of the true profile with the drawn one, per gene.

    No prediction of the profile can expect more: what is left is the noise of the draw.

    Parameters
    ----------
    rates
        (spots, genes) true shares of the RNA.
    counts
        (spots, genes) drawn counts of the same spots and genes, dense or sparse.

    Returns
    -------
    numpy.ndarray
        (genes,) float64, Pearson correlation over the spots of ``log1p(1e4 * rate)`` with
        log1p CP10k of the counts; NaN where a gene is constant.
    """
    drawn = sp.csr_matrix(counts).toarray()
    true = np.log1p(np.asarray(rates, dtype=np.float64) * TARGET_SUM)
    return pearson_per_gene(true, log1p_cp10k(drawn, drawn.sum(axis=1, keepdims=True)))


def write_truth(made: SimulatedSection, path: Path) -> None:
    """Write a section's truth as HDF5, whole or not at all."""
    with whole_file(path) as part, h5py.File(part, "w") as file:
        file.attrs["format"] = FORMAT
        for name, values in (("rates", made.rates), ("shares", made.shares)):
            file.create_dataset(name, data=values, compression="gzip", track_times=False)
        names = (
            ("barcodes", made.barcodes.tolist()),
            ("symbols", made.symbols),
            ("compartments", COMPARTMENTS),
        )
        for name, words in names:
            file.create_dataset(
                name, data=list(words), dtype=h5py.string_dtype(), track_times=False
            )


def read_truth(path: Path) -> Truth:
    """Read what `write_truth` wrote.

    Raises
    ------
    InputError
        If the file is missing or is no such file.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise InputError("is not the truth of a simulated section", where=path)
            names = {
                name: tuple(str(w) for w in file[name].asstr()[()])
                for name in ("barcodes", "symbols", "compartments")
            }
            return Truth(file["rates"][()], file["shares"][()], **names)
    except FileNotFoundError:
        raise InputError("no such file", where=path, hint="simulate first") from None
    except (OSError, KeyError) as error:
        raise InputError(
            f"is not the truth of a simulated section ({error})",
            where=path,
            hint="simulate again",
        ) from error
