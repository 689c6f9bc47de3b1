"""Do spots and image belong together? A light check: spots on the image, and on its tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bleepdb.errors import SlideError
from bleepdb.tissue.mask import TissueMask, tissue_mask
from bleepdb.tissue.tiles import refuse_outside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bleepdb.tissue.slide import Slide

FEW_ON_TISSUE: Final = 0.8  # right images gave 1.0 on real sections, a mirrored one 0.69


@dataclass(frozen=True)
class Registration:
    """How spots lie on a slide.

    Attributes
    ----------
    on_tissue
        Share of the spots that the tissue mask covers.
    mask
        That mask.
    warning
        A sentence to show, or None.
    """

    on_tissue: float
    mask: TissueMask
    warning: str | None


def check_registration(
    xy_px: NDArray[np.float64], slide: Slide, *, mask: TissueMask | None = None
) -> Registration:
    """Hold spots against the slide that they were measured on.

    Parameters
    ----------
    xy_px
        (n, 2) centres in level-0 pixels.
    slide
        The open slide.
    mask
        Its tissue; found here where it is not given.

    Raises
    ------
    SlideError
        If spots lie outside the image, or none lies on tissue.
    """
    refuse_outside(xy_px, slide)
    mask = tissue_mask(slide) if mask is None else mask
    share = float(mask.covers(xy_px).mean())
    if share == 0:
        raise SlideError(
            f"none of {len(xy_px)} spots is on tissue",
            where=slide.path,
            hint="is it the right image, at full resolution, neither flipped nor turned?",
        )
    warning = None
    if share < FEW_ON_TISSUE:
        warning = (
            f"{slide.path}: only {share:.0%} of {len(xy_px)} spots are on tissue; is it the right "
            "image, neither flipped nor turned?"
        )
    return Registration(share, mask, warning)
