"""OME-Zarr images, as SpatialData keeps them: the folder of one image element as a slide."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from bleepdb.errors import SectionError, SlideError
from bleepdb.files import digest, file_digest
from bleepdb.tissue.plain_image import undecodable
from bleepdb.tissue.readers.elements import read_attrs
from bleepdb.tissue.readers.zarr_check import check_zarr
from bleepdb.tissue.slide import Slide
from bleepdb.tissue.stated_mpp import square_mpp
from bleepdb.tissue.tiff_index import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RGB_SAMPLES: Final = 3
MICRONS: Final = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}
FROM_AXES: Final = "OME-Zarr axes"
ZARR_ERRORS: Final = (OSError, ValueError, TypeError, KeyError, RuntimeError, MemoryError)
HINT: Final = "give the folder of one image, such as STORE.zarr/images/NAME"


class OmeZarr(Slide):
    """An image of a Zarr store: levels of 8-bit RGB, chunk by chunk.

    The store is looked through before it is opened (`check_zarr`): no link out of it, no foreign
    codec, no size that it does not store. Microns are those of its axes, where they have a unit of
    length; SpatialData writes none.

    Parameters
    ----------
    path
        The folder that holds the levels.
    mpp
        As in `Slide`.

    Raises
    ------
    SlideError
        If it is no such image, or one of other pixels.
    """

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        try:
            check_zarr(path.parent, path.name)
            attrs = read_attrs(path)
            scales = (attrs.get("ome") or attrs).get("multiscales")
            first = scales[0] if isinstance(scales, list) and scales else None
            if first is None:
                raise SlideError("this folder is no image that is read", where=path, hint=HINT)
            axes = [str(axis["name"]) for axis in first["axes"]]
            names = [str(dataset["path"]) for dataset in first["datasets"]]
            arrays = [zarr.open_array(path / _part(name), mode="r") for name in names]
            stated = _mpp(first, path)
        except SectionError as error:
            raise SlideError(error.what, where=error.where, hint=error.hint) from error
        except (AttributeError, IndexError, *ZARR_ERRORS) as error:
            raise SlideError(
                f"its metadata are not those of an OME-Zarr image ({one_line(error)})",
                where=path,
                hint=HINT,
            ) from error
        _refuse_unfit(arrays, axes, path)
        self._colours = axes.index("c")
        sizes = [tuple(a.shape[axes.index(side)] for side in "xy") for a in arrays]
        width, height = sizes[0]
        super().__init__(
            path,
            levels=tuple((width / w + height / h) / 2 for w, h in sizes),
            level_sizes=tuple((int(w), int(h)) for w, h in sizes),
            file_mpp=stated,
            mpp=mpp,
            mpp_from=FROM_AXES,
        )
        self.reader = "OME-Zarr"
        self._arrays = arrays

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
        """Return RGB of a region."""
        array, rows, columns = self._arrays[level], slice(y, y + height), slice(x, x + width)
        try:
            if self._colours == 0:
                pixels = np.moveaxis(np.asarray(array[:, rows, columns]), 0, -1)
            else:
                pixels = np.asarray(array[rows, columns, :])
        except ZARR_ERRORS as error:
            raise undecodable(self.path, one_line(error)) from error
        if out is None:
            return np.ascontiguousarray(pixels)
        np.copyto(out, pixels)
        return out

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names and bytes of the folder's files."""
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        return digest(
            *(part for p in files for part in (p.relative_to(self.path).as_posix(), file_digest(p)))
        )

    def facts(self) -> dict[str, Any]:
        """Return what is known of the image."""
        known = {**super().facts(), "vendor": None, "objective_power": None}
        for level, array in zip(known["levels"], self._arrays, strict=True):
            down, across = array.chunks[1:] if self._colours == 0 else array.chunks[:2]
            level["tile_px"] = [int(across), int(down)]
        return known

    def close(self) -> None:
        """Let go of the arrays."""
        self._arrays = []


def _part(name: str) -> str:
    """Return a level's folder, which lies in the image's own."""
    if "/" in name or "\\" in name or name.startswith("."):
        message = f"a level lies at {name!r}"
        raise ValueError(message)
    return name


def _refuse_unfit(arrays: list[Any], axes: list[str], path: Path) -> None:
    what = None
    first = arrays[0]
    if axes not in (["c", "y", "x"], ["y", "x", "c"]):
        what = f"its axes are {', '.join(axes)}, not c, y, x"
    elif first.ndim != len(axes):
        what = f"it has {first.ndim} axes and names {len(axes)}"
    elif first.dtype != np.uint8:
        what = f"its pixels are {first.dtype}, not 8-bit"
    elif first.shape[axes.index("c")] != RGB_SAMPLES:
        what = f"it has {first.shape[axes.index('c')]} channels, not red, green and blue"
    elif not all(
        a.ndim == first.ndim
        and a.dtype == first.dtype
        and 0 not in a.shape
        and a.shape[axes.index("c")] == RGB_SAMPLES
        for a in arrays
    ):
        what = "its levels are not alike"
    if what is not None:
        raise SlideError(what, where=path, hint="write the image as 8-bit RGB")


def _mpp(first: dict[str, Any], path: Path) -> float | None:
    """Microns a pixel of the first level; None where an axis has no unit of length."""
    sides = []
    steps = first["datasets"][0].get("coordinateTransformations") or []
    scale = next((s["scale"] for s in steps if s.get("type") == "scale"), None)
    for name in "xy":
        i = [axis["name"] for axis in first["axes"]].index(name)
        micron = MICRONS.get(first["axes"][i].get("unit", ""))
        if micron is None or scale is None:
            return None
        sides.append(float(scale[i]) * micron)
    return square_mpp(sides[0], sides[1], path)
