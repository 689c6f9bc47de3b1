"""Features of the places of a slide, kept on disk under all that they depend on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bleepdb.files import cache_dir, canonical_json, digest, whole_file
from bleepdb.tissue import open_slide, read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.spec import FeatureSpec

log = logging.getLogger(__name__)


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
        if kept is not None and (found := _read(kept, len(places))) is not None:
            if progress is not None:
                progress(len(places), len(places))
            return found
        parts: list[NDArray[np.float32]] = []
        done = 0
        for block in tiles:
            b, scales, height, width, channels = block.shape
            flat = block.reshape(b * scales, height, width, channels)
            parts.append(backbone.features(flat, spec.levels).reshape(b, -1))
            done += b
            if progress is not None:
                progress(done, len(places))
    if not parts:
        blank = np.zeros((1, spec.geometry.tile_px, spec.geometry.tile_px, 3), np.uint8)
        width = backbone.features(blank, spec.levels).shape[1] * len(spec.geometry.scales_um)
        return np.zeros((0, width), np.float32)
    made = np.concatenate(parts)
    if kept is not None:
        _write(kept, made)
    return made


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
    return cache_dir() / "features" / f"{name}.safetensors"


def _checksum(values: NDArray[np.float32]) -> str:
    return digest("features", values.astype("<f4").tobytes())


def _write(path: Path, values: NDArray[np.float32]) -> None:
    with whole_file(path) as part:
        save_file({"features": values}, part, metadata={"digest": _checksum(values)})


def _read(path: Path, n: int) -> NDArray[np.float32] | None:
    """Read cached features; None where there are none, or they are not what was written."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            values: NDArray[np.float32] = file.get_tensor("features")
            written = (file.metadata() or {}).get("digest")
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s): the features are computed again", path, error)
        return None
    if len(values) != n or _checksum(values) != written:
        log.warning("%s is damaged: the features are computed again", path)
        return None
    return values
