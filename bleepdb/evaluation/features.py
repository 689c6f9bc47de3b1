"""Sections to pairs for an evaluation: our features, published ones, and colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.encoders import FeatureSpec, default_tile_px, load_backbone
from bleepdb.names import MAX_UPSAMPLING
from bleepdb.tissue import TileGeometry
from bleepdb.training import collect_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bleepdb.encoders import Backbone
    from bleepdb.tissue import Section
    from bleepdb.training import Pairs

COLOUR_BACKBONE: Final = "builtin:colour"
PENULTIMATE: Final = "penultimate"  # a level


@dataclass(frozen=True)
class Features:
    """What tiles are encoded with.

    Attributes
    ----------
    encoder, weights
        The backbone and its weights, as `bleepdb.encoders.load_backbone` takes them.
    levels
        ``"multilevel"`` or ``"penultimate"``, of our features.
    scales_um, tile_px, resampling
        Edges of our tiles in µm, their pixels (None: the encoder's own size, else 224), and how
        they are resampled.
    max_upsampling
        How many times finer than its slide a tile may be.
    """

    encoder: str = "timm:tf_efficientnet_lite0"
    weights: str | None = None
    levels: str = "multilevel"
    scales_um: tuple[float, ...] = (112.0, 176.0, 400.0)
    tile_px: int | None = None
    resampling: str = "area"
    max_upsampling: float = MAX_UPSAMPLING

    def spec(self, backbone: Backbone) -> FeatureSpec:
        """Say what our features are on a loaded backbone."""
        px = default_tile_px(backbone) if self.tile_px is None else self.tile_px
        return FeatureSpec.of(
            backbone,
            self.levels,  # type: ignore[arg-type] # `of` checks the name
            TileGeometry(self.scales_um, px, self.resampling),
        )

    def backbone(self) -> Backbone:
        """Load the backbone."""
        return load_backbone(self.encoder, weights=self.weights)

    def ours(
        self, sections: Sequence[Section], *, progress: Callable[[int, int], None] | None = None
    ) -> Pairs:
        """Encode on our features: several levels and scales."""
        backbone = self.backbone()
        return self._pairs(sections, self.spec(backbone), backbone, progress)

    def published(
        self, sections: Sequence[Section], *, progress: Callable[[int, int], None] | None = None
    ) -> Pairs:
        """Encode on published features: one scale of the slides' own resolution, penultimate."""
        return self._native(sections, self.backbone(), progress)

    def colour(
        self, sections: Sequence[Section], *, progress: Callable[[int, int], None] | None = None
    ) -> Pairs:
        """Encode on colour and nuclear density, in tiles of the published size."""
        return self._native(sections, load_backbone(COLOUR_BACKBONE), progress)

    def _native(
        self,
        sections: Sequence[Section],
        backbone: Backbone,
        progress: Callable[[int, int], None] | None,
    ) -> Pairs:
        """Encode tiles as large as the backbone takes, at the median resolution of the slides."""
        px = default_tile_px(backbone)
        edge_um = round(px * float(np.median([s.known_mpp for s in sections])), 1)
        spec = FeatureSpec.of(backbone, PENULTIMATE, TileGeometry((edge_um,), px))
        return self._pairs(sections, spec, backbone, progress)

    def _pairs(
        self,
        sections: Sequence[Section],
        spec: FeatureSpec,
        backbone: Backbone,
        progress: Callable[[int, int], None] | None,
    ) -> Pairs:
        return collect_pairs(
            sections, spec, backbone, max_upsampling=self.max_upsampling, progress=progress
        )
