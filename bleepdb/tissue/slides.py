"""Slide files: OpenSlide where it knows the format, else PIL; and what both say if neither does."""

from __future__ import annotations

import math
import os
import threading
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import openslide
from PIL import Image

from bleepdb.errors import InputError, SlideError
from bleepdb.files import digest, file_digest
from bleepdb.tissue.slide import Slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_IMAGE_PIXELS: Final = 2**30
MAX_IMAGE_PIXELS_ENV: Final = "BLEEPDB_MAX_IMAGE_PIXELS"
ANISOTROPY: Final = 0.05
"""Pixels whose sides differ by more than this share are refused: tiles are square in µm."""
OPAQUE_MODES: Final = frozenset({"1", "L", "RGB", "CMYK", "YCbCr", "RGBX"})
ALPHA_MODES: Final = frozenset({"LA", "RGBA", "P", "PA"})
PLAIN_FORMATS: Final = ("JPEG", "PNG", "TIFF", "JPEG2000", "WEBP", "BMP")
"""What PIL is asked to try: it has stubs that take other files (HDF5 among them) for images."""
_PIL_LIMIT = threading.Lock()

__all__ = ["OpenSlideFile", "PlainImage", "Slide", "open_slide"]


def open_slide(path: Path, *, mpp: float | None = None, max_pixels: int | None = None) -> Slide:
    """Open a slide or a plain image.

    OpenSlide takes what it knows (SVS, NDPI, MRXS, DICOM, tiled TIFF, ...); JPEG, PNG and other
    TIFF are decoded by PIL, once, in memory, when their first pixels are asked for.

    Parameters
    ----------
    path
        The file.
    mpp
        Microns per level-0 pixel, where the user states it; goes before what the file says.
    max_pixels
        Largest plain image that is decoded; by default ``BLEEPDB_MAX_IMAGE_PIXELS``, else 2^30.

    Raises
    ------
    SlideError
        If the file is missing, or no reader opens it: it says what each reader said.
    """
    path = Path(path)
    if not path.is_file():
        raise SlideError("no such image", where=path, hint="check the path")
    try:
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor is not None:
            return OpenSlideFile(path, mpp=mpp)
        openslide_said = "not a format of its own"
    except openslide.OpenSlideError as error:
        openslide_said = str(error)
    limit = _pixel_limit() if max_pixels is None else max_pixels
    try:
        return PlainImage(path, mpp=mpp, max_pixels=limit)
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(
            f"no reader opens it (OpenSlide: {openslide_said}; PIL: {error})",
            where=path,
            hint="give a slide that OpenSlide reads, a JPEG, a PNG or a TIFF",
        ) from error


class OpenSlideFile(Slide):
    """A slide that OpenSlide reads.

    Raises
    ------
    SlideError
        If its pixels are far from square.
    """

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        self._slide = openslide.OpenSlide(path)
        try:
            super().__init__(
                path,
                levels=tuple(self._slide.level_downsamples),
                level_sizes=tuple(self._slide.level_dimensions),
                file_mpp=self._stated_mpp(path),
                mpp=mpp,
            )
        except SlideError:
            self._slide.close()
            raise

    def _stated_mpp(self, path: Path) -> float | None:
        keys = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        if not all(k in self._slide.properties for k in keys):
            return None
        across, down = (float(self._slide.properties[k]) for k in keys)
        if not (math.isfinite(across) and math.isfinite(down) and across > 0 and down > 0):
            return None
        if abs(across / down - 1) > ANISOTROPY:
            raise SlideError(
                f"pixels of {across:g} by {down:g} µm are not square",
                where=path,
                hint="resample the slide to square pixels",
            )
        return math.sqrt(across * down)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes; where a slide is many files, OpenSlide's hash goes in."""
        own = file_digest(self.path)
        if self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR) in {"mirax", "dicom"}:
            return digest(own, self._slide.properties[openslide.PROPERTY_NAME_QUICKHASH1])
        return own

    def region(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return RGB of a region; what the slide leaves transparent is white."""
        factor = self.levels[level]
        try:
            rgba = self._slide.read_region(
                (round(x * factor), round(y * factor)), level, (width, height)
            )
        except openslide.OpenSlideError as error:
            raise _undecodable(self.path, error) from error
        return _on_white(rgba)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


class PlainImage(Slide):
    """An image without levels, held in memory once its first pixels are asked for.

    Raises
    ------
    SlideError
        If it has more than `max_pixels`, or a mode that is not 8 bits a channel.
    OSError
        If PIL does not know the file.
    """

    def __init__(self, path: Path, *, mpp: float | None = None, max_pixels: int) -> None:
        with _opened(path) as image:
            size, mode = image.size, image.mode
        if size[0] * size[1] > max_pixels:
            raise SlideError(
                f"{size[0]} x {size[1]} pixels are above the limit of {max_pixels:,}",
                where=path,
                hint=f"make it a tiled pyramid, or raise {MAX_IMAGE_PIXELS_ENV}",
            )
        if mode not in OPAQUE_MODES | ALPHA_MODES:
            raise SlideError(
                f"pixels of mode {mode} are not 8 bits a channel",
                where=path,
                hint="convert the image to 8-bit RGB",
            )
        super().__init__(path, levels=(1.0,), level_sizes=(size,), file_mpp=None, mpp=mpp)

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        try:
            with _opened(self.path) as image:
                if image.mode in OPAQUE_MODES:
                    return np.asarray(image.convert("RGB"))
                return _on_white(image.convert("RGBA"))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise _undecodable(self.path, error) from error

    def region(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return RGB of a region."""
        if level:
            raise SlideError(f"a plain image has no level {level}", where=self.path)
        return np.ascontiguousarray(self._pixels[y : y + height, x : x + width])

    def close(self) -> None:
        """Let go of the decoded pixels."""
        self.__dict__.pop("_pixels", None)


def _on_white(rgba: Image.Image) -> NDArray[np.uint8]:
    if rgba.getchannel("A").getextrema() == (255, 255):
        return np.asarray(rgba.convert("RGB"))
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def _undecodable(path: Path, error: Exception) -> SlideError:
    return SlideError(
        f"its pixels cannot be decoded, it may be damaged or incomplete ({error})",
        where=path,
        hint="fetch or export the image again",
    )


def _pixel_limit() -> int:
    text = os.environ.get(MAX_IMAGE_PIXELS_ENV, "")
    if not text:
        return MAX_IMAGE_PIXELS
    if not text.isdecimal() or int(text) == 0:
        raise InputError(
            f"{MAX_IMAGE_PIXELS_ENV} is {text!r}, not a positive whole number",
            hint="set it to a number of pixels, or unset it",
        )
    return int(text)


def _opened(path: Path) -> Image.Image:
    """Open an image with PIL's own limit lifted, which is below a common scan; ours is checked."""
    with _PIL_LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            with warnings.catch_warnings():
                # PIL warns of tags that it passes over; whether the pixels decode is what counts.
                warnings.simplefilter("ignore", UserWarning)
                return Image.open(path, formats=PLAIN_FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before
