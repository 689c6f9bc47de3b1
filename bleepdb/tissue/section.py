"""A section: measured spots on a slide, as read, with nothing normalised."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.files import canonical_json, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.panel import Panel


@dataclass(frozen=True)
class ReferenceImage:
    """A small picture of the tissue that came with the counts, to hold a slide against.

    Parameters
    ----------
    where
        The file, and the place in it, for messages.
    scale
        Pixels of this picture per level-0 pixel of the frame that `Section.xy_px` is in.
    load
        Reads the pixels: (height, width, 3) RGB, uint8. Raises SectionError where it cannot.
    """

    where: str
    scale: float
    load: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class Section:
    """Raw counts of one section, their panel and places, and what is known of it.

    Parameters
    ----------
    section, donor, tissue, species, assay
        Names; `section` is the ``library_id``, `tissue` a slug.
    counts
        (spots, genes) CSR, int64 data >= 0, sorted indices, no stored zeros.
    panel
        The genes of the columns.
    barcodes
        (spots,) str, unique.
    xy_px
        (spots, 2) float64, spot centres (x, y) in level-0 pixels of the slide.
    source
        Where the counts were read.
    slide_path
        The H&E image, or None where there is none.
    slide_mpp
        Micrometres per level-0 pixel, or None where unknown.
    mpp_source
        Which source gave `slide_mpp` (``"sheet"``, ``"slide"``, ``"spot pitch"``, ...).
    spot_diameter_um, pitch_um
        Size of a spot and distance between adjacent spots, where known.
    fields
        Further columns of the sample sheet (``preservation``, ``stain``, ...).
    notes
        What the reader lost, chose or doubted, one sentence each. Not a part of the digest.
    reference_image
        A small picture of the same tissue that the counts came with, or None. Not a part of the
        digest.
    """

    section: str
    donor: str
    tissue: str
    species: str
    assay: str
    counts: sp.csr_matrix
    panel: Panel
    barcodes: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    source: Path
    slide_path: Path | None = None
    slide_mpp: float | None = None
    mpp_source: str | None = None
    spot_diameter_um: float | None = None
    pitch_um: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reference_image: ReferenceImage | None = None

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    @cached_property
    def totals(self) -> NDArray[np.int64]:
        """Counts of each spot over all genes read (its library), int64."""
        return np.asarray(self.counts.sum(axis=1)).ravel().astype(np.int64)

    @cached_property
    def xy_um(self) -> NDArray[np.float64]:
        """(spots, 2) centres in µm.

        Raises
        ------
        SectionError
            If `slide_mpp` is unknown.
        """
        return self.xy_px * self.known_mpp

    @property
    def known_mpp(self) -> float:
        """`slide_mpp`, or a SectionError that says how to give it."""
        if self.slide_mpp is None:
            raise SectionError(
                f"the microns per pixel (mpp) of section {self.section} are unknown",
                where=self.slide_path or self.source,
                hint="fill in the sheet's mpp column or pass --slide-mpp",
            )
        return self.slide_mpp

    @cached_property
    def digest(self) -> str:
        """SHA-256 of counts, panel, barcodes, positions and metadata; 64 hex digits."""
        about: dict[str, Any] = {
            "section": self.section, "donor": self.donor, "tissue": self.tissue,
            "species": self.species, "assay": self.assay, "fields": dict(self.fields),
            "shape": list(self.counts.shape), "panel": self.panel.digest,
            "mpp": self.slide_mpp, "barcodes": self.barcodes.tolist(),
        }  # fmt: skip
        return digest(
            "section",
            canonical_json(about),
            self.counts.indptr.astype("<i8").tobytes(),
            self.counts.indices.astype("<i8").tobytes(),
            self.counts.data.astype("<i8").tobytes(),
            self.xy_px.astype("<f8").tobytes(),
        )

    def take(self, spots: NDArray[Any]) -> Section:
        """Return the section with the spots at `spots` (positions or a mask)."""
        return replace(
            self,
            counts=self.counts[spots],
            barcodes=self.barcodes[spots],
            xy_px=self.xy_px[spots],
        )
