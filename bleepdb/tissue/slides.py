"""Slide files: which reader takes one, and what each said where none does.

The content decides, never the name: a PNG that is called ``.svs`` is read as a PNG.

====================  ====================================  ==================================
format                reader                                microns a pixel
====================  ====================================  ==================================
SVS, tiled TIFF       tile by tile where that is equal to   OpenSlide's; of a generic TIFF the
                      OpenSlide in every level, else        resolution tags, where a microscope
                      OpenSlide                             can have meant them
OME-TIFF              tile by tile, sub-IFDs as levels      OME-XML, PhysicalSizeX and Y
NDPI, MRXS, DICOM,    OpenSlide                             OpenSlide's
Philips and others
OME-Zarr, SpatialData chunk by chunk                        the axes, where they have a unit
image element
TIFF in strips        whole, in memory; rarer kinds by PIL  OME-XML or resolution tags
JPEG, PNG, WebP, BMP  PIL, whole, in memory                 none
====================  ====================================  ==================================
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import openslide

from bleepdb.errors import SlideError
from bleepdb.tissue.openslide_file import OpenSlideFile
from bleepdb.tissue.plain_image import PlainImage
from bleepdb.tissue.readers.store import is_zarr
from bleepdb.tissue.slide import Slide
from bleepdb.tissue.tiff_index import TiffError, looks_like_tiff, one_line
from bleepdb.tissue.tiff_slides import open_tiff
from bleepdb.tissue.tiled_tiff import TiledTiff

log = logging.getLogger(__name__)

MIRAX: Final = ".mrxs"
NDPI: Final = "hamamatsu"

__all__ = ["OpenSlideFile", "PlainImage", "Slide", "TiledTiff", "open_slide"]


def open_slide(path: Path, *, mpp: float | None = None, max_pixels: int | None = None) -> Slide:
    """Open a slide or a plain image.

    Parameters
    ----------
    path
        The file.
    mpp
        Microns per level-0 pixel, where the user states it; goes before what the file says.
    max_pixels
        Largest plain image that is decoded; by default ``BLEEPDB_MAX_IMAGE_PIXELS``, else as
        `PlainImage` says.

    Raises
    ------
    SlideError
        If the file is missing, empty, no 8-bit image, or no reader opens it: it says what each
        reader said.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path, mpp)
    if not path.is_file():
        raise SlideError("no such image", where=path, hint="check the path")
    if path.stat().st_size == 0:
        raise SlideError("the file is empty", where=path, hint="fetch or export the image again")
    said: dict[str, str] = {}
    vendor = _vendor(path, said)
    try:
        if looks_like_tiff(path) and vendor != NDPI:
            try:
                return open_tiff(path, vendor=vendor, mpp=mpp, max_pixels=max_pixels)
            except TiffError as error:
                said["tifffile"] = one_line(error)
                log.info("%s: not read tile by tile: %s", path, error)
        if vendor is not None:
            slide = OpenSlideFile(path, mpp=mpp)
            for note in slide.notes:
                log.warning("%s: %s", path, note)
            return slide
        if "tifffile" not in said:
            picture = PlainImage(path, mpp=mpp, max_pixels=max_pixels)
            if path.suffix.lower() == MIRAX:
                raise SlideError(
                    "is the small picture of a MIRAX slide, whose folder of data is not beside it",
                    where=path,
                    hint=f"copy the folder {path.stem} to the same place",
                )
            return picture
    except openslide.OpenSlideError as error:
        said["OpenSlide"] = one_line(error)
    except (OSError, SyntaxError, ValueError) as error:
        said["PIL"] = one_line(error)
    raise SlideError(
        f"no reader opens it ({'; '.join(f'{who}: {what}' for who, what in said.items())})",
        where=path,
        hint="fetch or export the image again"
        if "tifffile" in said
        else "give a slide that OpenSlide reads, a JPEG, a PNG or a TIFF",
    )


def _of_folder(path: Path, mpp: float | None) -> Slide:
    """Open the folder of an OME-Zarr image."""
    if not is_zarr(path):
        raise SlideError("is a folder, not an image", where=path, hint="name the image file")
    from bleepdb.tissue.ome_zarr import OmeZarr  # noqa: PLC0415 - zarr is heavy, and rarely asked

    return OmeZarr(path, mpp=mpp)


def _vendor(path: Path, said: dict[str, str]) -> str | None:
    """OpenSlide's name of the format, or None and what it said."""
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError as error:
        said["OpenSlide"] = one_line(error)
        return None
    if vendor is None:
        said["OpenSlide"] = "not a format of its own"
    return vendor
