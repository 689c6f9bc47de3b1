"""Stored tiles: the pixels that are read, decoded once, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bleepdb.errors import SectionError
from bleepdb.tissue import open_slide
from bleepdb.tissue.geometry import TileGeometry
from bleepdb.tissue.tiles import read_tiles
from bleepdb.training import tile_store
from bleepdb.training.augment import Augmentation
from bleepdb.training.tile_store import drop_tiles, stored_tiles
from bleepdb.training.tiles import Tiles

GEOMETRY = TileGeometry((40.0, 80.0), 32)


@pytest.fixture
def slide(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(1)
    coarse = rng.integers(60, 240, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "slide.png"
    Image.fromarray(coarse).resize((500, 500), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def places():
    return np.random.default_rng(2).uniform(20, 480, (150, 2))


def store(slide, places, **changes):
    return stored_tiles(slide, places, **{"slide_mpp": 1.0, "geometry": GEOMETRY, **changes})


def kept():
    return sorted((tile_store.cache_dir() / tile_store.FOLDER).iterdir())


def test_they_are_what_the_reader_gives_in_the_order_of_the_places(slide, places):
    seen = []
    found = store(slide, places, progress=lambda done, of: seen.append((done, of)))
    with open_slide(slide, mpp=1.0) as opened:
        want = np.concatenate(list(read_tiles(opened, places, slide_mpp=1.0, geometry=GEOMETRY)))
    np.testing.assert_array_equal(found, want)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert seen[-1] == (150, 150)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_a_second_time_decodes_nothing_and_all_else_has_a_file_of_its_own(
    slide, places, monkeypatch
):
    first = store(slide, places)
    with monkeypatch.context() as patch:
        patch.setattr(tile_store, "TileStream", None)
        np.testing.assert_array_equal(store(slide, places), first)
    for changed in (
        {"geometry": TileGeometry((40.0, 81.0), 32)},
        {"geometry": TileGeometry((40.0, 80.0), 32, "bilinear")},
        {"slide_mpp": 1.01},
    ):
        before = len(kept())
        store(slide, places, **changed)
        assert len(kept()) == before + 1
    store(slide, places[::-1])
    assert len(kept()) == 5


def test_an_interrupted_decoding_leaves_nothing(slide, places):
    def stop(done, _):
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(slide, places, progress=stop)
    assert kept() == []
    assert len(store(slide, places)) == 150


def test_what_is_damaged_is_decoded_again(slide, places, caplog):
    want = np.array(store(slide, places))
    (path,) = kept()
    path.write_bytes(path.read_bytes()[:5000])
    np.testing.assert_array_equal(store(slide, places), want)
    assert "damaged" in caplog.text
    np.save(path, np.zeros(3))
    np.testing.assert_array_equal(store(slide, places), want)


def test_a_full_disk_is_refused_before_anything_is_written(slide, places, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(free=tile_store.RESERVE + 1000)
    )
    with pytest.raises(SectionError, match="BLEEPDB_CACHE"):
        store(slide, places)
    assert kept() == []


def test_the_tiles_of_a_retracted_slide_go(slide, places, tmp_path):
    other = Path(shutil.copy(slide, tmp_path / "other.png"))
    with Image.open(other) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other)
    store(slide, places)
    store(other, places)
    with open_slide(slide, mpp=1.0) as opened:
        digest = opened.digest
    assert drop_tiles({digest}) == 1
    assert len(kept()) == 1
    assert drop_tiles({digest}) == 0


def test_batches_are_the_tiles_of_their_spots_and_ranks_take_their_shares(slide, places):
    stores = [store(slide, places[:70]), store(slide, places[70:])]
    profiles = torch.arange(150.0)[:, None]

    def data(**augmented):
        return Tiles(stores, profiles, Augmentation(**augmented), torch.Generator().manual_seed(0))

    rows = torch.randperm(150, generator=torch.Generator().manual_seed(1))[:144].view(9, 16)
    cpu = torch.device("cpu")
    seen = list(data(flips=False).batches(rows, slice(0, 16), cpu))
    assert len(seen) == 9
    both = np.concatenate(stores)
    for batch, (images, found) in zip(rows, seen, strict=True):
        assert found[:, 0].long().tolist() == batch.tolist()
        want = both[batch.numpy()].transpose(0, 1, 4, 2, 3).astype(np.float32) / 255
        np.testing.assert_array_equal(images.numpy(), want)
    whole = list(data(stain=0.1).batches(rows, slice(0, 16), cpu))
    parts = [list(data(stain=0.1).batches(rows, slice(i, i + 8), cpu)) for i in (0, 8)]
    for all_of_it, first, second in zip(whole, *parts, strict=True):
        for i in (0, 1):
            torch.testing.assert_close(torch.cat([first[i], second[i]]), all_of_it[i])
