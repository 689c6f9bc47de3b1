"""TIFF in strips: 8-bit RGB without loss, decoded strip by strip into one array."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.tissue.plain_image import InMemory, undecodable
from bleepdb.tissue.tiff_index import TIFFFILE_ERRORS, TiffError, one_line, quiet
from bleepdb.tissue.tiled_tiff import LOSSLESS, codec_fault

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.tiff_index import Directory


class StripTiff(InMemory):
    """An image in strips; three bytes a pixel are held, where PIL needs seven at its peak.

    Parameters
    ----------
    path
        The file.
    directory
        The image.
    max_pixels, file_mpp, mpp, mpp_from
        As in `InMemory`.

    Raises
    ------
    TiffError
        If its pixels are of another kind, and another reader should have it.
    SlideError
        If it is too large.
    """

    def __init__(
        self,
        path: Path,
        directory: Directory,
        *,
        max_pixels: int | None,
        file_mpp: float | None,
        mpp: float | None,
        mpp_from: str,
    ) -> None:
        if codec_fault(directory) is not None or directory.compression not in LOSSLESS:
            raise TiffError(f"strips of {directory.codec} are left to PIL")
        super().__init__(
            path,
            directory.size,
            max_pixels=max_pixels,
            file_mpp=file_mpp,
            mpp=mpp,
            mpp_from=mpp_from,
        )
        self.reader = f"TIFF strips ({directory.codec})"
        self._directory = directory

    def _decode(self) -> NDArray[np.uint8]:
        directory = self._directory
        width, height = directory.size
        rows = directory.tile[1]
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        with self.path.open("rb") as handle:
            for i, top in enumerate(range(0, height, rows)):
                offset, count = int(directory.offsets[i]), int(directory.counts[i])
                data = os.pread(handle.fileno(), count, offset)
                try:
                    with quiet():
                        strip, _, _ = directory.decode(data, i)
                    pixels[top : top + rows] = strip[0]
                except (RuntimeError, *TIFFFILE_ERRORS) as error:
                    raise undecodable(self.path, f"strip {i}: {one_line(error)}") from error
        return pixels
