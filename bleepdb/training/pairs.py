"""Pairs: for each training spot the features of its tile and its counts on the shared genes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from bleepdb.errors import GeneError, SectionError
from bleepdb.normalise import normalise_rows
from bleepdb.places import spacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.encoders import FeatureSpec
    from bleepdb.panel import Panel

FEWEST_GENES = 20


@dataclass(frozen=True)
class PairedSection:
    """One section, encoded.

    Attributes
    ----------
    section, donor
        Names.
    digest
        Of the section as read.
    features
        (n, F) float32, the features of each spot's tile.
    positions_um
        (n, 2) float64.
    counts
        (n, genes of `panel`) CSR, raw.
    panel
        What it was measured on.
    barcodes
        (n,) str.
    pitch_um
        Median distance of adjacent spots.
    """

    section: str
    donor: str
    digest: str
    features: NDArray[np.float32]
    positions_um: NDArray[np.float64]
    counts: sp.csr_matrix
    panel: Panel
    barcodes: NDArray[np.str_]
    pitch_um: float

    def __len__(self) -> int:
        return len(self.features)

    def profiles_on(self, panel: Panel) -> NDArray[np.float32]:
        """Return log1p profiles on a panel, (n, genes) float32; NaN for genes it lacks.

        Counts are scaled on the genes that both panels have.
        """
        found = self.panel.match(panel)
        shared = self.counts[:, found.left].tocsr()
        totals = np.asarray(shared.sum(axis=1)).ravel()
        values = normalise_rows(shared.data, shared.indptr, totals)
        made = np.full((len(self), len(panel)), np.nan, dtype=np.float32)
        made[:, found.right] = sp.csr_matrix(
            (values, shared.indices, shared.indptr), shape=shared.shape
        ).toarray()
        return made


@dataclass(frozen=True)
class Pairs:
    """Encoded sections and the genes that all of them share.

    Attributes
    ----------
    sections
        In the order of the sheet.
    feature_spec
        What the features are.
    blocks
        (F,) int64, which scale and level each feature comes from; None where that is not known.
    """

    sections: tuple[PairedSection, ...]
    feature_spec: FeatureSpec
    blocks: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return sum(len(s) for s in self.sections)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sections."""
        return tuple(s.section for s in self.sections)

    @property
    def donors(self) -> tuple[str, ...]:
        """Distinct donors, in order of first appearance."""
        return tuple(dict.fromkeys(s.donor for s in self.sections))

    @cached_property
    def panel(self) -> Panel:
        """The genes that all sections share, in the order of the first.

        Raises
        ------
        GeneError
            If they share fewer than `FEWEST_GENES`.
        """
        first = self.sections[0].panel
        kept = np.ones(len(first), dtype=bool)
        for other in self.sections[1:]:
            there = np.zeros(len(first), dtype=bool)
            there[first.match(other.panel).left] = True
            kept &= there
        if kept.sum() < FEWEST_GENES:
            raise GeneError(
                f"sections {', '.join(self.names)} share {int(kept.sum())} genes",
                hint="train on sections of one species whose genes have the same kind of names",
            )
        return first.take(np.flatnonzero(kept))

    @cached_property
    def profiles(self) -> NDArray[np.float32]:
        """(spots, shared genes) float32 log1p profiles, one section after the other."""
        return np.concatenate([s.profiles_on(self.panel) for s in self.sections])

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """(spots, F) float32."""
        return np.concatenate([s.features for s in self.sections])

    @cached_property
    def section_of_spot(self) -> NDArray[np.int64]:
        """(spots,) int64, position in `sections`."""
        return np.repeat(np.arange(len(self.sections)), [len(s) for s in self.sections])

    @property
    def pitch_um(self) -> float:
        """Median over sections of the distance of adjacent spots."""
        return float(np.median([s.pitch_um for s in self.sections]))

    def subset(self, names: Sequence[str]) -> Pairs:
        """Return the pairs of some sections; the shared genes are theirs alone.

        Raises
        ------
        ValueError
            If one is not there, or none is named.
        """
        wanted = set(names)
        if not wanted or not wanted <= set(self.names):
            message = f"no sections {sorted(wanted - set(self.names))} among {self.names}"
            raise ValueError(message)
        kept = tuple(s for s in self.sections if s.section in wanted)
        return Pairs(kept, self.feature_spec, self.blocks)


def pitch_of(positions_um: NDArray[np.float64]) -> float:
    """Return the median distance from a place to its nearest, in µm.

    Raises
    ------
    SectionError
        If there are fewer than two places.
    """
    if len(positions_um) < 2:
        raise SectionError(f"{len(positions_um)} spots have no pitch", hint="use larger sections")
    return spacing(positions_um)
