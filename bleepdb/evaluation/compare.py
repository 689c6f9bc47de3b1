"""Imputed values beside measured ones, for files of any origin: ``--pred X --truth Y``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anndata as ad
import numpy as np
from scipy.spatial import cKDTree

from bleepdb.errors import InputError
from bleepdb.gene_sets import MARKERS
from bleepdb.metrics import mean_score, noise_ceiling, pearson_per_gene, rmse_per_gene
from bleepdb.names import GENE_IDS, SPATIAL
from bleepdb.normalise import log1p_cp10k
from bleepdb.panel import Panel
from bleepdb.places import spacing
from bleepdb.querying.settings import PREDICTABLE
from bleepdb.run_card import make_run_card
from bleepdb.tissue.readers.hdf5 import open_hdf5

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue import Section

FEWEST_PLACES: Final = 10
SAME_PLACE: Final = 0.02
"""Places of one slide agree to this share of their spacing, at whatever size of its image. Those of
another slide on the same kind of array have the same names, and lie 4% or more apart."""


@dataclass(frozen=True)
class Comparison:
    """Imputed beside measured.

    Attributes
    ----------
    joined_by
        ``"name"`` or ``"position"``.
    places, of_predicted, of_truth
        How many places were joined, and how many there were.
    symbols
        Genes that both have.
    pcc, rmse, ceiling
        (genes,) scores over the joined places, and the noise ceiling of the truth.
    predictable
        (genes,) bool from the file's own card, or None.
    measured, imputed
        (places, genes) float32, for pictures.
    xy_px
        (places, 2) of the prediction.
    """

    joined_by: str
    places: int
    of_predicted: int
    of_truth: int
    symbols: tuple[str, ...]
    pcc: NDArray[np.float64]
    rmse: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    predictable: NDArray[np.bool_] | None
    measured: NDArray[np.float32]
    imputed: NDArray[np.float32]
    xy_px: NDArray[np.float64]

    def sets(self) -> dict[str, NDArray[np.int64]]:
        """Gene sets that owe nothing to the truth's values."""
        made = {"all compared": np.arange(len(self.symbols))}
        if self.predictable is not None and self.predictable.any():
            made["predictable (by the card)"] = np.flatnonzero(self.predictable)
        markers = [i for i, s in enumerate(self.symbols) if s in MARKERS]
        if markers:
            made["markers"] = np.array(markers)
        return made

    def rows(self) -> list[tuple[str, int, float, int, float]]:
        """Per set: name, genes, mean PCC, genes without a score, mean noise ceiling."""
        return [
            (name, len(w), *mean_score(self.pcc[w]), mean_score(self.ceiling[w])[0])
            for name, w in self.sets().items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON document."""

        def numbers(values: NDArray[np.float64]) -> list[float | None]:
            return [round(float(v), 4) if np.isfinite(v) else None for v in values]

        return {
            "format": "bleepdb-comparison",
            "version": 1,
            "joined_by": self.joined_by,
            "places": self.places,
            "places_predicted": self.of_predicted,
            "places_measured": self.of_truth,
            "sets": {
                name: {"genes": n, "pcc": pcc, "undefined_genes": lost, "noise_ceiling": top}
                for name, n, pcc, lost, top in self.rows()
            },
            "genes": {
                "symbol": list(self.symbols),
                "pcc": numbers(self.pcc),
                "rmse": numbers(self.rmse),
                "noise_ceiling": numbers(self.ceiling),
            },
            "notes": [
                (
                    "Gene sets are not chosen on the truth. Truth is log1p of counts per 10,000, "
                    "scaled on the genes that it measured."
                )
            ],
            "run_card": make_run_card(),
        }


def compare(predicted: Path, truth: Section) -> Comparison:
    """Compare an imputed ``.h5ad`` with a measured section.

    Places are joined by name: ``section:barcode``, the barcode, or ``anything:barcode`` where
    only one place ends so; else each measured spot takes the nearest imputed place within half
    the spacing of spots. Genes are matched as panels are.

    Parameters
    ----------
    predicted
        AnnData with log1p values in X and ``obsm["spatial"]``.
    truth
        Raw counts.

    Raises
    ------
    InputError
        If the file cannot be read or points outside itself, is of another slide, or too few
        places or no genes are shared.
    """
    with open_hdf5(predicted, "AnnData"):
        pass  # links to other files and damage are refused before anndata follows them
    try:
        made = ad.read_h5ad(predicted)
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"not a readable .h5ad ({reason})", where=predicted, hint="give the imputed file"
        ) from error
    if SPATIAL not in made.obsm:
        raise InputError(f'has no obsm["{SPATIAL}"]', where=predicted, hint="give the imputed file")
    rows, spots, by = _join(made, truth)
    if len(rows) < FEWEST_PLACES:
        raise InputError(
            f"{len(rows)} of {len(truth)} measured spots have an imputed place",
            where=predicted,
            hint="compare files of the same slide",
        )
    if by == "name":
        _refuse_other_slide(made, truth, rows, spots, predicted)
    if made.X is None:
        raise InputError("has no X", where=predicted, hint="impute genes first (--genes)")
    ids = made.var[GENE_IDS].astype(str).tolist() if GENE_IDS in made.var else []
    panel = Panel(tuple(made.var_names), tuple(ids) if any(ids) else ())
    found = panel.match(truth.panel)
    if not len(found):
        raise InputError(
            "shares no gene with the truth", where=predicted, hint="both need symbols or ids"
        )
    totals = truth.totals[spots]
    counts = truth.counts[spots][:, found.right].toarray()
    measured = log1p_cp10k(counts, totals[:, None])
    imputed = made[rows, found.left].to_df().to_numpy(dtype=np.float32)  # dense, whatever X is
    return Comparison(
        joined_by=by,
        places=len(rows),
        of_predicted=made.n_obs,
        of_truth=len(truth),
        symbols=tuple(panel.symbols[i] for i in found.left),
        pcc=pearson_per_gene(imputed, measured),
        rmse=rmse_per_gene(imputed, measured),
        ceiling=noise_ceiling(counts, totals),
        predictable=_flags(made, found.left),
        measured=measured,
        imputed=imputed,
        xy_px=np.asarray(made.obsm[SPATIAL], dtype=np.float64)[rows],
    )


def _join(made: ad.AnnData, truth: Section) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Rows of the prediction, spots of the truth, and what joined them."""
    names = {name: i for i, name in enumerate(made.obs_names)}
    endings = Counter(n.partition(":")[2] for n in names)
    loose = {n.partition(":")[2]: i for n, i in names.items() if endings[n.partition(":")[2]] == 1}
    table = loose | names
    spelt = ((j, (f"{truth.section}:{b}", b)) for j, b in enumerate(truth.barcodes.tolist()))
    found = ((j, next((table[n] for n in both if n in table), None)) for j, both in spelt)
    pairs = [(i, j) for j, i in found if i is not None]
    if len(pairs) >= FEWEST_PLACES:
        both = np.array(pairs, dtype=np.int64)
        return both[:, 0], both[:, 1], "name"
    places = np.asarray(made.obsm[SPATIAL], dtype=np.float64)
    away, nearest = cKDTree(places).query(truth.xy_px)
    near = np.flatnonzero(np.asarray(away) <= spacing(truth.xy_px) / 2)
    return np.asarray(nearest, dtype=np.int64)[near], near, "position"


def _refuse_other_slide(
    made: ad.AnnData,
    truth: Section,
    rows: NDArray[np.int64],
    spots: NDArray[np.int64],
    path: Path,
) -> None:
    """Refuse names of another section whose places are not those of the truth either."""
    sections = {n.partition(":")[0] for n in made.obs_names[rows] if ":" in n}
    if not sections - {truth.section}:
        return
    here = np.asarray(made.obsm[SPATIAL], dtype=np.float64)[rows]
    there = truth.xy_px[spots]
    scale = float((here * there).sum() / max((there * there).sum(), 1e-12))
    apart_px = float(np.median(np.linalg.norm(here - scale * there, axis=1)))
    if apart_px > SAME_PLACE * spacing(here):
        raise InputError(
            f"is of slide {', '.join(sorted(sections))}, and its places lie {apart_px:,.0f} px "
            f"from those of section {truth.section}",
            where=path,
            hint="compare files of the same slide; if it is, query with --library-id "
            f"{truth.section}",
        )


def _flags(made: ad.AnnData, genes: NDArray[np.int64]) -> NDArray[np.bool_] | None:
    """Which genes the file's own card calls predictable; None where it does not say."""
    if PREDICTABLE not in made.var:
        return None
    # The column is of numbers or truth values; a gene outside the card has NaN.
    values = made.var[PREDICTABLE].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(np.nan_to_num(values[genes]) > 0)
