"""How fast this machine turns places of a slide into features, measured on a few of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.encoders.features import begin_features
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue import open_slide
from bleepdb.tissue.supertiles import plan_super_tiles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.spec import FeatureSpec

BATCHES: Final = 4
"""So many are measured by default: enough that decoding and encoding overlap."""


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Parameters
    ----------
    places
        How many were encoded.
    seconds
        How long it took, from the opened slide to the features.
    """

    places: int
    seconds: float

    @property
    def places_per_s(self) -> float:
        """Places a second; a place has as many tiles as the model has scales. NaN of none."""
        return self.places / self.seconds if self.places else float("nan")


def measure_speed(
    slide_path: Path,
    xy_px: NDArray[np.float64],
    *,
    slide_mpp: float,
    spec: FeatureSpec,
    backbone: Backbone,
    places: int | None = None,
    max_upsampling: float = MAX_UPSAMPLING,
) -> Speed:
    """Encode some of the places of a slide, adjacent ones as in earnest, and keep nothing.

    Parameters
    ----------
    slide_path, xy_px, slide_mpp, spec, backbone, max_upsampling
        As in `bleepdb.encoders.extract`.
    places
        How many; by default four batches.

    Raises
    ------
    SlideError
        If the slide cannot be read there.
    ModelError
        If the backbone does not take these tiles or levels.
    """
    every = np.ascontiguousarray(xy_px, dtype=np.float64).reshape(-1, 2)
    batch = max(1, backbone.tiles_at_once // len(spec.geometry.scales_um))
    n = min(len(every), BATCHES * batch if places is None else places)
    with open_slide(slide_path, mpp=slide_mpp) as slide:
        plan = plan_super_tiles(slide, every, slide_mpp=slide_mpp, geometry=spec.geometry)
    first = (len(every) - n) // 2
    some = every[np.sort(plan.order[first : first + n])]
    # The first pass of a network is slow: it is not measured.
    px = spec.geometry.tile_px
    tiles = min(n, batch) * len(spec.geometry.scales_um)
    backbone.features(np.zeros((tiles, px, px, 3), np.uint8), spec.levels)
    start = time.perf_counter()
    with begin_features(
        slide_path,
        some,
        slide_mpp=slide_mpp,
        spec=spec,
        backbone=backbone,
        cache=False,
        max_upsampling=max_upsampling,
    ) as pending:
        pending.finish()
    return Speed(n, time.perf_counter() - start)
