"""Microns per pixel of a section: from the array of spots, and which source is believed."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.spatial import KDTree

from bleepdb.errors import SectionError
from bleepdb.tissue.geometry import mpp_fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

VISIUM_PITCH_UM: Final = 100.0
VISIUM_SPOT_UM: Final = 55.0
SPACE_RANGER_SPOT_UM: Final = 65.0
"""What Space Ranger's ``spot_diameter_fullres`` spans: by the pitch 64.8 to 64.9 µm in folders of
three versions, where a spot is 55 µm wide."""
ST_PITCH_UM: Final = 200.0
ST_SPOT_UM: Final = 100.0
DISAGREE: Final = 0.05
"""Sources of mpp that differ by more than this share are told."""
LOOSE_FIT: Final = 0.25
"""An array fit whose residual is above this share of the pitch is not believed."""


@dataclass(frozen=True)
class Scale:
    """Microns per pixel, who said so, and what other sources said against it."""

    mpp: float | None
    source: str | None
    notes: tuple[str, ...] = ()

    def on_image(self, factor: float) -> Scale:
        """Return the scale of an image that is `factor` times as large."""
        mpp = None if self.mpp is None else self.mpp / factor
        return Scale(mpp, self.source, self.notes)


def choose_mpp(candidates: Sequence[tuple[str, float | None]], where: Path) -> Scale:
    """Take the first known mpp; note the others that differ by more than 5%, each once.

    Parameters
    ----------
    candidates
        (source, µm per pixel or None), the most trusted first.
    where
        The file, for messages.

    Raises
    ------
    SectionError
        If a source gives something that is no positive number, or the one that is taken gives
        what no image has.
    """
    known = [(source, mpp) for source, mpp in candidates if mpp is not None]
    for number, (source, mpp) in enumerate(known):
        fault = mpp_fault(mpp)
        if fault is not None and (number == 0 or not mpp > 0):
            raise SectionError(
                f"mpp from {source}: {fault}",
                where=where,
                hint="correct the sheet's mpp column or pass --slide-mpp",
            )
    if not known:
        return Scale(None, None)
    (source, mpp), *others = known
    notes = tuple(
        f"mpp {mpp:.4g} from {source} is used; {other} says {value:.4g}"
        for other, value in others
        if abs(value / mpp - 1) > DISAGREE
    )
    for note in notes:
        log.info("%s: %s", where, note)
    return Scale(mpp, source, notes)


def visium_array_um(
    array_row: NDArray[np.float64], array_col: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(spots, 2) places in µm on a Visium array: orange-crate packing, 100 µm between centres.

    Adjacent spots of a row differ by 2 in `array_col`, adjacent rows by 1 in `array_row`.
    """
    return VISIUM_PITCH_UM * np.column_stack([array_col / 2, array_row * math.sqrt(3) / 2])


def mpp_of_array(
    array_um: NDArray[np.float64], xy_px: NDArray[np.float64], pitch_um: float
) -> float | None:
    """Microns per pixel from an affine fit of pixels on places of the array.

    Rotation, flips and a shift are allowed; spots far off the first fit are left out of the
    second. The scale is the square root of the fit's determinant, which is the mean over
    directions.

    Parameters
    ----------
    array_um, xy_px
        (spots, 2) places on the array in µm, and in the image in pixels.
    pitch_um
        Distance between adjacent spots.

    Returns
    -------
    float or None
        None where the spots lie on one line, or do not follow the array.
    """
    design = np.column_stack([array_um, np.ones(len(array_um))])
    kept = np.ones(len(design), dtype=np.bool_)
    for _ in range(2):
        if np.linalg.matrix_rank(design[kept]) < design.shape[1]:
            return None
        affine = np.linalg.lstsq(design[kept], xy_px[kept], rcond=None)[0]
        off_px = np.linalg.norm(design @ affine - xy_px, axis=1)
        px_per_um = math.sqrt(abs(float(np.linalg.det(affine[:2]))))
        if px_per_um == 0 or np.median(off_px) > LOOSE_FIT * pitch_um * px_per_um:
            return None
        kept = off_px <= max(LOOSE_FIT * pitch_um * px_per_um, 3 * float(np.median(off_px)))
    return 1 / px_per_um


def mpp_of_diameter(diameter_px: float | None, beside: float | None) -> float | None:
    """Microns per pixel from Space Ranger's ``spot_diameter_fullres``.

    Parameters
    ----------
    diameter_px
        That diameter, in pixels of the full-resolution image, or None.
    beside
        What another source says, or None. Where it agrees with spots of 55 µm, which other tools
        write under that name, those are taken.

    Returns
    -------
    float or None
        None where there is no diameter.
    """
    if diameter_px is None:
        return None
    as_spots = VISIUM_SPOT_UM / diameter_px
    if beside is not None and abs(as_spots / beside - 1) <= DISAGREE:
        return as_spots
    return SPACE_RANGER_SPOT_UM / diameter_px


def mpp_of_neighbours(xy_px: NDArray[np.float64], pitch_um: float) -> float | None:
    """Microns per pixel from the distance to the nearest spot, where that is the pitch.

    Returns
    -------
    float or None
        None unless four fifths of the spots have their nearest neighbour within 5% of the
        median distance: a thinned section shows no pitch.
    """
    if len(xy_px) < 3:
        return None
    nearest = np.asarray(KDTree(xy_px).query(xy_px, k=2)[0])[:, 1]
    pitch_px = float(np.median(nearest))
    if pitch_px == 0 or np.mean(np.abs(nearest / pitch_px - 1) <= DISAGREE) < 0.8:
        return None
    return pitch_um / pitch_px
