"""Sections to pairs for evaluation: our features, and beside them published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .render import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bleepdb.encoders import Backbone
    from bleepdb.tissue import Section
    from bleepdb.training import Pairs

PUBLISHED_TILE_PX = 224


@dataclass(frozen=True)
class Encoding:
    """A backbone with its weights, the edges of tiles, and how far tiles may be enlarged."""

    encoder: str
    weights: str | None
    scales_um: tuple[float, ...]
    max_upsampling: float = 1.1

    def ours(self, sections: Sequence[Section]) -> Pairs:
        """Encode on our features: several levels and scales."""
        return self._pairs(sections, self._backbone(), "multilevel", self.scales_um)

    def twice(self, sections: Sequence[Section]) -> tuple[Pairs, Pairs]:
        """Encode on our features, and on published ones: one 224 px scale, penultimate."""
        import numpy as np

        backbone = self._backbone()
        native_um = round(PUBLISHED_TILE_PX * float(np.median([s.known_mpp for s in sections])), 1)
        return (
            self._pairs(sections, backbone, "multilevel", self.scales_um),
            self._pairs(sections, backbone, "penultimate", (native_um,)),
        )

    def _backbone(self) -> Backbone:
        from bleepdb.encoders import load_backbone

        return load_backbone(self.encoder, weights=self.weights)

    def _pairs(
        self,
        sections: Sequence[Section],
        backbone: Backbone,
        levels: str,
        scales_um: tuple[float, ...],
    ) -> Pairs:
        from bleepdb.encoders import FeatureSpec
        from bleepdb.tissue import TileGeometry
        from bleepdb.training import collect_pairs

        spec = FeatureSpec.of(backbone, levels, TileGeometry(scales_um, PUBLISHED_TILE_PX))  # type: ignore[arg-type] # one of the two levels
        with bar(f"encoding tiles, {levels}") as move:
            return collect_pairs(
                sections, spec, backbone, max_upsampling=self.max_upsampling, progress=move
            )
