"""Slide files: OpenSlide where it knows the format, else PIL; and what both say if neither does."""

from __future__ import annotations

from pathlib import Path

import openslide

from bleepdb.errors import SlideError
from bleepdb.tissue.openslide_file import OpenSlideFile
from bleepdb.tissue.plain_image import PlainImage, pixel_limit
from bleepdb.tissue.slide import Slide

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
    limit = pixel_limit() if max_pixels is None else max_pixels
    try:
        return PlainImage(path, mpp=mpp, max_pixels=limit)
    except (OSError, SyntaxError, ValueError) as error:
        raise SlideError(
            f"no reader opens it (OpenSlide: {openslide_said}; PIL: {error})",
            where=path,
            hint="give a slide that OpenSlide reads, a JPEG, a PNG or a TIFF",
        ) from error
