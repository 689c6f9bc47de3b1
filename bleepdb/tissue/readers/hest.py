"""HEST-1k's layout: ``st/ID.h5ad`` beside ``wsis/ID.tif``, ``metadata/ID.json``, ``patches/ID.h5``.

Source: Jaume et al., HEST-1k, NeurIPS 2024; names as its library writes them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.hdf5 import open_hdf5

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.slide import Slide

AGAIN: Final = "fetch the sample again as HEST-1k gives it"
ESTIMATED: Final = "pixel_size_um_estimated"
EMBEDDED: Final = "pixel_size_um_embedded"
SPECIES: Final = {"homo sapiens": "human", "mus musculus": "mouse", "rattus norvegicus": "rat"}
ASSAYS: Final = {
    "visium": "visium",
    "visium hd": "visium-hd",
    "spatial transcriptomics": "st",
    "xenium": "xenium",
}
SLIDE_ENDINGS: Final = (".tif", ".tiff", ".ome.tif", ".svs")
MOST_METADATA: Final = 2**22
PATCH_UM: Final = 224 * 0.5
"""Edge of the field that HEST's library cuts: 224 px at 0.5 µm."""
COMPARED: Final = 5
"""Patches that are held against the slide."""
FAR_PX: Final = 2.0
ALIKE_GREY: Final = 12.0
"""Median difference above this, of 256, is another place: packing and resampling give 1 to 4."""


@dataclass(frozen=True)
class HestParts:
    """Files of one sample; None where they are not there.

    Attributes
    ----------
    name
        The sample's id.
    slide, metadata, patches
        Its slide, what is known of it, and patches cut around its spots.
    """

    name: str
    slide: Path | None
    metadata: Path | None
    patches: Path | None


@dataclass(frozen=True)
class HestFacts:
    """What ``metadata/ID.json`` says that a section needs.

    Attributes
    ----------
    mpp
        Microns per pixel as HEST estimated them from the spots, else as embedded, or None.
    species, assay
        In our words, or None.
    pitch_um, spot_um
        Distance between adjacent spots, and their size, or None.
    size_px
        (width, height) of the slide, or None.
    """

    mpp: float | None
    species: str | None
    assay: str | None
    pitch_um: float | None
    spot_um: float | None
    size_px: tuple[int, int] | None


def hest_parts(path: Path) -> HestParts | None:
    """Find the files that belong to ``st/ID.h5ad``; None where the layout is another."""
    if path.parent.name != "st" or not path.name.endswith(".h5ad"):
        return None
    root, name = path.parent.parent, path.name.removesuffix(".h5ad")
    slides = (root / "wsis" / f"{name}{ending}" for ending in SLIDE_ENDINGS)
    parts = HestParts(
        name,
        next((p for p in slides if p.is_file()), None),
        _file(root / "metadata" / f"{name}.json"),
        _file(root / "patches" / f"{name}.h5"),
    )
    return parts if parts.slide or parts.metadata or parts.patches else None


def hest_sample(root: Path, name: str) -> Path | None:
    """Return ``st/NAME.h5ad`` of a HEST-1k folder; None where there is none.

    Parameters
    ----------
    root
        The folder that holds ``st/``.
    name
        A section's name, without anything of a path in it.
    """
    return _file(root / "st" / f"{name}.h5ad") if root.is_dir() else None


def _file(path: Path) -> Path | None:
    return path if path.is_file() else None


def read_facts(path: Path) -> HestFacts:
    """Read ``metadata/ID.json``; a number that is null, NaN or not positive is unknown.

    Raises
    ------
    SectionError
        If it is not a JSON object, or far larger than metadata is.
    """
    if path.stat().st_size > MOST_METADATA:
        raise SectionError("is too large for metadata", where=path, hint=AGAIN)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SectionError(f"not readable JSON ({error})", where=path, hint=AGAIN) from error
    if not isinstance(said, dict):
        raise SectionError("not a JSON object", where=path, hint=AGAIN)
    width, height = (
        _number(said.get(f"fullres_{k}")) or _number(said.get(f"fullres_px_{k}"))
        for k in ("width", "height")
    )
    return HestFacts(
        mpp=_number(said.get(ESTIMATED)) or _number(said.get(EMBEDDED)),
        species=SPECIES.get(str(said.get("species")).strip().lower()),
        assay=ASSAYS.get(str(said.get("st_technology")).strip().lower()),
        pitch_um=_number(said.get("inter_spot_dist")),
        spot_um=_number(said.get("spot_diameter")),
        size_px=None if not width or not height else (round(width), round(height)),
    )


def _number(value: Any) -> float | None:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def compare_patches(
    path: Path,
    barcodes: Sequence[str],
    xy_px: NDArray[np.float64],
    mpp: float | None,
    slide: Slide | None,
) -> tuple[str, ...]:
    """Hold positions, and the slide's pixels, against the patches cut around the spots.

    Parameters
    ----------
    path
        ``patches/ID.h5`` with ``coords`` (top left corners in level-0 pixels), ``barcode`` and
        perhaps ``img``.
    barcodes, xy_px
        Of the spots, (n, 2) centres.
    mpp
        Microns per level-0 pixel.
    slide
        The open slide, or None.

    Returns
    -------
    tuple of str
        What was found, one sentence each.

    Raises
    ------
    SectionError
        If the file is damaged, or its patches are not where the spots are, or do not show what
        the slide shows there.
    """
    with open_hdf5(path, "HEST patches") as handle:
        names = [_text(v) for v in np.ravel(handle["barcode"][:])]
        corners = np.asarray(handle["coords"][:], dtype=np.float64)
        if corners.ndim != 2 or corners.shape != (len(names), 2):
            raise SectionError(
                f"coords of shape {corners.shape} for {len(names)} barcodes",
                where=path,
                hint=AGAIN,
            )
        at = {barcode: i for i, barcode in enumerate(barcodes)}
        pairs = np.array([(i, at[n]) for i, n in enumerate(names) if n in at], dtype=np.int64)
        if not len(pairs):
            raise SectionError("no patch is of a spot of this section", where=path, hint=AGAIN)
        offset = xy_px[pairs[:, 1]] - corners[pairs[:, 0]]
        half = np.median(offset, axis=0)
        off = np.abs(offset - half).max(axis=1)
        wrong_size = mpp is not None and np.abs(half * 2 * mpp / PATCH_UM - 1).max() > 0.05
        if (off > FAR_PX).any() or np.abs(half[0] - half[1]) > FAR_PX:
            raise SectionError(
                f"{(off > FAR_PX).sum()} of {len(pairs)} patches are not centred on their spots",
                where=path,
                hint="the patches, or the places of the spots, are of another version",
            )
        notes = [f"{len(pairs)} of {len(names)} HEST patches are centred on their spots"]
        if wrong_size:
            notes.append(
                f"HEST patches are {2 * half[0] * (mpp or 0):.0f} µm wide by the microns per pixel "
                f"that are used, {PATCH_UM:.0f} µm as HEST cuts them"
            )
        if slide is not None and "img" in handle:
            chosen = pairs[np.linspace(0, len(pairs) - 1, min(COMPARED, len(pairs))).astype(int)]
            edge = float(2 * np.mean(half))
            unlike = [
                _difference(handle["img"][int(i)], slide, corners[i], edge) for i, _ in chosen
            ]
            if np.median(unlike) > ALIKE_GREY:
                raise SectionError(
                    "the patches do not show what the slide shows there (median difference "
                    f"{np.median(unlike):.0f} of 256 grey levels in {len(unlike)} patches)",
                    where=path,
                    hint="is it the slide of this sample, at full resolution?",
                )
            notes.append(
                f"{len(unlike)} HEST patches show what the slide shows there (median difference "
                f"{np.median(unlike):.1f} grey levels)"
            )
    return tuple(notes)


def _difference(
    patch: NDArray[np.uint8], slide: Slide, corner: NDArray[np.float64], edge_px: float
) -> float:
    """Mean difference in grey levels, after both are reduced to 28 px a side."""
    if patch.ndim != 3 or patch.shape[2] < 3 or patch.shape[0] < 28 or patch.shape[1] < 28:
        return float("nan")
    seen = slide.read(float(corner[0]), float(corner[1]), edge_px, edge_px, out_px=(28, 28))
    rows = patch.shape[0] // 28
    columns = patch.shape[1] // 28
    small = patch[: 28 * rows, : 28 * columns, :3].reshape(28, rows, 28, columns, 3)
    return float(np.abs(small.mean(axis=(1, 3)) - seen).mean())


def _text(value: Any) -> str:  # noqa: ANN401 - bytes or str, as the file was written
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
