"""Slides of every format and plain images: sizes, microns, how they are stored, what is beside."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import openslide
import tifffile
from PIL import Image

from bleepdb.errors import BleepdbError, SlideError
from bleepdb.inspecting.findings import Findings, quoted, size_text
from bleepdb.inspecting.looking import head_of, magic_of
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue.geometry import mpp_fault
from bleepdb.tissue.grid import tile_centres
from bleepdb.tissue.mask import tissue_mask
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection
    from bleepdb.tissue.slide import Slide

FIELDS_UM: Final = (112.0, 176.0, 400.0)
TILE_PX: Final = 224
STRIDE_UM: Final = 100.0
CHEAP_PX: Final = 2**24
"""Pixels of the level that a thumbnail is made from, up to which the tissue is looked for."""
MOST_PAGES: Final = 64
TAIL: Final = 2**12
PRIVATE: Final = ("label", "macro")
NEEDS_MPP: Final = "fill in the sheet's mpp column or pass --slide-mpp"


@dataclass(frozen=True)
class Storage:
    """How the levels of a TIFF are stored."""

    compression: str
    photometric: str
    tile_px: tuple[int, int] | None
    pages: int
    beyond: int
    """Pieces of pixels that lie behind the end of the file."""
    pieces: int
    broken: bool
    """Whether the chain of directories leads behind the end of the file."""


def inspect_slide(path: Path, *, slide_mpp: float | None = None, tissue: bool = True) -> Inspection:
    """Tell what a slide or a plain image is.

    Parameters
    ----------
    path
        A file.
    slide_mpp
        Microns per level-0 pixel, where the user states it.
    tissue
        Whether tissue is looked for, where that is cheap.

    Raises
    ------
    SlideError
        If no reader opens it: it says what each reader said.
    """
    found = Findings(path)
    magic = magic_of(head_of(path))
    storage = _storage(path) if magic in {"TIFF", "BigTIFF"} else None
    try:
        slide = open_slide(path, mpp=slide_mpp)
    except SlideError as error:
        told = _closed_image(found, error, magic, storage)
        if told is None:
            raise
        return told
    with slide:
        return _told(found, slide, magic, storage, tissue=tissue)


def _told(
    found: Findings, slide: Slide, magic: str | None, storage: Storage | None, *, tissue: bool
) -> Inspection:
    path = found.path
    known = slide.facts()
    vendor, pictures = known.get("vendor"), _associated(path)
    width, height = slide.size_px
    found.fact("reader", slide.reader)
    found.fact("format", vendor or magic)
    found.fact("size px", [width, height], f"{width:,} x {height:,} px")
    if slide.mpp is None:
        found.fact("mpp", None, "not stated")
        found.lacks("the microns per pixel (mpp)", needed_for="any tile", remedy=NEEDS_MPP)
    else:
        stated = f", {known['mpp_from']}" if known.get("mpp_from") else ""
        found.fact("mpp", slide.mpp, f"{slide.mpp:.4g} µm a pixel, from {slide.mpp_source}{stated}")
        across, down = (n * slide.mpp / 1000 for n in slide.size_px)
        found.fact("size mm", [across, down], f"{across:.3g} x {down:.3g} mm")
    power = known.get("objective_power")
    if power is not None:
        found.fact("objective", power, f"{power:g}x")
    found.fact(
        "levels",
        [list(s) for s in slide.level_sizes],
        f"{len(slide.levels)}: " + ", ".join(f"{f:.4g}x" for f in slide.levels),
    )
    _storage_facts(found, known["levels"][0], storage)
    if pictures:
        found.fact("pictures", pictures)
    shown = [p for p in pictures if p in PRIVATE]
    if shown:
        found.note(f"it carries its {' and '.join(shown)}: pictures that may show a patient's name")
    usable = _fine_enough(found, slide)
    if tissue:
        usable = _tissue(found, slide) and usable
    usable = _whole(found, magic, storage) and usable
    if path.parent.name == "spatial":
        found.note(f"a picture that came with the Space Ranger folder {path.parent.parent}")
    plain = vendor is None and len(slide.levels) == 1
    what = f"a plain {magic or ''} image".replace("  ", " ") if plain else f"a slide ({vendor})"
    if not plain and vendor is None:
        what = "a slide"
    mpp = "" if slide.mpp is not None and slide.mpp_source != "given" else " --slide-mpp MPP"
    none = found.value("tiles at 100 µm") == 0
    least = " --min-tissue SHARE" if none else ""
    then = (
        f"bleepdb query {quoted(path)} --atlas ATLAS --tissue TISSUE{mpp}{least} --out OUT.h5ad"
        if usable
        else None
    )
    return found.made("image" if plain else "slide", what, then=then)


def _associated(path: Path) -> list[str]:
    """Names of the pictures that come with a slide, where OpenSlide knows the format."""
    try:
        if openslide.OpenSlide.detect_format(path) is None:
            return []
        with openslide.OpenSlide(path) as handle:
            return sorted(handle.associated_images)
    except openslide.OpenSlideError:
        return []


def _storage(path: Path) -> Storage | None:
    """Read the directories of a TIFF; None where they cannot be read."""
    log = logging.getLogger("tifffile")
    before, log.disabled = log.disabled, True  # it writes of tags that it passes over
    size = path.stat().st_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tifffile.TiffFile(path) as tiff:
                first = tiff.pages.first
                pages = beyond = pieces = 0
                for number, page in enumerate(tiff.pages):
                    if number == MOST_PAGES:
                        break
                    pages += 1
                    spans = zip(page.dataoffsets, page.databytecounts, strict=False)
                    ends = [begin + length for begin, length in spans]
                    pieces += len(ends)
                    beyond += sum(end > size for end in ends)
                return Storage(
                    str(getattr(first.compression, "name", first.compression)),
                    str(getattr(first.photometric, "name", first.photometric)),
                    (int(first.tilewidth), int(first.tilelength)) if first.is_tiled else None,
                    pages,
                    beyond,
                    pieces,
                    pages < MOST_PAGES and _next_directory(tiff) >= size,
                )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, MemoryError):
        return None  # what the readers say of it is told
    finally:
        log.disabled = before


def _next_directory(tiff: tifffile.TiffFile) -> int:
    """Return where the last directory says that the next one is; 0 where there is none."""
    layout = tiff.tiff
    pointer = tiff.pages.next_page_offset
    if pointer is None:
        return 0
    tiff.filehandle.seek(pointer)
    data = tiff.filehandle.read(layout.offsetsize)
    return int.from_bytes(data, "little" if layout.byteorder == "<" else "big")


def _storage_facts(found: Findings, level: dict[str, Any], storage: Storage | None) -> None:
    tile, codec = level.get("tile_px"), level.get("compression")
    if storage is not None:
        tile = tile or storage.tile_px
        codec = f"{storage.compression}, {storage.photometric}".lower()
    if codec is not None:
        found.fact("compression", codec)
    if tile is not None:
        found.fact("stored in", list(tile), f"tiles of {tile[0]} x {tile[1]} px")
    elif storage is not None:
        found.fact("stored in", "strips")
    found.fact("file", found.path.stat().st_size, size_text(found.path.stat().st_size))


def _fine_enough(found: Findings, slide: Slide) -> bool:
    """Tell which fields would be finer than the slide, and whether all would."""
    if slide.mpp is None:
        return True
    fault = mpp_fault(slide.mpp)
    if fault is not None:
        found.lacks(f"an mpp that a slide has: {fault}", needed_for="any tile",
                    remedy="correct it with --slide-mpp, or give a finer scan")  # fmt: skip
        return False
    factors = {f"{um:g}": slide.mpp * TILE_PX / um for um in FIELDS_UM}
    words = ", ".join(
        f"{um} µm {f'enlarged {f:.2g}x' if f > MAX_UPSAMPLING else 'fine'}"
        for um, f in factors.items()
    )
    found.fact("tiles of 224 px", factors, words)
    if min(factors.values()) > MAX_UPSAMPLING:
        found.lacks(
            f"pixels that are fine enough for tiles of up to {FIELDS_UM[-1]:g} µm",
            needed_for="index and query",
            remedy="give a finer scan, or pass --allow-upsampling",
        )
        return False
    return True


def _tissue(found: Findings, slide: Slide) -> bool:
    """Look for tissue where that is cheap; tell how many tiles there are, and whether any."""
    mpp = slide.mpp
    if mpp is not None:
        across, down = (math.ceil(n * mpp / STRIDE_UM) for n in slide.size_px)
        most = across * down
    level = slide.level_for(max(slide.size_px) / 1024)
    width, height = slide.level_sizes[level]
    if width * height > CHEAP_PX:
        if mpp is not None:
            found.fact("tiles at 100 µm", None, f"at most {most:,} (tissue was not looked for)")
        return True
    try:
        mask = tissue_mask(slide)
    except BleepdbError as error:
        found.lacks(
            f"tissue that can be used: {error.what}",
            needed_for="queries and sections",
            remedy=error.hint or "give the H&E slide",
        )
        return False
    share = float(mask.mask.mean())
    found.fact("tissue", share, f"{share:.0%} of the image")
    if mpp is None:
        return True
    try:
        centres = len(
            tile_centres(
                mask, size_px=slide.size_px, slide_mpp=mpp, stride_um=STRIDE_UM, tile_um=STRIDE_UM
            )
        )
    except BleepdbError as error:
        centres = 0
        found.note(f"at a stride of {STRIDE_UM:g} µm: {error.what} (see --stride-um, --min-tissue)")
    found.fact("tiles at 100 µm", centres, f"about {centres:,} of {most:,}")
    return True


def _whole(found: Findings, magic: str | None, storage: Storage | None) -> bool:
    """Tell a file that breaks off, as far as its end or its directories tell."""
    if storage is not None and storage.beyond:
        found.lacks(
            f"{storage.beyond:,} of {storage.pieces:,} pieces of its pixels: the file breaks off",
            needed_for="reading all of the slide",
            remedy="fetch the file again",
        )
        return False
    if storage is not None and storage.broken:
        found.lacks(
            "its last directories: the file breaks off",
            needed_for="its levels, its microns, its pictures",
            remedy="fetch the file again",
        )
        return False
    ends = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
    if magic in ends:
        with found.path.open("rb") as handle:
            handle.seek(max(0, found.path.stat().st_size - TAIL))
            if ends[magic] not in handle.read():
                found.lacks(
                    "its end: the file breaks off",
                    needed_for="reading its pixels",
                    remedy="fetch the file again",
                )
                return False
    return True


def _closed_image(
    found: Findings, error: SlideError, magic: str | None, storage: Storage | None
) -> Inspection | None:
    """Tell an image whose header can be read, though it is not taken; None where it cannot."""
    size: tuple[int, int] | None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(found.path, formats=("PNG", "JPEG", "TIFF", "BMP", "WEBP")) as image:
                size, mode, kind = image.size, image.mode, image.format
    except Image.DecompressionBombError:
        size, mode, kind = _png_size(found.path), None, "PNG"
    except (OSError, SyntaxError, ValueError):
        return None
    if size is None:
        return None
    found.fact("size px", list(size), f"{size[0]:,} x {size[1]:,} px")
    if mode is not None:
        found.fact("pixels", mode)
    found.fact("file", found.path.stat().st_size, size_text(found.path.stat().st_size))
    _whole(found, magic, storage)
    found.lacks(
        f"a way to use it: {error.what}", needed_for="any tile", remedy=error.hint or "convert it"
    )
    return found.made("image", f"a {kind} image that is not taken")


def _png_size(path: Path) -> tuple[int, int] | None:
    head = head_of(path, 24)
    if magic_of(head) != "PNG" or len(head) < 24:
        return None
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
