"""A made slide whose tissue has an outline and texture of its own, and spots upon it."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon

PITCH = 48.0
CORNERS = np.array(
    [(120, 260), (420, 90), (760, 210), (1010, 170), (940, 640), (610, 560), (330, 850)]
)


def made_slide(seed=0, size=(1200, 1000), corners=CORNERS):
    """(h, w, 3) uint8 pixels and (h, w) bool tissue; a texture that no other seed has."""
    rng = np.random.default_rng(seed)
    width, height = size
    tissue = np.zeros((height, width), dtype=bool)
    tissue[polygon(corners[:, 1], corners[:, 0], tissue.shape)] = True
    texture = ndimage.gaussian_filter(rng.normal(0, 1, tissue.shape), 4)
    texture /= texture.std()
    pixels = np.full((height, width, 3), 236.0)
    pixels[tissue] = np.array([175, 95, 155]) + 30 * texture[tissue][:, None]
    pixels += rng.normal(0, 2, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), tissue


def spots_on(tissue, pitch=PITCH):
    """(n, 2) places of a square array that are on tissue."""
    steps = [np.arange(pitch / 2, n, pitch) for n in tissue.shape[::-1]]
    xy = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2)
    return xy[tissue[xy[:, 1].astype(int), xy[:, 0].astype(int)]]


def resized(pixels, factor):
    image = Image.fromarray(np.ascontiguousarray(pixels))
    size = [round(n * factor) for n in image.size]
    return np.asarray(
        image.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR)
    )


def saved(pixels, path):
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=1)
    return path
