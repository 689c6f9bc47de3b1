"""The tables of an imputed file: tiles, genes, references, and where squidpy draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bleepdb import names
from bleepdb.querying.familiar import flagged
from bleepdb.querying.settings import PREDICTABLE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.atlas import Profiles
    from bleepdb.encoders import Model
    from bleepdb.panel import Panel
    from bleepdb.querying.familiar import Familiar
    from bleepdb.querying.places import Places
    from bleepdb.querying.rows import Survey
    from bleepdb.querying.settings import Query


def reference_table(profiles: Profiles) -> pd.DataFrame:
    """Return what is known of each reference, in the order of the columns of W."""
    return pd.DataFrame(
        {
            "section": profiles.section.astype(object),
            "donor": profiles.donor.astype(object),
            "barcode": profiles.barcode.astype(object),
            "x_px": profiles.xy_px[:, 0],
            "y_px": profiles.xy_px[:, 1],
            "rev": profiles.rev.astype(object),
            "library_total": profiles.library_total,
        },
        index=pd.Index(list(profiles.ids), name="id", dtype=object),
    )


def tile_table(query: Query, places: Places, seen: Survey, usual: Familiar) -> pd.DataFrame:
    """Return one row a place: where it is, and how much stands behind its values."""
    n = len(places.names)
    score = usual.score(seen.top_similarity)
    made = pd.DataFrame(
        {
            names.TILE_ID: np.arange(n, dtype=np.int64),
            names.LIBRARY_ID: pd.Categorical([query.library] * n),
            names.X_PX: places.xy_px[:, 0],
            names.Y_PX: places.xy_px[:, 1],
            names.TOP_SIMILARITY: seen.top_similarity,
            names.EFFECTIVE_NEIGHBOURS: seen.effective_neighbours,
            names.EFFECTIVE_DONORS: seen.effective_donors,
            names.OOD_SCORE: score,
            names.OOD: flagged(score),
            names.EDGE_FRACTION: places.edge.astype(np.float32),
            names.ABSTAINED: np.where(seen.nobody, "no neighbours", "").astype(object),
        },
        index=pd.Index([f"{query.library}:{name}" for name in places.names], dtype=object),
    )
    made.index.name = None
    return made


def gene_table(genes: Panel, model: Model, coverage: NDArray[np.float32]) -> pd.DataFrame:
    """Return one row a gene: ids, coverage, and its held-out scores where the card has them."""
    symbols = _unique(genes)
    found = genes.match(model.panel)
    in_model = np.zeros(len(genes), dtype=bool)
    in_model[found.left] = True
    made = pd.DataFrame(
        {
            names.GENE_IDS: list(genes.gene_ids or ("",) * len(genes)),
            names.COVERAGE: coverage,
            "in_model_panel": in_model,
        },
        index=pd.Index(symbols, dtype=object),
    )
    for name, values in (model.gene_scores or {}).items():
        column = np.full(len(genes), np.nan, dtype=np.float32)
        column[found.left] = np.asarray(values, dtype=np.float32)[found.right]
        made[name] = column if name != PREDICTABLE else np.nan_to_num(column).astype(bool)
    return made


def _unique(genes: Panel) -> list[str]:
    """Symbols as names; one that stands twice gets its Ensembl id or place behind it."""
    seen: set[str] = set()
    made = []
    for i, symbol in enumerate(genes.symbols):
        name = symbol
        if name in seen:
            name = f"{symbol}-{genes.gene_ids[i] if genes.gene_ids and genes.gene_ids[i] else i}"
        seen.add(name)
        made.append(name)
    return made


def spatial_entry(query: Query, places: Places) -> dict[str, Any]:
    """Return ``uns["spatial"]`` as scanpy and squidpy read it."""
    return {
        query.library: {
            "images": {"hires": places.thumbnail},
            "scalefactors": {
                "tissue_hires_scalef": float(places.thumbnail_scale),
                "spot_diameter_fullres": float(places.diameter_px),
                "fiducial_diameter_fullres": float(places.diameter_px),
            },
            "metadata": {
                "source_image": query.slide_path.name,
                "microns_per_pixel": float(places.slide_mpp),
            },
        }
    }
