"""JPEG tiles of a TIFF: the bytes of one made a JPEG that any decoder shows right, and decoded.

The colours of such a tile are what the TIFF says (its photometric tag), not what the JPEG says of
itself, and the tables may stand in the TIFF, once for all tiles. A plain decoder follows the
JPEG's own marks: JFIF means YCbCr, else Adobe's APP14 mark says, else the component numbers are
guessed at (T.81, TIFF technical note 2, JFIF 1.02). So the marks of a tile are taken out of
effect, and an APP14 mark that says what the TIFF says is put first.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

import numpy as np
import simplejpeg

from bleepdb.tissue.tiff_index import RGB, TiffError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bleepdb.tissue.tiff_index import Directory

START: Final = b"\xff\xd8"
EOI: Final = 0xD9
SOS: Final = 0xDA
APP0: Final = 0xE0
APP14: Final = 0xEE
COMMENT: Final = 0xFE
TABLES: Final = frozenset({0xDB, 0xC4})
"""Quantisation and Huffman tables: what a tile may leave to the TIFF. A restart interval does not
outlive the tables' own stream."""
FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive, Huffman coded."""
APP14_BYTES: Final = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""The mark without its last byte, the transform: 0 means RGB, 1 YCbCr."""
MIN_BYTES: Final = 4
MOST_BYTES_PER_PX: Final = 8
MOST_HEAD_BYTES: Final = 2**20
"""A tile may not be larger than this and the bytes a pixel: no JPEG is."""


class JpegTiles:
    """Decoder of the JPEG tiles of one directory, for any number of threads.

    Parameters
    ----------
    directory
        8-bit, three samples a pixel, JPEG.

    Raises
    ------
    TiffError
        If the shared tables are not tables.
    """

    def __init__(self, directory: Directory) -> None:
        self.width, self.height = directory.tile
        transform = b"\x00" if directory.photometric == RGB else b"\x01"
        tables = _tables_of(directory.tables) if directory.tables else b""
        self._most = MOST_BYTES_PER_PX * self.width * self.height + MOST_HEAD_BYTES
        self._head = START + APP14_BYTES + transform + tables
        self._scratch = _Scratch()

    def decode(self, handle: int, offset: int, count: int, by: int = 1) -> NDArray[np.uint8]:
        """Decode a tile into memory of this thread, which the next call uses again.

        Parameters
        ----------
        handle
            Open file descriptor.
        offset, count
            Where the tile's bytes lie.
        by
            1, or 2, 4 or 8: how many times smaller it is decoded (the inverse transform of fewer
            frequencies). The sides of the tile must be multiples of it.

        Returns
        -------
        numpy.ndarray
            (height / by, width / by, 3) uint8 RGB.

        Raises
        ------
        TiffError
            If it is no JPEG of the tile's size.
        """
        if not MIN_BYTES <= count <= self._most:
            raise TiffError(
                f"a tile of {count} bytes is no JPEG of {self.width} x {self.height} px"
            )
        # The start mark stands in the head already, so that the tile's own goes elsewhere.
        head = len(self._head)
        raw = self._scratch.raw(head + count - 2, self._head)
        view = memoryview(raw)[: head + count - 2]
        start = self._scratch.start
        if _filled(handle, start, view[head:], offset) != count:
            raise TiffError("the file ends within a tile")
        if start != START:
            raise TiffError("a tile is no JPEG")
        height, width = _tamed(view, head)
        if (width, height) != (self.width, self.height):
            raise TiffError(
                f"a tile is {width} x {height} px and should be {self.width} x {self.height}"
            )
        shape = (self.height // by, self.width // by, 3)
        try:
            pixels = simplejpeg.decode_jpeg(
                view,
                "RGB",
                min_height=shape[0] if by > 1 else 0,
                min_width=shape[1] if by > 1 else 0,
                buffer=self._scratch.pixels(shape),
            )
        except ValueError as error:
            raise TiffError(one_line(error)) from error
        if pixels.shape != shape:
            raise TiffError(f"a tile decodes to {pixels.shape}, not {shape}")
        return pixels  # type: ignore[no-any-return] # simplejpeg has no types


class _Scratch(threading.local):
    """Memory that each thread uses again."""

    def __init__(self) -> None:
        self.start = bytearray(2)
        self._raw = bytearray()
        self._pixels: dict[tuple[int, int, int], NDArray[np.uint8]] = {}

    def raw(self, size: int, head: bytes) -> bytearray:
        if len(self._raw) < size:
            self._raw = bytearray(size + size // 4)
            self._raw[: len(head)] = head
        return self._raw

    def pixels(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        if shape not in self._pixels:
            self._pixels[shape] = np.empty(shape, dtype=np.uint8)
        return self._pixels[shape]


def _filled(handle: int, start: bytearray, room: memoryview, offset: int) -> int:
    """Read bytes into memory that is there; return how many."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [start, room], offset)
    data = os.pread(handle, len(start) + len(room), offset)
    start[:] = data[: len(start)]
    room[: max(0, len(data) - len(start))] = data[len(start) :]
    return len(data)


def _tamed(data: memoryview, start: int) -> tuple[int, int]:
    """Take the colour marks of a JPEG out of effect, in place.

    Parameters
    ----------
    data
        The bytes.
    start
        Where the first segment begins.

    Returns
    -------
    tuple
        (height, width) that its frame states.
    """
    shape = None
    for code, at, end in _segments(data, start):
        if code in {APP0, APP14}:
            data[at + 1] = COMMENT
        elif code in FRAMES:
            if end - at < 10 or data[at + 4] != 8 or data[at + 9] != 3:
                raise TiffError("a tile is not of 3 colours of 8 bits")
            shape = (data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8])
    if shape is None:
        raise TiffError("a tile is no JPEG that is known here")
    return shape


def frame_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) that the frame of a JPEG states.

    Raises
    ------
    TiffError
        If it is no JPEG.
    """
    view = memoryview(data)
    if data[:2] == START:
        for code, at, end in _segments(view, 2):
            if code in FRAMES and end - at >= 9:
                return view[at + 7] << 8 | view[at + 8], view[at + 5] << 8 | view[at + 6]
    raise TiffError("a tile is no JPEG that is known here")


def _tables_of(data: bytes) -> bytes:
    """Return the tables of an abbreviated JPEG stream, without its marks and other segments."""
    if data[:2] != START:
        raise TiffError("the shared JPEG tables are damaged")
    view = memoryview(data)
    return b"".join(view[at:end] for code, at, end in _segments(view, 2) if code in TABLES)


def _segments(data: memoryview, at: int) -> Iterator[tuple[int, int, int]]:
    """Yield (code, begin, end) of the segments of a JPEG up to its first scan or its end."""
    size = len(data)
    while True:
        while at + 1 < size and data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        if at + 1 >= size or data[at] != 0xFF:
            raise TiffError("a JPEG breaks off in its header")
        code = data[at + 1]
        if code in {SOS, EOI}:
            return
        if at + 3 >= size:
            raise TiffError("a JPEG breaks off in its header")
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if end < at + 4 or end > size:
            raise TiffError("a JPEG breaks off in its header")
        yield code, at, end
        at = end
