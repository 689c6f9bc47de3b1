"""Pictures to judge by eye: the slide, the outline of its tissue, spots or tiles upon it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from bleepdb.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.mask import TissueMask
    from bleepdb.tissue.slide import Slide

OVERLAY_PX: Final = 1000
PACKING: Final = 1
"""Of PNG: scans hardly pack, and higher levels take seconds."""
MOST_MARKS: Final = 100_000
"""More marks than a picture can show; of more, every k-th is drawn."""
Colour = tuple[int, int, int]
TISSUE: Final[Colour] = (0, 130, 60)
GIVEN: Final[Colour] = (220, 90, 0)
FITTED: Final[Colour] = (0, 90, 220)
INK: Final[Colour] = (20, 20, 20)
LINE_PX: Final = 2
FONT_PX: Final = 15
MARGIN_PX: Final = 8
LEAST_RADIUS: Final = 1.5
LEAST_SQUARE: Final = 3.0


@dataclass(frozen=True)
class Marks:
    """Places to draw.

    Parameters
    ----------
    xy_px
        (n, 2) centres in level-0 pixels.
    edge_px
        Diameter of a spot, or edge of a tile, in level-0 pixels.
    what
        What they are, for the legend; empty for none.
    square
        Tiles, not spots.
    colour
        RGB.
    """

    xy_px: NDArray[np.float64]
    edge_px: float
    what: str = ""
    square: bool = False
    colour: Colour = GIVEN


def draw_overlay(
    slide: Slide,
    path: Path,
    *,
    mask: TissueMask | None = None,
    marks: Sequence[Marks] = (),
    lines: Sequence[str] = (),
    beside: tuple[NDArray[np.uint8], float, Sequence[Marks]] | None = None,
    max_px: int = OVERLAY_PX,
    thumbnail: NDArray[np.uint8] | None = None,
) -> Path:
    """Draw a slide with its tissue outlined and places marked, as a PNG that appears whole.

    Parameters
    ----------
    slide
        An open slide.
    path
        The PNG to write; folders are made, a file of that name is replaced.
    mask
        Outlined in green.
    marks
        Drawn in their order.
    lines
        Text below the picture.
    beside
        A second picture (RGB), its pixels per level-0 pixel, and its marks.
    max_px
        Longer side of the slide in the picture.
    thumbnail
        Of the whole slide, where one was read before.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    OSError
        If it cannot be written.
    SlideError
        If the slide's pixels cannot be decoded.
    """
    pixels = slide.thumbnail(max_px) if thumbnail is None else thumbnail
    picture = Image.fromarray(pixels)
    if max(picture.size) < max_px:
        grown = max_px / max(picture.size)
        picture = picture.resize(_scaled(picture.size, grown), Image.Resampling.BILINEAR)
    scale = picture.width / slide.size_px[0]
    if mask is not None:
        picture = _outlined(picture, mask)
    _draw_marks(picture, marks, scale)
    pictures = [picture]
    if beside is not None:
        rgb, other_scale, others = beside
        second = Image.fromarray(np.ascontiguousarray(rgb))
        factor = picture.height / second.height
        second = second.resize(_scaled(second.size, factor), Image.Resampling.BILINEAR)
        _draw_marks(second, others, other_scale * factor)
        pictures.append(second)
    legend = [(m.what, m.colour) for m in marks if m.what]
    if mask is not None:
        legend.insert(0, (f"tissue ({mask.source})", TISSUE))
    page = _page(pictures, [*legend, *((line, INK) for line in lines)])
    with whole_file(path) as part:
        page.save(part, format="PNG", compress_level=PACKING)
    return path


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _outlined(picture: Image.Image, mask: TissueMask) -> Image.Image:
    found = np.asarray(
        Image.fromarray(mask.mask).resize(picture.size, Image.Resampling.NEAREST), dtype=np.bool_
    )
    edge = found & ~ndimage.binary_erosion(found, iterations=LINE_PX, border_value=0)
    pixels = np.array(picture)
    pixels[edge] = TISSUE
    return Image.fromarray(pixels)


def _draw_marks(picture: Image.Image, marks: Sequence[Marks], scale: float) -> None:
    draw = ImageDraw.Draw(picture)
    for group in marks:
        some = group.xy_px[:: -(-len(group.xy_px) // MOST_MARKS) or 1] * scale
        radius = max(group.edge_px * scale / 2, LEAST_RADIUS)
        shape = draw.rectangle if group.square else draw.ellipse
        width = 1 if radius < 4 else LINE_PX
        for x, y in some.tolist():
            if -radius <= x <= picture.width + radius and -radius <= y <= picture.height + radius:
                if group.square and radius < LEAST_SQUARE:
                    draw.point((x, y), fill=group.colour)  # squares would hide what is below
                    continue
                box = (x - radius, y - radius, x + radius, y + radius)
                shape(box, outline=group.colour, width=width)


def _page(pictures: Sequence[Image.Image], lines: Sequence[tuple[str, Colour]]) -> Image.Image:
    """Put pictures side by side, and lines of text below them."""
    font = ImageFont.load_default(FONT_PX)
    step = FONT_PX + MARGIN_PX
    width = sum(p.width for p in pictures) + MARGIN_PX * (len(pictures) - 1)
    shown = [(part, colour) for text, colour in lines for part in _wrapped(text, font, width)]
    height = max(p.height for p in pictures)
    page = Image.new("RGB", (width, height + step * len(shown) + MARGIN_PX), "white")
    left = 0
    for picture in pictures:
        page.paste(picture, (left, 0))
        left += picture.width + MARGIN_PX
    draw = ImageDraw.Draw(page)
    for number, (text, colour) in enumerate(shown):
        draw.text((MARGIN_PX, height + MARGIN_PX + step * number), text, fill=colour, font=font)
    return page


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """Break a text into lines that fit; what the font may lack is shown as a question mark."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    lines, line = [], ""
    for word in plain.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width - 2 * MARGIN_PX:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line else lines
