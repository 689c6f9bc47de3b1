"""What a TIFF holds: its directories, read by tifffile, with every number checked before use.

Nothing of the file but its tags is read here, and no name in it is ever used as a path.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tifffile

from bleepdb.tissue.stated_mpp import tags_mpp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MAX_DIRECTORIES: Final = 64
"""A slide has a few levels and a few small pictures; more directories are a stack of images."""
MAX_TILE_PX: Final = 2**24
"""Pixels of the largest tile that is decoded."""
MAGIC: Final = (b"II\x2a\x00", b"MM\x00\x2a", b"II\x2b\x00", b"MM\x00\x2b")
JPEG: Final = 7
RGB: Final = 2
YCBCR: Final = 6
CONTIGUOUS: Final = 1
UNITS: Final = {2: "inch", 3: "centimeter"}
TIFFFILE_ERRORS: Final = (
    tifffile.TiffFileError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    OSError,
    MemoryError,
    OverflowError,
    ZeroDivisionError,
)
"""What tifffile raises on files that are not as they should be."""


class TiffError(ValueError):
    """Why a TIFF cannot be read by its index, as a clause."""


@dataclass(frozen=True, eq=False)
class Directory:
    """One image of a TIFF.

    Parameters
    ----------
    size
        (width, height) in pixels.
    tile
        (width, height) of a tile, or of a strip.
    tiled
        Whether it lies in tiles, not in strips.
    compression, photometric, samples, bits, planar
        As the tags say.
    offsets, counts
        (n,) int64, where the bytes of each tile or strip lie and how many they are.
    tables
        JPEG tables that all tiles share, if any.
    tags_mpp
        Microns a pixel by the resolution tags, where they can be believed.
    description
        The text that comes with it.
    depth
        Planes of a volume; 1 for an image.
    orientation
        How the rows and columns are turned; 1 is upright.
    children
        The images that hang below it (sub-IFDs).
    decode
        tifffile's decoder of one tile: (bytes, index) -> (pixels, place, shape).
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    tiled: bool
    compression: int
    photometric: int
    samples: int
    bits: int
    planar: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tables: bytes | None
    tags_mpp: float | None
    description: str
    depth: int
    orientation: int
    children: tuple[Directory, ...]
    decode: Callable[..., Any]

    @property
    def area(self) -> int:
        """Pixels."""
        return self.size[0] * self.size[1]

    @property
    def grid(self) -> tuple[int, int]:
        """(columns, rows) of tiles, or of strips."""
        return -(-self.size[0] // self.tile[0]), -(-self.size[1] // self.tile[1])

    @property
    def codec(self) -> str:
        """The compression in words."""
        try:
            return tifffile.COMPRESSION(self.compression).name
        except ValueError:
            return str(self.compression)

    def fault(self, file_bytes: int) -> str | None:
        """Say what keeps the tiles from being read one by one; None where nothing does."""
        columns, rows = self.grid
        what = "tile" if self.tiled else "strip"
        expected = columns * rows * (1 if self.planar == CONTIGUOUS else self.samples)
        if len(self.offsets) != expected or len(self.counts) != expected:
            return f"{columns} x {rows} {what}s have {len(self.offsets)} offsets"
        if (self.counts < 0).any() or (self.offsets < 0).any():
            return f"a {what}'s place is no number of bytes"
        beyond = int(((self.offsets + self.counts > file_bytes) & (self.counts > 0)).sum())
        if beyond:
            return f"{beyond} of {expected} {what}s lie beyond the end of the file"
        return None


def looks_like_tiff(path: Path) -> bool:
    """Whether the first bytes are those of a TIFF."""
    with path.open("rb") as handle:
        return handle.read(4) in MAGIC


def read_directories(path: Path) -> tuple[Directory, ...]:
    """Read the directories of a TIFF.

    Returns
    -------
    tuple of Directory
        In the order of the file, `MAX_DIRECTORIES` at most.

    Raises
    ------
    TiffError
        If it is no TIFF, or one that is damaged.
    """
    with quiet():
        try:
            with tifffile.TiffFile(path, _multifile=False) as tiff:
                found = tuple(_directories(tiff.pages, children=True))
        except TiffError:
            raise
        except TIFFFILE_ERRORS as error:
            raise TiffError(f"its tags are damaged: {one_line(error)}") from error
    if not found:
        raise TiffError("it breaks off before its first directory")
    return found


def one_line(error: object) -> str:
    """Return what an error says, in one line of bounded length."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else text[:297] + "...") or type(error).__name__


def _directories(pages: Any, *, children: bool) -> Iterator[Directory]:  # noqa: ANN401 # tifffile's pages
    pages.useframes = False
    seen: set[int] = set()
    for i in range(MAX_DIRECTORIES):
        try:
            page = pages[i]
        except IndexError:
            return
        if page.offset in seen:
            raise TiffError("its directories run in a circle")
        seen.add(page.offset)
        if children and _following(page) >= page.parent.filehandle.size:
            raise TiffError("it breaks off: a directory lies beyond the end of the file")
        below = page.pages if children and page.subifds else None
        yield _directory(page, tuple(_directories(below, children=False)) if below else ())


def _following(page: Any) -> int:  # noqa: ANN401 # tifffile's page
    """Where the next directory lies; 0 after the last."""
    handle, form = page.parent.filehandle, page.parent.tiff
    handle.seek(page.offset)
    (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
    handle.seek(page.offset + form.tagnosize + tags * form.tagsize)
    return int(struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0])


def _directory(page: Any, children: tuple[Directory, ...]) -> Directory:  # noqa: ANN401 # tifffile's page
    tiled = bool(page.is_tiled)
    size = int(page.imagewidth), int(page.imagelength)
    across, down = (page.tilewidth, page.tilelength) if tiled else (size[0], page.rowsperstrip)
    tile = int(across), int(down if tiled else min(down, size[1]))
    if min(*size, *tile) < 1:
        raise TiffError("a directory states a side without pixels")
    return Directory(
        size=size,
        tile=tile,
        tiled=tiled,
        compression=int(page.compression),
        photometric=int(page.photometric),
        samples=int(page.samplesperpixel),
        bits=_bits(page.bitspersample),
        planar=int(page.planarconfig),
        offsets=_numbers(page.dataoffsets),
        counts=_numbers(page.databytecounts),
        tables=page.jpegtables,
        tags_mpp=_resolution_mpp(page),
        description=str(page.description or ""),
        depth=max(int(page.imagedepth), int(page.tiledepth) if tiled else 1),
        orientation=_orientation(page),
        children=children,
        decode=page.decode,
    )


def _bits(stated: int | Iterable[int]) -> int:
    """Bits a sample; the most where they differ."""
    return int(stated) if isinstance(stated, int) else max(int(b) for b in stated)


def _numbers(values: Iterable[int]) -> NDArray[np.int64]:
    return np.asarray(values, dtype=np.int64).reshape(-1)


def _orientation(page: Any) -> int:  # noqa: ANN401 # tifffile's page
    tag = page.tags.get("Orientation")
    return 1 if tag is None else int(tag.value)


def _resolution_mpp(page: Any) -> float | None:  # noqa: ANN401 # tifffile's page
    unit = page.tags.get("ResolutionUnit")
    across, down = page.tags.get("XResolution"), page.tags.get("YResolution")
    if across is None or down is None:
        return None
    (x_over, x_under), (y_over, y_under) = across.value[:2], down.value[:2]
    if not (x_under and y_under):
        return None
    # The unit is an inch where it is not said (TIFF 6.0).
    said = UNITS.get(2 if unit is None else int(unit.value), "")
    return tags_mpp(said, x_over / x_under, y_over / y_under)


class _Quieted(threading.local):
    depth = 0


_QUIETED = _Quieted()


def _loud(_record: logging.LogRecord) -> bool:
    return _QUIETED.depth == 0


logging.getLogger("tifffile").addFilter(_loud)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what tifffile logs while this thread reads through it: what matters is raised."""
    _QUIETED.depth += 1
    try:
        yield
    finally:
        _QUIETED.depth -= 1
