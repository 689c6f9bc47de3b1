"""Tiles of training spots, decoded once and mapped from disk in every epoch.

A file is plain NumPy, (n, scales, px, px, 3) uint8 in the order of the spots. Its name is the
digest of the slide, and of places, mpp and tile geometry; it appears when all tiles are in it.
"""

from __future__ import annotations

import logging
import shutil
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.files import cache_dir, canonical_json, digest, whole_file
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue import open_slide
from bleepdb.tissue.stream import TileStream
from bleepdb.tissue.tiles import check_places

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.geometry import TileGeometry

log = logging.getLogger(__name__)

FOLDER: Final = "tiles"
VERSION: Final = "1"
RESERVE: Final = 2**28
"""Bytes that stay free on the disk."""
TILES_AT_ONCE: Final = 64


def stored_tiles(
    slide_path: Path,
    xy_px: NDArray[np.float64],
    *,
    slide_mpp: float,
    geometry: TileGeometry,
    max_upsampling: float = MAX_UPSAMPLING,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Return the tiles around places of a slide, decoded where they are not kept yet.

    Parameters
    ----------
    slide_path, xy_px, slide_mpp, geometry, max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    progress
        Called with (places done, places).

    Returns
    -------
    numpy.ndarray
        (n, scales, px, px, 3) uint8 RGB, mapped read-only from its file.

    Raises
    ------
    SlideError
        If the slide cannot be read there.
    SectionError
        If the disk has no room; nothing is written then.
    """
    places = np.ascontiguousarray(xy_px, dtype=np.float64).reshape(-1, 2)
    px = geometry.tile_px
    shape = len(places), len(geometry.scales_um), px, px, 3
    with open_slide(slide_path, mpp=slide_mpp) as slide:
        check_places(slide, places, slide_mpp, geometry, max_upsampling)
        path = tile_file(slide.digest, places, slide_mpp, geometry)
        found = _read(path, shape)
        if found is None:
            _make_room(path, int(np.prod(shape)))
            with whole_file(path) as part:
                made = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
                done = 0
                with TileStream(
                    slide,
                    places,
                    slide_mpp=slide_mpp,
                    geometry=geometry,
                    batch=TILES_AT_ONCE,
                    max_upsampling=max_upsampling,
                    reuse=True,
                ) as stream:
                    for rows, tiles in stream:
                        made[rows] = tiles
                        done += len(rows)
                        if progress is not None:
                            progress(done, len(places))
                made.flush()
                del made
            found = _read(path, shape)
    if progress is not None:
        progress(len(places), len(places))
    if found is None:
        raise SectionError(
            "the tiles just written cannot be read back",
            where=path,
            hint="check the disk, or name another folder in BLEEPDB_CACHE",
        )
    return found


def tile_file(
    slide_digest: str, places: NDArray[np.float64], slide_mpp: float, geometry: TileGeometry
) -> Path:
    """Path of the tiles of these places: the slide's digest, and that of all else."""
    about = {"mpp": float(slide_mpp), "geometry": geometry.to_json(), "version": VERSION}
    rest = digest("tiles", canonical_json(about), places.astype("<f8").tobytes())
    return cache_dir() / FOLDER / f"{slide_digest}-{rest[:32]}.npy"


def drop_tiles(slide_digests: Collection[str]) -> int:
    """Remove the stored tiles of some slides; return how many files went."""
    count = 0
    for path in sorted((cache_dir() / FOLDER).glob("*.npy")):
        if path.name.lstrip(".").partition("-")[0] in slide_digests:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Map a file; None where it is not there or not what it should be."""
    if not path.is_file():
        return None
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        log.warning("%s is damaged (%s): the tiles are decoded again", path, error)
        return None
    if found.shape != shape or found.dtype != np.uint8:
        log.warning("%s is damaged: the tiles are decoded again", path)
        return None
    made: NDArray[np.uint8] = found
    return made


def _make_room(path: Path, needed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < needed + RESERVE:
        raise SectionError(
            f"the tiles of its spots take {needed / 2**30:.2f} GB, and {free / 2**30:.2f} GB are "
            "free",
            where=path.parent,
            hint="free some space, or name another folder in BLEEPDB_CACHE",
        )
