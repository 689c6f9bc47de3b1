"""Slides: one way to ask any image for the pixels of a place."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from bleepdb.errors import SlideError
from bleepdb.files import file_digest
from bleepdb.tissue.geometry import AREA, SCALED, mpp_fault
from bleepdb.tissue.planes import box_reduced, planes_of
from bleepdb.tissue.stated_mpp import FROM_HEADER
from bleepdb.tissue.windows import Window, resampled

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

LEVEL_TOLERANCE: Final = 0.01
"""A level that is coarser than asked by no more than this share counts as equal: the true factor
of a "2x" level is often 2.00003, and reading level 0 instead costs many times the pixels."""
BAND_PX: Final = 2**26
"""A read of more source pixels than this is made in bands, so that memory stays bounded."""
MPP_DISAGREE: Final = 0.05
WHITE: Final = 255


class Slide(ABC):
    """An image with levels, read by places in level-0 pixels.

    Subclasses give the pixels of whole-numbered regions of a level; which level to read, the
    padding and the resampling are decided here, once for all formats. Any number of threads may
    read from one open slide at a time.

    Parameters
    ----------
    path
        The file.
    size_px
        (width, height) of level 0.
    levels
        Downsampling factor of each level, rising from 1.
    level_sizes
        (width, height) of each level.
    file_mpp
        Microns per level-0 pixel that the file states, or None.
    mpp
        What the user states instead.
    mpp_from
        Where `file_mpp` stands in the file.

    Raises
    ------
    SlideError
        If `mpp` is not a positive number, or one that no image has.
    """

    reader: str = "memory"
    """Who reads the file, in words."""
    notes: tuple[str, ...] = ()
    """What a person should know of the image before it is used, a clause each."""

    def __init__(
        self,
        path: Path,
        *,
        levels: tuple[float, ...],
        level_sizes: tuple[tuple[int, int], ...],
        file_mpp: float | None,
        mpp: float | None,
        mpp_from: str = FROM_HEADER,
    ) -> None:
        fault = None if mpp is None else mpp_fault(mpp)
        if fault is not None:
            raise SlideError(f"mpp {fault}", where=path, hint="correct the mpp with --slide-mpp")
        if mpp is not None and file_mpp is not None and abs(file_mpp / mpp - 1) > MPP_DISAGREE:
            log.warning("%s: mpp %.4g is used; the file says %.4g", path, mpp, file_mpp)
        self.path = path
        self.levels = levels
        self.level_sizes = level_sizes
        self.size_px = level_sizes[0]
        self._planes = planes_of(levels, level_sizes)
        self.file_mpp = file_mpp
        self.mpp_from = None if file_mpp is None else mpp_from
        self.mpp = file_mpp if mpp is None else mpp
        self.mpp_source = None if self.mpp is None else "slide" if mpp is None else "given"

    @abstractmethod
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
        """Return (height, width, 3) RGB of a region that lies wholly inside a level.

        Safe to call from several threads at once.

        Parameters
        ----------
        level
            Which level.
        x, y, width, height
            The region in pixels of that level.
        out
            (height, width, 3) uint8 that is filled and returned, if given; its rows need not lie
            side by side. A buffer that is used again saves the time that fresh memory costs.

        Raises
        ------
        SlideError
            If the pixels cannot be decoded.
        """

    def reduced(
        self,
        level: int,
        by: int,
        x: int,
        y: int,
        width: int,
        height: int,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return RGB of a region of a level that is made 2, 4 or 8 times smaller while it is read.

        Readers of JPEG tiles decode them smaller; here the region is decoded and each pixel is the
        mean of the `by` x `by` pixels that it covers (fewer at the right and lower edge).

        Parameters
        ----------
        level
            Which level.
        by
            2, 4 or 8.
        x, y, width, height
            The region in pixels of the reduced level, which has as many as cover the whole level.
        out
            As in `region`.

        Raises
        ------
        SlideError
            If the pixels cannot be decoded.
        """
        whole_w, whole_h = self.level_sizes[level]
        out = np.empty((height, width, 3), dtype=np.uint8) if out is None else out
        across = min(width * by, whole_w - x * by)
        rows = max(1, BAND_PX // (by * by * width))
        for top in range(0, height, rows):
            count = min(rows, height - top)
            y0 = (y + top) * by
            pixels = self.region(level, x * by, y0, across, min(count * by, whole_h - y0))
            out[top : top + count] = box_reduced(pixels, by)
        return out

    @abstractmethod
    def close(self) -> None:
        """Let go of the file and of what is held in memory."""

    def facts(self) -> dict[str, Any]:
        """Return what is known of the file, as JSON can hold it.

        Returns
        -------
        dict
            ``reader``; ``size_px`` [width, height]; ``levels``, a list of ``factor`` and
            ``size_px``; ``mpp`` and ``mpp_source``, or None; ``mpp_from``, where in the file it
            stands; ``notes``; and what else the reader knows: ``vendor``, ``objective_power``,
            and of each level ``tile_px`` and ``compression``.
        """
        return {
            "reader": self.reader,
            "size_px": list(self.size_px),
            "levels": [
                {"factor": factor, "size_px": list(size)}
                for factor, size in zip(self.levels, self.level_sizes, strict=True)
            ],
            "mpp": self.mpp,
            "mpp_source": self.mpp_source,
            "mpp_from": self.mpp_from,
            "notes": list(self.notes),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, 64 hex digits."""
        return file_digest(self.path)

    @property
    def known_mpp(self) -> float:
        """`mpp`, or a SlideError that says how to give it."""
        if self.mpp is None:
            raise SlideError(
                "the file does not say its microns per pixel (mpp)",
                where=self.path,
                hint="fill in the sheet's mpp column or pass --slide-mpp",
            )
        return self.mpp

    def level_for(self, factor: float, resampling: str = AREA) -> int:
        """Return the coarsest level that is as fine as `factor`, within 1%.

        With ``"scaled"`` it may be one that the slide lacks, made by `reduced`; such levels are
        numbered after those of the slide, and `pixels` reads them.
        """
        allowed = factor * (1 + LEVEL_TOLERANCE)
        known = self._planes if resampling == SCALED else self._planes[: len(self.levels)]
        fine = (i for i, plane in enumerate(known) if plane.factor <= allowed)
        return max(fine, key=lambda i: known[i].factor, default=0)

    def read(
        self,
        x_px: float,
        y_px: float,
        w_px: float,
        h_px: float,
        *,
        out_px: tuple[int, int],
        resampling: str = AREA,
    ) -> NDArray[np.uint8]:
        """Read a box and resample it.

        Parameters
        ----------
        x_px, y_px, w_px, h_px
            The box in level-0 pixels; need not be whole, may reach over the edges (white there).
        out_px
            (width, height) of the result.
        resampling
            As `TileGeometry.resampling` says.

        Returns
        -------
        numpy.ndarray
            (height, width, 3) RGB, uint8.

        Raises
        ------
        SlideError
            If the pixels cannot be decoded.
        """
        out_w, out_h = out_px
        window = self.window(x_px, y_px, w_px, h_px, out_px=out_px, resampling=resampling)
        if window is None:
            upper = out_h // 2
            at = h_px * upper / out_h
            parts = (
                self.read(x_px, y_px, w_px, at, out_px=(out_w, upper), resampling=resampling),
                self.read(
                    x_px, y_px + at, w_px, h_px - at,
                    out_px=(out_w, out_h - upper), resampling=resampling,
                ),
            )  # fmt: skip
            return np.concatenate(parts)
        return resampled(self.pixels(window), window, out_px)

    def window(
        self,
        x_px: float,
        y_px: float,
        w_px: float,
        h_px: float,
        *,
        out_px: tuple[int, int],
        resampling: str = AREA,
    ) -> Window | None:
        """Return which pixels of which level a box is made from; None where they are too many.

        Such a box is made in bands. Parameters as in `read`.
        """
        out_w, out_h = out_px
        level = self.level_for(min(w_px / out_w, h_px / out_h), resampling)
        factor = self._planes[level].factor
        x, y, w, h = x_px / factor, y_px / factor, w_px / factor, h_px / factor
        if w * h > BAND_PX and out_h > 1:
            return None
        return Window.around(level, x, y, w, h, out_px=out_px, resampling=resampling)

    def pixels(self, window: Window, *, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return (height, width, 3) RGB of a window, white where it reaches over the edges.

        Parameters
        ----------
        window
            From `window`, or a union of such.
        out
            (height, width, 3) uint8 that is filled and returned, if given.

        Raises
        ------
        SlideError
            If the pixels cannot be decoded.
        """
        across, down = self._planes[window.level].size
        x0, y0 = max(window.left, 0), max(window.top, 0)
        x1, y1 = min(window.right, across), min(window.bottom, down)
        if (x0, y0, x1, y1) == (window.left, window.top, window.right, window.bottom):
            return self._of_plane(window.level, x0, y0, x1 - x0, y1 - y0, out)
        width, height = window.size
        canvas = np.empty((height, width, 3), dtype=np.uint8) if out is None else out
        canvas[...] = WHITE
        if x1 > x0 and y1 > y0:
            inside = canvas[y0 - window.top : y1 - window.top, x0 - window.left : x1 - window.left]
            self._of_plane(window.level, x0, y0, x1 - x0, y1 - y0, inside)
        return canvas

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """Return the whole slide as RGB, its longer side `max_px` (or as large as it is)."""
        width, height = self.size_px
        factor = min(1.0, max_px / max(width, height))
        out = max(1, round(width * factor)), max(1, round(height * factor))
        return self.read(0, 0, width, height, out_px=out)

    def _of_plane(
        self, index: int, x: int, y: int, width: int, height: int, out: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """Region of a level of the slide, or of one that it lacks."""
        plane = self._planes[index]
        if plane.by == 1:
            return self.region(plane.level, x, y, width, height, out=out)
        return self.reduced(plane.level, plane.by, x, y, width, height, out=out)
