"""Small pictures of the tissue that come with counts: read within a limit, as RGB."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from bleepdb.errors import SectionError
from bleepdb.tissue.section import ReferenceImage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MOST_PIXELS: Final = 2**26
"""Reduced images are about 2,000 px wide (6,000 px in Visium HD); more is no picture to compare."""
FORMATS: Final = ("PNG", "JPEG", "TIFF")
AGAIN: Final = "fetch the folder again as Space Ranger wrote it"


def reference_among(
    pictures: Sequence[tuple[str, float, Callable[[], NDArray[np.uint8]]]],
) -> tuple[ReferenceImage | None, tuple[str, ...]]:
    """Take the first of several pictures that shows something.

    Parameters
    ----------
    pictures
        (where it is, its pixels per level-0 pixel, what reads it), the best first.

    Returns
    -------
    tuple
        The first that is not of one colour, else the first that can be read, else None; and
        notes of those that cannot be read.
    """
    notes: list[str] = []
    blank: ReferenceImage | None = None
    for where, scale, load in pictures:
        try:
            pixels = load()
        except SectionError as error:
            notes.append(f"{where} is left out: {error.what}")
            continue
        found = ReferenceImage(where, scale, load)
        if pixels.min() < pixels.max():
            return found, tuple(notes)
        blank = blank or found
    return blank, tuple(notes)


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a small picture: (height, width, 3) RGB.

    Raises
    ------
    SectionError
        If it is missing, larger than 2^26 pixels, or cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            # PIL warns of large pictures; the size is judged here, before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.size[0] * image.size[1] > MOST_PIXELS:
                    raise SectionError(
                        f"{image.size[0]} x {image.size[1]} px is no small picture of the tissue",
                        where=path,
                        hint=AGAIN,
                    )
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise SectionError(f"not a readable picture ({error})", where=path, hint=AGAIN) from error


def picture_of(pixels: Any) -> NDArray[np.uint8] | None:  # noqa: ANN401 - whatever a file stores
    """Return stored pixels as (height, width, 3) RGB uint8, or None where they are no picture.

    Numbers from 0 to 1 count as shares of full brightness, as scanpy stores them.
    """
    values: NDArray[Any] = np.asarray(pixels)
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    if values.ndim != 3 or values.shape[2] not in (3, 4) or not values.size:
        return None
    values = values[:, :, :3]
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
            return None
        values = values * 255 if values.max() <= 1 else values
        rounded: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
        return rounded
    if values.dtype == np.uint8:
        made: NDArray[np.uint8] = np.array(values, dtype=np.uint8)
        return made
    return None
