"""Features of the places of a slide, computed while it is decoded and kept on disk."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Self

import numpy as np

from bleepdb.encoders.feature_cache import cache_file, drop_features, read_features
from bleepdb.encoders.forward import Feeder, allocator
from bleepdb.encoders.part_file import PartFile
from bleepdb.errors import BleepdbError, ModelError
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue import open_slide
from bleepdb.tissue.stream import TileStream
from bleepdb.tissue.supertiles import plan_super_tiles
from bleepdb.tissue.tiles import check_places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.spec import FeatureSpec
    from bleepdb.tissue import Slide

__all__ = ["PendingFeatures", "begin_features", "drop_features", "extract"]


def extract(
    slide_path: Path,
    xy_px: NDArray[np.float64],
    *,
    slide_mpp: float,
    spec: FeatureSpec,
    backbone: Backbone,
    cache: bool = True,
    batch: int | None = None,
    max_upsampling: float = MAX_UPSAMPLING,
    progress: Callable[[int, int], None] | None = None,
    mapped: bool = False,
    workers: int | None = None,
) -> NDArray[np.float32]:
    """Return the features around places of a slide.

    Parameters
    ----------
    slide_path
        The slide.
    xy_px
        (n, 2) centres (x, y) in level-0 pixels.
    slide_mpp
        Microns per level-0 pixel.
    spec
        Levels and tile geometry; its backbone is the one given.
    backbone
        The network.
    cache
        Whether to keep the result in `bleepdb.files.cache_dir` and to take it from there. It is
        found again by the slide's digest, the places, the mpp, the tile geometry, the weights'
        digest, the precision and the version of the features' definition. A run that was killed
        is continued where it stopped.
    batch
        Places that go through the network together; by default as many as suit the device.
    max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    progress
        Called with (places done, places).
    mapped
        Whether what is kept is mapped from its file, read-only, instead of read: for slides whose
        features are large.
    workers
        Threads that decode; by default as many as there are cores, at most 16.

    Returns
    -------
    numpy.ndarray
        (n, scales * D) float32: the features of one scale after the other.

    Raises
    ------
    SlideError
        If the slide cannot be read there.
    ModelError
        If the backbone does not take these tiles or levels.
    """
    with begin_features(
        slide_path,
        xy_px,
        slide_mpp=slide_mpp,
        spec=spec,
        backbone=backbone,
        cache=cache,
        batch=batch,
        max_upsampling=max_upsampling,
        mapped=mapped,
        workers=workers,
    ) as pending:
        return pending.finish(progress)


def begin_features(
    slide_path: Path,
    xy_px: NDArray[np.float64],
    *,
    slide_mpp: float,
    spec: FeatureSpec,
    backbone: Backbone,
    cache: bool = True,
    batch: int | None = None,
    max_upsampling: float = MAX_UPSAMPLING,
    mapped: bool = False,
    workers: int | None = None,
    slide_digest: str | None = None,
) -> PendingFeatures:
    """Check, look into the cache, and begin to decode what is not there; nothing is encoded yet.

    While one slide is encoded, the next can so be decoded; the tiles that wait take a bounded
    part of memory. It may be called from another thread than the one that finishes.

    Parameters
    ----------
    slide_path, xy_px, slide_mpp, spec, backbone, cache, batch, max_upsampling, mapped, workers
        As in `extract`.
    slide_digest
        The slide's digest where it is known already: it takes a pass over the file.

    Returns
    -------
    PendingFeatures
        To be finished or closed.

    Raises
    ------
    SlideError
        If the slide cannot be opened, a place is outside it or a scale does not suit it.
    ModelError
        If the backbone does not take these tiles or levels.
    """
    backbone.check_tiles(spec.levels, spec.geometry.tile_px)
    places = np.ascontiguousarray(xy_px, dtype=np.float64).reshape(-1, 2)
    slide = open_slide(slide_path, mpp=slide_mpp)
    pending = PendingFeatures(
        slide, spec, backbone, n=len(places), mapped=mapped, keeps=cache and len(places) > 0
    )
    try:
        pending.start(
            places,
            slide_mpp=slide_mpp,
            batch=batch or max(1, backbone.tiles_at_once // len(spec.geometry.scales_um)),
            max_upsampling=max_upsampling,
            workers=workers,
            slide_digest=slide_digest,
        )
    except BaseException:
        pending.close()
        raise
    return pending


class PendingFeatures:
    """Features that are being decoded for, or lie in the cache; from `begin_features`.

    Attributes
    ----------
    n
        Places.
    cached
        Whether all are there already, so that to finish costs no encoding.
    resumed
        Places whose features an earlier run left.
    """

    def __init__(
        self,
        slide: Slide,
        spec: FeatureSpec,
        backbone: Backbone,
        *,
        n: int,
        mapped: bool,
        keeps: bool,
    ) -> None:
        self.n = n
        self.resumed = 0
        self._slide = slide
        self._spec = spec
        self._backbone = backbone
        self._mapped = mapped
        self._keeps = keeps
        self._kept: Path | None = None
        self._found: NDArray[np.float32] | None = None
        self._part: PartFile | None = None
        self._stream: TileStream | None = None
        self._closed = False

    @property
    def cached(self) -> bool:
        """Whether all features are there already."""
        return self._found is not None

    def start(
        self,
        places: NDArray[np.float64],
        *,
        slide_mpp: float,
        batch: int,
        max_upsampling: float,
        workers: int | None,
        slide_digest: str | None,
    ) -> None:
        """Check, look up, begin to decode; `begin_features` calls it."""
        geometry = self._spec.geometry
        check_places(self._slide, places, slide_mpp, geometry, max_upsampling)
        about = ""
        if self._keeps:
            about = slide_digest or self._slide.digest
            self._kept = cache_file(about, places, slide_mpp, self._spec, self._backbone)
            self._found = read_features(self._kept, self.n, mapped=self._mapped)
            if self._found is not None:
                return
        plan = plan_super_tiles(self._slide, places, slide_mpp=slide_mpp, geometry=geometry)
        if self._kept is not None:
            self._part = PartFile(self._kept, slide_digest=about, order=plan.order, batch=batch)
            self.resumed = sum(len(self._part.rows(number)) for number in self._part.done)
        self._stream = TileStream(
            self._slide,
            places,
            slide_mpp=slide_mpp,
            geometry=geometry,
            batch=batch,
            workers=workers,
            max_upsampling=max_upsampling,
            plan=plan,
            skip=() if self._part is None else self._part.done,
            reuse=True,
            allocate=allocator(self._backbone.device),
        )

    def finish(self, progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        """Encode what is not there yet, and return all features, (n, scales * D) float32.

        Interrupted, it leaves what is done for the next run.

        Parameters
        ----------
        progress
            Called with (places done, places).

        Raises
        ------
        SlideError
            If pixels cannot be decoded.
        ModelError
            If the network does not offer these levels, or what was written cannot be read back.
        """
        try:
            found = self._found if self._found is not None else self._finish(progress)
            if self.cached and progress is not None:
                progress(self.n, self.n)
        except BleepdbError:
            self._drop()
            raise
        finally:
            self.close()
        return found

    def close(self) -> None:
        """End the decoding and let go of the slide. A second time is fine."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()
        if self._part is not None:
            self._part.close()
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drop(self) -> None:
        """Remove what will not be continued: the same error would come again."""
        if self._part is not None:
            self._part.close(keep=False)

    def _finish(self, progress: Callable[[int, int], None] | None) -> NDArray[np.float32]:
        if self._stream is None or self._closed:
            message = "these features are closed"
            raise ValueError(message)
        held: NDArray[np.float32] | None = None
        done = self.resumed
        for number, rows, made in self._made(self._stream):
            if self._part is not None:
                self._part.write(number, made)
            else:
                held = np.empty((self.n, made.shape[1]), np.float32) if held is None else held
                held[rows] = made
            done += len(rows)
            if progress is not None:
                progress(done, self.n)
        if self._part is None or self._kept is None:
            return self._none() if held is None else held
        self._part.complete()
        found = read_features(self._kept, self.n, mapped=self._mapped, check=False)
        if found is None:
            raise ModelError(
                "the features just written cannot be read back",
                where=self._kept,
                hint="check the disk, or name another folder in BLEEPDB_CACHE",
            )
        return found

    def _made(
        self, stream: TileStream
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
        """Yield number, rows and features of each batch; on a GPU the next is under way by then."""
        feeder = Feeder(self._backbone, self._spec.levels)
        fed: deque[tuple[int, NDArray[np.int64], Callable[[], NDArray[np.float32]]]] = deque()
        for number, (rows, tiles) in zip(stream.numbers, stream, strict=True):
            fed.append((number, rows, feeder.feed(tiles.reshape(-1, *tiles.shape[2:]))))
            while len(fed) > feeder.ahead:
                yield _fetched(*fed.popleft())
        while fed:
            yield _fetched(*fed.popleft())

    def _none(self) -> NDArray[np.float32]:
        """Return the features of no places, which have a width all the same."""
        px = self._spec.geometry.tile_px
        blank = np.zeros((1, px, px, 3), np.uint8)
        width = self._backbone.features(blank, self._spec.levels).shape[1]
        return np.zeros((0, width * len(self._spec.geometry.scales_um)), np.float32)


def _fetched(
    number: int, rows: NDArray[np.int64], wait: Callable[[], NDArray[np.float32]]
) -> tuple[int, NDArray[np.int64], NDArray[np.float32]]:
    return number, rows, wait().reshape(len(rows), -1)
