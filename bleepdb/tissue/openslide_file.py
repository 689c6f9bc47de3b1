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
        # A damaged file has names that are found and cannot be asked for.
        self._said = {k: self._slide.properties.get(k, "") for k in self._slide.properties}
        self.vendor = self._said.get(openslide.PROPERTY_NAME_VENDOR, "")
        self.reader = f"OpenSlide {self.vendor}"
        if _fluorescence(self._said):
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
        if self.vendor == GENERIC:
            # OpenSlide takes the tags as they are, and the inch not at all.
            across, down = (self._number(f"tiff.{side}Resolution") for side in "XY")
            return tags_mpp(self._said.get("tiff.ResolutionUnit", ""), across or 0, down or 0)
        across = self._number(openslide.PROPERTY_NAME_MPP_X)
        down = self._number(openslide.PROPERTY_NAME_MPP_Y)
        return None if across is None or down is None else square_mpp(across, down, path)

    def _number(self, key: str) -> float | None:
        try:
            return float(self._said[key])
        except (KeyError, ValueError):
            return None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes; where a slide is many files, OpenSlide's hash goes in."""
        own = file_digest(self.path)
        if self.vendor in {"mirax", "dicom"}:
            return digest(own, self._said.get(openslide.PROPERTY_NAME_QUICKHASH1, ""))
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
        known["vendor"] = self.vendor
        known["objective_power"] = self._number(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        for i, level in enumerate(known["levels"]):
            sides = [self._number(f"openslide.level[{i}].tile-{s}") for s in ("width", "height")]
            level["tile_px"] = None if None in sides else [int(side or 0) for side in sides]
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
