"""What image features are: backbone, weights, levels and tile geometry in one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bleepdb.encoders.backbone import RANDOM, load_backbone
from bleepdb.encoders.trained import TRAINED, read_backbone
from bleepdb.errors import ModelError
from bleepdb.names import BACKBONE_FILE
from bleepdb.tissue.geometry import TileGeometry

if TYPE_CHECKING:
    from typing import Self

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.levels import Levels

FEATURES_VERSION: Final = 1
"""Raised whenever the same tiles and weights would give other features."""


@dataclass(frozen=True)
class FeatureSpec:
    """All that decides the features of a place, apart from library versions and precision.

    Parameters
    ----------
    backbone
        ``timm:NAME``, ``open_clip:NAME[/PRETRAINED]`` or ``hf-hub:ORG/NAME``.
    weights
        Where its weights came from, as `Backbone.weights` says.
    weights_digest
        SHA-256 of its tensors.
    levels
        ``"penultimate"`` or ``"multilevel"``.
    geometry
        Fields in µm and their size in px.
    mean, std
        Pixel statistics with which the backbone is fed, RGB in [0, 1].
    """

    backbone: str
    weights: str
    weights_digest: str
    levels: Levels
    geometry: TileGeometry
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, backbone: Backbone, levels: Levels, geometry: TileGeometry) -> Self:
        """Say what a loaded backbone gives at these levels and scales.

        Raises
        ------
        ModelError
            If there are no such levels, or the backbone takes no tiles of this size.
        """
        backbone.check_tiles(levels, geometry.tile_px)
        return cls(
            backbone.spec,
            backbone.weights,
            backbone.weights_digest,
            levels,
            geometry,
            backbone.mean,
            backbone.std,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that the model card keeps."""
        return {
            "version": FEATURES_VERSION,
            "backbone": self.backbone,
            "weights": self.weights,
            "weights_digest": self.weights_digest,
            "levels": self.levels,
            "geometry": self.geometry.to_json(),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If the features are defined by another version of the code.
        """
        if document["version"] != FEATURES_VERSION:
            raise ModelError(
                f"its features are of version {document['version']}, "
                f"this bleepdb makes version {FEATURES_VERSION}",
                hint="train the model again, or use the bleepdb that it was made with",
            )
        return cls(
            document["backbone"],
            document["weights"],
            document["weights_digest"],
            document["levels"],
            TileGeometry.from_json(document["geometry"]),
            tuple(document["mean"]),
            tuple(document["std"]),
        )

    def load_backbone(
        self, *, weights: str | Path | None = None, device: str | None = None
    ) -> Backbone:
        """Load the backbone that gives these features, fed with these pixel statistics.

        Parameters
        ----------
        weights
            A weights file to use instead of what `weights` names.
        device
            As in `bleepdb.encoders.load_backbone`.

        Raises
        ------
        ModelError
            If the weights came from a file and none is given, or they cannot be had.
        """
        if self.weights.startswith(TRAINED):
            if weights is None:
                raise ModelError(
                    f"its backbone {self.backbone} was trained with it, and {BACKBONE_FILE} is "
                    "not beside it",
                    hint="pass --model with the folder that `bleepdb train` wrote",
                )
            made = read_backbone(
                self.backbone,
                Path(weights),
                weights=self.weights,
                weights_digest=self.weights_digest,
                device=device,
            )
            return replace(made, mean=self.mean, std=self.std)
        if weights is None and self.weights.startswith("file:"):
            raise ModelError(
                f"the weights of its backbone {self.backbone} came from the file "
                f"{self.weights.removeprefix('file:')}, which is not part of the model",
                hint="give that weights file",
            )
        if weights is None and self.weights.startswith(RANDOM):
            weights = self.weights
        made = load_backbone(self.backbone, weights=weights, device=device)
        return replace(made, mean=self.mean, std=self.std)
