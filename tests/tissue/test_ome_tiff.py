"""OME-TIFF: levels in sub-IFDs, microns from the XML, and only pictures."""

from __future__ import annotations

import logging

import numpy as np
import openslide
import pytest
import tifffile

from bleepdb.errors import SlideError
from bleepdb.tissue import open_slide
from bleepdb.tissue.ome import MAX_XML_CHARS, read_ome
from bleepdb.tissue.tiff_index import TiffError

MICRONS = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
XML = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
    'SizeX="300" SizeY="200" SizeC="3" SizeZ="1" SizeT="1" {more}>'
    '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0"/></Pixels></Image></OME>'
)


@pytest.fixture
def base(slide_files):
    return slide_files.tissue_like(700, 530)


@pytest.fixture
def make_ome(slide_files, tmp_path, base):
    """Write three levels as an OME-TIFF."""

    def make(compression="jpeg", metadata=MICRONS, **how):
        levels = [base, slide_files.halved(base), slide_files.halved(base, 4)]
        return slide_files.write_tiff(
            tmp_path / "a.ome.tif",
            levels,
            tile=128,
            compression=compression,
            sub_ifds=True,
            ome=True,
            metadata=metadata,
            **how,
        )

    return make


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "lzw", "zstd", "jpeg2000", None])
def test_levels_and_pixels(make_ome, compression):
    path = make_ome(compression)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        assert slide.reader.startswith("OME-TIFF")
        assert slide.level_sizes == ((700, 530), (350, 265), (175, 132))
        assert slide.levels[:2] == (1.0, 2.0)
        assert (slide.mpp, slide.facts()["mpp_from"]) == (0.25, "OME-XML PhysicalSize")
        for level, (width, height) in enumerate(slide.level_sizes):
            expected = tiff.series[0].levels[level].asarray()
            got = slide.region(level, 0, 0, width, height)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(
                slide.region(level, 100, 90, 70, 40), expected[90:130, 100:170]
            )
    if compression in {"jpeg", "deflate"}:
        # OpenSlide sees the base level alone, and no microns.
        with openslide.OpenSlide(path) as reference, open_slide(path) as slide:
            assert (reference.level_count, "openslide.mpp-x" in reference.properties) == (1, False)
            whole = np.asarray(reference.read_region((0, 0), 0, (700, 530)).convert("RGB"))
            np.testing.assert_array_equal(slide.region(0, 0, 0, 700, 530), whole)


@pytest.mark.parametrize(("colours", "subsampling"), [("rgb", "444"), ("ycbcr", "420")])
@pytest.mark.parametrize("tables", [False, True])
def test_colours(make_ome, slide_files, base, colours, subsampling, tables):
    path = make_ome(jpegs=slide_files.Jpegs(colours, subsampling, "none", tables))
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        whole = np.asarray(reference.read_region((0, 0), 0, (700, 530)).convert("RGB"))
        got = slide.region(0, 0, 0, 700, 530)
        np.testing.assert_array_equal(got, whole)
        assert np.abs(got.astype(int) - base).mean() < 8


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ("0.25", None, 0.25), ("0.25", "µm", 0.25), ("0.25", "μm", 0.25), ("250", "nm", 0.25),
        ("0.00025", "mm", 0.25), ("2.5e-7", "m", 0.25), ("0.25", "pixel", None),
        ("0.25", "reference frame", None), ("0", "µm", None), ("-1", "µm", None),
        ("nan", "µm", None), ("INF", "µm", None),
    ],
)  # fmt: skip
def test_units_of_length(slide_files, tmp_path, value, unit, expected):
    said = f'PhysicalSizeX="{value}" PhysicalSizeY="{value}"'
    if unit is not None:
        said += f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    path = with_xml(slide_files, tmp_path, XML.format(more=said))
    with open_slide(path) as slide:
        assert slide.mpp == (None if expected is None else pytest.approx(expected, rel=1e-12))
        assert slide.mpp_source == (expected and "slide")


def test_pixels_that_are_not_square_are_refused(slide_files, tmp_path):
    path = with_xml(slide_files, tmp_path, XML.format(more='PhysicalSizeX="1" PhysicalSizeY="2"'))
    with pytest.raises(SlideError, match=r"a\.tif: pixels of 1 by 2 µm are not square"):
        open_slide(path)


def with_xml(slide_files, tmp_path, xml, size=(300, 200)):
    """A tiled TIFF with this OME-XML."""
    return slide_files.write_tiff(
        tmp_path / "a.tif",
        [slide_files.tissue_like(*size)],
        tile=64,
        compression="deflate",
        description=xml.encode(),
        metadata=None,
    )


def test_the_largest_image_is_the_slide(slide_files, tmp_path):
    """Scanners put a label or an overview first."""
    label, slide_px = slide_files.tissue_like(100, 80, 1), slide_files.tissue_like(300, 200, 2)
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for pixels, mpp in ((label, 20), (slide_px, 0.5)):
            microns = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
            tiff.write(pixels, tile=(64, 64), photometric="rgb", metadata=microns)
    with open_slide(path) as slide:
        assert (slide.size_px, slide.mpp) == ((300, 200), 0.5)
        np.testing.assert_array_equal(slide.region(0, 0, 0, 300, 200), slide_px)


def test_strips_keep_the_microns(base, tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, base, photometric="rgb", metadata=MICRONS, rowsperstrip=17)
    with open_slide(path) as slide:
        assert (slide.reader, slide.mpp) == ("TIFF strips (NONE)", 0.25)
        np.testing.assert_array_equal(slide.region(0, 30, 40, 200, 100), base[40:140, 30:230])


def test_what_is_no_picture_is_refused_in_one_line(base, tmp_path):
    grey = base[..., 0]
    for why, pixels, how in [
        ("4 channels of their own planes", np.stack([grey] * 4), {"axes": "CYX"}),
        ("3 channels of their own planes", np.stack([grey] * 3), {"axes": "CYX"}),
        ("one grey channel", grey, {"axes": "YX"}),
        ("3 focal planes and 1 times", np.stack([base] * 3), {"axes": "ZYXS"}),
        ("1 focal planes and 2 times", np.stack([base] * 2), {"axes": "TYXS"}),
        ("uint16 pixels", base.astype(np.uint16) * 256, {"axes": "YXS"}),
    ]:
        path = tmp_path / "a.ome.tif"
        tifffile.imwrite(
            path,
            pixels,
            tile=(128, 128),
            photometric="rgb" if "S" in how["axes"] else "minisblack",
            metadata=how,
        )
        with pytest.raises(SlideError, match=rf"a\.ome\.tif: it is an OME-TIFF of .*{why}") as said:
            open_slide(path)
        assert "\n" not in str(said.value)


def test_xml_that_cannot_be_followed_leaves_the_file_to_openslide(slide_files, tmp_path, caplog):
    good = XML.format(more='PhysicalSizeX="0.25" PhysicalSizeY="0.25"')
    for why, xml in [
        ("OME-XML is damaged", good.replace("</Pixels>", "")[:-10] + "OME>"),
        ("names directory 7", good.replace('IFD="0"', 'IFD="7"')),
        (r"says (301, 200)", good.replace('SizeX="300"', 'SizeX="301"')),
        ("OME-XML is damaged", good.replace('SizeX="300"', 'SizeX="many"')),
        ("not a plain document", "<!DOCTYPE OME [<!ENTITY a 'b'>]>" + good),
        ("names no image", "<OME></OME>"),
    ]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            slide = open_slide(with_xml(slide_files, tmp_path, xml))
        assert (slide.reader, slide.mpp) == ("OpenSlide generic-tiff", None)
        assert why in caplog.text


def test_xml_does_not_grow():
    with pytest.raises(TiffError, match="moderate size"):
        read_ome("<OME>" + " " * MAX_XML_CHARS + "</OME>")
    bomb = '<!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><OME>&b;</OME>'
    with pytest.raises(TiffError, match="plain document"):
        read_ome(bomb)


def test_other_files_that_the_xml_names_are_not_opened(slide_files, tmp_path, base):
    """A set of files names its parts by path; a slide is one file."""
    other = tmp_path / "other.ome.tif"
    tifffile.imwrite(other, np.zeros((200, 300, 3), np.uint8), photometric="rgb", metadata=MICRONS)
    named = '<TiffData IFD="0"><UUID FileName="other.ome.tif">urn:uuid:1</UUID></TiffData>'
    path = with_xml(
        slide_files, tmp_path, XML.format(more="").replace('<TiffData IFD="0"/>', named)
    )
    with open_slide(path) as slide:
        expected = slide_files.tissue_like(300, 200)
        np.testing.assert_array_equal(slide.region(0, 0, 0, 300, 200), expected)


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_colours_that_are_stored_apart_are_put_together(base, tmp_path, compression):
    path = tmp_path / "a.ome.tif"
    planes, how = np.moveaxis(base, 2, 0).copy(), {**MICRONS, "axes": "SYX"}
    tifffile.imwrite(
        path, planes, tile=(128, 128), photometric="rgb", planarconfig="separate",
        compression=compression, metadata=how,
    )  # fmt: skip
    with open_slide(path) as slide:
        assert (slide.size_px, slide.mpp) == (base.shape[1::-1], 0.25)
        got = slide.region(0, 0, 0, *slide.size_px)
        half = slide.reduced(0, 2, 0, 0, 40, 30)
    if compression == "jpeg":
        assert np.abs(got.astype(int) - base).mean() < 3
        np.testing.assert_array_equal(got, tifffile.imread(path).transpose(1, 2, 0))
    else:
        np.testing.assert_array_equal(got, base)
    assert half.shape == (30, 40, 3)
    if compression == "jpeg":
        data = bytearray(path.read_bytes())
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # it states 65,500 x 65,500 px
        path.write_bytes(data)
        with open_slide(path) as slide, pytest.raises(SlideError, match="no JPEG of 128 x 128"):
            slide.region(0, 0, 0, *slide.size_px)
