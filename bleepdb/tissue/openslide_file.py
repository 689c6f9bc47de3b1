"""Slides that OpenSlide reads: SVS, NDPI, MRXS, DICOM, Philips, tiled TIFF and others."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import openslide

from bleepdb.errors import SlideError
from bleepdb.files import digest, file_digest
from bleepdb.tissue.plain_image import on_white, undecodable
from bleepdb.tissue.slide import Slide
from bleepdb.tissue.stated_mpp import FROM_HEADER, FROM_TAGS, square_mpp, tags_mpp

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

GENERIC: Final = "generic-tiff"
"""OpenSlide's name of a tiled TIFF of no known scanner."""
EXCITATION: Final = re.compile(r"ExcitationWaveLength=[1-9]")
EPIFLUORESCENCE: Final = "Epifluorescence illumination"


class OpenSlideFile(Slide):
    """A slide that OpenSlide reads.

    OpenSlide takes places in level-0 pixels. Where a level's factor is not a whole number, a pixel
    of that level may lie between two of them, and OpenSlide interpolates; at level 0, and at
    levels of whole factors, the pixels are those that are stored.

    Raises
    ------
    SlideError
        If its pixels are far from square.
    openslide.OpenSlideError
        If OpenSlide knows the format and cannot open the file.
    """

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        self._slide = openslide.OpenSlide(path)
        self.vendor = self._slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
        self.reader = f"OpenSlide {self.vendor}"
        if _fluorescence(self._slide.properties):
            self.notes = ("its scanner says that it is a fluorescence scan, not H&E",)
        try:
            super().__init__(
                path,
                levels=tuple(self._slide.level_downsamples),
                level_sizes=tuple(self._slide.level_dimensions),
                file_mpp=self._stated_mpp(path),
                mpp=mpp,
                mpp_from=FROM_TAGS if self.vendor == GENERIC else FROM_HEADER,
            )
        except SlideError:
            self._slide.close()
            raise

    def _stated_mpp(self, path: Path) -> float | None:
        said = self._slide.properties
        if self.vendor == GENERIC:
            # OpenSlide takes the tags as they are, and the inch not at all.
            return tags_mpp(
                said.get("tiff.ResolutionUnit", ""),
                float(said.get("tiff.XResolution", 0)),
                float(said.get("tiff.YResolution", 0)),
            )
        keys = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        if not all(k in said for k in keys):
            return None
        across, down = (float(said[k]) for k in keys)
        return square_mpp(across, down, path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes; where a slide is many files, OpenSlide's hash goes in."""
        own = file_digest(self.path)
        if self.vendor in {"mirax", "dicom"}:
            return digest(own, self._slide.properties[openslide.PROPERTY_NAME_QUICKHASH1])
        return own

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
        """Return RGB of a region; what the slide leaves transparent is white."""
        factor = self.levels[level]
        try:
            rgba = self._slide.read_region(
                (round(x * factor), round(y * factor)), level, (width, height)
            )
        except openslide.OpenSlideError as error:
            raise undecodable(self.path, error) from error
        pixels = on_white(rgba)
        if out is None:
            return pixels
        np.copyto(out, pixels)
        return out

    def facts(self) -> dict[str, Any]:
        """Return what is known of the file; OpenSlide knows the vendor, and often the objective."""
        known = super().facts()
        properties = self._slide.properties
        known["vendor"] = self.vendor
        power = properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        known["objective_power"] = None if power is None else float(power)
        for i, level in enumerate(known["levels"]):
            across = properties.get(f"openslide.level[{i}].tile-width")
            down = properties.get(f"openslide.level[{i}].tile-height")
            level["tile_px"] = None if across is None or down is None else [int(across), int(down)]
        return known

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _fluorescence(said: Mapping[str, str]) -> bool:
    """Whether a scanner says that it took fluorescence: NDPI names the filter, DICOM the light."""
    return any(
        EXCITATION.search(f"{key}={value}") or value == EPIFLUORESCENCE
        for key, value in said.items()
        if key.startswith(("hamamatsu.", "dicom.OpticalPathSequence"))
    )
