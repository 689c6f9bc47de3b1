"""Plain images: JPEG, PNG, TIFF in strips and the like, decoded once by PIL, in memory."""

from __future__ import annotations

import os
import threading
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from bleepdb.errors import InputError, SlideError
from bleepdb.tissue.slide import Slide
from bleepdb.tissue.stated_mpp import FROM_HEADER
from bleepdb.tissue.tiff_index import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_IMAGE_PIXELS: Final = 2**30
SMALL_IMAGE_PIXELS: Final = 2**26
MAX_PIXELS_PER_BYTE: Final = 100
MAX_IMAGE_PIXELS_ENV: Final = "BLEEPDB_MAX_IMAGE_PIXELS"
OPAQUE_MODES: Final = frozenset({"1", "L", "RGB", "CMYK", "YCbCr", "RGBX"})
ALPHA_MODES: Final = frozenset({"LA", "RGBA", "P", "PA"})
PLAIN_FORMATS: Final = ("JPEG", "PNG", "TIFF", "JPEG2000", "WEBP", "BMP")
"""What PIL is asked to try: it has stubs that take other files (HDF5 among them) for images."""
_PIL = threading.RLock()
"""PIL's limit and Python's warning filters are one for all threads."""


class InMemory(Slide):
    """An image without levels, decoded once, when its first pixels are asked for.

    Parameters
    ----------
    path
        The file.
    size
        (width, height) in pixels.
    max_pixels
        The largest image that is decoded; by default ``BLEEPDB_MAX_IMAGE_PIXELS``. Where neither
        is given, 2^30 pixels, and 100 pixels a byte of the file where there are more than 2^26:
        no scan is packed so tightly, a decompression bomb is.
    file_mpp, mpp, mpp_from
        As in `Slide`.

    Raises
    ------
    SlideError
        If it is too large.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        *,
        max_pixels: int | None,
        file_mpp: float | None,
        mpp: float | None,
        mpp_from: str,
    ) -> None:
        file_bytes = path.stat().st_size
        limit = pixel_limit(file_bytes) if max_pixels is None else max_pixels
        if size[0] * size[1] > limit:
            tight = max_pixels is None and limit < pixel_limit(MAX_IMAGE_PIXELS)
            why = f" for a file of {file_bytes:,} bytes" if tight else ""
            raise SlideError(
                f"{size[0]} x {size[1]} pixels are above the limit of {limit:,}{why}",
                where=path,
                hint=f"make it a tiled pyramid, or raise {MAX_IMAGE_PIXELS_ENV}",
            )
        super().__init__(
            path,
            levels=(1.0,),
            level_sizes=(size,),
            file_mpp=file_mpp,
            mpp=mpp,
            mpp_from=mpp_from,
        )
        self._decoding = threading.Lock()
        self._decoded: NDArray[np.uint8] | None = None

    @abstractmethod
    def _decode(self) -> NDArray[np.uint8]:
        """Return (height, width, 3) RGB of the whole image."""

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
        """Return RGB of a region."""
        if level:
            raise SlideError(f"a plain image has no level {level}", where=self.path)
        with self._decoding:
            if self._decoded is None:
                self._decoded = self._decode()
            pixels = self._decoded[y : y + height, x : x + width]
        if out is None:
            return np.ascontiguousarray(pixels)
        np.copyto(out, pixels)
        return out

    def facts(self) -> dict[str, Any]:
        """Return what is known of the file."""
        return {**super().facts(), "vendor": None, "objective_power": None}

    def close(self) -> None:
        """Let go of the decoded pixels."""
        self._decoded = None


class PlainImage(InMemory):
    """An image that PIL reads.

    What JPEG and PNG say of their resolution is what a screen or a camera was told, and is not
    taken for microns.

    Parameters
    ----------
    path
        The file.
    mpp, max_pixels, file_mpp, mpp_from
        As in `InMemory`.

    Raises
    ------
    SlideError
        If it is too large, or has a mode that is not 8 bits a channel.
    OSError, SyntaxError, ValueError
        If PIL does not know the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        mpp: float | None = None,
        max_pixels: int | None = None,
        file_mpp: float | None = None,
        mpp_from: str = FROM_HEADER,
    ) -> None:
        with _opened(path) as image:
            size, mode, kind = image.size, image.mode, image.format
        super().__init__(
            path, size, max_pixels=max_pixels, file_mpp=file_mpp, mpp=mpp, mpp_from=mpp_from
        )
        if mode not in OPAQUE_MODES | ALPHA_MODES:
            raise SlideError(
                f"pixels of mode {mode} are not 8 bits a channel",
                where=path,
                hint="convert the image to 8-bit RGB",
            )
        self.reader = f"PIL {kind}"

    def _decode(self) -> NDArray[np.uint8]:
        try:
            with _PIL, warnings.catch_warnings(), _opened(self.path) as image:
                warnings.simplefilter("ignore", UserWarning)
                if image.mode in OPAQUE_MODES:
                    return np.asarray(image.convert("RGB"))
                return on_white(image.convert("RGBA"))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise undecodable(self.path, one_line(error)) from error


def on_white(rgba: Image.Image) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8 of an RGBA image laid on white."""
    if rgba.getchannel("A").getextrema() == (255, 255):
        return np.asarray(rgba.convert("RGB"))
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def undecodable(path: Path, error: object) -> SlideError:
    """Return the error of a file whose pixels cannot be had."""
    return SlideError(
        f"its pixels cannot be decoded, it may be damaged or incomplete ({one_line(error)})",
        where=path,
        hint="fetch or export the image again",
    )


def pixel_limit(file_bytes: int) -> int:
    """Return the largest plain image that is decoded from a file of this size, in pixels.

    Raises
    ------
    InputError
        If ``BLEEPDB_MAX_IMAGE_PIXELS`` is not a positive whole number.
    """
    text = os.environ.get(MAX_IMAGE_PIXELS_ENV, "")
    if not text:
        return min(MAX_IMAGE_PIXELS, max(SMALL_IMAGE_PIXELS, MAX_PIXELS_PER_BYTE * file_bytes))
    if not text.isdecimal() or int(text) == 0:
        raise InputError(
            f"{MAX_IMAGE_PIXELS_ENV} is {text!r}, not a positive whole number",
            hint="set it to a number of pixels, or unset it",
        )
    return int(text)


def _opened(path: Path) -> Image.Image:
    """Open an image with PIL's own limit lifted, which is below a common scan; ours is checked."""
    with _PIL:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            with warnings.catch_warnings():
                # PIL warns of tags that it passes over; whether the pixels decode is what counts.
                warnings.simplefilter("ignore", UserWarning)
                return Image.open(path, formats=PLAIN_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before
