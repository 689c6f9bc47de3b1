"""OME-TIFF: which image is the slide, its levels, and its microns as the OME-XML says them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bleepdb.errors import SlideError
from bleepdb.tissue.tiff_index import TiffError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.tissue.tiff_index import Directory

MAX_XML_CHARS: Final = 2**24
RGB_SAMPLES: Final = 3
MICRONS: Final = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3,
    "pm": 1e-6, "Å": 1e-4, "in": 25_400.0,
}  # fmt: skip
"""µm of the units of length that OME names; both micro signs are in use."""


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-XML document.

    Parameters
    ----------
    ifd
        The directory of its first plane.
    size
        (width, height) in pixels.
    planes
        (Z, T): how many.
    channels
        Samples of all channels (SizeC).
    kind
        Its pixel type, such as ``"uint8"``.
    mpp
        (across, down) microns a pixel, where both are stated in a unit of length.
    """

    ifd: int
    size: tuple[int, int]
    planes: tuple[int, int]
    channels: int
    kind: str
    mpp: tuple[float, float] | None


def is_ome(description: str) -> bool:
    """Whether a TIFF's description is an OME-XML document."""
    return description.rstrip().endswith("OME>")


def read_ome(text: str) -> tuple[OmeImage, ...]:
    """Read the images of an OME-XML document.

    Raises
    ------
    TiffError
        If it is no such document.
    """
    if len(text) > MAX_XML_CHARS or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TiffError("its OME-XML is not a plain document of moderate size")
    try:
        root = ET.fromstring(text)  # noqa: S314 # entities are refused above
    except (ET.ParseError, ValueError) as error:
        raise TiffError(f"its OME-XML is damaged: {one_line(error)}") from error
    found: list[OmeImage] = []
    following = 0
    for pixels in root.iterfind("{*}Image/{*}Pixels"):
        try:
            image = _image(pixels, following)
        except (KeyError, ValueError) as error:
            raise TiffError(f"its OME-XML is damaged: {one_line(error)}") from error
        found.append(image)
        following = image.ifd + 1
    if not found:
        raise TiffError("its OME-XML names no image")
    return tuple(found)


def levels_of(
    directories: tuple[Directory, ...], path: Path
) -> tuple[OmeImage, tuple[Directory, ...]]:
    """Return the largest image of an OME-TIFF, and the directories of its levels from the finest.

    Raises
    ------
    SlideError
        If it is not one plane of 8-bit RGB.
    TiffError
        If the document and the directories do not fit together.
    """
    images = read_ome(directories[0].description)
    image = max(images, key=lambda one: one.size[0] * one.size[1])
    z, t = image.planes
    if (z, t) != (1, 1):
        raise _unfit(path, f"{z} focal planes and {t} times", "export one plane of it")
    if image.kind.lower() != "uint8":
        raise _unfit(path, f"{image.kind} pixels", "convert the image to 8-bit RGB")
    if image.ifd >= len(directories):
        raise TiffError(f"its OME-XML names directory {image.ifd}, and it has {len(directories)}")
    base = directories[image.ifd]
    if base.size != image.size:
        raise TiffError(f"its OME-XML says {image.size}, and directory {image.ifd} {base.size}")
    if image.channels != RGB_SAMPLES or base.samples != RGB_SAMPLES:
        channels = f"{image.channels} channels"
        if image.channels == 1:
            channels = "one grey channel"
        elif base.samples == 1:
            channels += " of their own planes, which looks like fluorescence"
        raise _unfit(path, channels, "export it as 8-bit RGB")
    return image, (base, *sorted(base.children, key=lambda d: -d.area))


def _unfit(path: Path, what: str, hint: str) -> SlideError:
    """Return the error of pixels that are no 8-bit RGB image."""
    return SlideError(f"it is an OME-TIFF of {what}", where=path, hint=hint)


def _image(pixels: ET.Element, following: int) -> OmeImage:
    data = pixels.find("{*}TiffData")
    said = pixels.attrib
    return OmeImage(
        ifd=following if data is None else int(data.attrib.get("IFD", following)),
        size=(int(said["SizeX"]), int(said["SizeY"])),
        planes=(int(said.get("SizeZ", 1)), int(said.get("SizeT", 1))),
        channels=int(said.get("SizeC", 1)),
        kind=said.get("Type", "unknown"),
        mpp=_mpp(said),
    )


def _mpp(said: dict[str, str]) -> tuple[float, float] | None:
    """Microns a pixel; OME's unit is the µm where it is not said."""
    sides = []
    for axis in "XY":
        value = said.get(f"PhysicalSize{axis}")
        micron = MICRONS.get(said.get(f"PhysicalSize{axis}Unit", "µm"))
        if value is None or micron is None:
            return None
        sides.append(float(value) * micron)
    return sides[0], sides[1]
