"""From stored counts to what imputation averages: reference spots grouped by their panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bleepdb.imputation import Group, LowRank
from bleepdb.normalise import normalise_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bleepdb.atlas import Profiles
    from bleepdb.encoders import Model
    from bleepdb.panel import Panel


def normalised(counts: sp.csr_matrix, panel: Panel, model_panel: Panel) -> sp.csr_matrix:
    """Log-normalise counts, scaled on the genes that their panel shares with the model's.

    Parameters
    ----------
    counts
        (n, genes of `panel`) CSR.
    panel, model_panel
        What was measured, and what the model was trained on.

    Returns
    -------
    scipy.sparse.csr_matrix
        (n, genes of `panel`) float32, log1p of counts per 10,000 shared counts.
    """
    shared = _shared(panel, model_panel)
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    kept = shared[counts.indices]
    totals = np.bincount(rows[kept], counts.data[kept], minlength=counts.shape[0])
    values = normalise_rows(counts.data, counts.indptr, totals)
    return sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)


def _shared(panel: Panel, model_panel: Panel) -> NDArray[np.bool_]:
    """Tell which genes of a panel the model's has too."""
    shared = np.zeros(len(panel), dtype=bool)
    shared[panel.match(model_panel).left] = True
    return shared


def reference_groups(profiles: Profiles, model_panel: Panel) -> list[Group]:
    """Group fetched profiles by panel, normalised; the columns are their order in `profiles`.

    The same values as `normalised` gives, but each run of equal counts is normalised once.
    """
    return [
        Group(
            panel,
            profiles.spots_of(i),
            stored.normalised(stored.totals(_shared(panel, model_panel))),
        )
        for i, (panel, stored) in enumerate(zip(profiles.panels, profiles.stored, strict=True))
    ]


def low_rank_of(model: Model) -> LowRank | None:
    """Return the model's low-rank map on genes, or None where it has none."""
    if model.components is None:
        return None
    return LowRank(model.panel, model.profile_mean, model.components, model.readout)
