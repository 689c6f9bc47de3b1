"""Tiled TIFF, tile by tile: index by tifffile, bytes by position, JPEG by libjpeg-turbo.

The pixels are those of OpenSlide, bit for bit, at whole-number places of every level (OpenSlide
interpolates elsewhere): the same decoder with the same settings, and colours as the TIFF says.
"""

from __future__ import annotations

import contextlib
import os
import struct
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.tissue.jpeg_tiles import JpegTiles, frame_size
from bleepdb.tissue.plain_image import undecodable
from bleepdb.tissue.planes import box_reduced
from bleepdb.tissue.slide import WHITE, Slide
from bleepdb.tissue.stated_mpp import FROM_HEADER
from bleepdb.tissue.tiff_index import (
    CONTIGUOUS,
    JPEG,
    RGB,
    TIFFFILE_ERRORS,
    YCBCR,
    TiffError,
    one_line,
    quiet,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.tiff_index import Directory

LOSSLESS: Final = frozenset({1, 5, 8, 32946, 50000, 34925})
"""None, LZW, deflate (two numbers), zstd, LZMA: pixels are what they are, whoever decodes them."""
JPEG2000: Final = frozenset({33003, 33004, 33005, 34712})
J2K_HEAD_BYTES: Final = 24
UPRIGHT: Final = 1


class TiledTiff(Slide):
    """Levels of 8-bit RGB tiles of a TIFF.

    Parameters
    ----------
    path
        The file.
    directories
        One a level, from the finest.
    levels
        Downsampling factor of each.
    reader
        What the levels are, in words.
    file_mpp, mpp, mpp_from
        As in `Slide`.
    extra
        What else is known, for `facts`.
    planes_apart
        Whether red, green and blue may be stored as tiles of their own.

    Raises
    ------
    TiffError
        If a level cannot be read tile by tile.
    """

    def __init__(
        self,
        path: Path,
        directories: tuple[Directory, ...],
        *,
        levels: tuple[float, ...],
        reader: str,
        file_mpp: float | None = None,
        mpp: float | None = None,
        mpp_from: str = FROM_HEADER,
        extra: dict[str, Any] | None = None,
        planes_apart: bool = False,
    ) -> None:
        file_bytes = path.stat().st_size
        for i, directory in enumerate(directories):
            fault = directory.fault(file_bytes) or codec_fault(directory, planes_apart=planes_apart)
            if fault is not None:
                raise TiffError(f"level {i}: {fault}")
        super().__init__(
            path,
            levels=levels,
            level_sizes=tuple(d.size for d in directories),
            file_mpp=file_mpp,
            mpp=mpp,
            mpp_from=mpp_from,
        )
        self.reader = reader
        self._directories = directories
        self._jpeg = tuple(
            JpegTiles(d) if d.compression == JPEG and d.planar == CONTIGUOUS else None
            for d in directories
        )
        self._extra = extra or {}
        self._handle = os.open(path, os.O_RDONLY)
        self._closing = weakref.finalize(self, _closed, self._handle)

    def region(
        self,
        level: int,
        x: int,
        y: int,
        width: int,
        height: int,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return RGB of a region; tiles that the file leaves out are white."""
        return self._gathered(level, 1, x, y, width, height, out)

    def reduced(
        self,
        level: int,
        by: int,
        x: int,
        y: int,
        width: int,
        height: int,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return RGB of a region made smaller: JPEG tiles by their decoder."""
        tile_w, tile_h = self._directories[level].tile
        if self._jpeg[level] is None or tile_w % by or tile_h % by:
            return super().reduced(level, by, x, y, width, height, out=out)
        return self._gathered(level, by, x, y, width, height, out)

    def facts(self) -> dict[str, Any]:
        """Return what is known of the file."""
        known = {**super().facts(), **self._extra}
        for level, directory in zip(known["levels"], self._directories, strict=True):
            level["tile_px"] = list(directory.tile)
            level["compression"] = directory.codec
        return known

    def close(self) -> None:
        """Close the file."""
        self._handle = -1
        self._closing()

    def _gathered(
        self,
        level: int,
        by: int,
        x: int,
        y: int,
        width: int,
        height: int,
        out: NDArray[np.uint8] | None,
    ) -> NDArray[np.uint8]:
        """Fill a region of a level, `by` times smaller, from its tiles."""
        pixels = np.empty((height, width, 3), dtype=np.uint8) if out is None else out
        tile_w, tile_h = (side // by for side in self._directories[level].tile)
        for row in range(y // tile_h, -(-(y + height) // tile_h)):
            y0, y1 = max(y, row * tile_h), min(y + height, (row + 1) * tile_h)
            for column in range(x // tile_w, -(-(x + width) // tile_w)):
                x0, x1 = max(x, column * tile_w), min(x + width, (column + 1) * tile_w)
                place = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
                tile = self._decoded(level, column, row, by)
                if tile is None:
                    place[...] = WHITE
                else:
                    top, left = row * tile_h, column * tile_w
                    place[...] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def _decoded(self, level: int, column: int, row: int, by: int) -> NDArray[np.uint8] | None:
        """(height, width, 3) of a tile, or None where the file leaves it out."""
        directory, jpeg = self._directories[level], self._jpeg[level]
        index = row * directory.grid[0] + column
        offset, count = int(directory.offsets[index]), int(directory.counts[index])
        if count == 0:
            return None
        try:
            if directory.planar != CONTIGUOUS:
                return self._apart(directory, index)
            if jpeg is None:
                return self._plain(directory, index)
            if by == 1:
                return jpeg.decode(self._handle, offset, count)
            (tile_w, tile_h), (width, height) = self._directories[level].tile, directory.size
            inside = min(tile_w, width - column * tile_w), min(tile_h, height - row * tile_h)
            if inside[0] % by == 0 and inside[1] % by == 0:
                return jpeg.decode(self._handle, offset, count, by)
            # The last pixels would be mixed with what fills the tile up beyond the image.
            return box_reduced(
                jpeg.decode(self._handle, offset, count)[: inside[1], : inside[0]], by
            )
        except (TiffError, OSError) as error:
            raise undecodable(
                self.path, f"tile {column},{row} of level {level}: {one_line(error)}"
            ) from error

    def _apart(self, directory: Directory, index: int) -> NDArray[np.uint8]:
        """Decode a tile whose colours are stored apart, one after the other."""
        tiles = directory.grid[0] * directory.grid[1]
        colours = [self._plain(directory, index + c * tiles, 1) for c in range(directory.samples)]
        return np.concatenate(colours, axis=2)

    def _plain(self, directory: Directory, index: int, samples: int = 3) -> NDArray[np.uint8]:
        """Decode a tile that is no JPEG of three colours."""
        tile_w, tile_h = directory.tile
        count = int(directory.counts[index])
        data = os.pread(self._handle, count, int(directory.offsets[index]))
        if not count or len(data) != count:
            raise TiffError("the file ends within a tile")
        if directory.compression in JPEG2000 and _j2k_size(data) != (tile_w, tile_h):
            raise TiffError(f"it is no JPEG 2000 stream of {tile_w} x {tile_h} px")
        if directory.compression == JPEG and frame_size(data) != (tile_w, tile_h):
            raise TiffError(f"it is no JPEG of {tile_w} x {tile_h} px")
        try:
            with quiet():
                pixels, _, _ = directory.decode(data, index, jpegtables=directory.tables)
        except (RuntimeError, *TIFFFILE_ERRORS) as error:
            raise TiffError(one_line(error)) from error
        # A tile at the edge may come cropped to the image.
        if (
            pixels is None
            or pixels.dtype != np.uint8
            or pixels.ndim != 4
            or pixels.shape[3] != samples
        ):
            raise TiffError("it does not decode to 8-bit RGB")
        if pixels.shape[1] > tile_h or pixels.shape[2] > tile_w:
            raise TiffError(f"it is larger than {tile_w} x {tile_h} px")
        return np.asarray(pixels[0])


def codec_fault(directory: Directory, *, planes_apart: bool = False) -> str | None:
    """Say what keeps pixels from being 8-bit RGB as it is read here; None where nothing does."""
    colours = (
        f"{directory.samples} sample{'s' if directory.samples != 1 else ''} of {directory.bits} "
        f"bits a pixel, photometric {directory.photometric}"
    )
    if directory.depth != 1:
        return f"it is a volume of {directory.depth} planes"
    if directory.bits != 8 or directory.samples != 3:
        return f"{colours}, not 8-bit RGB"
    if directory.planar != CONTIGUOUS and not planes_apart:
        return "its colour planes are stored apart"
    if directory.orientation != UPRIGHT:
        return f"it is stored turned (orientation {directory.orientation})"
    if directory.compression not in {JPEG} | LOSSLESS | JPEG2000:
        return f"compression {directory.codec} is not known here"
    known = {RGB, YCBCR} if directory.compression == JPEG else {RGB}
    return None if directory.photometric in known else f"{colours}, not 8-bit RGB"


def _j2k_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) that a JPEG 2000 codestream states; None where it is none."""
    if len(data) < J2K_HEAD_BYTES or data[:4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top = struct.unpack(">4I", data[8:24])
    return right - left, bottom - top


def _closed(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.close(handle)
