"""Masks by rival methods, and masks and tiles that other tools made."""

from __future__ import annotations

import json
import struct
import warnings

import h5py
import numpy as np
import pytest

from bleepdb.cli.inputs import refuse_mask
from bleepdb.cli.train import scales_of
from bleepdb.errors import BleepdbError, InputError, SlideError
from bleepdb.tissue import find_tissue, open_slide, read_spots, tile_centres, tissue_mask
from bleepdb.tissue.mask import METHODS
from bleepdb.tissue.masks_in import draw_mask, draw_tiles
from bleepdb.tissue.polygons import Polygon, read_wkb
from bleepdb.tissue.tile_lists import TileList, read_store_shapes, read_tile_list

from . import made_tissue as made
from .test_mask_grid import sites_off_tissue

SIZE = (1200, 1000)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """An open made slide of 1200 x 1000 px, of 0.5 µm a pixel."""
    pixels, _ = made.made_slide()
    path = made.saved(pixels, tmp_path_factory.mktemp("slide") / "slide.png")
    with open_slide(path, mpp=0.5) as opened:
        yield opened


# --- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kept", "let_in"), [("hsv", 0.97, 0.015), ("entropy", 0.99, 0.02)]
)
def test_rivals_find_real_tissue_too(her2st, method, kept, let_in):
    spots = read_spots(her2st / "C4_selection.tsv")
    with open_slide(her2st / "C4.jpg") as opened:
        mask = find_tissue(opened, method.upper())
        off = sites_off_tissue(spots, opened.size_px)
    assert mask.source == method
    assert mask.covers(spots.xy_px).mean() >= kept
    assert mask.covers(off).mean() <= let_in


def test_methods_see_what_they_say(tmp_path):
    y, x = np.indices((500, 600))
    rng = np.random.default_rng(0)
    pixels = np.full((500, 600, 3), 230.0)
    coloured, grey = (
        (x - 150) ** 2 + (y - 250) ** 2 < 90**2,
        (x - 450) ** 2 + (y - 250) ** 2 < 90**2,
    )
    pixels[coloured] = (190, 120, 180)
    pixels[grey] = 130 + rng.normal(0, 25, (grey.sum(), 1))
    made.saved(np.clip(pixels, 0, 255).astype(np.uint8), tmp_path / "two.png")
    places = np.array([(150.0, 250.0), (450, 250), (300, 60)])
    with open_slide(tmp_path / "two.png") as two:
        assert find_tissue(two).covers(places).tolist() == [True, True, False]
        assert find_tissue(two, "hsv").covers(places).tolist() == [True, False, False]
        assert find_tissue(two, "entropy").covers(places).tolist() == [False, True, False]


@pytest.mark.parametrize("method", METHODS)
def test_no_method_finds_tissue_on_an_empty_scan(tmp_path, method):
    rng = np.random.default_rng(0)
    empty = np.clip(rng.normal(235, 3, (300, 300, 3)), 0, 255).astype(np.uint8)
    made.saved(empty, tmp_path / "empty.png")
    with open_slide(tmp_path / "empty.png") as opened, pytest.raises(SlideError, match="no tissue"):
        find_tissue(opened, method)


def test_unknown_ways_are_refused(slide, tmp_path):
    with pytest.raises(InputError, match="unknown mask 'magic'; use otsu, hsv, entropy or a file"):
        tissue_mask(slide, method="magic")
    with pytest.raises(InputError, match="no such mask: neither otsu, hsv, entropy nor a file"):
        find_tissue(slide, "magic")
    (tmp_path / "mask.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"is no mask that can be read; give a \.geojson"):
        find_tissue(slide, tmp_path / "mask.png")


# --- GeoJSON -------------------------------------------------------------------------------------


def box(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(kind, coordinates, **properties):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def written(tmp_path, document, name="a.geojson"):
    path = tmp_path / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


HOLED = feature("Polygon", [box(200, 200, 600, 600), box(300, 300, 400, 500)])
TWO = feature("MultiPolygon", [[box(200, 200, 300, 300)], [box(500, 300, 700, 400)]])
POINT = feature("Point", [5, 5])


@pytest.mark.parametrize(
    ("document", "area"),
    [
        ({"type": "FeatureCollection", "features": [HOLED, POINT]}, 400 * 400 - 100 * 200),
        ([HOLED, TWO], 400 * 400 - 100 * 200 + 100 * 100),  # half of the second lies in the first
        (TWO, 100 * 100 + 200 * 100),
        (TWO["geometry"], 100 * 100 + 200 * 100),
        (
            {"type": "GeometryCollection", "geometries": [HOLED["geometry"], POINT["geometry"]]},
            400 * 400 - 100 * 200,
        ),
    ],
)
def test_outlines_are_filled_and_holes_are_not(slide, tmp_path, document, area):
    mask = find_tissue(slide, written(tmp_path, document))
    assert mask.source == "a.geojson"
    assert mask.mask.sum() / mask.scale**2 == pytest.approx(area, rel=0.02)
    inside, hole = mask.covers(np.array([(250.0, 250.0), (350, 400)]))
    assert inside
    assert not hole or document in (TWO, TWO["geometry"])


def test_a_fill_follows_its_outline(tmp_path):
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 12))
    ring = 500 + np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(150, 400, (12, 1))
    mask = draw_mask([Polygon((ring,))], (1000, 1000))
    y, x = np.indices((1000, 1000)) + 0.5
    inside = np.zeros((1000, 1000), dtype=bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):  # even-odd rule
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    assert (mask.mask ^ inside).sum() / inside.sum() < 0.02  # half a pixel along the outline


def test_what_qupath_ignores_is_cut_out_and_its_cells_are_no_tissue(slide, tmp_path):
    drawn = [
        feature("Polygon", [box(250, 200, 300, 300)], objectType="annotation",
                classification={"name": "Ignore*", "color": [0, 0, 0]}),
        feature("Polygon", [box(200, 200, 600, 400)], objectType="annotation"),
        feature("Polygon", [box(800, 300, 900, 400)], objectType="detection"),
    ]  # fmt: skip
    mask = find_tissue(slide, written(tmp_path, drawn))
    places = np.array([(220.0, 250.0), (275, 250), (850, 350)])
    assert mask.covers(places).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "not readable GeoJSON"),
        ("[" * 100_000, "not readable GeoJSON"),
        ("3", "not GeoJSON: neither features nor a geometry"),
        ([], "holds no polygon"),
        ([3], "a feature that is no object"),
        ([POINT], "holds no polygon"),
        (feature("Polygon", [[[1, 2], [3, "x"], [4, 5]]]), "outline number 1 is not a list of x"),
        (feature("Polygon", [[[1, 2], [3, 1e999], [4, 5]]]), "outline number 1 is not a list of x"),
        (feature("Polygon", 7), "a Polygon without coordinates"),
        (feature("Polygon", [box(0.1, 0.1, 0.9, 0.9)]), "below 1.5, as shares of the slide are"),
        (
            [feature("Polygon", [box(100, 100, 3000, 400)]), TWO],  # the second are two
            r"1 of 3 outlines reach outside the slide of 1200 x 1000 px, as far as \(3000, 400\)",
        ),
        (feature("Polygon", [box(300, 300, 300.2, 300.2)]), None),  # a speck draws one pixel
        (
            feature("Polygon", [box(80, 180, 110, 220)]),  # µm; as pixels it is all glass
            "its outlines miss the tissue, and hit it where they are taken for µm",
        ),
    ],
)
def test_outlines_that_cannot_be_used_say_so_in_one_line(slide, tmp_path, document, said):
    path = written(tmp_path, document)
    if said is None:
        assert 1 <= find_tissue(slide, path).mask.sum() <= 4
        return
    with pytest.raises(InputError, match=said) as caught:
        find_tissue(slide, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_read(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("bleepdb.tissue.polygons.MOST_BYTES", 100)
    with pytest.raises(InputError, match="more than a mask needs; export the annotations alone"):
        find_tissue(slide, written(tmp_path, [TWO]))
    monkeypatch.setattr("bleepdb.tissue.polygons.MOST_BYTES", 10_000)
    monkeypatch.setattr("bleepdb.tissue.polygons.MOST_POINTS", 8)
    with pytest.raises(InputError, match="or 8 corners"):
        find_tissue(slide, written(tmp_path, [TWO]))


# --- tile lists ----------------------------------------------------------------------------------

CORNERS = np.array([(200, 200), (300, 200), (500, 400)])
TRIDENT = {"patch_size": 50, "patch_size_level0": 100, "level0_width": 1200, "level0_height": 1000}
CLAM = {"patch_size": 50, "patch_level": 1, "downsample": [2.0, 2.0], "level_dim": [600, 500]}


def tile_file(tmp_path, attrs, corners=CORNERS, name="slide.h5"):
    with h5py.File(tmp_path / name, "w") as handle:
        handle["coords"] = corners
        handle["coords"].attrs.update(attrs)
    return tmp_path / name


@pytest.mark.parametrize("attrs", [TRIDENT, CLAM], ids=["TRIDENT", "CLAM"])
def test_tile_lists_are_places_and_masks(slide, tmp_path, attrs):
    path = tile_file(tmp_path, attrs)
    tiles = read_tile_list(path)
    np.testing.assert_array_equal(tiles.xy_px, CORNERS + 50)
    assert (tiles.edge_px, tiles.size_px) == (100, SIZE)
    spots = read_spots(path)
    assert spots.names.tolist() == ["tile-0", "tile-1", "tile-2"]
    np.testing.assert_array_equal(spots.xy_px, CORNERS + 50)
    mask = find_tissue(slide, path)
    assert mask.mask.sum() / mask.scale**2 == pytest.approx(3 * 100**2, rel=0.02)
    assert mask.covers(CORNERS + 99.0).all()
    assert not mask.covers(CORNERS - 2.0).any()


def test_many_tiles_are_drawn_as_polygons_are():
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1000, (300, 2))
    square = np.array([(-20, -20), (20, -20), (20, 20), (-20, 20)])
    size = (1000, 1000)
    drawn = draw_mask([Polygon((square + c,)) for c in centres], size).mask
    tiles = draw_tiles(TileList(centres, 40.0), size).mask
    assert (drawn ^ tiles).mean() < 0.02


@pytest.mark.parametrize(
    ("attrs", "corners", "said"),
    [
        ({}, CORNERS, "does not say how large its tiles are"),
        ({"patch_size": 50}, CORNERS, "does not say how large its tiles are"),
        (TRIDENT | {"patch_size_level0": -1, "patch_size": "x"}, CORNERS, "does not say how large"),
        (TRIDENT, CORNERS[:, :1], r"coords has the shape \(3, 1\)"),
        (TRIDENT, CORNERS[:0], r"coords has the shape \(0, 2\)"),
        (TRIDENT, np.full((2, 2), np.nan), "coords holds places that are not finite"),
        (TRIDENT, np.array([[b"a", b"b"]]), "coords does not hold numbers"),
        (TRIDENT, CORNERS + 5000, "3 of 3 outlines reach outside the slide"),
        (
            TRIDENT | {"level0_width": 2400, "level0_height": 2000},
            CORNERS,
            "its tiles are of a slide of 2400 x 2000 px, not of this one of 1200 x 1000 px",
        ),
    ],
)
def test_tile_lists_that_cannot_be_used(slide, tmp_path, attrs, corners, said):
    with pytest.raises(InputError, match=said):
        find_tissue(slide, tile_file(tmp_path, attrs, corners))


def test_a_file_that_is_no_tile_list(slide, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        handle["features"] = np.zeros((3, 4))
    with pytest.raises(InputError, match="no dataset coords"):
        find_tissue(slide, tmp_path / "a.h5")
    (tmp_path / "b.h5").write_text("no HDF5")
    with pytest.raises(BleepdbError, match="cannot be read as a list of tiles"):
        find_tissue(slide, tmp_path / "b.h5")


# --- stores --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store as WSIData writes it: shapes `tissues` and `tiles`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the package itself imports and writes
        yield _write_store(tmp_path_factory.mktemp("store") / "slide.zarr")


def _write_store(path):
    pytest.importorskip("spatialdata", reason="spatialdata is not here to write a store")
    import geopandas
    import spatialdata
    from shapely import Polygon as Shape
    from shapely import box as square
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    tissues = [Shape(box(200, 200, 600, 600), [box(300, 300, 400, 500)])]
    tiles = [square(x, y, x + 100, y + 100) for x, y in CORNERS.tolist()]
    shapes = {
        "tissues": (tissues, Identity()),
        "tiles": (tiles, Identity()),
        "half": ([square(100, 100, 300, 300)], Scale([2.0, 2.0], axes=("x", "y"))),
    }
    parts = {
        name: ShapesModel.parse(
            geopandas.GeoDataFrame({"geometry": drawn}), transformations={"global": how}
        )
        for name, (drawn, how) in shapes.items()
    }
    spatialdata.SpatialData(shapes=parts).write(path)
    return path


def test_shapes_of_a_store_are_masks_and_places(slide, store):
    mask = find_tissue(slide, store)
    assert mask.mask.sum() / mask.scale**2 == pytest.approx(400 * 400 - 100 * 200, rel=0.02)
    assert not mask.covers(np.array([(350.0, 400.0)]))[0]
    tiles = find_tissue(slide, store / "shapes" / "tiles")
    assert tiles.mask.sum() / tiles.scale**2 == pytest.approx(3 * 100**2, rel=0.03)
    scaled = find_tissue(slide, store / "shapes" / "half")
    assert scaled.covers(np.array([(210.0, 210.0), (590, 590), (150, 150)])).tolist() == [
        True,
        True,
        False,
    ]
    listed = read_tile_list(store)
    np.testing.assert_allclose(listed.xy_px, CORNERS + 50)
    assert listed.edge_px == pytest.approx(100)
    with pytest.raises(InputError, match=r"no shapes cells \(there are half, tiles, tissues\)"):
        read_store_shapes(store, ("cells",))


def test_shapes_beyond_reason_are_refused_by_what_they_declare(slide, store, monkeypatch):
    monkeypatch.setattr("bleepdb.tissue.tile_lists.MOST_SHAPE_BYTES", 10)
    with pytest.raises(InputError, match=r"shapes of 0 MiB are more than a mask needs; give the"):
        find_tissue(slide, store)


def test_shapes_in_any_binary_dialect(store):
    import shapely

    shape = shapely.MultiPolygon(
        [shapely.box(0, 0, 2, 3), shapely.Polygon(box(5, 5, 9, 9), [box(6, 6, 7, 7)])]
    )
    for options in ({"byte_order": 0}, {"byte_order": 1}, {"flavor": "iso", "output_dimension": 3}):
        deep = shapely.force_3d(shape) if "flavor" in options else shape
        first, second = read_wkb([shapely.to_wkb(deep, **options)], "here")
        assert [len(r) for r in (*first.rings, *second.rings)] == [5, 5, 5]
        assert second.rings[1].max() == 7
    whole = shapely.to_wkb(shape)
    for end in (0, 3, 7, 20, len(whole) - 1):
        with pytest.raises(InputError, match="geometry number 1 cannot be read"):
            read_wkb([whole[:end]], "here")
    with pytest.raises(InputError, match="geometry number 1 is no polygon"):
        read_wkb([shapely.to_wkb(shapely.Point(1, 2))], "here")
    nested = struct.pack("<BII", 1, 6, 1) * 5000
    with pytest.raises(InputError, match="geometry number 1 cannot be read"):
        read_wkb([nested], "here")


# --- grids and options ---------------------------------------------------------------------------


def test_a_grid_keeps_to_a_drawn_mask_in_one_order(slide, tmp_path):
    mask = find_tissue(slide, written(tmp_path, [HOLED]))
    options = {"size_px": SIZE, "slide_mpp": 0.5, "stride_um": 20.0, "tile_um": 20.0}
    places = tile_centres(mask, min_tissue=0.9, **options)
    assert mask.covers(places).all()
    assert len(places) == pytest.approx((400 * 400 - 100 * 200) / 40**2, rel=0.2)
    order = places[np.lexsort((places[:, 0], places[:, 1]))]
    np.testing.assert_array_equal(places, order)


def test_the_size_of_a_tile_is_said_in_microns_or_pixels():
    assert scales_of(None, [0.5], 224) == (112.0,)
    assert scales_of(None, [0.5, 1.0], 256) == (128.0, 256.0)
    assert scales_of([150.0], None, 224) == (150.0,)
    assert scales_of(None, None, 224) == (112.0, 176.0, 400.0)
    with pytest.raises(InputError, match="--scale-um and --tile-mpp both say"):
        scales_of([150.0], [0.5], 224)
    with pytest.raises(InputError, match="--tile-mpp -1 is not a positive number"):
        scales_of(None, [-1.0], 224)


def test_a_mask_that_is_asked_for_is_judged_before_the_work(tmp_path):
    refuse_mask(None, 7)
    refuse_mask("HSV", 7)
    path = str(written(tmp_path, [TWO]))
    refuse_mask(path, 1)
    with pytest.raises(InputError, match="draws the tissue of one slide, and there are 2"):
        refuse_mask(path, 2)
    with pytest.raises(InputError, match="no such mask; use otsu, hsv, entropy, or name a file"):
        refuse_mask("magic", 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_real_scan_is_tissue_to_two_fifths_by_each_method(real_data, method):
    with open_slide(real_data / "slides" / "CMU-1-Small-Region.svs") as opened:
        mask = find_tissue(opened, method)
        assert 0.33 < mask.mask.mean() < 0.42
        places = tile_centres(
            mask, size_px=opened.size_px, slide_mpp=opened.mpp, stride_um=112.0, tile_um=112.0
        )
    assert 44 <= len(places) <= 50
