"""Features that are begun, killed, continued, closed: the same in the end, nothing half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch

from bleepdb.encoders import FeatureSpec, begin_features, extract, load_backbone, measure_speed
from bleepdb.encoders.backbone import Backbone
from bleepdb.encoders.feature_cache import (
    cache_file,
    drop_features,
    read_features,
    write_features,
)
from bleepdb.errors import ModelError, SlideError
from bleepdb.tissue import open_slide
from bleepdb.tissue.geometry import TileGeometry

PLACES = np.random.default_rng(0).uniform(10, 590, (23, 2))
BATCH = 3


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def passes(monkeypatch):
    """Count the tiles that go through a backbone; `passes.stop_after` interrupts like Ctrl-C."""
    real = Backbone.features

    class Passes(list):
        stop_after = None

    seen = Passes()

    def counted(self, tiles, levels):
        if seen.stop_after is not None and len(seen) >= seen.stop_after:
            raise KeyboardInterrupt
        seen.append(len(tiles))
        return real(self, tiles, levels)

    monkeypatch.setattr(Backbone, "features", counted)
    return seen


def begun(slide, backbone, *, places=PLACES, batch=BATCH, **more):
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0,), 64))
    return begin_features(
        slide, places, slide_mpp=1.0, spec=spec, backbone=backbone, batch=batch, **more
    )


def interrupted(slide, backbone, passes, after, **more):
    passes.stop_after = len(passes) + after
    with pytest.raises(KeyboardInterrupt):
        begun(slide, backbone, **more).finish()
    passes.stop_after = None


def parts(cache):
    return [p for p in cache.iterdir() if p.suffix == ".part"]


def tile_threads():
    return [t for t in threading.enumerate() if t.name.startswith("tiles-")]


def test_a_slide_is_begun_while_another_is_finished(slide, other_slide, backbone, cache, passes):
    with begun(slide, backbone) as one, begun(other_slide, backbone) as two:
        assert not passes  # nothing is encoded before it is finished
        assert tile_threads()
        assert not one.cached
        heard = []
        first = one.finish(lambda *a: heard.append(a))
        second = two.finish()
    assert heard[-1] == (23, 23)
    assert [n for n, _ in heard] == sorted({n for n, _ in heard})
    assert not tile_threads()
    with begun(other_slide, backbone) as again:
        assert again.cached
        np.testing.assert_array_equal(again.finish(), second)
    assert sum(passes) == 46
    alone = extract(
        slide,
        PLACES,
        slide_mpp=1.0,
        spec=FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0,), 64)),
        backbone=backbone,
        cache=False,
        batch=BATCH,
    )
    np.testing.assert_array_equal(first, alone)


def test_rows_are_those_of_the_places(slide, backbone, cache):
    """However the places are grouped, each row is of its own place."""
    found = begun(slide, backbone, cache=False).finish()
    for row in (0, 7, 22):
        one = begun(slide, backbone, places=PLACES[row : row + 1], cache=False).finish()
        np.testing.assert_allclose(found[row : row + 1], one, atol=1e-5)


@pytest.mark.parametrize("after", [1, 4, 7])
def test_an_interrupted_run_is_continued(slide, backbone, cache, passes, tmp_path, after):
    whole = begun(slide, backbone, cache=False).finish()
    del passes[:]
    interrupted(slide, backbone, passes, after)
    (part,) = parts(cache)
    assert not list(cache.glob("*.safetensors"))
    assert not tile_threads()
    with begun(slide, backbone) as pending:
        assert pending.resumed == BATCH * after
        heard = []
        found = pending.finish(lambda *a: heard.append(a))
    assert sum(passes[after:]) == 23 - BATCH * after
    assert heard[0][0] == min(23, BATCH * (after + 1))
    np.testing.assert_array_equal(found, whole)
    assert not part.exists()
    assert len(list(cache.iterdir())) == 1
    assert begun(slide, backbone).cached


def test_a_part_is_only_continued_for_the_same_batches(slide, backbone, cache, passes):
    interrupted(slide, backbone, passes, 5)
    with begun(slide, backbone, batch=4) as pending:
        assert pending.resumed == 0
        found = pending.finish()
    np.testing.assert_array_equal(found, begun(slide, backbone, cache=False, batch=4).finish())


def test_damaged_parts_are_detected_and_computed_again(slide, backbone, cache, passes, caplog):
    whole = begun(slide, backbone, cache=False).finish()
    interrupted(slide, backbone, passes, 5)
    (part,) = parts(cache)
    sound = part.read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")
    journal = start + 4 * whole.size
    row = 4 * whole.shape[1]

    def flipped(at):
        data = bytearray(sound)
        data[at] ^= 0x10
        return bytes(data)

    for damaged, least, most in (
        (sound, 15, 15),
        (flipped(journal - 1), 12, 15),  # the last row, of one batch if of any
        (flipped(journal + 64 + 24 * 2 + 9), 6, 6),  # the third record and all behind it
        (flipped(journal + 5), 0, 0),  # another plan
        (flipped(12), 0, 15),  # the header
        (sound[: journal + 64 + 24 * 4 + 11], 12, 12),  # torn record
        (sound[: journal - 5], 0, 0),
        (sound[: start + row], 0, 0),
        (sound[:7], 0, 0),
        (b"", 0, 0),
        (os.urandom(len(sound)), 0, 0),
    ):
        part.write_bytes(damaged)
        with begun(slide, backbone) as pending:
            assert least <= pending.resumed <= most
            np.testing.assert_array_equal(pending.finish(), whole)
        (finished,) = cache.glob("*.safetensors")
        finished.unlink()
        assert not parts(cache)


def test_values_that_are_not_what_the_journal_says_are_computed_again(
    slide, backbone, cache, passes, caplog
):
    whole = begun(slide, backbone, cache=False).finish()
    interrupted(slide, backbone, passes, 7)  # all but the last batch
    (part,) = parts(cache)
    data = bytearray(part.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    for at in range(start, start + 4 * whole.size, 4 * whole.shape[1] * 2):
        data[at] ^= 1  # in every second row
    part.write_bytes(bytes(data))
    with begun(slide, backbone) as pending:
        assert pending.resumed < 9
        np.testing.assert_array_equal(pending.finish(), whole)
    assert "damaged batches are computed again" in caplog.text


KILLED = """
    import os, signal, sys
    import numpy as np, torch
    torch.set_num_threads(1)
    from bleepdb.encoders import FeatureSpec, extract, load_backbone
    from bleepdb.encoders.backbone import Backbone
    from bleepdb.tissue.geometry import TileGeometry

    slide, left = sys.argv[1], int(sys.argv[2])
    real = Backbone.features

    def counted(self, tiles, levels):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(self, tiles, levels)

    Backbone.features = counted
    backbone = load_backbone("timm:tf_efficientnet_lite0", weights="random:0", device="cpu",
                             precision="float32")
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0,), 64))
    places = np.random.default_rng(0).uniform(10, 590, (23, 2))
    extract(slide, places, slide_mpp=1.0, spec=spec, backbone=backbone, batch=3)
"""


def test_a_run_that_is_killed_is_continued_as_if_it_had_not_been(slide, backbone, cache, tmp_path):
    whole = begun(slide, backbone, cache=False).finish()
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(KILLED), encoding="utf-8")
    process = subprocess.run([sys.executable, script, slide, "4"], check=False)
    assert process.returncode == -signal.SIGKILL
    assert len(parts(cache)) == len(list(cache.iterdir())) == 1
    with begun(slide, backbone) as pending:
        assert pending.resumed == 4 * BATCH
        np.testing.assert_array_equal(pending.finish(), whole)
    (kept,) = cache.iterdir()
    np.testing.assert_array_equal(read_features(kept, 23, mapped=True), whole)


def test_two_at_once_do_not_disturb_each_other(slide, backbone, cache):
    with begun(slide, backbone) as one, begun(slide, backbone) as two:
        assert len(parts(cache)) == 2
        second = two.finish()
        assert len(parts(cache)) == 1
        np.testing.assert_array_equal(one.finish(), second)
    assert len(list(cache.iterdir())) == 1


def test_what_is_closed_unfinished_leaves_nothing(slide, backbone, cache):
    begun(slide, backbone).close()
    assert not list(cache.iterdir())
    assert not tile_threads()
    pending = begun(slide, backbone)
    pending.close()
    with pytest.raises(ValueError, match="closed"):
        pending.finish()


def test_a_slide_that_breaks_off_leaves_nothing(slide, backbone, cache):
    whole = slide.read_bytes()
    slide.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError, match="cannot be decoded"):
        begun(slide, backbone).finish()
    assert not list(cache.iterdir())
    assert not tile_threads()


def test_what_cannot_be_is_refused_when_it_is_begun(slide, backbone, cache):
    with pytest.raises(SlideError, match="1 of 2 spots lie outside"):
        begun(slide, backbone, places=np.array([[5.0, 5.0], [600.0, 5.0]]))
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0,), 64))
    with pytest.raises(ModelError, match="no levels"):
        begin_features(
            slide,
            PLACES,
            slide_mpp=1.0,
            spec=spec.__class__(**{**vars(spec), "levels": "none"}),
            backbone=backbone,
        )
    assert not cache.exists()


def test_retracting_a_slide_removes_what_is_unfinished_of_it(
    slide, other_slide, backbone, cache, passes
):
    interrupted(slide, backbone, passes, 3)
    interrupted(other_slide, backbone, passes, 6)
    with open_slide(slide) as opened:
        digest = opened.digest
    assert len(parts(cache)) == 2
    begun_only = begun(slide, backbone, places=PLACES[:4])
    assert len(parts(cache)) == 3
    assert drop_features({"0" * 64}) == 0
    begun_only.close()
    assert drop_features({digest}) == 1
    assert len(parts(cache)) == 1
    with begun(other_slide, backbone) as pending:
        assert pending.resumed
        # Retracted while it is computed: it does not come back.
        assert drop_features({open_slide(other_slide).digest}) == 1
        with pytest.raises(ModelError, match="removed while they were computed"):
            pending.finish()
    assert not list(cache.iterdir())


def test_a_disk_without_room_is_found_before_the_first_batch(slide, backbone, cache, monkeypatch):
    real = os.fstatvfs

    def small(file):
        about = list(real(file))
        about[4] = 0  # f_bavail
        return os.statvfs_result(about)

    monkeypatch.setattr(os, "fstatvfs", small)
    with pytest.raises(OSError, match=r"0\.0 GB of features do not fit, 0\.0 GB are free"):
        begun(slide, backbone).finish()
    assert not list(cache.iterdir())


def test_interrupting_is_prompt(slide, tmp_path):
    """Ctrl-C while it waits for tiles ends it, threads and all."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
            import sys, threading, time
            import numpy as np
            from bleepdb.tissue import TileGeometry, TileStream, open_slide

            slide = open_slide(sys.argv[1])
            real = slide.region

            def slow(*where, **more):
                print("reading", flush=True)
                time.sleep(0.3)
                return real(*where, **more)

            slide.region = slow
            geometry = TileGeometry((9.0,), 9)
            places = np.random.default_rng(0).uniform(10, 590, (200, 2))
            with TileStream(slide, places, slide_mpp=1.0, geometry=geometry) as tiles:
                for _ in tiles:
                    pass
        """),
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, script, slide], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    begun_at = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in said
    assert time.monotonic() - begun_at < 30  # all of it would take longer


def test_speed_is_measured_on_some_of_the_places(slide, backbone, cache, passes):
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0, 50.0), 48))
    asked = {"slide_mpp": 1.0, "spec": spec, "backbone": backbone}
    speed = measure_speed(slide, PLACES, places=5, **asked)
    assert speed.places == 5
    assert sum(passes) == 2 * 5 + 2 * 5  # warmed up, then measured
    assert speed.places_per_s == pytest.approx(5 / speed.seconds)
    assert measure_speed(slide, PLACES[:3], **asked).places == 3
    assert not cache.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_features(slide, backbone, cache):
    """Copies that run beside the network take no tile for another."""
    on_gpu = load_backbone(backbone.spec, weights="random:0", device="cuda", precision="float32")
    xy = np.random.default_rng(1).uniform(10, 590, (600, 2))
    want = begun(slide, backbone, places=xy, batch=50).finish()
    got = begun(slide, on_gpu, places=xy, batch=50).finish()
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
    again = begun(slide, on_gpu, places=xy, batch=50, cache=False).finish()
    np.testing.assert_allclose(got, again, atol=1e-3 * np.abs(want).max())


def test_the_file_is_what_it_was_before_parts(slide, backbone, cache, tmp_path):
    """Byte for byte what writing the blocks in their order gives, under the name that it had."""
    found = begun(slide, backbone).finish()
    (kept,) = cache.iterdir()
    with open_slide(slide) as opened:
        digest = opened.digest
    write_features(tmp_path / "plain", np.array_split(found, 5), 23, digest)
    assert kept.read_bytes() == (tmp_path / "plain").read_bytes()
    spec = FeatureSpec.of(backbone, "penultimate", TileGeometry((100.0,), 64))
    assert kept == cache_file(digest, PLACES, 1.0, spec, backbone)
    kept.write_bytes((tmp_path / "plain").read_bytes())
    with begun(slide, backbone, batch=7) as pending:
        assert pending.cached
