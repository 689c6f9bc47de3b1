"""Tiles as a stream: the pixels of one-by-one reads, each decoded once, in bounded memory."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb.errors import SlideError
from bleepdb.tissue import Slide, TileGeometry, TileStream, open_slide, read_tiles, slide
from bleepdb.tissue.supertiles import plan_super_tiles

SIZE = 1500, 1100


class Counting(Slide):
    """A slide in memory that counts what is read, and can be made to fail."""

    def __init__(self, pixels):
        size = pixels.shape[1], pixels.shape[0]
        super().__init__(Path("made"), levels=(1.0,), level_sizes=(size,), file_mpp=1.0, mpp=None)
        self.whole = pixels
        self.regions = []
        self.fails_below = None

    def region(self, level, x, y, width, height, *, out=None):
        self.regions.append((x, y, width, height))
        if self.fails_below is not None and y + height > self.fails_below:
            raise SlideError("its pixels cannot be decoded", where=self.path)
        part = self.whole[y : y + height, x : x + width]
        if out is None:
            return part.copy()
        out[...] = part
        return out

    @property
    def read_px(self):
        return sum(w * h for _, _, w, h in self.regions)

    def close(self):
        """Nothing is open."""


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def counted():
    return Counting(noise(*SIZE))


@pytest.fixture
def counting(counted):
    counted.regions.clear()
    counted.fails_below = None
    return counted


@pytest.fixture(scope="module")
def slides(slide_files, tmp_path_factory):
    """A plain image, an SVS and a pyramid of 512 px tiles whose levels do not divide."""
    folder = tmp_path_factory.mktemp("slides")
    base = slide_files.tissue_like(*SIZE)
    made = {
        "svs": slide_files.write_svs(folder / "a.svs", [base, slide_files.halved(base, 4)]),
        "pyramid": slide_files.write_tiff(
            folder / "a.tif",
            [base, slide_files.halved(base), slide_files.halved(base, 4)],
            tile=512,
        ),
    }
    opened = {name: open_slide(path, mpp=1.0) for name, path in made.items()}
    opened["memory"] = Counting(noise(*SIZE))
    yield opened
    for one in opened.values():
        one.close()


def one_by_one(slide, xy, geometry, mpp=1.0):
    return np.concatenate(list(read_tiles(slide, xy, slide_mpp=mpp, geometry=geometry)))


def gathered(slide, xy, geometry, mpp=1.0, **options):
    """The tiles of a stream at the rows that it says, and those rows in the order they came."""
    shape = len(xy), len(geometry.scales_um), geometry.tile_px, geometry.tile_px, 3
    tiles, order = np.zeros(shape, np.uint8), []
    with TileStream(slide, xy, slide_mpp=mpp, geometry=geometry, **options) as stream:
        for rows, block in stream:
            tiles[rows] = block
            order += rows.tolist()
    return tiles, order


def grid(step, size=SIZE):
    at = [np.arange(step / 2, n, step) for n in size]
    return np.stack(np.meshgrid(*at), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("name", ["svs", "pyramid", "memory"])
@given(
    seed=st.integers(0, 2**20),
    n=st.integers(1, 40),
    scales=st.lists(st.floats(20, 900), min_size=1, max_size=2),
    whole=st.booleans(),
    spread=st.floats(0.02, 1),
    resampling=st.sampled_from(["area", "bilinear", "scaled"]),
)
@settings(deadline=None, max_examples=25)
def test_tiles_are_those_of_reading_one_by_one(
    slides, name, seed, n, scales, whole, spread, resampling
):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 1, (n, 2)) * np.array(SIZE) * spread
    if whole:
        xy, scales = np.floor(xy), [2.0 * round(s / 2) for s in scales]
    geometry = TileGeometry(tuple(scales), 16, resampling)
    got, order = gathered(slides[name], xy, geometry, batch=1 + seed % 7, workers=2)
    assert sorted(order) == list(range(n))
    np.testing.assert_array_equal(got, one_by_one(slides[name], xy, geometry))


def test_tiles_of_a_real_slide(real_data):
    with open_slide(real_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        mpp = slide.known_mpp
        geometry = TileGeometry((224 * mpp, 300.0), 224)
        xy = np.concatenate(
            [grid(150.3, slide.size_px)[::7], np.floor(grid(224, slide.size_px)[::5])]
        )
        got, _ = gathered(slide, xy, geometry, mpp)
        np.testing.assert_array_equal(got, one_by_one(slide, xy, geometry, mpp))


def test_fields_larger_than_a_super_tile(counting, monkeypatch):
    monkeypatch.setattr(slide, "BAND_PX", 300 * 300)
    monkeypatch.setattr("bleepdb.tissue.supertiles.MOST_PIXELS", 150 * 150)
    geometry = TileGeometry((40.0, 200.0, 700.0), 32)
    xy = np.random.default_rng(3).uniform(0, SIZE[1], (12, 2))
    got, _ = gathered(counting, xy, geometry, batch=5, workers=3)
    np.testing.assert_array_equal(got, one_by_one(counting, xy, geometry))


def test_the_order_is_the_same_whatever_the_workers(counting):
    xy = np.random.default_rng(0).permutation(grid(37))
    geometry = TileGeometry((40.0,), 32)
    orders = [gathered(counting, xy, geometry, workers=w, batch=10)[1] for w in (1, 2, 5)]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == list(range(len(xy)))
    again = plan_super_tiles(counting, xy.copy(), slide_mpp=1.0, geometry=geometry)
    assert again.order.tolist() == orders[0]


def test_dense_places_are_decoded_once(counting):
    geometry = TileGeometry((64.0, 128.0), 64)
    xy = grid(64)
    gathered(counting, xy, geometry)
    once = SIZE[0] * SIZE[1] * 2  # two scales
    assert counting.read_px <= 1.1 * once
    counting.regions.clear()
    one_by_one(counting, xy, geometry)
    assert counting.read_px > 2 * once


@pytest.mark.parametrize("n", [2, 6, 40, 200, 1000])
@pytest.mark.parametrize("scales", [(30.0,), (30.0, 90.5)])
def test_scattered_places_read_no_more_than_one_by_one(counting, n, scales):
    geometry = TileGeometry(scales, 30)
    xy = np.random.default_rng(n).uniform(0, 1, (n, 2)) * SIZE
    gathered(counting, xy, geometry, workers=1)
    together = counting.read_px
    counting.regions.clear()
    one_by_one(counting, xy, geometry)
    assert together <= counting.read_px


def test_super_tiles_are_bounded():
    wide = Counting(np.broadcast_to(np.uint8(7), (30_000, 40_000, 3)))
    xy = np.stack(np.meshgrid(np.arange(50, 39_000, 90.0), np.arange(50, 29_000, 90.0)), -1)
    for scales in ((100.0,), (100.0, 1000.0)):
        plan = plan_super_tiles(
            wide, xy.reshape(-1, 2), slide_mpp=1.0, geometry=TileGeometry(scales, 64)
        )
        assert plan.pixels.max() <= 2**24
        assert np.diff(plan.starts).max() <= 256
        assert sorted(plan.order.tolist()) == list(range(len(plan.order)))
        assert [len(r) for r in plan] == np.diff(plan.starts).tolist()


def test_wrong_places_are_refused_at_once(counting):
    before = threading.active_count()
    for xy, scale in (([(-1.0, 5.0)], 40.0), ([(5.0, 5.0)], 3.0)):
        with pytest.raises(SlideError, match=r"outside the image|would enlarge"):
            TileStream(counting, np.array(xy), slide_mpp=1.0, geometry=TileGeometry((scale,), 32))
    assert threading.active_count() == before
    assert not counting.regions


def test_no_places(counting):
    none = np.empty((0, 2))
    with TileStream(counting, none, slide_mpp=1.0, geometry=TileGeometry((40.0,), 32)) as stream:
        assert list(stream) == []


def test_batches_that_are_there_are_left_out(counting):
    xy, geometry = grid(100), TileGeometry((40.0,), 32)
    with TileStream(counting, xy, slide_mpp=1.0, geometry=geometry, batch=8) as stream:
        whole = [(r, t) for r, t in stream]
    read = len(counting.regions)
    for skip in ({0, 3, 4, 5}, set(range(len(whole) - 1)), set(range(len(whole)))):
        counting.regions.clear()
        with TileStream(counting, xy, slide_mpp=1.0, geometry=geometry, batch=8, skip=skip) as left:
            assert set(left.numbers) == set(range(len(whole))) - skip
            for number, (rows, tiles) in zip(left.numbers, left, strict=True):
                np.testing.assert_array_equal(rows, whole[number][0])
                np.testing.assert_array_equal(tiles, whole[number][1])
        assert len(counting.regions) <= read
    assert not counting.regions


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_of_a_worker_reach_the_consumer_after_what_is_whole(counting, workers):
    xy, geometry = grid(150), TileGeometry((40.0,), 32)
    want = one_by_one(counting, xy, geometry)
    counting.fails_below = 600
    rows_before = []

    def consume():
        with TileStream(
            counting, xy, slide_mpp=1.0, geometry=geometry, batch=4, workers=workers
        ) as stream:
            for rows, tiles in stream:
                np.testing.assert_array_equal(tiles, want[rows])
                rows_before.extend(rows.tolist())

    with pytest.raises(SlideError, match="cannot be decoded"):
        consume()
    plan = plan_super_tiles(counting, xy, slide_mpp=1.0, geometry=geometry)
    sound = int(np.argmax(xy[plan.order, 1] > 580)) // 4 * 4
    assert rows_before == plan.order[:sound].tolist()
    assert 4 <= sound < len(xy)
    assert not tile_threads()


def tile_threads():
    return [t for t in threading.enumerate() if t.name.startswith("tiles-")]


@pytest.mark.parametrize("how", ["break", "forgotten", "never begun", "raised", "closed twice"])
def test_abandoned_streams_leave_no_threads(counting, how):
    xy, geometry = grid(50), TileGeometry((40.0,), 32)

    def made():
        return TileStream(counting, xy, slide_mpp=1.0, geometry=geometry, batch=4, workers=3)

    if how == "break":
        for _ in made():
            break
    elif how == "forgotten":
        taken = iter(made())
        next(taken)
        del taken
    elif how == "never begun":
        made()
    elif how == "raised":

        def consume():
            with made() as stream:
                for _ in stream:
                    raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            consume()
    else:
        stream = made()
        stream.close()
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            list(stream)
    gc.collect()
    assert not tile_threads()


def settled(count):
    """The value of `count()` once it has not changed for a while."""
    before = -1
    while (now := count()) != before:
        before = now
        time.sleep(0.2)
    return now


def test_a_stalled_consumer_stops_the_decoding(counting):
    xy, geometry = grid(40), TileGeometry((40.0,), 32)
    made = []

    def allocate(shape):
        made.append(shape)
        return np.empty(shape, np.uint8)

    with TileStream(
        counting, xy, slide_mpp=1.0, geometry=geometry, batch=8, ahead=3, workers=2,
        reuse=True, allocate=allocate,
    ) as stream:  # fmt: skip
        groups = np.searchsorted(stream.plan.starts, 3 * 8)  # that begin in the first 3 batches
        assert settled(lambda: len(counting.regions)) <= groups < len(stream.plan) / 4
        assert len(made) == 3
        taken = iter(stream)
        next(taken)
        first = len(counting.regions)
        next(taken)  # gives the first back
        assert settled(lambda: len(counting.regions)) >= first
        rest = sum(1 for _ in taken)
    assert rest == -(-len(xy) // 8) - 2
    assert len(made) == 3


def test_memory_bounds_what_is_ahead(counting):
    xy, geometry = grid(40), TileGeometry((40.0,), 32)
    a_batch = 8 * 32 * 32 * 3
    for asked, buffers in ((0, 2), (2 * 5 * a_batch, 5), (2**30, 16)):
        with TileStream(
            counting, xy, slide_mpp=1.0, geometry=geometry, batch=8, memory_bytes=asked
        ) as stream:
            assert stream._shared.buffers == buffers
            assert sum(len(rows) for rows, _ in stream) == len(xy)


def test_fresh_memory_stays_as_it_was_and_reused_memory_does_not(counting):
    xy, geometry = grid(100), TileGeometry((40.0,), 32)
    want = one_by_one(counting, xy, geometry)

    def of(**how):
        with TileStream(counting, xy, slide_mpp=1.0, geometry=geometry, batch=8, **how) as stream:
            return list(stream)

    for rows, tiles in of():
        np.testing.assert_array_equal(tiles, want[rows])
    kept = of(reuse=True, ahead=2)
    assert len({tiles.__array_interface__["data"][0] for _, tiles in kept}) == 2


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_many_small_batches_and_little_memory_never_lock_up(counting, workers):
    xy = np.concatenate([grid(30), grid(211), np.full((40, 2), 500.0)])
    geometry = TileGeometry((40.0, 170.0), 16)
    got, _ = gathered(counting, xy, geometry, batch=3, ahead=1, memory_bytes=1, workers=workers)
    assert got.shape[0] == len(xy)


@pytest.mark.parametrize("name", ["svs", "pyramid", "memory"])
@given(
    seed=st.integers(0, 2**20),
    n=st.integers(1, 60),
    px=st.integers(2, 120).map(lambda half: 2 * half),
    spread=st.floats(0.05, 1),
    ahead=st.integers(1, 4),
)
@settings(deadline=None, max_examples=20)
def test_whole_pixels_are_copied(slides, name, seed, n, px, spread, ahead):
    """Fields that need no resampling, over edges and over each other too."""
    rng = np.random.default_rng(seed)
    xy = np.floor(rng.uniform(0, 1, (n, 2)) * np.array(SIZE) * spread)
    geometry = TileGeometry((float(px),), px)
    got, _ = gathered(slides[name], xy, geometry, batch=1 + seed % 7, ahead=ahead, workers=2)
    np.testing.assert_array_equal(got, one_by_one(slides[name], xy, geometry))


def test_errors_while_pixels_are_copied(counting):
    xy, geometry = grid(32), TileGeometry((32.0,), 32)
    counting.fails_below = 900

    def consume():
        with TileStream(counting, xy, slide_mpp=1.0, geometry=geometry, workers=2) as stream:
            return sum(1 for _ in stream)

    with pytest.raises(SlideError, match="cannot be decoded"):
        consume()
    assert not tile_threads()


def test_a_closed_stream_gives_nothing_though_it_was_decoded(counting):
    """What was decoded ahead is not handed out after the end."""
    geometry = TileGeometry((64.0,), 64)
    xy = np.array([[100.0 + 64 * i, 100.0] for i in range(8)])
    stream = TileStream(counting, xy, slide_mpp=1.0, geometry=geometry, batch=2)
    taken = iter(stream)
    next(taken)
    for _ in range(500):
        if not any(stream._shared.left.values()):
            break
        time.sleep(0.01)
    assert not any(stream._shared.left.values())
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        next(taken)
