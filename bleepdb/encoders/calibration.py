"""Canonical tiles and profiles: a model remembers where they went, and is tested with them.

They are made by integer arithmetic, so that every machine makes the same ones. A model that is
loaded encodes them again; what must agree is who is whose neighbour, so that a CPU may use what a
GPU at lower precision made, and other weights under the same name are found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bleepdb.normalise import log1p_cp10k

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS, ROWS = 4, 4
NEAREST = 3
# Between float32 and bfloat16 the cosine stays above .999 and the overlap above .97; weights that
# differ by a twentieth of their spread, or other pixel statistics, fall below one of these.
LEAST_OVERLAP = 0.85
LEAST_COSINE = 0.98
# Haematoxylin and eosin as RGB on white; what lies between is mixed by whole numbers.
NUCLEUS, GROUND, GLASS = (96, 60, 140), (222, 150, 190), (242, 240, 244)


def canonical_tiles(tile_px: int, scales: int) -> NDArray[np.uint8]:
    """Return (16, scales, tile_px, tile_px, 3) uint8 tiles of discs on a ground, all different.

    Disc size, spacing and the share of empty glass vary from tile to tile; a wider scale shows
    the same pattern finer.
    """
    made = np.empty((COLUMNS * ROWS, scales, tile_px, tile_px, 3), dtype=np.uint8)
    y, x = np.mgrid[0:tile_px, 0:tile_px].astype(np.int64)
    for tile in range(len(made)):
        for scale in range(scales):
            spacing = max(4, (12 + 5 * (tile % 4) + 3 * (tile // 4)) // (scale + 1))
            radius = max(1, spacing * (2 + tile // 4) // 10)
            # Every cell's disc is shifted by a multiplicative hash of its place.
            cell = (x // spacing) * 2654435761 + (y // spacing) * 40503 + tile * 97
            shift_x, shift_y = cell // 7 % 5 - 2, cell // 31 % 5 - 2
            dx, dy = x % spacing - spacing // 2 - shift_x, y % spacing - spacing // 2 - shift_y
            disc = dx * dx + dy * dy <= radius * radius
            glass = (x * (1 + tile % 3) + y * (1 + tile % 2)) // (tile_px // 2) % 5 < tile % 4 // 2
            grain = (x * 73856093 ^ y * 19349663) // 11 % (9 + 4 * (tile % 5))
            for channel in range(3):
                values = np.where(disc, NUCLEUS[channel], GROUND[channel])
                values = np.where(glass, GLASS[channel], values) - grain
                made[tile, scale, :, :, channel] = np.clip(values, 0, 255)
    return made


def canonical_places(pitch_um: float) -> NDArray[np.float64]:
    """Return (16, 2) places in µm on a grid at the training pitch, so that context takes part."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    return np.stack([x.ravel(), y.ravel()], axis=1) * float(pitch_um)


def canonical_profiles(genes: int) -> NDArray[np.float32]:
    """Return (16, genes) float32 log1p profiles of made counts."""
    spot = np.arange(COLUMNS * ROWS, dtype=np.int64)[:, None]
    gene = np.arange(genes, dtype=np.int64)[None, :]
    drawn = (gene * 2654435761 + spot * 40503 + gene * spot * 97) // 13 % 17
    counts = np.where(drawn > 11, drawn - 11, 0)
    return log1p_cp10k(counts, counts.sum(axis=1, keepdims=True))


def agreement(before: NDArray[np.float32], after: NDArray[np.float32]) -> tuple[float, float]:
    """Compare two sets of unit vectors of the same things.

    Returns
    -------
    tuple
        Mean cosine of each with itself, and the mean share of the three nearest others (in the
        earlier set) that the two have in common.
    """
    cosine = float((before * after).sum(axis=1).mean())
    rows = np.arange(len(before))

    def nearest(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        scores = queries @ before.T
        scores[rows, rows] = -np.inf
        return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST])

    pairs = zip(nearest(before), nearest(after), strict=True)
    shared = [len(set(a.tolist()) & set(b.tolist())) / NEAREST for a, b in pairs]
    return cosine, float(np.mean(shared))
