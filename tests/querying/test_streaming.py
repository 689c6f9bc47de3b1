"""Memory does not grow with the slide, and blocks change nothing."""

from __future__ import annotations

import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pytest

from bleepdb import names
from bleepdb.querying import Query, QuerySettings, query_slide
from bleepdb.querying import places as seeing
from bleepdb.querying import rows as weighing
from bleepdb.querying.output import padded_rows
from bleepdb.tissue import Spots


def ask(small, **settings):
    section = small.sections[2]
    query = Query(
        slide_path=section.slide_path,
        slide_mpp=section.slide_mpp,
        spots=Spots(section.barcodes, section.xy_px),
        library_id=section.section,
    )
    (collection,) = small.atlas.collections()
    chosen = QuerySettings(**{"genes": "model", "neighbour_sd": True, **settings})
    return query_slide(query, small.model, small.atlas, collection, settings=chosen)


@pytest.mark.parametrize("method", ["softmax", "local"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_blocks_change_nothing(small, monkeypatch, tmp_path, method, smoothing):
    whole = ask(small, method=method, smoothing=smoothing)
    monkeypatch.setattr(weighing, "ROWS_A_BLOCK", 7)
    monkeypatch.setattr(seeing, "FEATURES_A_BLOCK", 16)
    monkeypatch.setattr(seeing, "LEAST_A_BLOCK", 5)
    parts = ask(small, method=method, smoothing=smoothing)
    assert isinstance(parts.rows.vectors, np.memmap)
    np.testing.assert_allclose(parts.weights.toarray(), whole.weights.toarray(), atol=1e-5)
    np.testing.assert_allclose(parts.values(), whole.values(), atol=1e-5)
    for one, other in ((parts.obs, whole.obs), (parts.var, whole.var)):
        assert one.columns.tolist() == other.columns.tolist()
        for name in one:
            if one[name].dtype.kind == "f":
                np.testing.assert_allclose(one[name], other[name], atol=1e-4)
            else:
                assert (one[name] == other[name]).all()
    parts.write(tmp_path / "parts.h5ad")
    monkeypatch.undo()
    whole.write(tmp_path / "whole.h5ad")
    one, other = (ad.read_h5ad(tmp_path / f"{n}.h5ad") for n in ("parts", "whole"))
    np.testing.assert_allclose(one.X, other.X, atol=1e-5)
    np.testing.assert_allclose(
        one.layers[names.NEIGHBOUR_SD_LAYER], other.layers[names.NEIGHBOUR_SD_LAYER], atol=1e-4
    )
    assert one.obsm.keys() == other.obsm.keys()


def test_a_written_file_is_laid_out_as_anndata_would(small, tmp_path):
    made = ask(small)
    made.write(tmp_path / "ours.h5ad")
    made.to_anndata().write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    with h5py.File(tmp_path / "ours.h5ad") as ours, h5py.File(tmp_path / "theirs.h5ad") as theirs:

        def layout(file):
            found = {}
            file.visititems(
                lambda name, item: found.update(
                    {name: (dict(item.attrs).get("encoding-type"), getattr(item, "shape", None),
                            str(getattr(item, "dtype", "")))}
                )
            )  # fmt: skip
            return found

        assert layout(ours) == layout(theirs)
        for name in ("X", f"obsm/{names.NEIGHBOURS_KEY}", f"obsm/{names.WEIGHTS_KEY}"):
            np.testing.assert_array_equal(ours[name][:], theirs[name][:])


def test_padding_to_a_given_width(small):
    W = ask(small).weights
    columns, weights = padded_rows(W, 400)
    narrow, shares = padded_rows(W)
    assert columns.shape == (len(narrow), 400)
    np.testing.assert_array_equal(columns[:, : narrow.shape[1]], narrow)
    np.testing.assert_array_equal(weights[:, : narrow.shape[1]], shares)
    assert (columns[:, narrow.shape[1] :] == -1).all()


def test_mixed_rows_equal_the_smoothed_whole(small):
    from bleepdb.imputation import smooth
    from bleepdb.places import adjacency

    near = small.model.retrieval["smoothing"]
    plain, mixed = ask(small, smoothing=0.0), ask(small, smoothing=0.4)
    ring = adjacency(small.sections[2].xy_um, inner_um=near["inner_um"], outer_um=near["outer_um"])
    wanted = smooth(plain.weights, ring, 0.4)
    np.testing.assert_allclose(mixed.weights.toarray(), wanted.toarray(), atol=1e-6)
    assert mixed.longest == np.diff(wanted.indptr).max()


MEASURE = """
import sys, tracemalloc
from dataclasses import replace
from pathlib import Path
import numpy as np
from PIL import Image
from bleepdb.indexing import index_section
from bleepdb.atlas import ExactAtlas
from bleepdb.querying import Query, QuerySettings, query_slide, places, rows
from bleepdb.encoders import load_model
from bleepdb.tissue import Spots, load_section, read_sheet

folder, n, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
model = load_model(folder / "model")
sections = [load_section(row).section for row in read_sheet(folder / "samples.csv")]
atlas = ExactAtlas()
for section in sections[:2]:
    index_section(section, model, atlas)
places.FEATURES_A_BLOCK, rows.ROWS_A_BLOCK = 100_000, 128

def features(path, xy_px, *, mapped=False, **more):
    # A tiny encoder: features are drawn, and lie on the disk as those of a slide do.
    width = model.image_tower.inputs // (1 if model.context is None else 2)
    file = np.lib.format.open_memmap(out.with_suffix(".npy"), "w+", np.float32, (len(xy_px), width))
    rng = np.random.default_rng(0)
    for start in range(0, len(xy_px), 256):
        file[start : start + 256] = rng.normal(size=file[start : start + 256].shape)
    assert mapped
    tracemalloc.reset_peak()  # the picture of the slide is behind us
    return file

class Drawn:
    def __init__(self, *given, **more):
        self.finish = lambda _: features(*given, **more)

    def close(self):
        pass

places.begin_features = Drawn
# More places on more tissue: the slide is as large as its places need.
side = int(np.ceil(n ** 0.5))
line = np.linspace(50, 1150, side)
xy = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)[:n]
slide = out.with_suffix(".png")
picture = np.full((1200, 1200, 3), 245, np.uint8)
drawn = np.random.default_rng(1).integers(-30, 30, (1120, 1120, 1))
picture[40:1160, 40:1160] = np.array([190, 110, 160]) + drawn
Image.fromarray(picture).save(slide)
mpp = model.pitch_um * side / 1100
query = Query(slide, mpp, Spots(np.array([f"b{i}" for i in range(n)]), xy))
(collection,) = atlas.collections()
settings = QuerySettings(genes="model", k=20, smoothing=0.0, max_upsampling=float("inf"))
warm = replace(query, spots=Spots(query.spots.names[:50], xy[:50]))
query_slide(warm, model, atlas, collection, settings=settings).write(out)
tracemalloc.start()
made = query_slide(query, model, atlas, collection, settings=settings)
made.write(out)
print(len(made), tracemalloc.get_traced_memory()[1])
"""


@pytest.fixture(scope="module")
def on_disk(small, tmp_path_factory):
    """The sections and the model as files, for another process."""
    from bleepdb.encoders import save_model
    from bleepdb.simulation import SimulationSettings, simulate, write

    folder = tmp_path_factory.mktemp("on_disk")
    write(simulate(SimulationSettings.tiny(), seed=1), folder)
    save_model(small.model, folder / "model")
    return folder


def peak(folder, n, out, change=""):
    code = MEASURE.replace("tracemalloc.start()", f"{change}\ntracemalloc.start()")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(n), str(out)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    places, size = done.stdout.split()[-2:]
    assert int(places) == n
    return int(size)


HELD = """
real = places.embed
held = []
def embed(seen, model):
    held.append(np.array(seen.features))  # what a query that is not streamed would hold
    return real(seen, model)
import bleepdb.querying.slide
bleepdb.querying.slide.embed = embed
"""


def test_memory_does_not_grow_with_the_slide(on_disk, tmp_path):
    small, large = 1500, 6000
    few = peak(on_disk, small, tmp_path / "few.h5ad")
    many = peak(on_disk, large, tmp_path / "many.h5ad")
    a_place = (many - few) / (large - small)
    # Beside fixed blocks, a place costs its neighbours and its row of the table.
    assert a_place < 600, (few, many)
    held = peak(on_disk, large, tmp_path / "held.h5ad", HELD)
    assert (held - few) / (large - small) > 1000, (few, held)
