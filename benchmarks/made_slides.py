"""Made slides that the benchmarks share: pyramids of JPEG tiles in a BigTIFF, written by hand.

Tissue is a real H&E image where one is in reach (BLEEPDB_TEST_DATA, ../shared/data), else that of
the demo. It is encoded once; a large slide repeats its tiles, which stand in the file once, as the
blank tile of a sparse slide does. Whoever reads it must decode each of them all the same.
"""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

QUALITY = 80
MPP = 0.25


def tissue(edge):
    """(edge, edge, 3) uint8 pixels of tissue, and where they are from."""
    named = os.environ.get("BLEEPDB_TEST_DATA")
    near = Path(__file__).resolve().parents[2] / "shared" / "data"
    for folder in ([Path(named)] if named else []) + [near]:
        path = folder / "her2st" / "C5.jpg"
        if path.is_file():
            Image.MAX_IMAGE_PIXELS = None
            with Image.open(path) as image:
                left, top = (image.width - edge) // 2, (image.height - edge) // 2
                return np.asarray(image.crop((left, top, left + edge, top + edge))), path.name
    from bleepdb.simulation import SimulationSettings, simulate

    settings = SimulationSettings()
    drawn = simulate(replace(settings, donors=settings.donors[:1]), seed=1).sections[0].image
    times = -(-edge // min(drawn.shape[:2]))
    return np.tile(drawn, (times, times, 1))[:edge, :edge], "the demo's tissue"


def encoded(pixels, tile):
    """JPEG bytes of each tile, row by row, and how many a row has."""
    across = pixels.shape[1] // tile
    return [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels[y : y + tile, x : x + tile]), QUALITY, "RGB", "420"
        )
        for y in range(0, across * tile, tile)
        for x in range(0, across * tile, tile)
    ], across


class Pyramid:
    """Writes levels of tiles, each tile's bytes once.

    `levels` is a list of ((width, height), tile, blobs, index): `index` is (rows, columns), which
    of the blobs stands where.
    """

    def __init__(self, levels):
        self.levels = levels

    def write(self, path):
        with path.open("wb") as file:
            file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
            link = 8
            for number, ((width, height), tile, blobs, index) in enumerate(self.levels):
                offsets, sizes = [], []
                for blob in blobs:
                    offsets.append(file.tell())
                    sizes.append(len(blob))
                    file.write(blob)
                flat = index.ravel()
                at = self._array(file, np.array(offsets, "<u8")[flat])
                counts = self._array(file, np.array(sizes, "<u8")[flat])
                per_cm = round(1e4 / MPP * width / self.levels[0][0][0])
                tags = [
                    (254, 4, 1, int(number > 0)),  # a reduced image
                    (256, 4, 1, width),
                    (257, 4, 1, height),
                    (258, 3, 3, struct.unpack("<Q", struct.pack("<4H", 8, 8, 8, 0))[0]),
                    (259, 3, 1, 7),  # JPEG
                    (262, 3, 1, 6),  # YCbCr
                    (277, 3, 1, 3),
                    (282, 5, 1, per_cm | 1 << 32),
                    (283, 5, 1, per_cm | 1 << 32),
                    (284, 3, 1, 1),
                    (296, 3, 1, 3),  # per centimetre
                    (322, 4, 1, tile),
                    (323, 4, 1, tile),
                    (324, 16, flat.size, at),
                    (325, 16, flat.size, counts),
                    (530, 3, 2, 2 | 2 << 16),
                ]
                here = file.tell()
                file.write(struct.pack("<Q", len(tags)))
                for tag, kind, count, value in tags:
                    file.write(struct.pack("<HHQQ", tag, kind, count, value))
                end = file.tell()
                file.write(struct.pack("<Q", 0))
                file.seek(link)
                file.write(struct.pack("<Q", here))
                file.seek(0, 2)
                link = end
        return path

    @staticmethod
    def _array(file, values):
        here = file.tell()
        file.write(values.tobytes())
        return here


def repeated(edge, tile, blobs, across):
    """A level of `edge` px a side on which the tiles repeat."""
    n = -(-edge // tile)
    at = np.arange(n) % across
    return (edge, edge), tile, blobs, at[:, None] * across + at[None, :]


def dense_slide(path, edge=20_000, tile=256, source=7_168):
    """A slide of nothing but tissue with levels of 1, 4 and 16; says where the tissue is from."""
    pixels, said = tissue(source)
    levels = []
    for by in (1, 4, 16):
        small = pixels if by == 1 else np.asarray(Image.fromarray(pixels).reduce(by))
        if small.shape[0] < tile:
            small = np.tile(small, (-(-tile // small.shape[0]),) * 2 + (1,))
        levels.append(repeated(edge // by, tile, *encoded(small, tile)))
    Pyramid(levels).write(path)
    return said


def sparse_slide(path, edge=100_000, tile=256, tissue_tiles=24):
    """A slide of one blank tile, but for a patch of tissue in the middle."""
    pixels, _ = tissue(tissue_tiles * tile)
    blobs, across = encoded(pixels, tile)
    blank = simplejpeg.encode_jpeg(np.full((tile, tile, 3), 243, np.uint8), QUALITY, "RGB", "420")
    n = -(-edge // tile)
    index = np.zeros((n, n), np.int64)
    start = (n - across) // 2
    index[start : start + across, start : start + across] = 1 + np.arange(across**2).reshape(
        across, across
    )
    Pyramid([((edge, edge), tile, [blank, *blobs], index)]).write(path)
