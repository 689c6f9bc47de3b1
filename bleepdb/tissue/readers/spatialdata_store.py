"""Sections from SpatialData stores: a table, the region that it annotates, an image's pixels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd

from bleepdb.errors import SectionError
from bleepdb.tissue.binning import TARGET_UM, bins_a_side, plan_blocks, pool
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.annotated import genes_of, read_counts, read_frame
from bleepdb.tissue.readers.assemble import as_counts, assemble, judge_join, panel_of
from bleepdb.tissue.readers.elements import (
    Picture,
    read_pictures,
    read_pixels,
    read_region,
)
from bleepdb.tissue.readers.ngff import GLOBAL, apply, shared_system
from bleepdb.tissue.readers.places import visium_mpp
from bleepdb.tissue.readers.positions import COL, IN_TISSUE, ROW
from bleepdb.tissue.readers.reference import reference_among
from bleepdb.tissue.readers.store import POINTS, SHAPES, TABLES, store_of
from bleepdb.tissue.readers.store_sections import SQUARE, Chosen, choose
from bleepdb.tissue.readers.zarr_check import check_zarr
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.tissue.readers.elements import Region
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

AGAIN: Final = "read and write the store with a current spatialdata"
VISIUM, HD, OTHER = "visium", "visium-hd", "spatialdata"
REFERENCE_PX: Final = 2**23
"""Pixels of the level that serves as a reference image."""


def read_spatialdata(
    row: SheetRow,
    *,
    slide_mpp: float | None = None,
    bin_um: float | None = None,
    allow_loss: bool = False,
) -> Section:
    """Read a section from a SpatialData ``.zarr``.

    The path is the store where it holds one table of one region, else ``X.zarr/tables/NAME`` or
    ``X.zarr/shapes/REGION``. Places are the centres of the region's circles, polygons or points,
    mapped to the pixels of the row's image where the store holds an image of its size, else of
    the store's largest image, else to the coordinate system ``global``. Squares of Visium HD are
    pooled as `read_visium_hd` does.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel of that image, as the user states it.
    bin_um
        Edge of the squares that bins of Visium HD are pooled to.
    allow_loss
        Go on where less than half of the counted instances have a place.

    Raises
    ------
    SectionError
        If the store is damaged, points outside itself, holds several sections, or what it holds
        is no section.
    GeneError
        If genes stand twice or are of another species.
    MissingExtraError
        If it holds polygons and shapely is not there.
    """
    store = store_of(row.expression)
    if store is None:
        raise SectionError("not a SpatialData store", where=row.expression, hint=AGAIN)
    chosen = choose(store, TARGET_UM if bin_um is None else bin_um)
    where = store.root / TABLES / chosen.table
    obs, counts, symbols, gene_ids = _table(store.root, chosen)
    region = _region(store.root, chosen)
    at = region.index.get_indexer(pd.Index(obs[chosen.instance_key]))
    told = judge_join(
        joined=int((at >= 0).sum()), counted=len(obs), placed=len(region.index), where=where,
        allow_loss=allow_loss,
    )  # fmt: skip
    obs, counts, at = obs[at >= 0], counts[at >= 0], at[at >= 0]
    pictures = read_pictures(store.root)
    to_px, frame, said = _frame(row.image, region, pictures, where)
    xy_px = apply(to_px, region.xy[at])
    native = SQUARE.search(chosen.table) or SQUARE.search(chosen.region)
    if native and {ROW, COL} <= set(obs):
        spots = _pooled(obs, counts, xy_px, float(native.group(1)), bin_um or TARGET_UM, where)
    else:
        spots = _single(row, obs, counts, xy_px, VISIUM if region.circles else OTHER)
    reference, doubts = reference_among(_references(pictures, region, to_px))
    return assemble(
        row,
        assay=spots.assay,
        counts=as_counts(spots.counts, where),
        panel=panel_of(symbols, gene_ids, row.species, where),
        barcodes=spots.barcodes,
        xy_px=spots.xy_px,
        scale=scales.choose_mpp(
            [("--slide-mpp", slide_mpp), ("sheet", row.mpp), ("spot pitch", spots.mpp)], where
        ),
        slide_path=row.image,
        pitch_um=spots.pitch_um,
        spot_diameter_um=spots.spot_um,
        notes=(
            f"table {chosen.table}, region {chosen.region}, places in {frame}",
            *told, *said, *spots.notes, *doubts,
        ),
        reference_image=reference,
    )  # fmt: skip


def _table(root: Path, chosen: Chosen) -> tuple[pd.DataFrame, sp.csr_matrix, list[str], list[str]]:
    """Rows of the chosen region: their table, counts, and the genes' symbols and ids."""
    import zarr  # noqa: PLC0415 - heavy, and only stores need it

    part = f"{TABLES if (root / TABLES).is_dir() else 'table'}/{chosen.table}"
    check_zarr(root, part)
    where = root / part
    try:
        group = zarr.open_group(where, mode="r", use_consolidated=False)
        obs = read_frame(group, "obs", where)
        counts, var = read_counts(group, where)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError) as error:
        said = " ".join(str(error).split())[:160]
        raise SectionError(f"its table cannot be read ({said})", where=where, hint=AGAIN) from error
    if len(obs) != counts.shape[0]:
        raise SectionError(
            f"{counts.shape[0]} rows of counts for {len(obs)} instances", where=where, hint=AGAIN
        )
    for key in (chosen.region_key, chosen.instance_key):
        if key not in obs:
            raise SectionError(f'no obs["{key}"]', where=where, hint=AGAIN)
    own = (obs[chosen.region_key].astype(str) == chosen.region).to_numpy()
    if not own.any():
        raise SectionError(f"no row is of region {chosen.region}", where=where, hint=AGAIN)
    symbols, gene_ids = genes_of(var)
    return obs[own], counts[np.flatnonzero(own)], symbols, gene_ids


def _region(root: Path, chosen: Chosen) -> Region:
    for part in (SHAPES, POINTS):
        if (root / part / chosen.region).is_dir():
            return read_region(root, part, chosen.region)
    labels = (root / "labels" / chosen.region).is_dir()
    raise SectionError(
        f"table {chosen.table} annotates {chosen.region}, which "
        + ("is an image of labels" if labels else "is not there"),
        where=root,
        hint="give a table that annotates circles, polygons or points",
    )


def _frame(
    image: Path | None, region: Region, pictures: list[Picture], where: Path
) -> tuple[NDArray[np.float64], str, list[str]]:
    """Map from the region's frame to pixels, the frame's name, and what is to be told."""
    reached = [p for p in pictures if shared_system(region.systems, p.systems) is not None]
    if image is not None:
        with open_slide(image) as slide:
            size = slide.size_px
        same = [
            p for p in reached if max(abs(a - b) for a, b in zip(p.size_px, size, strict=True)) <= 1
        ]
        if same:
            return _to_picture(region, same[0]), f"pixels of image {same[0].name}", []
    elif reached:
        largest = reached[0]
        size = largest.size_px
        note = (
            f"image {largest.name} of the store ({size[0]} x {size[1]} px) becomes the slide where "
            f"the column image names {largest.root / 'images' / largest.name}"
        )
        return _to_picture(region, largest), f"pixels of image {largest.name}", [note]
    names = sorted(region.systems)
    if GLOBAL not in names and len(names) != 1:
        raise SectionError(
            f"its places are in {len(names)} coordinate systems ({', '.join(names[:6])}) and in "
            "none of an image of the slide's size",
            where=where,
            hint=f"write the store with a coordinate system {GLOBAL} of the slide's pixels",
        )
    name = GLOBAL if GLOBAL in names else names[0]
    return region.systems[name], f"coordinate system {name}", []


def _to_picture(region: Region, picture: Picture) -> NDArray[np.float64]:
    system = shared_system(region.systems, picture.systems) or GLOBAL
    return np.asarray(np.linalg.inv(picture.systems[system]) @ region.systems[system])


def _references(
    pictures: list[Picture], region: Region, to_px: NDArray[np.float64]
) -> list[tuple[str, float, Callable[[], NDArray[np.uint8]]]]:
    """Pictures of the store in the frame of the places, but for scale; the largest first."""
    found: list[tuple[str, float, Callable[[], NDArray[np.uint8]]]] = []
    for picture in pictures:
        if picture.channels not in (3, 4) or shared_system(region.systems, picture.systems) is None:
            continue
        level, size = next(
            (lv for lv in picture.levels if lv[1][0] * lv[1][1] <= REFERENCE_PX), picture.levels[-1]
        )
        # From the places' frame to the picture's largest level, and from there to the level.
        own = _to_picture(region, picture) @ np.linalg.inv(to_px)
        scale = own[0, 0] * size[0] / picture.size_px[0]
        plain = scale * np.eye(2)
        of_level = own[:2, :2] * size[0] / picture.size_px[0]
        shift_px = np.abs(own[:2, 2]).max()
        if scale > 0 and np.allclose(of_level, plain, atol=0.02 * scale) and shift_px <= 1:
            found.append(
                (f"{picture.root / level}", float(scale), partial(read_pixels, picture, level))
            )
    return found


def _inside(obs: pd.DataFrame) -> NDArray[np.bool_]:
    if IN_TISSUE not in obs:
        return np.ones(len(obs), dtype=np.bool_)
    return np.asarray(pd.to_numeric(obs[IN_TISSUE], errors="coerce") == 1)


class _Spots(NamedTuple):
    """What a section is made of, whichever way its spots came to be."""

    counts: sp.csr_matrix
    barcodes: list[str]
    xy_px: NDArray[np.float64]
    assay: str
    pitch_um: float | None
    spot_um: float | None
    mpp: float | None
    notes: tuple[str, ...]


def _single(
    row: SheetRow, obs: pd.DataFrame, counts: sp.csr_matrix, xy_px: NDArray[np.float64], assay: str
) -> _Spots:
    """Take the instances under tissue as they are."""
    inside = _inside(obs)
    note = f"{(~inside).sum()} of {len(inside)} spots are not under tissue"
    kept = np.flatnonzero(inside)
    obs, xy_px = obs.iloc[kept], xy_px[kept]
    visium = (row.assay or assay).lower() == VISIUM
    return _Spots(
        counts[kept],
        [str(b) for b in obs.index],
        xy_px,
        assay,
        scales.VISIUM_PITCH_UM if visium else None,
        scales.VISIUM_SPOT_UM if visium else None,
        visium_mpp(xy_px, obs) if visium else None,
        () if inside.all() else (note,),
    )


def _pooled(
    obs: pd.DataFrame,
    counts: sp.csr_matrix,
    xy_px: NDArray[np.float64],
    native_um: float,
    target_um: float,
    where: Path,
) -> _Spots:
    """Pool bins of Visium HD to blocks."""
    inside = _inside(obs)
    side = bins_a_side(native_um, target_um, where)
    array_row, array_col = (obs[c].to_numpy(np.int64) for c in (ROW, COL))
    array_um = native_um * np.column_stack([array_col, array_row]).astype(np.float64)
    mpp = scales.mpp_of_array(array_um, xy_px, native_um)
    if side == 1:
        kept = np.flatnonzero(inside)
        names = [str(b) for b in obs.index[kept]]
        return _Spots(counts[kept], names, xy_px[kept], HD, native_um, native_um, mpp, ())
    blocks = plan_blocks(
        array_row, array_col, xy_px, inside, bin_um=native_um, side=side, where=where
    )
    summed = pool([(0, as_counts(counts, where))], blocks.of_bin, len(blocks), counts.shape[1])
    um = blocks.edge_um
    return _Spots(summed, blocks.names, blocks.xy_px, HD, um, um, mpp, blocks.notes)
