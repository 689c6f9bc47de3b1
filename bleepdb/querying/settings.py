"""What is asked: the slide, and how its neighbours are found and averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bleepdb.errors import InputError
from bleepdb.imputation import METHODS
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue.spots import read_spots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bleepdb.querying.filters import Condition
    from bleepdb.tissue import Spots
    from bleepdb.tissue.slide_sheet import SlideRow

LOCAL: Final = "local"
QUERY_METHODS: Final = (*METHODS, LOCAL)
ALL, PREDICTABLE, MODEL = "all", "predictable", "model"
GENE_CHOICES: Final = (ALL, PREDICTABLE, MODEL)
AUTO, EXACT, APPROXIMATE = "auto", "exact", "approximate"
SEARCHES: Final = (AUTO, EXACT, APPROXIMATE)
EXACT_PRODUCTS: Final = 1e9  # queries x points: up to here exact search is cheap


@dataclass(frozen=True)
class QuerySettings:
    """How neighbours are found and averaged. None means: what the model's card says.

    Attributes
    ----------
    method
        ``softmax``, ``simple``, ``average``, ``weighted`` or ``local``.
    k
        Neighbours a place.
    temperature
        Of the softmax.
    ridge
        Penalty of ``local``, as `bleepdb.imputation.local_weights` says.
    smoothing
        Share of adjacent places; 0 for none.
    denoise
        Whether the model's low-rank map is used.
    exclude_donors, exclude_sections
        Whose spots are not searched.
    where
        Further conditions on the spots that are searched (`bleepdb.querying.filters`).
    per_donor
        Most neighbours of a place that one donor may give; None for any number.
    search
        ``"exact"`` compares every place with every spot, ``"approximate"`` uses the search index,
        ``"auto"`` takes the former up to 10^9 comparisons.
    genes
        ``"predictable"``, ``"model"``, ``"all"``, or names; None: those the card calls
        predictable, else the highest expressed ones, `MOST_GENES` at most.
    neighbour_sd
        Whether the spread among neighbours is written too.
    stride_um
        Distance of tiles where no spots are given; default the training pitch.
    min_tissue
        Least share of tissue in a tile.
    max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    allow_misfit
        As in `bleepdb.tissue.check_registration`, where spots are given.
    """

    method: str | None = None
    k: int | None = None
    temperature: float | None = None
    ridge: float = 1.0
    smoothing: float | None = None
    denoise: bool = True
    exclude_donors: tuple[str, ...] = ()
    exclude_sections: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    per_donor: int | None = None
    search: str = AUTO
    genes: str | tuple[str, ...] | None = None
    neighbour_sd: bool = False
    stride_um: float | None = None
    min_tissue: float = 0.5
    max_upsampling: float = MAX_UPSAMPLING
    allow_misfit: bool = False

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in QUERY_METHODS:
            raise InputError(
                f"unknown method {self.method!r}", hint=f"choose one of {', '.join(QUERY_METHODS)}"
            )
        if self.k is not None and self.k < 1:
            raise InputError(f"{self.k} neighbours", hint="ask for 1 or more")
        if self.per_donor is not None and self.per_donor < 1:
            raise InputError(f"{self.per_donor} neighbours a donor", hint="allow 1 or more")
        if self.search not in SEARCHES:
            raise InputError(
                f"unknown search {self.search!r}", hint=f"choose one of {', '.join(SEARCHES)}"
            )
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise InputError(f"temperature {self.temperature:g}", hint="give a positive number")
        if not 0 < self.ridge < math.inf:
            raise InputError(f"ridge {self.ridge:g}", hint="give a positive number")
        if self.smoothing is not None and not 0 <= self.smoothing <= 1:
            raise InputError(f"smoothing {self.smoothing:g}", hint="give a share from 0 to 1")
        if self.stride_um is not None and not 0 < self.stride_um < math.inf:
            raise InputError(f"stride {self.stride_um:g} µm", hint="give a positive number")
        if not 0 <= self.min_tissue <= 1:
            raise InputError(
                f"least share of tissue {self.min_tissue:g}", hint="give a share from 0 to 1"
            )
        if isinstance(self.genes, str) and self.genes not in GENE_CHOICES:
            raise InputError(
                f"no set of genes {self.genes!r}",
                hint=f"choose one of {', '.join(GENE_CHOICES)}, or give names",
            )


@dataclass(frozen=True)
class Query:
    """A slide to impute.

    Attributes
    ----------
    slide_path
        The H&E image.
    slide_mpp
        Microns per level-0 pixel; None: what the slide itself says.
    spots
        Where to impute; None: a grid over the tissue.
    library_id
        Name of the slide in the output; default its file name.
    donor
        Whose slide it is, where known: excluded from the search, and compared with the training
        donors.
    mask
        How its tissue is found: a method or a file, as in `bleepdb.tissue.find_tissue`; None for
        the default.
    mpp_source
        Who states `slide_mpp`, for a person to read.
    fields
        What else is known of it, such as its preservation or scanner: compared with what the
        atlas's spots say under the same names.
    """

    slide_path: Path
    slide_mpp: float | None = None
    spots: Spots | None = None
    library_id: str | None = None
    donor: str | None = None
    mask: str | None = None
    mpp_source: str = "given"
    fields: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, row: SlideRow) -> Query:
        """Return what a row of a slide sheet asks; its table of spots is read.

        Raises
        ------
        InputError
            If its table of spots cannot be used.
        """
        return cls(
            slide_path=row.slide,
            slide_mpp=row.mpp,
            spots=None if row.spots is None else read_spots(row.spots),
            library_id=row.name,
            donor=row.donor,
            mask=row.mask,
            mpp_source=row.mpp_source,
            fields=row.fields,
        )

    @property
    def library(self) -> str:
        """The name, without characters that file formats object to."""
        text = self.library_id or self.slide_path.stem
        return "".join(c if c.isalnum() or c in "._-" else "_" for c in text) or "slide"
