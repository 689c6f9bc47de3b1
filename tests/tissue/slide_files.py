"""Makers of test slides: SVS, pyramidal and OME-TIFF of any tile, colour and subsampling, MRXS."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
import tifffile
from PIL import Image

APERIO = "Aperio Image Library v12.0.15 \r\n{w}x{h} [0,0 {w}x{h}] ({t}x{t}) JPEG/RGB Q=80"
AFTER_MARKS = {0xDB, 0xC4}


def tissue_like(width, height, seed=0):
    """(height, width, 3) uint8: smooth colours with some grain, so that JPEG has work to do."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 250, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = rng.integers(-12, 13, (height, width, 1))
    return np.clip(smooth.astype(int) + grain, 0, 255).astype(np.uint8)


def halved(pixels, by=2):
    """The pixels made `by` times smaller; sides that do not divide lose their rest."""
    height, width = (side // by * by for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels[:height, :width]).reduce(by))


@dataclass
class Jpegs:
    """How the tiles of a made slide are encoded.

    `colours` is the TIFF's photometric; `marks` is what the JPEGs say of themselves: "right" (as
    their encoder writes), "none", or "wrong" (an APP14 mark of the other transform). `tables` puts
    the tables of the first tile into the TIFF and leaves them out of the tiles.
    """

    colours: str = "ycbcr"
    subsampling: str = "444"
    marks: str = "none"
    tables: bool = False
    quality: int = 80

    def encode(self, pixels):
        """One tile as a JPEG."""
        if self.colours == "rgb":
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=self.quality, keep_rgb=True)
            data = as_aperio_numbers(buffer.getvalue())
        else:
            data = simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels),
                quality=self.quality,
                colorsubsampling=self.subsampling,
            )
        if self.marks == "right":
            return data
        data = without(data, {0xE0, 0xEE})
        if self.marks == "wrong":
            other = b"\x01" if self.colours == "rgb" else b"\x00"
            data = data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + other + data[2:]
        return data


def segments(data):
    """(code, begin, end) of the segments before the first scan."""
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at, end
        at = end


def as_aperio_numbers(data):
    """A JPEG whose components are 0, 1, 2 and not R, G, B, which decoders take for a sign."""
    data, scan = bytearray(data), 0
    for code, begin, end in segments(data):
        if code in {0xC0, 0xC1, 0xC2}:
            data[begin + 10 : begin + 19 : 3] = bytes(range(3))
        scan = end
    data[scan + 5 : scan + 11 : 2] = bytes(range(3))
    return bytes(data)


def without(data, codes):
    """A JPEG without the segments of these codes."""
    kept, at = [data[:2]], 2
    for code, begin, end in segments(data):
        if code not in codes:
            kept.append(data[begin:end])
        at = end
    return b"".join(kept) + data[at:]


def only(data, codes):
    """The abbreviated stream of these segments alone."""
    return (
        b"\xff\xd8" + b"".join(data[a:b] for c, a, b in segments(data) if c in codes) + b"\xff\xd9"
    )


def tiles_of(pixels, tile):
    """The tiles of an image, row by row, those at the edges filled up with their last pixels."""
    height, width = pixels.shape[:2]
    full = np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            yield np.ascontiguousarray(full[y : y + tile, x : x + tile])


def write_tiff(
    path,
    levels,
    *,
    tile=256,
    jpegs=None,
    compression="jpeg",
    description=None,
    sub_ifds=False,
    metadata=None,
    ome=None,
    bigtiff=False,
    left_out=(),
    resolution=None,
    unit=None,
    **page,
):
    """Write a tiled TIFF, one directory (or sub-IFD) a level.

    `left_out` holds (level, tile) whose bytes are none; `jpegs` says how tiles are encoded.
    """
    jpegs = jpegs or Jpegs()
    with tifffile.TiffWriter(path, bigtiff=bigtiff, ome=ome) as tiff:
        for i, pixels in enumerate(levels):
            given = dict(
                shape=pixels.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                compression=compression,
                photometric="rgb",
                resolution=resolution,
                resolutionunit=unit,
                metadata=metadata if i == 0 else None,
                **page,
            )
            data = pixels
            if compression == "jpeg":
                encoded = [jpegs.encode(t) for t in tiles_of(pixels, tile)]
                extra = []
                if jpegs.tables:
                    extra.append((347, 7, None, only(encoded[0], AFTER_MARKS), True))
                    encoded = [without(e, AFTER_MARKS) for e in encoded]
                encoded = [b"" if (i, k) in left_out else e for k, e in enumerate(encoded)]
                if jpegs.colours == "rgb":
                    given["compressionargs"] = {"outcolorspace": "rgb"}
                else:
                    given["photometric"] = "ycbcr"
                given["extratags"] = extra
                if jpegs.colours == "ycbcr":
                    given["subsampling"] = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[
                        jpegs.subsampling
                    ]
                data = iter(encoded)
            if i == 0:
                given["description"] = description
                given["subifds"] = len(levels) - 1 if sub_ifds else None
            else:
                given["subfiletype"] = 1
            tiff.write(data, **{k: v for k, v in given.items() if v is not None or k == "metadata"})
    return path


def write_svs(path, levels, *, tile=240, mpp=0.25, **how):
    """Write an SVS as Aperio's scanners do, without label and macro."""
    height, width = levels[0].shape[:2]
    text = APERIO.format(w=width, h=height, t=tile) + f"|AppMag = 40|MPP = {mpp}"
    return write_tiff(path, levels, tile=tile, description=text, **how)
