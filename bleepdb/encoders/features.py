"""Features of the places of a slide, kept on disk under all that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from bleepdb.errors import ModelError
from bleepdb.files import cache_dir, canonical_json, digest, whole_file
from bleepdb.tissue import open_slide, read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.spec import FeatureSpec

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096

FOLDER = "features"
SLIDE = "slide"  # in the metadata of a file: the digest of the slide that it is of


def extract(
    slide_path: Path,
    xy_px: NDArray[np.float64],
    *,
    slide_mpp: float,
    spec: FeatureSpec,
    backbone: Backbone,
    cache: bool = True,
    batch: int = 32,
    max_upsampling: float = 1.1,
    progress: Callable[[int, int], None] | None = None,
    mapped: bool = False,
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
        digest, the precision and the version of the features' definition.
    batch
        Places at a time.
    max_upsampling
        As in `bleepdb.tissue.read_tiles`.
    progress
        Called with (places done, places).
    mapped
        Whether what is kept is mapped from its file, read-only, instead of read: for slides whose
        features are large.

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
    places = np.ascontiguousarray(xy_px, dtype=np.float64).reshape(-1, 2)
    with open_slide(slide_path, mpp=slide_mpp) as slide:
        # The tiles are asked for first: a place outside or too coarse a slide is refused even
        # where the cache could answer.
        tiles = read_tiles(
            slide,
            places,
            slide_mpp=slide_mpp,
            geometry=spec.geometry,
            batch=batch,
            max_upsampling=max_upsampling,
        )
        kept = _cache_file(slide.digest, places, slide_mpp, spec, backbone) if cache else None
        if kept is not None and (found := _read(kept, len(places), mapped)) is not None:
            if progress is not None:
                progress(len(places), len(places))
            return found
        blocks = _features(tiles, backbone, spec, len(places), progress)
        if not len(places):
            blank = np.zeros((1, spec.geometry.tile_px, spec.geometry.tile_px, 3), np.uint8)
            width = backbone.features(blank, spec.levels).shape[1] * len(spec.geometry.scales_um)
            return np.zeros((0, width), np.float32)
        if kept is None:
            return np.concatenate(list(blocks))
        _write(kept, blocks, len(places), slide.digest)
    found = _read(kept, len(places), mapped)
    if found is None:
        raise ModelError(
            "the features just written cannot be read back",
            where=kept,
            hint="check the disk, or name another folder in BLEEPDB_CACHE",
        )
    return found


def _features(
    tiles: Iterator[NDArray[np.uint8]],
    backbone: Backbone,
    spec: FeatureSpec,
    n: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the features of each batch of places."""
    done = 0
    for block in tiles:
        b, scales, height, width, channels = block.shape
        flat = block.reshape(b * scales, height, width, channels)
        yield backbone.features(flat, spec.levels).reshape(b, -1)
        done += b
        if progress is not None:
            progress(done, n)


def drop_features(slide_digests: Collection[str]) -> int:
    """Remove the cached features of some slides; return how many files went.

    A file that does not say of which slide it is, or cannot be read, goes as well: what is cached
    can be computed again.
    """
    count = 0
    for path in sorted((cache_dir() / FOLDER).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                slide = (file.metadata() or {}).get(SLIDE)
        except (SafetensorError, OSError):
            slide = None
        if slide is None or slide in slide_digests:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _cache_file(
    slide_digest: str,
    places: NDArray[np.float64],
    slide_mpp: float,
    spec: FeatureSpec,
    backbone: Backbone,
) -> Path:
    """Path of the features of these places: its name is the digest of what they depend on."""
    about = spec.to_json() | {
        "backbone": backbone.spec,
        "weights_digest": backbone.weights_digest,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "precision": backbone.precision,
        "slide": slide_digest,
        "slide_mpp": float(slide_mpp),
    }
    del about["weights"]  # where the weights came from does not change what they are
    name = digest("features", canonical_json(about), places.astype("<f8").tobytes())
    return cache_dir() / FOLDER / f"{name}.safetensors"


class _Checksum:
    """The digest of features, (n, width), that are seen a block at a time."""

    def __init__(self, n: int, width: int) -> None:
        self._total = hashlib.sha256()
        name, size = b"features", 4 * n * width
        self._total.update(len(name).to_bytes(8, "little") + name + size.to_bytes(8, "little"))

    def add(self, block: NDArray[np.float32]) -> None:
        """See the next rows."""
        self._total.update(np.ascontiguousarray(block, dtype="<f4").data)

    def text(self) -> str:
        """64 hex digits, as `bleepdb.files.digest` gives of the whole."""
        return self._total.hexdigest()


def _header(n: int, width: int, slide_digest: str, checksum: str) -> bytes:
    """Return the header of a safetensors file that holds them."""
    about = {
        "__metadata__": {"digest": checksum, SLIDE: slide_digest},
        "features": {"dtype": "F32", "shape": [n, width], "data_offsets": [0, 4 * n * width]},
    }
    text = json.dumps(about, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def _write(path: Path, blocks: Iterable[NDArray[np.float32]], n: int, slide_digest: str) -> None:
    """Write features as they come, whole or not at all; the header is completed last."""
    with whole_file(path) as part, part.open("wb") as file:
        seen: _Checksum | None = None
        width = 0
        for block in blocks:
            if seen is None:
                width = block.shape[1]
                seen = _Checksum(n, width)
                file.write(_header(n, width, slide_digest, "0" * 64))
            seen.add(block)
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
        if seen is not None:
            file.seek(0)
            file.write(_header(n, width, slide_digest, seen.text()))


def _read(path: Path, n: int, mapped: bool) -> NDArray[np.float32] | None:
    """Read cached features; None where there are none, or they are not what was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.get_slice("features")
            shape, kind = about.get_shape(), about.get_dtype()
            written = (file.metadata() or {}).get("digest")
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s): the features are computed again", path, error)
        return None
    whole = kind == "F32" and len(shape) == 2 and shape[0] == n and shape[1] > 0
    if whole:
        with path.open("rb") as raw:
            begin = 8 + int.from_bytes(raw.read(8), "little")
        values = np.memmap(path, "<f4", "r", offset=begin, shape=(n, shape[1]))
        seen = _Checksum(n, shape[1])
        for start in range(0, n, ROWS_AT_ONCE):
            seen.add(values[start : start + ROWS_AT_ONCE])
        whole = seen.text() == written
    if not whole:
        log.warning("%s is damaged: the features are computed again", path)
        return None
    return values if mapped else np.array(values, dtype=np.float32)
