"""Makers of test slides: SVS, pyramidal, OME and Philips TIFF of any tile and colour, MRXS."""

from __future__ import annotations

import io
import struct
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
    their encoder writes), "none", "wrong" (an APP14 mark of the other transform), or "jfif" (which
    means YCbCr, whatever the TIFF says). `tables` puts the tables of the first tile into the TIFF
    and leaves them out of the tiles.
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
        if self.marks == "jfif":
            data = (
                data[:2]
                + b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
                + data[2:]
            )
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


def write_philips(path, levels, *, tile=128, mpp=0.25, **how):
    """Write a TIFF as Philips' scanners do: sizes and microns of the levels in an XML text."""

    def attribute(name, group, element, kind, value):
        return (
            f'<Attribute Name="{name}" Group="0x{group:04X}" Element="0x{element:04X}" '
            f'PMSVR="{kind}">{value}</Attribute>'
        )

    def spacing(mm):
        return attribute(
            "DICOM_PIXEL_SPACING", 0x28, 0x30, "IDoubleArray", f"&quot;{mm}&quot; &quot;{mm}&quot;"
        )

    stated = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        + spacing(mpp * 2**i / 1000)
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", 0x301D, 0x2011, "IUInt16", i)
        + attribute(
            "PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS", 0x301D, 0x2013, "IUInt32", level.shape[1]
        )
        + attribute(
            "PIIM_PIXEL_DATA_REPRESENTATION_ROWS", 0x301D, 0x2012, "IUInt32", level.shape[0]
        )
        + "</DataObject>"
        for i, level in enumerate(levels)
    )
    sequence = attribute(
        "PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE",
        0x1001,
        0x8B01,
        "IDataObjectArray",
        f"<Array>{stated}</Array>",
    )
    kind = attribute("PIM_DP_IMAGE_TYPE", 0x301D, 0x1004, "IString", "WSI")
    image = (
        f'<DataObject ObjectType="DPScannedImage">{kind}{spacing(mpp / 1000)}{sequence}'
        "</DataObject>"
    )
    images = attribute(
        "PIM_DP_SCANNED_IMAGES", 0x301D, 0x1003, "IDataObjectArray", f"<Array>{image}</Array>"
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + attribute("DICOM_MANUFACTURER", 0x8, 0x70, "IString", "PHILIPS")
        + images
        + "</DataObject>"
    )
    return write_tiff(
        path, levels, tile=tile, description=text.encode(), software="Philips DP v1.0", **how
    )


def write_mrxs(path, pixels, *, tile=128, levels=3, mpp=0.25, left_out=()):
    """Write a MIRAX slide of one camera image a tile: no overlaps, no positions of its own.

    The index is two lists of pointers. The first has one entry a zoom level, which points at a
    chain of pages; a page is the number of its records, the next page, and the records: the tile's
    number on the grid of level 0, and the offset, length and number of the data file.
    `left_out` holds (column, row) of level-0 tiles that the scanner did not take.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    height, width = pixels.shape[:2]
    columns, rows = width // tile, height // tile
    assert (columns * tile, rows * tile) == (width, height)
    assert columns % 2 ** (levels - 1) == rows % 2 ** (levels - 1) == 0
    Image.fromarray(halved(pixels, 8)).save(path, "JPEG")
    name = "0123456789ABCDEF0123456789ABCDEF"
    head = b"01.02" + name.encode()
    images, index = bytearray(head), bytearray(head)
    pages = []
    for level in range(levels):
        step = 2**level
        smaller = pixels if level == 0 else halved(pixels, step)
        records = []
        for row in range(0, rows, step):
            for column in range(0, columns, step):
                if (column, row) in left_out:
                    continue
                x, y = column // step * tile, row // step * tile
                buffer = io.BytesIO()
                Image.fromarray(smaller[y : y + tile, x : x + tile]).save(
                    buffer, "JPEG", quality=90, subsampling=0
                )
                data = buffer.getvalue()
                records.append((row * columns + column, len(images), len(data), 0))
                images += data
        pages.append(records)
    # Both lists' places come first; that of the pictures beside the slide is one empty entry.
    first = len(head) + 8
    index += struct.pack("<2i", first, first + 4 * levels)
    at = first + 4 * levels + 4
    pointers, body = [], b""
    for records in pages:
        pointers.append(at + len(body))
        page = at + len(body) + 8
        body += struct.pack("<4i", 0, page, len(records), 0)
        body += b"".join(struct.pack("<4i", *record) for record in records)
    index += struct.pack(f"<{levels + 1}i", *pointers, 0) + body
    (folder / "Data0000.dat").write_bytes(images)
    (folder / "Index.dat").write_bytes(index)
    sections = {
        "GENERAL": {
            "SLIDE_VERSION": "01.02",
            "SLIDE_ID": name,
            "IMAGENUMBER_X": columns,
            "IMAGENUMBER_Y": rows,
            "OBJECTIVE_MAGNIFICATION": 20,
            "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "HIER_COUNT": 1,
            "NONHIER_COUNT": 0,
            "INDEXFILE": "Index.dat",
            "HIER_0_NAME": "Slide zoom level",
            "HIER_0_COUNT": levels,
            **{f"HIER_0_VAL_{i}": f"ZoomLevel_{i}" for i in range(levels)},
            **{f"HIER_0_VAL_{i}_SECTION": f"LEVEL_{i}" for i in range(levels)},
        },
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    }
    for i in range(levels):
        sections[f"LEVEL_{i}"] = {
            "OVERLAP_X": 0,
            "OVERLAP_Y": 0,
            "MICROMETER_PER_PIXEL_X": mpp * 2**i,
            "MICROMETER_PER_PIXEL_Y": mpp * 2**i,
            "IMAGE_FORMAT": "JPEG",
            "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
            "DIGITIZER_WIDTH": tile,
            "DIGITIZER_HEIGHT": tile,
            "IMAGE_CONCAT_FACTOR": min(i, 1),
        }
    text = "".join(
        f"[{section}]\r\n" + "".join(f"{key} = {value}\r\n" for key, value in values.items())
        for section, values in sections.items()
    )
    (folder / "Slidedat.ini").write_text(text, encoding="utf-8-sig", newline="")
    return path
