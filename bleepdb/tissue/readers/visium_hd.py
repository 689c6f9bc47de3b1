"""Sections of Visium HD: bins of one size, pooled to about the size of a spot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bleepdb.errors import SectionError
from bleepdb.tissue.binning import TARGET_UM, bins_a_side, plan_blocks, pool
from bleepdb.tissue.readers import positions as tables
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.assemble import assemble, judge_join, panel_of
from bleepdb.tissue.readers.outs import SQUARE, find_outs, hd_bin
from bleepdb.tissue.readers.spaceranger import (
    BIN_UM,
    MPP,
    image_factor,
    positive,
    read_scalefactors,
    reference_of,
)
from bleepdb.tissue.readers.tables import refuse_duplicates
from bleepdb.tissue.readers.tenx import open_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

ASSAY: Final = "visium-hd"
AGAIN: Final = "fetch the folder again as Space Ranger wrote it"
BIN_NAME: Final = r"^s_(?P<um>\d{3})um_(?P<row>\d{5})_(?P<col>\d{5})(?:-\d+)?$"
FIT_ON: Final = 200_000
GRID: Final = 2**12
"""More than the 3,350 bins of 2 µm along a capture area; arrays beyond it are joined by name."""


@dataclass(frozen=True)
class Bins:
    """The table of positions of a bin size.

    Attributes
    ----------
    names
        (bins,) bytes, fixed width.
    in_tissue
        (bins,) bool.
    array_row, array_col
        (bins,) int64.
    xy_px
        (bins, 2) float64.
    """

    names: NDArray[np.bytes_]
    in_tissue: NDArray[np.bool_]
    array_row: NDArray[np.int64]
    array_col: NDArray[np.int64]
    xy_px: NDArray[np.float64]


def read_visium_hd(
    row: SheetRow,
    *,
    slide_mpp: float | None = None,
    bin_um: float | None = None,
    allow_loss: bool = False,
) -> Section:
    """Read a Visium HD section from ``outs/``, ``binned_outputs/`` or one ``square_XXXum/``.

    Bins under tissue are pooled to squares of about 56 µm, or of `bin_um`; where several bin
    sizes are there, the largest that divides that edge is read. Positions are treated as
    `read_spaceranger` does.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel of the row's image that the user states.
    bin_um
        Edge of the squares in µm; the bins' own size leaves them as they are.
    allow_loss
        Go on where less than half of the counted bins have a place.

    Raises
    ------
    SectionError
        If a part is missing or damaged, counts and positions do not belong together, or bins
        cannot be pooled so.
    GeneError
        If there are several genomes, or another species than the sheet says.
    """
    target_um = TARGET_UM if bin_um is None else bin_um
    folder = hd_bin(row.expression, target_um) or row.expression
    outs = find_outs(folder)
    if outs is None or outs.matrix is None:
        raise SectionError("a bin folder without its matrix or spatial/", where=folder, hint=AGAIN)
    factors = read_scalefactors(outs)
    native_um = positive(factors, BIN_UM, outs) or _named_um(folder)
    if native_um is None:
        raise SectionError(f"no {BIN_UM} in its scalefactors", where=folder, hint=AGAIN)
    path = tables.find_positions(outs)
    bins = read_bins(path)
    side = bins_a_side(native_um, target_um, folder)
    factor = image_factor(row.image, outs, factors)
    reference, doubts = reference_of(outs, factors, factor)
    with open_matrix(outs.matrix) as matrix:
        place_of = _match(matrix.barcodes, bins.names, outs.matrix, path)
        off_tissue = (place_of >= 0) & ~bins.in_tissue[place_of]
        row_of = np.flatnonzero((place_of >= 0) & ~off_tissue)
        told = judge_join(
            joined=len(row_of),
            # A raw matrix holds the bins off the tissue too, which are no loss.
            counted=len(matrix.barcodes) - (int(off_tissue.sum()) if outs.raw else 0),
            placed=int(bins.in_tissue.sum()),
            where=folder,
            what="bins",
            allow_loss=allow_loss,
        )
        place_of = place_of[row_of]
        panel = panel_of(matrix.symbols, matrix.gene_ids, row.species, matrix.source)
        block_of = np.full(len(matrix.barcodes), -1, dtype=np.int64)
        if side == 1:
            block_of[row_of] = np.arange(len(row_of))
            barcodes = [str(n) for n in np.char.decode(matrix.barcodes[row_of], "utf-8")]
            xy_px, edge_um, notes = bins.xy_px[place_of], native_um, told[:0]
        else:
            usable = np.zeros(len(bins.names), dtype=np.bool_)
            usable[place_of] = True
            blocks = plan_blocks(
                bins.array_row, bins.array_col, bins.xy_px, usable,
                bin_um=native_um, side=side, where=path,
            )  # fmt: skip
            block_of[row_of] = blocks.of_bin[place_of]
            barcodes, xy_px = blocks.names, blocks.xy_px
            edge_um, notes = blocks.edge_um, blocks.notes
        counts = pool(matrix.runs(), block_of, len(barcodes), len(panel))
    step = max(1, len(bins.names) // FIT_ON)
    array = np.column_stack([bins.array_col[::step], bins.array_row[::step]])
    array_um = native_um * array.astype(np.float64)
    derived = [
        ("scalefactors", positive(factors, MPP, outs)),
        ("spot pitch", scales.mpp_of_array(array_um, bins.xy_px[::step], native_um)),
    ]
    on_image = [(source, None if m is None else m / factor) for source, m in derived]
    return assemble(
        row,
        assay=ASSAY,
        counts=counts,
        panel=panel,
        barcodes=barcodes,
        xy_px=xy_px * factor,
        scale=scales.choose_mpp(
            [("--slide-mpp", slide_mpp), ("sheet", row.mpp), *on_image], folder
        ),
        slide_path=row.image,
        pitch_um=edge_um,
        spot_diameter_um=edge_um,
        notes=(*told, *notes, *doubts),
        reference_image=reference,
    )


def read_bins(path: Path) -> Bins:
    """Read the table of positions of a bin size: parquet, or CSV for small ones.

    Where the columns ``array_row`` and ``array_col`` are absent, names such as
    ``s_008um_00001_00002-1`` tell them.

    Raises
    ------
    SectionError
        If the table is missing or damaged, lacks columns, or holds what is not a number.
    """
    if path.suffix != ".parquet":
        read = tables.read_positions(path)
        return Bins(
            np.asarray(read.barcodes, dtype=np.bytes_),
            read.in_tissue,
            read.array_row.astype(np.int64),
            read.array_col.astype(np.int64),
            read.xy_px,
        )
    needed = (tables.BARCODE, tables.IN_TISSUE, tables.Y, tables.X)
    table = tables.read_parquet(path, needed, optional=(tables.ROW, tables.COL))
    inside, y, x = (tables.numbers(table, c, path) for c in needed[1:])
    names = table[tables.BARCODE]
    if {tables.ROW, tables.COL} <= set(table.column_names):
        array_row, array_col = (tables.numbers(table, c, path) for c in (tables.ROW, tables.COL))
    else:
        found = pc.extract_regex(names, BIN_NAME)
        if found.null_count:
            raise SectionError(
                f"no columns {tables.ROW} and {tables.COL}, and names such as "
                f"{str(names[0])[:40]!r} do not tell them",
                where=path,
                hint=AGAIN,
            )
        array_row, array_col = (
            pc.struct_field(found, part).cast(pa.float64()).to_numpy() for part in ("row", "col")
        )
    return Bins(
        _fixed(names),
        tables.under_tissue(inside, path),
        np.asarray(array_row).astype(np.int64),
        np.asarray(array_col).astype(np.int64),
        np.column_stack([x, y]),
    )


def _fixed(names: pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Names as bytes of one width, without a Python object for each."""
    width = int(pc.max(pc.binary_length(names)).as_py())
    made = np.zeros(len(names), dtype=f"S{max(width, 1)}")
    at = 0
    for chunk in names.chunks:
        step = 2**20
        for start in range(0, len(chunk), step):
            part = chunk.slice(start, step)
            made[at : at + len(part)] = part.cast(pa.binary()).to_numpy(zero_copy_only=False)
            at += len(part)
    return made


def _named_um(folder: Path) -> float | None:
    found = SQUARE.fullmatch(folder.name)
    return None if found is None else float(found.group(1))


def _match(
    counted: NDArray[np.bytes_], placed: NDArray[np.bytes_], counts: Path, positions: Path
) -> NDArray[np.int64]:
    """Position in `placed` of each counted name, -1 where it is not there."""
    own, other = _grid_keys(counted), _grid_keys(placed)
    if own is None or other is None or _frame(counted[0]) != _frame(placed[0]):
        refuse_duplicates(
            np.char.decode(counted, "utf-8").tolist(), "barcodes of the counts", counts
        )
        refuse_duplicates(
            np.char.decode(placed, "utf-8").tolist(), "barcodes of the positions", positions
        )
        order = np.argsort(placed, kind="stable")
        at = np.minimum(np.searchsorted(placed[order], counted), len(placed) - 1)
        return np.where(placed[order[at]] == counted, order[at], -1)
    for keys, what, where in ((own, "the counts", counts), (other, "the positions", positions)):
        seen = np.zeros(GRID * GRID, dtype=np.bool_)
        seen[keys] = True
        twice = len(keys) - int(seen.sum())
        if twice:
            raise SectionError(
                f"{twice} barcodes of {what} stand more than once", where=where, hint=AGAIN
            )
    table = np.full(GRID * GRID, -1, dtype=np.int32)
    table[other] = np.arange(len(placed), dtype=np.int32)
    return table[own].astype(np.int64)


def _frame(name: bytes) -> tuple[bytes, bytes]:
    """Return what of a name is the same in all: ``s_008um_`` and ``-1``."""
    return name[:8], name[19:]


def _grid_keys(names: NDArray[np.bytes_]) -> NDArray[np.int64] | None:
    """One whole number a name such as ``s_008um_00001_00002-1``; None where one is otherwise."""
    width = names.dtype.itemsize
    if not len(names) or width < 19 or not re.fullmatch(BIN_NAME.encode(), names[0]):
        return None
    letters = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), width)
    same = [*range(8), 13, *range(19, width)]
    if any((letters[:, c] != letters[0, c]).any() for c in same):
        return None
    row, col = _number(letters, 8), _number(letters, 14)
    if row is None or col is None:
        return None
    if row.max() >= GRID or col.max() >= GRID:
        return None
    return np.asarray(row * GRID + col)


def _number(letters: NDArray[np.uint8], first: int) -> NDArray[np.int64] | None:
    """(names,) numbers of five digits from column `first` on; None where a letter is no digit."""
    found = np.zeros(len(letters), dtype=np.int64)
    for column in range(first, first + 5):
        digit = letters[:, column]
        if digit.min() < ord("0") or digit.max() > ord("9"):
            return None
        found *= 10
        found += digit
        found -= ord("0")
    return found
