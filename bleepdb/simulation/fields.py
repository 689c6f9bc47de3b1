"""Smooth random fields: on a plane, and as periodic textures that tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, int], sigma: float
) -> NDArray[np.float32]:
    """Gaussian random field: white noise smoothed, then brought to mean 0 and SD 1.

    Parameters
    ----------
    rng
        Source of the noise.
    shape
        Rows and columns.
    sigma
        SD of the smoothing in cells of the grid.
    """
    margin = int(np.ceil(2 * sigma))  # so that the edge is as rough as the middle
    noise = rng.standard_normal((shape[0] + 2 * margin, shape[1] + 2 * margin), dtype=np.float32)
    field = gaussian_filter(noise, sigma, mode="wrap", truncate=3.0)
    field = field[margin : margin + shape[0], margin : margin + shape[1]]
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def texture(
    rng: np.random.Generator, size: int, sigma_y: float, sigma_x: float
) -> NDArray[np.float32]:
    """Periodic Gaussian texture (size, size), mean 0 and SD 1, that tiles without a seam.

    Parameters
    ----------
    rng
        Source of the noise.
    size
        Edge in pixels.
    sigma_y, sigma_x
        SD of the smoothing along each axis, in pixels.
    """
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    spectrum *= np.exp(-2 * np.pi**2 * ((sigma_y * fy) ** 2 + (sigma_x * fx) ** 2))
    made = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray((made - made.mean()) / made.std(), dtype=np.float32)
