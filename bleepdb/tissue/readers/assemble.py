"""The last step of every reader: counts, genes, barcodes and places checked and put together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import scipy.sparse as sp

from bleepdb.errors import GeneError, SectionError
from bleepdb.panel import ENSEMBL, Panel
from bleepdb.tissue.readers.tables import refuse_duplicates
from bleepdb.tissue.section import Section

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.readers.scale import Scale
    from bleepdb.tissue.section import ReferenceImage
    from bleepdb.tissue.sheet import SheetRow

log = logging.getLogger(__name__)

MOST_COUNTS: Final = 2**32 - 1
"""More than a spot's count of one gene can be; the widest codec of an atlas ends here."""
WHOLE: Final = 1e-4
"""A stored value this near to a whole number is that count."""
MATCHED_AT_LEAST: Final = 0.5
COUNTS_AT: Final = ("layers/counts", "layers/raw_counts", "layers/raw", "raw/X", "X")
"""Where an AnnData may hold counts, the first that does is taken."""
OBSM: Final = ("spatial", "X_spatial", "spatial_coords")
"""Where its places stand, as scanpy, converters of Seurat and of SpatialExperiment write them."""


def as_counts(matrix: Any, where: Path, what: str = "the matrix") -> sp.csr_matrix:  # noqa: ANN401 - any array or sparse matrix
    """Return counts as CSR: int64 data, sorted indices, no stored zeros.

    Parameters
    ----------
    matrix
        (spots, genes), dense or sparse, of any numeric type.
    where, what
        The file, and the place in it, for messages.

    Raises
    ------
    SectionError
        If a value is not finite, is negative, or is not a whole number.
    """
    csr = sp.csr_matrix(matrix)
    csr.sum_duplicates()
    data = csr.data
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        raise SectionError(
            f"{what} does not hold numbers ({data.dtype})", where=where, hint="give the raw counts"
        )
    fault = count_fault(data)
    if fault:
        raise SectionError(f"{what} {fault}", where=where, hint="give the raw counts")
    whole = data if np.issubdtype(data.dtype, np.integer) else np.rint(data)
    made = sp.csr_matrix((whole.astype(np.int64), csr.indices, csr.indptr), shape=csr.shape)
    made.eliminate_zeros()
    made.sort_indices()
    return made


def count_fault(data: NDArray[Any]) -> str | None:
    """Say what keeps stored values from being counts, or None where nothing does."""
    inexact = np.issubdtype(data.dtype, np.inexact)
    if inexact and not np.isfinite(data).all():
        return "holds values that are not finite"
    if len(data) and data.min() < 0:
        return f"holds negative values (least {data.min():g}): it looks scaled or normalised"
    if len(data) and data.max() > MOST_COUNTS:
        return f"holds values above {MOST_COUNTS:,} (most {data.max():g}): these are no counts"
    if not inexact:
        return None
    off = np.abs(data - np.rint(data)) > WHOLE
    if off.any():
        return (
            f"looks normalised: {off.mean():.0%} of its stored values are not whole numbers "
            f"(such as {data[off][0]:.4g})"
        )
    return None


def panel_of(symbols: Sequence[str], gene_ids: Sequence[str], species: str, where: Path) -> Panel:
    """Make the panel of a section and hold its species against the sheet's.

    Parameters
    ----------
    symbols
        One name a gene.
    gene_ids
        One id a gene, or none at all. What is not an Ensembl id is left out; where `symbols`
        are Ensembl ids themselves, they serve.
    species
        What the sheet says.

    Raises
    ------
    GeneError
        If genes stand twice, or Ensembl ids tell another species.
    """
    if not gene_ids and mostly_ensembl(symbols):
        gene_ids = symbols
    ids = tuple(g if ENSEMBL.fullmatch(g) else "" for g in gene_ids)
    named = tuple(s or g for s, g in zip(symbols, gene_ids or symbols, strict=True))
    try:
        panel = Panel(named, ids)
    except GeneError as error:
        raise GeneError(error.what, where=where, hint=error.hint) from error
    if panel.species_seen and panel.species_seen != {species}:
        found = ", ".join(sorted(panel.species_seen))
        raise GeneError(
            f"the Ensembl ids are of {found}, the section is said to be {species}",
            where=where,
            hint=f"pass --species {found}, or write {found} in the sheet's column species",
        )
    return panel


def mostly_ensembl(names: Sequence[str]) -> bool:
    """Tell whether more than half of the names are Ensembl ids."""
    return 2 * sum(ENSEMBL.fullmatch(n) is not None for n in names) > len(names)


def join_barcodes(
    counted: Sequence[str],
    placed: Sequence[str],
    where: Path,
    *,
    off_tissue: Collection[str] = (),
    allow_loss: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]:
    """Join the barcodes of the counts with those that have a place, in the order of the counts.

    Parameters
    ----------
    counted
        Barcodes of the counts.
    placed
        Barcodes with a place under tissue.
    off_tissue
        Counted barcodes that are no loss, since their place is known to be beside the tissue.
    allow_loss
        Go on where less than half of the counted ones have a place.

    Returns
    -------
    tuple
        Positions in `counted`, positions in `placed` (int64, same length), and notes that tell
        the losses.

    Raises
    ------
    SectionError
        If barcodes stand twice on a side, none has a place, or less than half of the counted ones
        have and `allow_loss` is not set.
    """
    refuse_duplicates(counted, "barcodes of the counts", where)
    refuse_duplicates(placed, "barcodes of the positions", where)
    table = {barcode: i for i, barcode in enumerate(placed)}
    pairs = [(i, table[b]) for i, b in enumerate(counted) if b in table]
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    beside = set(counted) & set(off_tissue)
    notes = judge_join(
        joined=len(found),
        counted=len(counted) - len(beside),
        placed=len(placed),
        where=where,
        allow_loss=allow_loss,
    )
    return found[:, 0], found[:, 1], notes


def judge_join(
    *, joined: int, counted: int, placed: int, where: Path, what: str = "spots", allow_loss: bool
) -> tuple[str, ...]:
    """Tell the losses of a join of counts and places, or refuse it.

    Parameters
    ----------
    joined, counted, placed
        How many are in both, have counts, have a place under tissue.
    where
        The section, for messages.
    what
        What was measured: spots, bins.
    allow_loss
        Go on where less than half of the counted ones have a place.

    Raises
    ------
    SectionError
        If none is in both, or less than half of the counted ones have a place and `allow_loss`
        is not set.
    """
    told = (
        f"{joined} of {counted} {what} with counts have a place under tissue; "
        f"{placed - joined} of {placed} places under tissue have no counts"
    )
    few = joined < MATCHED_AT_LEAST * counted
    if not joined or (few and not allow_loss):
        hint = "give the counts and the positions of the same run"
        raise SectionError(
            f"counts and positions do not belong together: {told}",
            where=where,
            hint=f"{hint}, or pass --allow-loss to go on with what matches" if joined else hint,
        )
    if few:
        log.warning("%s: %s", where, told)
    return (told,) if joined < max(counted, placed) else ()


def assemble(
    row: SheetRow,
    *,
    assay: str,
    counts: sp.csr_matrix,
    panel: Panel,
    barcodes: Sequence[str],
    xy_px: NDArray[np.float64],
    scale: Scale,
    slide_path: Path | None,
    pitch_um: float | None,
    spot_diameter_um: float | None,
    notes: tuple[str, ...] = (),
    reference_image: ReferenceImage | None = None,
) -> Section:
    """Check what every section must hold, and make it.

    Raises
    ------
    SectionError
        If barcodes stand twice, a place is not finite, there are no spots, or no counts at all.
    """
    where = row.expression
    if not len(barcodes) or not len(panel):
        lost = "".join(f" ({note})" for note in notes)
        raise SectionError(
            f"{len(barcodes)} spots and {len(panel)} genes{lost}",
            where=where,
            hint="give a section with spots under tissue and genes",
        )
    refuse_duplicates(barcodes, "barcodes", where)
    if "" in barcodes:
        raise SectionError(
            f"spot number {list(barcodes).index('') + 1} has an empty barcode",
            where=where,
            hint="name every spot",
        )
    if xy_px.shape != (len(barcodes), 2) or counts.shape != (len(barcodes), len(panel)):
        raise SectionError(
            f"{len(barcodes)} barcodes, {len(panel)} genes, positions {xy_px.shape} and counts "
            f"{counts.shape} do not fit together",
            where=where,
            hint="give counts and positions of the same spots",
        )
    bad = np.flatnonzero(~np.isfinite(xy_px).all(axis=1))
    if len(bad):
        raise SectionError(
            f"{len(bad)} spots have no finite position, the first is {barcodes[bad[0]]}",
            where=where,
            hint="leave those spots out, or give their places",
        )
    if not counts.nnz:
        raise SectionError(
            f"section {row.section} has zero counts in all of its {len(barcodes)} spots",
            where=where,
            hint="check that this is the filtered matrix of the right run",
        )
    for note in notes:
        log.info("%s: %s", where, note)
    return Section(
        section=row.section,
        donor=row.donor,
        tissue=row.tissue,
        species=row.species,
        assay=row.assay or assay,
        counts=counts,
        panel=panel,
        barcodes=np.asarray(barcodes, dtype=np.str_),
        xy_px=np.ascontiguousarray(xy_px, dtype=np.float64),
        source=where,
        slide_path=slide_path,
        slide_mpp=scale.mpp,
        mpp_source=scale.source,
        spot_diameter_um=spot_diameter_um,
        pitch_um=pitch_um,
        fields=row.fields,
        notes=(*notes, *scale.notes),
        reference_image=reference_image,
    )
