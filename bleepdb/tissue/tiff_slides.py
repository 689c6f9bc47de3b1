"""TIFF as slides: which directories are the levels, and whether they can be read tile by tile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import openslide

from bleepdb.errors import SlideError
from bleepdb.tissue.ome import is_ome, levels_of
from bleepdb.tissue.openslide_file import GENERIC, OpenSlideFile
from bleepdb.tissue.plain_image import PlainImage, undecodable
from bleepdb.tissue.stated_mpp import FROM_OME, FROM_TAGS, square_mpp
from bleepdb.tissue.strip_tiff import StripTiff
from bleepdb.tissue.tiff_index import JPEG, MAX_TILE_PX, TiffError, one_line, read_directories
from bleepdb.tissue.tiled_tiff import LOSSLESS, TiledTiff, codec_fault

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.tissue.slide import Slide
    from bleepdb.tissue.tiff_index import Directory

log = logging.getLogger(__name__)

APERIO: Final = "aperio"
SAME_SHAPE: Final = 0.02
"""Levels of one image differ in proportion by no more than this share."""
DEEP: Final = 8
GREY: Final = 1
COLOURS: Final = frozenset({3, 4})


def open_tiff(
    path: Path, *, vendor: str | None, mpp: float | None, max_pixels: int | None
) -> Slide:
    """Open a TIFF by what its directories say.

    Parameters
    ----------
    path
        The file.
    vendor
        OpenSlide's name of the format, or None.
    mpp, max_pixels
        As in `open_slide`.

    Raises
    ------
    TiffError
        If another reader should have it; it says why.
    SlideError
        If it is damaged, or holds no 8-bit RGB image.
    """
    directories = read_directories(path)
    first = directories[0]
    _refuse_large_tiles(directories, path)
    if vendor not in {None, GENERIC, APERIO}:
        raise TiffError(f"the levels of {vendor} are more than directories")
    if vendor != APERIO and is_ome(first.description):
        return _ome(path, directories, mpp, max_pixels)
    if vendor != APERIO:
        _refuse_unfit(directories, path)
    if vendor is not None:
        try:
            with OpenSlideFile(path) as reference:
                return _as_openslide(path, directories, reference, mpp)
        except openslide.OpenSlideError as error:
            log.info("%s: OpenSlide refuses it: %s", path, one_line(error))
    if not first.tiled:
        return _in_strips(path, first, mpp, max_pixels, first.tags_mpp, FROM_TAGS)
    levels = (first, *(d for d in directories[1:] if _is_level(d, first)))
    return TiledTiff(
        path,
        levels,
        levels=_factors(levels),
        reader=f"tiled TIFF ({first.codec})",
        file_mpp=first.tags_mpp,
        mpp=mpp,
        mpp_from=FROM_TAGS,
    )


def _ome(
    path: Path, directories: tuple[Directory, ...], mpp: float | None, max_pixels: int | None
) -> Slide:
    image, levels = levels_of(directories, path)
    stated = None if image.mpp is None else square_mpp(*image.mpp, path)
    if not levels[0].tiled:
        return _in_strips(path, levels[0], mpp, max_pixels, stated, FROM_OME)
    return TiledTiff(
        path,
        levels,
        levels=_factors(levels),
        reader=f"OME-TIFF ({levels[0].codec})",
        file_mpp=stated,
        mpp_from=FROM_OME,
        mpp=mpp,
        planes_apart=True,
    )


def _in_strips(
    path: Path,
    directory: Directory,
    mpp: float | None,
    max_pixels: int | None,
    file_mpp: float | None,
    mpp_from: str,
) -> Slide:
    """Open an image in strips; PIL has the rarer kinds, and reads the first directory alone."""
    damage = directory.fault(path.stat().st_size)
    if damage is not None:
        raise undecodable(path, damage)
    try:
        return StripTiff(
            path,
            directory,
            max_pixels=max_pixels,
            file_mpp=file_mpp,
            mpp=mpp,
            mpp_from=mpp_from,
        )
    except TiffError:
        return PlainImage(
            path, mpp=mpp, max_pixels=max_pixels, file_mpp=file_mpp, mpp_from=mpp_from
        )


def _as_openslide(
    path: Path, directories: tuple[Directory, ...], reference: OpenSlideFile, mpp: float | None
) -> TiledTiff:
    """Open a TIFF that OpenSlide reads, where every level is the same by its tiles."""
    levels = _matched(directories, reference.level_sizes)
    file_bytes = path.stat().st_size
    for i, level in enumerate(levels):
        fault = codec_fault(level)
        if fault is not None or level.compression not in {JPEG} | LOSSLESS:
            raise TiffError(f"level {i}: {fault or level.codec + ' is left to OpenSlide'}")
        damage = level.fault(file_bytes)
        if damage is not None:
            raise SlideError(
                f"level {i} is damaged or incomplete: {damage}",
                where=path,
                hint="fetch or export the image again",
            )
        if reference.vendor == APERIO and (level.counts == 0).any():
            raise TiffError(f"level {i} leaves tiles out, which OpenSlide makes of others")
    known = reference.facts()
    return TiledTiff(
        path,
        levels,
        levels=reference.levels,
        reader=f"tiled TIFF ({reference.vendor}, {levels[0].codec})",
        file_mpp=reference.file_mpp,
        mpp=mpp,
        mpp_from=reference.mpp_from or FROM_TAGS,
        extra={key: known[key] for key in ("vendor", "objective_power")},
    )


def _matched(
    directories: tuple[Directory, ...], sizes: tuple[tuple[int, int], ...]
) -> tuple[Directory, ...]:
    """Return the one tiled directory of each size.

    Raises
    ------
    TiffError
        If a level is none of the directories, or more than one.
    """
    found = []
    for i, size in enumerate(sizes):
        of_size = [d for d in directories if d.size == size and d.tiled]
        if len(of_size) != 1:
            raise TiffError(f"level {i} is {len(of_size)} of its directories")
        found.append(of_size[0])
    return tuple(found)


def _factors(levels: tuple[Directory, ...]) -> tuple[float, ...]:
    """Downsampling factor of each level, as OpenSlide reckons it: the mean of both sides."""
    width, height = levels[0].size
    return tuple((width / d.size[0] + height / d.size[1]) / 2 for d in levels)


def _is_level(directory: Directory, base: Directory) -> bool:
    """Whether a directory is the base image made smaller."""
    if not directory.tiled or codec_fault(directory) is not None:
        return False
    across, down = (b / max(1, d) for b, d in zip(base.size, directory.size, strict=True))
    return across > 1 and abs(across / down - 1) <= SAME_SHAPE


def _refuse_large_tiles(directories: tuple[Directory, ...], path: Path) -> None:
    for directory in directories:
        if directory.tiled and directory.tile[0] * directory.tile[1] > MAX_TILE_PX:
            raise SlideError(
                f"its tiles of {directory.tile[0]} x {directory.tile[1]} px are too large",
                where=path,
                hint="export the image again with tiles of 256 to 1024 px",
            )


def _refuse_unfit(directories: tuple[Directory, ...], path: Path) -> None:
    """Refuse images that are no 8-bit picture, which other readers would show as one."""
    first = directories[0]
    alike = sum(d.size == first.size and d.samples == first.samples for d in directories)
    what = None
    if first.bits > DEEP:
        what = f"its pixels have {first.bits} bits a channel"
    elif first.depth != 1:
        what = f"it is a volume of {first.depth} planes"
    elif first.samples not in COLOURS | {GREY}:
        what = f"it has {first.samples} channels, which looks like fluorescence"
    elif alike > 1:
        what = f"it is a stack of {alike} images of one size: focal planes, times or channels"
    if what is not None:
        raise SlideError(what, where=path, hint="export one image as 8-bit RGB")
