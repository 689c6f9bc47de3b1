"""Bins of a fine grid pooled into larger squares: counts summed, places on a regular grid.

Visium HD measures squares of 2, 8 or 16 µm, each with a few counts. Pooled to about the size of a
Visium spot (55 µm) they compare with other assays, and a section has thousands of places instead
of millions. A block is `k` x `k` bins of the array, counted from its origin, so that the same
array always gives the same blocks, by the same names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.sparse as sp

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

TARGET_UM: Final = 56.0
LEAST_SHARE: Final = 0.5
"""A block of which less than this share of bins is under tissue and counted is left out."""
LARGEST_UM: Final = 1_000.0
MOST_STEPS: Final = 2**20
FIT_ON: Final = 200_000
LOOSE: Final = 0.5
"""Bins whose median distance from the fitted grid is above this share of a bin follow no grid."""
MERGE_AT: Final = 2**25
"""Stored values of partial sums that are merged."""


@dataclass(frozen=True)
class Blocks:
    """Squares of the array that bins are pooled into.

    Attributes
    ----------
    edge_um
        Edge of a block in µm.
    of_bin
        (bins,) int64: the block of each bin, -1 for bins that go into none.
    names
        One a block, rising by row and column: ``s_056um_00012_00034``.
    xy_px
        (blocks, 2) float64, centres.
    notes
        What was lost or chosen, one sentence each.
    """

    edge_um: float
    of_bin: NDArray[np.int64]
    names: list[str]
    xy_px: NDArray[np.float64]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def bins_a_side(bin_um: float, target_um: float, where: Path) -> int:
    """Return how many bins stand along a block's edge, so that it is nearest to the target.

    Raises
    ------
    SectionError
        If the target is smaller than a bin, or larger than a millimetre.
    """
    if not math.isfinite(target_um) or not 0 < target_um <= LARGEST_UM:
        raise SectionError(
            f"bins of {target_um:g} µm are asked for",
            where=where,
            hint=f"name a size up to {LARGEST_UM:g} µm with --bin-um",
        )
    if target_um < 0.99 * bin_um:
        raise SectionError(
            f"holds bins of {bin_um:g} µm, which cannot be split into {target_um:g} µm",
            where=where,
            hint=f"pass --bin-um {bin_um:g} or more, or name a folder of smaller bins",
        )
    steps = target_um / bin_um
    below = max(1, math.floor(steps))
    return below if steps / below <= (below + 1) / steps else below + 1


def plan_blocks(
    array_row: NDArray[np.int64],
    array_col: NDArray[np.int64],
    xy_px: NDArray[np.float64],
    usable: NDArray[np.bool_],
    *,
    bin_um: float,
    side: int,
    where: Path,
) -> Blocks:
    """Lay blocks over an array of bins.

    Parameters
    ----------
    array_row, array_col
        (bins,) places on the array, of all bins that the table of positions lists.
    xy_px
        (bins, 2) centres in pixels.
    usable
        (bins,) bool: under tissue, and counted.
    bin_um
        Edge of a bin.
    side
        Bins along the edge of a block.
    where
        The table, for messages.

    Returns
    -------
    Blocks
        A block stays where at least half of its bins that the table lists are usable. Its centre
        is the middle of the whole block on the affine map from array to pixels, not the mean of
        its members, so that centres form a regular grid.

    Raises
    ------
    SectionError
        If places on the array are negative, out of reach, or stand twice; if pixels do not
        follow the array; or if no block is left.
    """
    if len(array_row) and (
        min(array_row.min(), array_col.min()) < 0
        or max(array_row.max(), array_col.max()) >= MOST_STEPS
    ):
        raise SectionError(
            "places on the array are negative or out of reach",
            where=where,
            hint="fetch the table again as Space Ranger wrote it",
        )
    width = int(array_col.max(initial=0)) + 1
    places = array_row[usable] * width + array_col[usable]
    twice = len(places) - int(np.count_nonzero(np.diff(np.sort(places)))) - bool(len(places))
    if twice:
        raise SectionError(
            f"{twice} bins under tissue share their place on the array with another",
            where=where,
            hint="give the table of one bin size",
        )
    affine = array_to_px(array_row, array_col, xy_px, where)
    across = width // side + 1
    block = (array_row // side) * across + array_col // side
    known, members = np.unique(block[usable], return_counts=True)
    listed = _counted(block, known)
    kept = members >= LEAST_SHARE * listed
    if not kept.any():
        raise SectionError(
            f"no block of {side} x {side} bins has half of its bins under tissue with counts",
            where=where,
            hint=f"pass --bin-um {bin_um:g} to take the bins as they are",
        )
    chosen = known[kept]
    at = np.minimum(np.searchsorted(chosen, block), len(chosen) - 1)
    of_bin = np.where(usable & (chosen[at] == block), at, -1)
    rows, cols = np.divmod(chosen, across)
    middle = (side - 1) / 2
    grid = np.column_stack([cols * side + middle, rows * side + middle, np.ones(len(chosen))])
    edge_um = bin_um * side
    pooled = (
        f"bins of {bin_um:g} µm are pooled {side} x {side} to {edge_um:g} µm: "
        f"{len(chosen)} places of {int(members[kept].sum())} bins; {int((~kept).sum())} blocks "
        f"with less than half of their bins ({int(members[~kept].sum())} bins) are left out"
    )
    notes = [pooled]
    typical = float(np.median(listed[kept]))
    if typical < LEAST_SHARE * side * side:
        notes.append(
            f"the table of positions is thinned: it lists {typical:.0f} of {side * side} bins of "
            "a block (median)"
        )
    names = [
        f"s_{edge_um:03.0f}um_{r:05d}_{c:05d}"
        for r, c in zip(rows.tolist(), cols.tolist(), strict=True)
    ]
    return Blocks(edge_um, of_bin, names, grid @ affine, tuple(notes))


def array_to_px(
    array_row: NDArray[np.int64],
    array_col: NDArray[np.int64],
    xy_px: NDArray[np.float64],
    where: Path,
) -> NDArray[np.float64]:
    """Fit the affine map from (column, row, 1) on the array to (x, y) in pixels: (3, 2).

    Raises
    ------
    SectionError
        If the places lie on one line, or do not follow the array.
    """
    step = max(1, len(array_row) // FIT_ON)
    design = np.column_stack(
        [array_col[::step], array_row[::step], np.ones(len(array_row[::step]))]
    )
    target = xy_px[::step]
    if np.linalg.matrix_rank(design) < 3:
        raise SectionError(
            "bins lie on one line of the array", where=where, hint="give the whole section"
        )
    affine = np.linalg.lstsq(design, target, rcond=None)[0]
    step_px = math.sqrt(abs(float(np.linalg.det(affine[:2]))))
    off = float(np.median(np.linalg.norm(design @ affine - target, axis=1)))
    if step_px == 0 or off > LOOSE * step_px:
        raise SectionError(
            f"places in pixels do not follow the array (median {off:.1f} px off a grid of "
            f"{step_px:.1f} px)",
            where=where,
            hint="fetch the table again as Space Ranger wrote it",
        )
    return np.asarray(affine)


def _counted(block: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bins each known block lists."""
    if not len(known):
        return np.zeros(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, block), len(known) - 1)
    return np.bincount(at[known[at] == block], minlength=len(known)).astype(np.int64)


def pool(
    runs: Iterable[tuple[int, sp.csr_matrix]],
    block_of: NDArray[np.int64],
    blocks: int,
    genes: int,
) -> sp.csr_matrix:
    """Sum counts over the bins of each block.

    Parameters
    ----------
    runs
        (first row, counts) of runs of rows, CSR, int64.
    block_of
        (rows,) int64, the block of each row, -1 for none.
    blocks, genes
        Shape of the result.

    Returns
    -------
    scipy.sparse.csr_matrix
        (blocks, genes) int64, sorted indices. Memory holds the result, one run, and partial
        sums of at most 2^25 values beside it.
    """
    none = np.zeros(0, dtype=np.int64)
    total = sp.csr_matrix((none, (none, none)), shape=(blocks, genes))
    waiting: list[sp.csr_matrix] = []
    stored = 0
    for start, counts in runs:
        own = block_of[start : start + counts.shape[0]]
        rows = np.flatnonzero(own >= 0)
        if not len(rows):
            continue
        gather = sp.csr_matrix(
            (np.ones(len(rows), dtype=np.int64), (own[rows], rows)),
            shape=(blocks, counts.shape[0]),
        )
        waiting.append(gather @ counts)
        stored += waiting[-1].nnz
        if stored > MERGE_AT:
            total, waiting, stored = sum(waiting, total), [], 0
    total = sp.csr_matrix(sum(waiting, total))
    total.sort_indices()
    return total
