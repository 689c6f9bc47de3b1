"""Where the spots of an AnnData file lie: its ``obsm``, else columns of its ``obs``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from bleepdb import names
from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.annotated import is_group, read_element, read_frame
from bleepdb.tissue.readers.assemble import OBSM
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.positions import COL, IN_TISSUE, ROW, X, Y
from bleepdb.tissue.readers.reference import MOST_PIXELS, picture_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.readers.annotated import Group

WRITE_PLACES: Final = 'write the spots\' (x, y) in full-resolution pixels to obsm["spatial"]'
MPP_KEYS: Final = ("microns_per_pixel", "mpp")
PIXEL_COLUMNS: Final = (
    (names.X_PX, names.Y_PX),
    (X, Y),
    ("pixel_x", "pixel_y"),
    ("imagecol", "imagerow"),
)
"""Columns of ``obs`` that are pixels of the full-resolution image by their names."""
BARE_COLUMNS: Final = (("x", "y"), ("X", "Y"))
"""Columns that name no unit: taken as pixels where nothing speaks against it, and told."""
LEAST_SPREAD_PX: Final = 500.0
"""Places that spread over less than this are steps of an array, or of a thumbnail."""
HIRES_KEYS: Final = ("hires", "downscaled_fullres", "lowres")
PITCH_BY_SPOT: Final = (1.3, 2.1)
"""Pitch over spot diameter: 100/55, or 100/65 where Space Ranger counts the ring."""
REDUCED: Final = 0.6
"""A picture reduced by less than this cannot be told from the full resolution by its spots."""


@dataclass(frozen=True)
class Places:
    """Where the spots of an AnnData file lie.

    Attributes
    ----------
    obs
        The table of spots, barcodes as index.
    stored
        (spots, 2) float64, as the file stores them.
    file_mpp
        Microns per pixel that ``uns["spatial"]`` states, or None.
    reduced
        Pixels of the frame that `stored` is in per full-resolution pixel, where the file's own
        scale factors tell that the places were stored at the scale of its reduced image;
        else 1.
    pictures
        (key in the file, its pixels per full-resolution pixel, (width, height)) of the reduced
        images, the largest first.
    notes
        What was assumed, one sentence each.
    """

    obs: pd.DataFrame
    stored: NDArray[np.float64]
    file_mpp: float | None
    reduced: float = 1.0
    pictures: tuple[tuple[str, float, tuple[int, int]], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def xy_px(self) -> NDArray[np.float64]:
        """(spots, 2) float64 in pixels of the full-resolution image."""
        return self.stored / self.reduced

    @property
    def under_tissue(self) -> NDArray[np.bool_]:
        """(spots,) bool: ``obs["in_tissue"]`` where it is there, else all."""
        if IN_TISSUE not in self.obs:
            return np.ones(len(self.obs), dtype=np.bool_)
        column = self.obs[IN_TISSUE]
        if column.dtype.kind not in "biuf":
            words = column.astype(str).str.lower()
            return np.asarray(words.isin(("1", "1.0", "true")))
        return np.asarray(pd.to_numeric(column, errors="coerce") == 1)

    @property
    def barcodes(self) -> list[str]:
        """Names of the spots."""
        return [str(b) for b in self.obs.index]


def read_places(handle: Group, path: Path) -> Places:
    """Read spots and positions of an open AnnData file.

    Raises
    ------
    SectionError
        If there are none, they do not fit together, their unit cannot be told, or they belong to
        several libraries.
    """
    obs = read_frame(handle, "obs", path)
    xy_px, notes = _stored(handle, obs, path)
    libraries = _libraries(handle, obs)
    sections = max(
        len(libraries), obs[names.LIBRARY_ID].nunique() if names.LIBRARY_ID in obs else 0
    )
    if sections > 1:
        raise SectionError(
            f"holds {sections} libraries", where=path, hint="write one file a section"
        )
    mpp = next((_stated_mpp(library) for _, library in libraries), None)
    factors = {}
    pictures: tuple[tuple[str, float, tuple[int, int]], ...] = ()
    for key, library in libraries:
        factors = _factors(library)
        pictures = _pictures(key, library, factors)
    reduced = _reduced(xy_px, obs, factors, pictures)
    if reduced != 1:
        told = f"places are stored at the scale of the reduced image ({reduced:.4g})"
        notes = (*notes, f"{told}; they are divided by it")
    return Places(obs, xy_px, mpp, reduced, pictures, notes)


def _stored(
    handle: Group, obs: pd.DataFrame, path: Path
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(spots, 2) places as stored, and what is assumed of them."""
    known = [f"obsm/{name}" for name in OBSM if f"obsm/{name}" in handle]
    if known:
        spatial = known[0]
        note = f'no obsm["{names.SPATIAL}"]; places are {spatial}'
        stored = read_element(handle, spatial, path)
        xy = np.asarray(stored)
        if xy.ndim != 2 or xy.shape[1] < 2 or len(xy) != len(obs):
            raise SectionError(
                f"{spatial} has shape {xy.shape} for {len(obs)} spots",
                where=path,
                hint=WRITE_PLACES,
            )
        if not np.issubdtype(xy.dtype, np.number):
            raise SectionError(f"{spatial} does not hold numbers", where=path, hint=WRITE_PLACES)
        return xy[:, :2].astype(np.float64), () if spatial == f"obsm/{OBSM[0]}" else (note,)
    for pair in PIXEL_COLUMNS:
        if set(pair) <= set(obs):
            note = f'no obsm["{names.SPATIAL}"]; places are obs["{pair[0]}"] and obs["{pair[1]}"]'
            return _columns(obs, pair, path), (note,)
    for pair in BARE_COLUMNS:
        if set(pair) <= set(obs):
            xy = _columns(obs, pair, path)
            _refuse_ambiguous(xy, pair, path)
            note = (
                f'no obsm["{names.SPATIAL}"]; places are obs["{pair[0]}"] and obs["{pair[1]}"], '
                "taken as pixels of the full-resolution image"
            )
            return xy, (note,)
    only_array = {ROW, COL} <= set(obs)
    raise SectionError(
        f'no obsm["{names.SPATIAL}"]'
        + (
            f", and {ROW} and {COL} tell places on the array, not in an image" if only_array else ""
        ),
        where=path,
        hint=WRITE_PLACES,
    )


def _columns(obs: pd.DataFrame, pair: tuple[str, str], path: Path) -> NDArray[np.float64]:
    values = [pd.to_numeric(obs[c].astype(object), errors="coerce") for c in pair]
    xy = np.column_stack([v.to_numpy(np.float64) for v in values])
    if np.isnan(xy).all(axis=0).any():
        raise SectionError(
            f'obs["{pair[0]}"] and obs["{pair[1]}"] do not hold numbers',
            where=path,
            hint=WRITE_PLACES,
        )
    return xy


def _refuse_ambiguous(xy: NDArray[np.float64], pair: tuple[str, str], path: Path) -> None:
    """Refuse columns without a unit that may be array steps, or microns, rather than pixels."""
    finite = xy[np.isfinite(xy).all(axis=1)]
    doubt = None
    if len(finite) and np.ptp(finite, axis=0).max() < LEAST_SPREAD_PX:
        doubt = "array steps or thumbnail pixels (they spread over less than 500)"
    else:
        mpp = scales.mpp_of_neighbours(finite, scales.VISIUM_PITCH_UM)
        if mpp is not None and abs(mpp - 1) < scales.DISAGREE:
            doubt = "microns (adjacent spots are 100 apart)"
    if doubt is not None:
        raise SectionError(
            f'obs["{pair[0]}"] and obs["{pair[1]}"] may be {doubt}, not pixels',
            where=path,
            hint=WRITE_PLACES,
        )


def _libraries(handle: Group, obs: pd.DataFrame) -> list[tuple[str, Group]]:
    """Libraries of ``uns``: the one that all spots are of, else all."""
    key = f"uns/{names.SPATIAL}"
    spatial = handle.get(key)
    if spatial is None or not is_group(spatial):
        return []
    found = {name: item for name, item in spatial.items() if is_group(item)}
    own = set(obs[names.LIBRARY_ID].astype(str)) if names.LIBRARY_ID in obs else set()
    if len(own) == 1 and own <= set(found):  # part of a file of several keeps what all had
        found = {name: found[name] for name in own}
    return [(f"{key}/{name}", item) for name, item in found.items()]


def _stated_mpp(library: Group) -> float | None:
    for place in ("metadata", "scalefactors"):
        for key in MPP_KEYS:
            value = _scalar(library, f"{place}/{key}")
            if value is not None:
                return value
    return None


def _scalar(library: Group, key: str) -> float | None:
    item = library.get(key)
    if item is None or is_group(item) or item.shape != ():
        return None
    try:
        return float(item[()])
    except (TypeError, ValueError):
        return None


def _factors(library: Group) -> dict[str, float]:
    """Scale factors that are positive numbers."""
    group = library.get("scalefactors")
    if group is None or not is_group(group):
        return {}
    values = {key: _scalar(group, key) for key in group}
    return {k: v for k, v in values.items() if v is not None and 0 < v < math.inf}


def _pictures(
    key: str, library: Group, factors: dict[str, float]
) -> tuple[tuple[str, float, tuple[int, int]], ...]:
    found = []
    for name in HIRES_KEYS:
        item, factor = library.get(f"images/{name}"), factors.get(f"tissue_{name}_scalef")
        if item is None or is_group(item) or factor is None or len(item.shape) not in (2, 3):
            continue
        height, width = (int(n) for n in item.shape[:2])
        if 0 < width * height <= MOST_PIXELS:
            found.append((f"{key}/images/{name}", factor, (width, height)))
    return tuple(found)


def _reduced(
    xy: NDArray[np.float64],
    obs: pd.DataFrame,
    factors: dict[str, float],
    pictures: tuple[tuple[str, float, tuple[int, int]], ...],
) -> float:
    """Return the factor of the reduced image at whose scale places are stored, else 1.

    Told by the pitch of the spots over the spot diameter in full-resolution pixels; where that
    is not known, by places that all lie within a reduced image, whose full-resolution image
    would be left empty but for one corner.
    """
    finite = np.isfinite(xy).all(axis=1)
    known = {k: f for k, f in factors.items() if k.startswith("tissue_") and f < REDUCED}
    if not finite.any() or not known:
        return 1.0
    diameter = factors.get("spot_diameter_fullres")
    pitch = pitch_px(xy[finite], obs[pd.Series(finite, index=obs.index)])
    if diameter is not None and pitch is not None:
        low, high = PITCH_BY_SPOT
        if low <= pitch / diameter <= high:
            return 1.0
        return next((f for f in known.values() if low <= pitch / (diameter * f) <= high), 1.0)
    for _, factor, size in pictures:
        if factor < REDUCED and (xy[finite] <= size).all():
            return factor
    return 1.0


def pitch_px(xy: NDArray[np.float64], obs: pd.DataFrame) -> float | None:
    """Distance between adjacent spots of a Visium array in the unit of `xy`, or None."""
    mpp = visium_mpp(xy, obs)
    return None if mpp is None else scales.VISIUM_PITCH_UM / mpp


def visium_mpp(xy_px: NDArray[np.float64], obs: pd.DataFrame) -> float | None:
    """Microns per pixel from the Visium array, or from the distance of adjacent spots."""
    finite = np.isfinite(xy_px).all(axis=1)
    if {ROW, COL} <= set(obs):
        array = obs[[ROW, COL]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        known = np.isfinite(array).all(axis=1) & finite
        array_um = scales.visium_array_um(array[known, 0], array[known, 1])
        return scales.mpp_of_array(array_um, xy_px[known], scales.VISIUM_PITCH_UM)
    return scales.mpp_of_neighbours(xy_px[finite], scales.VISIUM_PITCH_UM)


def picture_loaders(
    places: Places, path: Path, factor: float
) -> list[tuple[str, float, Callable[[], NDArray[np.uint8]]]]:
    """Readers of the file's reduced images for `reference_among`.

    Parameters
    ----------
    places
        What `read_places` found.
    path
        The ``.h5ad``.
    factor
        Pixels of the section's frame per full-resolution pixel.
    """
    return [
        (f"{path}/{key}", scale / factor, partial(_stored_picture, path, key))
        for key, scale, _ in places.pictures
    ]


def _stored_picture(path: Path, key: str) -> NDArray[np.uint8]:
    with open_hdf5(path, "AnnData") as handle:
        stored: Any = handle[key][:]
    pixels = picture_of(stored)
    if pixels is None:
        raise SectionError(f"{key} is no picture", where=path, hint="leave it out")
    return pixels
