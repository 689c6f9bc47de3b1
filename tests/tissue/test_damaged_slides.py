"""Damaged, hostile and misnamed files: one clear line, little memory, no noise."""

from __future__ import annotations

import random
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from bleepdb.errors import SlideError
from bleepdb.tissue import open_slide


def read_all(path):
    """Open a slide and read every level."""
    with open_slide(path) as slide:
        for level, (width, height) in enumerate(slide.level_sizes):
            slide.region(level, 0, 0, min(width, 4096), min(height, 4096))


@pytest.fixture
def refused(capfd, caplog):
    """Open and read a file; return the line that it ends in, and see that nothing else is said."""

    def refuse(path):
        capfd.readouterr()
        caplog.clear()
        with pytest.raises(SlideError) as said:
            read_all(path)
        text = str(said.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        assert len(text) < 700 + 2 * len(str(path))
        assert [r.name for r in caplog.records if r.levelname != "INFO"] == []
        assert capfd.readouterr() == ("", "")
        return text

    return refuse


@pytest.fixture
def svs(slide_files, tmp_path):
    """A made SVS of two levels, whose directories stand behind its tiles."""
    base = slide_files.tissue_like(300, 230)
    return slide_files.write_svs(
        tmp_path / "a.svs", [base, slide_files.halved(base)], tile=64, mpp=0.5
    )


def change(path, tag, value, directory=0):
    """Overwrite the value of a tag, or its count where `value` is a pair (None, count)."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        found = tiff.pages[directory].tags[tag]
        if isinstance(value, tuple) and value[0] is None:
            tiff.filehandle.seek(found.offset + 4)
            tiff.filehandle.write(struct.pack("<I", value[1]))
        else:
            found.overwrite(value)


def test_a_file_without_bytes(tmp_path, refused):
    path = tmp_path / "empty.svs"
    path.touch()
    assert "the file is empty; fetch" in refused(path)


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.mrxs", "a.dcm", "a.tif", "a.jpg"])
def test_text_by_another_name(tmp_path, refused, name):
    path = tmp_path / name
    path.write_text("slide,donor\nA,1\n" * 40)
    assert "no reader opens it (OpenSlide: " in refused(path)
    assert "; PIL: cannot identify" in refused(path)


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.dcm", "a.tif", "a"])
def test_the_content_decides_not_the_name(slide_files, tmp_path, name):
    pixels = slide_files.tissue_like(90, 70)
    path = tmp_path / name
    Image.fromarray(pixels).save(path, "PNG")
    with open_slide(path) as slide:
        assert slide.reader == "PIL PNG"
        np.testing.assert_array_equal(slide.region(0, 0, 0, 90, 70), pixels)
    made = slide_files.write_svs(tmp_path / "b.svs", [pixels], tile=64)
    renamed = tmp_path / "c.jpg"
    renamed.write_bytes(made.read_bytes())
    with open_slide(renamed) as slide:
        assert slide.reader == "tiled TIFF (aperio, JPEG)"


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.9, 0.999])
@pytest.mark.parametrize(
    "name",
    ["CMU-1-Small-Region.svs", "test3-DAPI.ndpi", "camelyon_lowlevel.dcm", "kidney-48-5.tif"],
)
def test_real_slides_that_break_off(real_data, tmp_path, refused, name, share):
    data = (real_data / "slides" / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    assert "fetch or export the image again" in refused(path) or "DICM" in data[:200].decode(
        "latin1"
    )


def test_an_svs_that_breaks_off_in_its_tiles(slide_files, tmp_path, refused):
    """Where the directories stand before the tiles, the file still opens by them."""
    base = slide_files.tissue_like(300, 230)
    path = slide_files.write_svs(tmp_path / "a.svs", [base], tile=64)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        directory = page.offset
        assert directory < page.dataoffsets[0]
    path.write_bytes(data[: len(data) * 2 // 3])
    assert "level 0: 8 of 20 tiles lie beyond the end of the file" in refused(path)


def test_a_tile_that_is_overwritten(svs, refused):
    with tifffile.TiffFile(svs) as tiff:
        offsets = tiff.pages[0].dataoffsets
        counts = tiff.pages[0].databytecounts
    data = bytearray(svs.read_bytes())
    data[offsets[7] : offsets[7] + counts[7]] = bytes(counts[7])
    svs.write_bytes(data)
    text = refused(svs)
    assert "its pixels cannot be decoded, it may be damaged or incomplete (tile 2,1 of" in text
    # The other tiles are read.
    with open_slide(svs) as slide:
        assert slide.region(0, 0, 0, 128, 64).std() > 5


def test_a_tile_that_does_not_begin_as_a_jpeg(svs, refused):
    with tifffile.TiffFile(svs) as tiff:
        offset = tiff.pages[0].dataoffsets[7]
    data = bytearray(svs.read_bytes())
    data[offset] ^= 1
    svs.write_bytes(data)
    assert "tile 2,1 of level 0: a tile is no JPEG" in refused(svs)


def test_a_tile_that_ends_early(svs, refused):
    """A decoder would fill the rest with grey."""
    with tifffile.TiffFile(svs) as tiff:
        counts = list(tiff.pages[0].databytecounts)
    counts[7] //= 2
    change(svs, "TileByteCounts", counts)
    assert "tile 2,1 of level 0: Premature end of JPEG file" in refused(svs)


def test_a_tile_of_another_size(slide_files, svs, refused):
    with tifffile.TiffFile(svs) as tiff:
        offset, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data = bytearray(svs.read_bytes())
    other = slide_files.Jpegs().encode(np.zeros((32, 64, 3), dtype=np.uint8))
    data[offset : offset + len(other)] = other
    assert len(other) <= count
    svs.write_bytes(data)
    assert "tile 0,0 of level 0: a tile is 64 x 32 px and should be 64 x 64" in refused(svs)


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("TileWidth", 65_520, "tiles of 65520 x 64 px are too large|damaged|no reader"),
        ("TileLength", 2**31, "too large|damaged|no reader"),
        ("TileWidth", 0, "no reader|without pixels"),
        ("ImageWidth", 2**31 - 1, "offsets|no reader|damaged"),
        ("ImageWidth", 0, "no reader"),
        ("ImageLength", 2**32 - 1, "offsets|no reader|damaged"),
        ("TileOffsets", (None, 2**31), "no reader|damaged"),
        ("TileByteCounts", (None, 2**31), "no reader|damaged"),
        ("SamplesPerPixel", 65_535, "it has 65535 channels"),
        ("BitsPerSample", (None, 2**30), "no reader|damaged"),
    ],
)
def test_hostile_tags(slide_files, tmp_path, refused, tag, value, said):
    for compression in ("jpeg", "deflate"):
        path = tmp_path / f"{tag}.tif"
        slide_files.write_tiff(
            path, [slide_files.tissue_like(300, 230)], tile=64, compression=compression
        )
        change(path, tag, value)
        assert re.search(said, refused(path))


def test_places_and_lengths_beyond_the_file(svs, refused):
    good = svs.read_bytes()
    for tag, worst in [("TileOffsets", 2**32 - 10), ("TileByteCounts", 2**31)]:
        svs.write_bytes(good)
        with tifffile.TiffFile(svs) as tiff:
            values = list(tiff.pages[0].tags[tag].value)
        values[3] = worst
        change(svs, tag, values)
        assert "level 0 is damaged or incomplete: 1 of 20 tiles lie beyond" in refused(svs)


def test_directories_that_run_in_a_circle(svs, refused):
    with tifffile.TiffFile(svs) as tiff:
        first, second = (page.offset for page in tiff.pages)
    data = bytearray(svs.read_bytes())
    (tags,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * tags, first)
    svs.write_bytes(data)
    assert "no reader opens it" in refused(svs)


def test_more_directories_than_a_slide_has(tmp_path, refused):
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(200):
            tiff.write(np.zeros((32, 32, 3), np.uint8), photometric="rgb", tile=(16, 16))
    assert "it is a stack of 64 images of one size" in refused(path)


def test_sixteen_bits_and_channels_are_refused_by_name(slide_files, tmp_path, refused):
    deep = slide_files.tissue_like(200, 100).astype(np.uint16) * 256
    many = np.zeros((100, 200, 7), dtype=np.uint8)
    for tile in ((64, 64), None):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, deep, photometric="rgb", tile=tile)
        assert "its pixels have 16 bits a channel; export one image as 8-bit RGB" in refused(path)
        tifffile.imwrite(path, many, photometric="minisblack", planarconfig="contig", tile=tile)
        assert "it has 7 channels, which looks like fluorescence" in refused(path)
        tifffile.imwrite(path, np.stack([many[..., 0]] * 3), photometric="minisblack", tile=tile)
        assert "it is a stack of 3 images of one size" in refused(path)


def png_bomb(path, width, height):
    """A grey PNG of nothing: a thousand times larger than its file."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    packer = zlib.compressobj(9)
    rows = bytes((width + 1) * 64)
    packed = b"".join(packer.compress(rows) for _ in range(height // 64)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )
    return path


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, refused, monkeypatch):
    path = png_bomb(tmp_path / "bomb.png", 10_240, 10_240)
    assert path.stat().st_size < 120_000
    assert "10240 x 10240 pixels are above the limit of 67,108,864 for a file of" in refused(path)
    assert "raise BLEEPDB_MAX_IMAGE_PIXELS" in refused(path)
    # Who says the limit by name has that limit alone.
    monkeypatch.setenv("BLEEPDB_MAX_IMAGE_PIXELS", "104857600")
    with open_slide(path) as slide:
        assert slide.size_px == (10_240, 10_240)
    monkeypatch.setenv("BLEEPDB_MAX_IMAGE_PIXELS", "104857599")
    assert "above the limit of 104,857,599; make" in refused(path)


def test_a_gigapixel_that_only_its_header_states(tmp_path, refused):
    for width, height in [(40_000, 40_000), (2**31 - 1, 2**31 - 1)]:
        path = tmp_path / "bomb.png"
        Image.new("L", (8, 8)).save(path)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
        assert f"{width} x {height} pixels are above the limit" in refused(path)


def test_a_large_scan_is_no_bomb(slide_files, tmp_path):
    """A real scan takes far more than a hundredth of a byte a pixel, even if most is empty."""
    grain = slide_files.tissue_like(3000, 1000)
    pixels = np.full((8192, 9000, 3), 255, dtype=np.uint8)
    pixels[:1000] = np.tile(grain, (1, 3, 1))
    path = tmp_path / "scan.jpg"
    Image.fromarray(pixels).save(path, quality=50)
    with open_slide(path) as slide:
        assert slide.size_px == (9000, 8192)


def test_strips_that_are_a_bomb(tmp_path, refused):
    path = tmp_path / "bomb.tif"
    strip = zlib.compress(bytes(1024 * 8192 * 3), 9)
    tifffile.imwrite(
        path,
        data=iter([strip] * 16),
        shape=(16_384, 8192, 3),
        dtype=np.uint8,
        rowsperstrip=1024,
        photometric="rgb",
        compression="deflate",
    )
    assert path.stat().st_size < 500_000
    assert "8192 x 16384 pixels are above the limit of 67,108,864 for a file" in refused(path)


def test_a_tile_that_unpacks_to_more_is_cut_off(slide_files, tmp_path, refused):
    """A deflated tile is never unpacked beyond the size that its tile has."""
    path = tmp_path / "a.tif"
    slide_files.write_tiff(
        path, [slide_files.tissue_like(300, 230)], tile=64, compression="deflate"
    )
    bomb = zlib.compress(bytes(2**28), 9)
    with tifffile.TiffFile(path) as tiff:
        offsets = list(tiff.pages[0].dataoffsets)
        counts = list(tiff.pages[0].databytecounts)
    offsets[0], counts[0] = path.stat().st_size, len(bomb)
    change(path, "TileOffsets", offsets)
    change(path, "TileByteCounts", counts)
    with path.open("ab") as handle:
        handle.write(bomb)
    tracemalloc.start()
    assert "tile 0,0 of level 0" in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


MEASURED = """
import resource, sys
from bleepdb.errors import SlideError
from bleepdb.tissue import open_slide
import tifffile, PIL.TiffImagePlugin
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        with open_slide(path) as slide:
            slide.thumbnail(64)
    except SlideError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_stays_bounded(slide_files, tmp_path):
    """A process of its own opens what claims to be huge."""
    hostile = [png_bomb(tmp_path / "bomb.png", 20_480, 20_480)]
    for tag, value in [
        ("TileWidth", 2**30), ("ImageWidth", 2**31 - 1), ("TileByteCounts", (None, 2**31)),
        ("ImageLength", 2**31 - 1), ("TileLength", 65_536),
    ]:  # fmt: skip
        path = slide_files.write_tiff(
            tmp_path / f"{tag}.tif", [slide_files.tissue_like(300, 230)], tile=64
        )
        change(path, tag, value)
        hostile.append(path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *hostile], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(hostile) + 1, done.stdout
    assert int(lines[-1]) < 64
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["svs", "tif", "ome", "jpeg2000", "strips"])
def test_any_damage_ends_in_one_line(slide_files, tmp_path, kind):
    """Bytes of the tags are changed at random: it opens, or says in one line why not."""
    base = slide_files.tissue_like(200, 130)
    levels = [base, slide_files.halved(base)]
    ome = {"ome": True, "sub_ifds": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.25}}
    path = tmp_path / f"{kind}.tif"
    if kind == "strips":
        tifffile.imwrite(path, base, photometric="rgb", compression="deflate", rowsperstrip=32)
    elif kind == "svs":
        slide_files.write_svs(path, levels, tile=64)
    elif kind == "tif":
        slide_files.write_tiff(path, levels, tile=64, jpegs=slide_files.Jpegs(tables=True))
    else:
        slide_files.write_tiff(
            path, levels, tile=64, compression="deflate" if kind == "ome" else kind, **ome
        )
    good = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        spots = [i for t in tiff.pages[0].tags.values() for i in range(t.offset, t.offset + 12)]
    rng = random.Random(kind)
    opened, said = 0, []
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.choice(spots) if rng.random() < 0.7 else rng.randrange(len(data))
            data[at] = rng.choice((0, 1, 255, rng.randrange(256), data[at] ^ (1 << at % 8)))
        path.write_bytes(data)
        try:
            with open_slide(path) as slide:
                width, height = slide.size_px
                slide.facts()
                slide.region(0, 0, 0, min(width, 300), min(height, 200))
                slide.reduced(0, 2, 0, 0, 1, 1)
            opened += 1
        except SlideError as error:
            said.append(str(error))
    assert not any("\n" in line for line in said)
    assert 10 < opened < 145


def test_a_mirax_slide_without_its_folder(slide_files, tmp_path, refused):
    """The file that is named is a small JPEG, and would be taken for the slide."""
    path = slide_files.write_mrxs(tmp_path / "a.mrxs", slide_files.tissue_like(512, 512))
    (tmp_path / "a").rename(tmp_path / "b")
    assert "whose folder of data is not beside it; copy the folder a to" in refused(path)


def test_any_damage_of_a_mirax_ends_in_one_line(slide_files, tmp_path):
    path = slide_files.write_mrxs(tmp_path / "a.mrxs", slide_files.tissue_like(512, 512), levels=2)
    parts = [tmp_path / "a" / name for name in ("Index.dat", "Slidedat.ini", "Data0000.dat")]
    good = {part: part.read_bytes() for part in parts}
    rng = random.Random("mirax")
    opened, said = 0, []
    for _ in range(120):
        part = rng.choice(parts)
        data = bytearray(good[part])
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.choice((0, 255, rng.randrange(256)))
        part.write_bytes(data)
        try:
            read_all(path)
            opened += 1
        except SlideError as error:
            said.append(str(error))
        part.write_bytes(good[part])
    assert opened > 5
    assert len(said) > 20
    assert not any("\n" in line for line in said)


def test_names_in_a_slide_that_are_no_text(slide_files, tmp_path, monkeypatch):
    """OpenSlide lists names of a damaged header that it then does not know."""
    path = slide_files.write_philips(tmp_path / "a.tiff", [slide_files.tissue_like(256, 256)])

    class Damaged(dict):
        def __iter__(self):
            return iter([*super().__iter__(), "hamamatsu.\ufffd"])

    real = openslide.OpenSlide.properties.fget
    monkeypatch.setattr(
        openslide.OpenSlide, "properties", property(lambda self: Damaged(real(self)))
    )
    with open_slide(path) as slide:
        assert slide.facts()["vendor"] == "philips"


def test_what_openslide_says_in_two_lines_is_told_in_one(slide_files, tmp_path, monkeypatch):
    path = slide_files.write_philips(tmp_path / "a.tiff", [slide_files.tissue_like(256, 256)])

    def fail(*_):
        message = "Improper JPEG sampling factors 2,2\nApparently should be 1,1."
        raise openslide.OpenSlideError(message)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", fail)
    with pytest.raises(SlideError, match=r"factors 2,2 Apparently should be 1,1\.\); fetch"):
        read_all(path)
