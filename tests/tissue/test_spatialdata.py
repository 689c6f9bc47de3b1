"""SpatialData stores: against the package that writes them, of both Zarr formats."""

from __future__ import annotations

import json
import shutil
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bleepdb.errors import BleepdbError, MissingExtraError, SectionError
from bleepdb.tissue import open_slide, read_section, row_for
from bleepdb.tissue.readers import elements
from bleepdb.tissue.readers.layout import look
from bleepdb.tissue.readers.ngff import to_systems

from .section_files import HD, tissue_picture, visium_adata

sd = pytest.importorskip("spatialdata")
# The package makes pyramids by what the library below it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler")
SIZE = (2300, 1700)
HIRES = 0.1


def read(path, *, about=None, **choices):
    row = row_for(path, **{"section": "s", "donor": "P", "tissue": "any", **(about or {})})
    return read_section(row, **choices)


def as_image(picture):
    return np.moveaxis(np.asarray(picture), -1, 0)


def table_of(adata, region, instances=None):
    from spatialdata.models import TableModel

    adata.obs["region"] = pd.Categorical([region] * len(adata))
    adata.obs["spot_id"] = np.arange(len(adata)) if instances is None else instances
    adata.obsm.pop("spatial", None)
    return TableModel.parse(adata, region=region, region_key="region", instance_key="spot_id")


def visium_elements(name="V1", seed=0):
    """Elements as the common reader of Visium folders names them."""
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Identity, Scale

    adata, counts = visium_adata(seed)
    xy = adata.obsm["spatial"].copy()
    down = Scale([HIRES, HIRES], axes=("x", "y"))
    index = np.arange(len(xy))
    shapes = ShapesModel.parse(
        xy, geometry=0, radius=55.0, index=index,
        transformations={"global": Identity(), "downscaled_hires": down},
    )  # fmt: skip
    images = {
        f"{name}_hires_image": Image2DModel.parse(
            as_image(tissue_picture((230, 170))), dims=("c", "y", "x"),
            transformations={"downscaled_hires": Identity(), "global": down.inverse()},
        )
    }  # fmt: skip
    images[f"{name}_full_image"] = Image2DModel.parse(
        as_image(tissue_picture(SIZE)), dims=("c", "y", "x"), scale_factors=[4],
        transformations={"global": Identity()},
    )  # fmt: skip
    return {"images": images, "shapes": {name: shapes}, "table": table_of(adata, name)}, xy, counts


def write(folder, *, zarr_format=3, **parts):
    from spatialdata._io.format import SpatialDataContainerFormats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = sd.SpatialData(**parts)
        formats = {str(f.version): f for f in SpatialDataContainerFormats.values()}
        wanted = next(f for v, f in sorted(formats.items()) if f.zarr_format == zarr_format)
        data.write(folder, sdata_formats=wanted)
    return folder


def of_visium(folder, zarr_format=3, **made):
    parts, xy, counts = visium_elements(**made)
    table = parts.pop("table")
    return write(folder, zarr_format=zarr_format, tables={"table": table}, **parts), xy, counts


@pytest.fixture(scope="module")
def visium(tmp_path_factory):
    """A Visium store of each format, its places and counts."""
    folder = tmp_path_factory.mktemp("visium")
    return {f: of_visium(folder / f"v{f}.zarr", f) for f in (2, 3)}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_visium_store(visium, zarr_format):
    path, xy, counts = visium[zarr_format]
    assert look(path).kind == "spatialdata"
    section = read(path)
    np.testing.assert_array_equal(section.counts.toarray(), counts)
    np.testing.assert_allclose(section.xy_px, xy)
    assert section.barcodes[1] == "AC001-1"
    assert section.panel.gene_ids[3] == "ENSG00000000003"
    assert (section.assay, section.pitch_um, section.spot_diameter_um) == ("visium", 100, 55)
    assert (section.slide_mpp, section.mpp_source) == (pytest.approx(0.5), "spot pitch")
    assert section.notes[0] == "table table, region V1, places in pixels of image V1_full_image"
    image = path / "images" / "V1_full_image"
    assert section.notes[1].endswith(f"becomes the slide where the column image names {image}")
    # Named, the store's own image is the slide.
    named = read(path, about={"image": image})
    np.testing.assert_allclose(named.xy_px, xy)
    assert (named.slide_path, len(named.notes)) == (image, 1)
    with open_slide(image) as slide:
        np.testing.assert_array_equal(
            slide.region(0, 0, 0, *SIZE), np.asarray(tissue_picture(SIZE))[..., :3]
        )
        assert len(slide.levels) == 2
    assert section.reference_image.load().shape[2] == 3
    assert read(path / "tables" / "table").digest == section.digest
    assert read(path / "shapes" / "V1").digest == section.digest


def test_the_image_that_is_named_gives_the_frame(visium, tmp_path):
    path, xy, _ = visium[3]
    tissue_picture((230, 170)).save(tmp_path / "hires.png")
    section = read(path, about={"image": tmp_path / "hires.png"})
    np.testing.assert_allclose(section.xy_px, xy * HIRES)
    assert section.slide_mpp == pytest.approx(5)
    assert "pixels of image V1_hires_image" in section.notes[0]
    tissue_picture(SIZE).save(tmp_path / "full.png")
    full = read(path, about={"image": tmp_path / "full.png"})
    np.testing.assert_allclose(full.xy_px, xy)
    assert full.slide_path == tmp_path / "full.png"
    assert len(full.notes) == 1
    Image.new("RGB", (5000, 4000)).save(tmp_path / "other.png")
    other = read(path, about={"image": tmp_path / "other.png"})
    assert "places in coordinate system global" in other.notes[0]
    np.testing.assert_allclose(other.xy_px, xy)


def test_the_reference_image_lies_on_the_places(visium, tmp_path):
    path, _, _ = visium[3]
    found = read(path).reference_image
    width = found.load().shape[1]
    assert found.scale == pytest.approx(width / SIZE[0], rel=1e-3)
    tissue_picture((230, 170)).save(tmp_path / "hires.png")
    assert read(path, about={"image": tmp_path / "hires.png"}).reference_image.scale > 1


def test_places_are_those_that_the_package_gives(tmp_path):
    """Polygons, and maps of every kind, through the package's own transform and centroids."""
    import shapely
    from geopandas import GeoDataFrame
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Affine, MapAxis, Scale, Sequence, Translation

    adata, _ = visium_adata()
    xy = adata.obsm["spatial"].copy()
    rng = np.random.default_rng(0)
    corners = [[c + rng.uniform(5, 20, 2) * s for s in ((1, 0), (0, 1), (-1, -1))] for c in xy]
    frame = GeoDataFrame(geometry=[shapely.Polygon(c) for c in corners])
    turn = Affine(
        [[0.9, -0.2, 30], [0.2, 0.9, -10], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y")
    )
    steps = Sequence(
        [Translation([3, 4], axes=("x", "y")), turn, MapAxis({"x": "y", "y": "x"}),
         Scale([2, 0.5], axes=("x", "y"))]
    )  # fmt: skip
    cells = ShapesModel.parse(frame, transformations={"global": steps})
    image = Image2DModel.parse(
        as_image(tissue_picture((460, 340))), dims=("c", "y", "x"),
        transformations={"global": Sequence([Scale([5, 5], axes=("x", "y")), turn])},
    )  # fmt: skip
    path = write(
        tmp_path / "cells.zarr",
        images={"he": image}, shapes={"cells": cells}, tables={"table": table_of(adata, "cells")},
    )  # fmt: skip
    from spatialdata.transformations import get_transformation_between_coordinate_systems

    data = sd.SpatialData(images={"he": image}, shapes={"cells": cells})
    between = get_transformation_between_coordinate_systems(data, cells, image)
    matrix = between.to_affine_matrix(("x", "y"), ("x", "y"))
    centres = np.column_stack([frame.centroid.x, frame.centroid.y, np.ones(len(frame))])
    section = read(path)
    np.testing.assert_allclose(section.xy_px, (centres @ matrix.T)[:, :2], rtol=1e-6)
    assert (section.assay, section.slide_mpp) == ("spatialdata", None)


def test_points_that_a_table_annotates(tmp_path):
    from spatialdata.models import PointsModel
    from spatialdata.transformations import Identity

    adata, counts = visium_adata()
    frame = pd.DataFrame(adata.obsm["spatial"], columns=["x", "y"])
    points = PointsModel.parse(
        frame, coordinates={"x": "x", "y": "y"}, transformations={"only": Identity()}
    )
    order = np.random.default_rng(0).permutation(len(frame))
    adata = adata[order].copy()
    path = write(
        tmp_path / "points.zarr",
        points={"spots": points}, tables={"t": table_of(adata, "spots", order)},
    )  # fmt: skip
    section = read(path)
    np.testing.assert_allclose(section.xy_px, frame.to_numpy()[order])
    np.testing.assert_array_equal(section.counts.toarray(), counts[order])
    assert "coordinate system only" in section.notes[0]


def test_several_sections_are_named_and_chosen(tmp_path):
    first, _, counts = visium_elements("V1")
    second, xy, other = visium_elements("V2", seed=1)
    shapes = {**first["shapes"], **second["shapes"]}
    two = write(
        tmp_path / "two.zarr", shapes=shapes,
        tables={"a": first["table"], "b": second["table"]},
    )  # fmt: skip
    with pytest.raises(SectionError, match=r"holds 2 sections; give one .*two\.zarr/tables/a, tab"):
        read(two)
    np.testing.assert_array_equal(read(two / "tables" / "b").counts.toarray(), other)
    np.testing.assert_array_equal(read(two / "shapes" / "V1").counts.toarray(), counts)
    from spatialdata.models import TableModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = ad.concat([first["table"], second["table"]], merge="same", index_unique="-")
    both.obs["region"] = pd.Categorical(both.obs["region"])
    joint = TableModel.parse(
        both, region=["V1", "V2"], region_key="region", instance_key="spot_id",
        overwrite_metadata=True,
    )  # fmt: skip
    one = write(tmp_path / "one.zarr", shapes=shapes, tables={"table": joint})
    with pytest.raises(SectionError, match=r"one\.zarr/shapes/V1, shapes/V2"):
        read(one / "tables" / "table")
    section = read(one / "shapes" / "V2")
    np.testing.assert_array_equal(section.counts.toarray(), other)
    np.testing.assert_allclose(section.xy_px, xy)
    with pytest.raises(SectionError, match="no table that annotates a region by the name none"):
        read(one / "shapes" / "none" if (one / "shapes" / "none").mkdir() is None else one)


def test_visium_hd_in_a_store(tmp_path):
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    parts = {"shapes": {}, "tables": {}}
    arrays = {}
    for um, size in ((8, (30, 40)), (16, (15, 20))):
        hd = arrays[um] = HD(rows=size[0], cols=size[1], um=um)
        name = f"square_{um:03d}um"
        adata = ad.AnnData(
            hd.counts.astype(np.float32),
            obs=pd.DataFrame(
                {"in_tissue": 1, "array_row": hd.row, "array_col": hd.col}, index=hd.names
            ),
            var=pd.DataFrame(index=[f"GENE{i}" for i in range(6)]),
        )
        parts["shapes"][f"S_{name}"] = ShapesModel.parse(
            hd.xy, geometry=0, radius=um / 2, transformations={"S": Identity()}
        )
        parts["tables"][name] = table_of(adata, f"S_{name}")
    path = write(tmp_path / "hd.zarr", **parts)
    section = read(path)
    expected = arrays[8].pooled(7)
    assert section.barcodes.tolist() == [f"s_056um_{r:05d}_{c:05d}" for r, c in expected]
    np.testing.assert_array_equal(section.counts.toarray(), np.stack(list(expected.values())))
    assert (section.assay, section.pitch_um) == ("visium-hd", 56)
    assert section.slide_mpp == pytest.approx(0.4)
    assert len(read(path, bin_um=48)) == len(arrays[16].pooled(3))
    assert len(read(path / "tables" / "square_016um", bin_um=16)) == 300


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_real_stores_are_refused_for_what_they_are(real_data, version):
    path = real_data / "spatialdata" / f"blobs_{version}.zarr"
    assert look(path).kind == "spatialdata"
    with pytest.raises(SectionError, match="no raw counts: X looks normalised: 100%"):
        read(path)


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.filterwarnings("ignore")
def test_real_elements_are_read_as_the_package_reads_them(real_data, version):
    path = real_data / "spatialdata" / f"blobs_{version}.zarr"
    data = sd.read_zarr(path, selection=("shapes", "points", "images"))
    for name in ("blobs_circles", "blobs_polygons", "blobs_multipolygons"):
        centres = data.shapes[name].centroid
        region = elements.read_region(path, "shapes", name)
        np.testing.assert_allclose(region.xy, np.column_stack([centres.x, centres.y]))
        assert region.circles == (name == "blobs_circles")
    points = data.points["blobs_points"].compute()
    region = elements.read_region(path, "points", "blobs_points")
    np.testing.assert_array_equal(region.xy, points[["x", "y"]])
    pictures = elements.read_pictures(path)
    assert [(p.name, p.size_px, len(p.levels)) for p in pictures] == [
        ("blobs_image", (64, 64), 1),
        ("blobs_multiscale_image", (64, 64), 3),
    ]


# --- what is wrong, or meant to harm ------------------------------------------------------------


@pytest.fixture
def store(visium, tmp_path):
    """A copy of a store that may be spoilt."""

    def copy(zarr_format=3):
        path = tmp_path / f"copy{zarr_format}.zarr"
        shutil.copytree(visium[zarr_format][0], path)
        return path

    return copy


def spoil(path, **change):
    document = json.loads(path.read_text())
    document.update(change)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_declared_shapes_are_not_believed(store, zarr_format):
    path = store(zarr_format)
    name = "zarr.json" if zarr_format == 3 else ".zarray"
    spoil(path / "tables" / "table" / "X" / "data" / name, shape=[10**12])
    with pytest.raises(SectionError, match=r"X/data: declares [\d,]+ MiB in chunks of .* stores 0"):
        read(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_codecs_that_run_code_are_refused(store, zarr_format):
    path = store(zarr_format)
    index = path / "tables" / "table" / "obs" / "_index"
    if zarr_format == 2:
        spoil(index / ".zarray", filters=[{"id": "pickle"}])
    else:
        spoil(index / "zarr.json", codecs=[{"name": "numcodecs.pickle", "configuration": {}}])
    with pytest.raises(SectionError, match="is packed by pickle, which is not read; write it with"):
        read(path)


@pytest.mark.parametrize("part", ["tables/table/X/data", "tables/table", "shapes/V1", "tables"])
def test_links_are_not_followed(store, tmp_path, part):
    path = store()
    outside = tmp_path / "outside"
    shutil.move(path / part, outside)
    (path / part).symlink_to(outside)
    with pytest.raises(SectionError, match=r"is a link|no table that annotates"):
        read(path)


def test_a_chunk_that_unpacks_to_more_than_it_says(store):
    import zstandard

    path = store()
    data = path / "tables" / "table" / "X" / "data"
    (chunk,) = [p for p in (data / "c").rglob("*") if p.is_file()]
    chunk.write_bytes(zstandard.compress(bytes(2**26)))
    with pytest.raises(SectionError, match="a chunk unpacks to 64 MiB, declared are"):
        read(path)


def remove(part):
    def change(path):
        shutil.rmtree(path / part)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("shapes/V1"), "annotates V1, which is not there; give a table that annotates"),
        (remove("tables/table"), "no table that annotates a region"),
        (remove("tables/table/X"), "no raw counts: no X"),
        (remove("tables/table/obs/spot_id"), "its table cannot be read|spot_id"),
        (lambda p: (p / "shapes" / "V1" / "shapes.parquet").write_bytes(b"no"), "parquet table"),
        (lambda p: (p / "shapes" / "V1" / "shapes.parquet").unlink(), "older spatialdata"),
        (lambda p: (p / "tables" / "table" / "zarr.json").write_text("{"), "not readable JSON"),
        (
            lambda p: (p / "shapes" / "V1" / "zarr.json").write_text('{"attributes": {}}'),
            "no coord",
        ),
        (
            lambda p: (p / "tables" / "table" / "obs" / "zarr.json").write_text("[]"),
            "not a JSON object",
        ),
    ],
)
def test_parts_that_are_missing_or_damaged(store, change, said):
    path = store()
    change(path)
    with pytest.raises(SectionError, match=said):
        read(path)


def test_damaged_stores_never_end_otherwise_than_in_a_clear_error(store):
    path = store()
    rng = np.random.default_rng(0)
    files = sorted(
        p for part in ("tables", "shapes") for p in (path / part).rglob("*") if p.is_file()
    )
    refused = 0
    for attempt in range(60):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        data = bytearray(whole)
        if attempt % 3 == 0:
            data = data[: rng.integers(len(data))]
        for at in rng.integers(0, max(len(data), 1), 4 * (attempt % 3) * bool(data)):
            data[at] = rng.integers(256)
        file.write_bytes(data)
        try:
            read(path)
        except BleepdbError:
            refused += 1
        file.write_bytes(whole)
    assert refused > 20
    assert len(read(path)) == 80


def test_maps_that_are_not_read_say_so(tmp_path):
    axes = [{"name": "x"}, {"name": "y"}]
    said = {"input": {"axes": axes}, "output": {"name": "global", "axes": axes}}
    for bad in (
        {"type": "byDimension"}, {"type": "scale", "scale": [1]}, {"type": "scale"},
        {"type": "scale", "scale": [0, 0]}, {"type": "affine", "affine": [[1, "a"]]},
        {"type": "translation", "translation": [float("nan"), 0]},
    ):  # fmt: skip
        with pytest.raises(SectionError, match="a transformation that is not read"):
            to_systems([{**said, **bad}], tmp_path)
    deep = {"type": "identity"}
    for _ in range(40):
        deep = {"type": "sequence", "transformations": [deep]}
    with pytest.raises(SectionError, match="nested without end"):
        to_systems([{**said, **deep}], tmp_path)


def test_polygons_without_the_extra(real_data, monkeypatch):
    monkeypatch.setattr(elements, "find_spec", lambda _: None)
    path = real_data / "spatialdata" / "blobs_v3.zarr"
    assert len(elements.read_region(path, "shapes", "blobs_circles").xy) == 5
    with pytest.raises(
        MissingExtraError, match=r"need the package shapely; pip install 'bleepdb\[sp"
    ):
        elements.read_region(path, "shapes", "blobs_polygons")
