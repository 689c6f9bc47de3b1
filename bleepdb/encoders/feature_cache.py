"""The files in which features are kept: their names, their form, and what removes them.

A file is safetensors: one tensor ``features``, (n, width) F32, and in its metadata the digest of
the values and that of the slide.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors import SafetensorError, safe_open

from bleepdb.files import cache_dir, canonical_json, digest, whole_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.spec import FeatureSpec

log = logging.getLogger(__name__)

FOLDER: Final = "features"
SLIDE: Final = "slide"
"""In the metadata of a file: the digest of the slide that it is of."""
PART: Final = ".part"
MOST_HEADER: Final = 4096
BYTES_AT_ONCE: Final = 2**23
UNKNOWN: Final = "0" * 64
"""Stands for the digest of values that are not all there."""


def cache_file(
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


class Checksum:
    """The digest of features, (n, width), that are seen a block at a time."""

    def __init__(self, n: int, width: int) -> None:
        self._total = hashlib.sha256()
        name, size = b"features", 4 * n * width
        self._total.update(len(name).to_bytes(8, "little") + name + size.to_bytes(8, "little"))

    def add(self, block: NDArray[np.float32] | bytes) -> None:
        """See the next rows."""
        data = block if isinstance(block, bytes) else np.ascontiguousarray(block, "<f4").data
        self._total.update(data)

    def text(self) -> str:
        """64 hex digits, as `bleepdb.files.digest` gives of the whole."""
        return self._total.hexdigest()


def header(n: int, width: int, slide_digest: str, checksum: str = UNKNOWN) -> bytes:
    """Return the header of a file of features; as long without their digest as with it."""
    about = {
        "__metadata__": {"digest": checksum, SLIDE: slide_digest},
        "features": {"dtype": "F32", "shape": [n, width], "data_offsets": [0, 4 * n * width]},
    }
    text = json.dumps(about, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def stated(start: bytes) -> tuple[int, int, str] | None:
    """Return (n, width, slide digest) as the first bytes of a file say; None where they do not."""
    size = int.from_bytes(start[:8], "little")
    try:
        about = json.loads(start[8 : 8 + size])
        n, width = map(int, about["features"]["shape"])
        slide = str(about["__metadata__"][SLIDE])
    except (ValueError, KeyError, TypeError):
        return None
    return n, width, slide


def write_features(
    path: Path, blocks: Iterable[NDArray[np.float32]], n: int, slide_digest: str
) -> None:
    """Write features as they come, whole or not at all; the header is completed last."""
    with whole_file(path) as part, part.open("wb") as file:
        seen: Checksum | None = None
        width = 0
        for block in blocks:
            if seen is None:
                width = block.shape[1]
                seen = Checksum(n, width)
                file.write(header(n, width, slide_digest))
            seen.add(block)
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
        if seen is not None:
            file.seek(0)
            file.write(header(n, width, slide_digest, seen.text()))


def read_features(
    path: Path, n: int, *, mapped: bool, check: bool = True
) -> NDArray[np.float32] | None:
    """Read cached features; None where there are none, or they are not what was written.

    Parameters
    ----------
    path
        The file.
    n
        How many places there must be.
    mapped
        Whether they are mapped from the file, read-only, instead of read.
    check
        Whether their digest is computed; not needed for what has just been written.
    """
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
            if check:
                # Read, not mapped: a file of many gigabytes would seem to fill the memory.
                seen = Checksum(n, shape[1])
                raw.seek(begin)
                while block := raw.read(BYTES_AT_ONCE):
                    seen.add(block)
                whole = seen.text() == written
        values = np.memmap(path, "<f4", "r", offset=begin, shape=(n, shape[1]))
    if not whole:
        log.warning("%s is damaged: the features are computed again", path)
        return None
    return values if mapped else np.array(values, dtype=np.float32)


def drop_features(slide_digests: Collection[str]) -> int:
    """Remove the cached features of some slides, unfinished ones too; return how many files went.

    A file that does not say of which slide it is, or cannot be read, goes as well: what is cached
    can be computed again.
    """
    count = 0
    folder = cache_dir() / FOLDER
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob(f"*{PART}")]):
        try:
            if path.suffix == PART:
                with path.open("rb") as raw:
                    said = stated(raw.read(MOST_HEADER))
                slide = None if said is None else said[2]
            else:
                with safe_open(path, framework="numpy") as file:
                    slide = (file.metadata() or {}).get(SLIDE)
        except (SafetensorError, OSError):
            slide = None
        if slide is None or slide in slide_digests:
            path.unlink(missing_ok=True)
            count += 1
    return count
