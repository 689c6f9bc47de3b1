"""A model: paired encoders, what they were trained on, and how their neighbours are averaged."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.encoders.calibration import (
    LEAST_COSINE,
    LEAST_OVERLAP,
    agreement,
    canonical_places,
    canonical_profiles,
    canonical_tiles,
)
from bleepdb.encoders.towers import unit
from bleepdb.errors import ModelError
from bleepdb.files import canonical_json, digest
from bleepdb.normalise import TARGET_SUM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.encoders.backbone import Backbone
    from bleepdb.encoders.spec import FeatureSpec
    from bleepdb.encoders.towers import Context, Tower
    from bleepdb.panel import Panel

log = logging.getLogger(__name__)

PREDICTABLE = "predictable"


@dataclass(frozen=True)
class Model:
    """Paired encoders with all that a query needs.

    Parameters
    ----------
    recipe
        Name of the recipe that made it.
    hyper
        Its hyperparameters, chosen ones included; JSON values.
    feature_spec
        Backbone, levels and tile geometry.
    context
        Adjacent places for the image tower, or None.
    image_tower, profile_tower
        Features (with context) and log1p profiles into the shared space.
    panel
        The genes of a profile, in order.
    profile_mean
        (genes,) float32, mean log1p profile of the training spots.
    components
        (genes, rank) float32 with orthonormal columns, the low-rank map of imputed profiles, or
        None.
    key
        The vector of references that queries are compared with, ``"image"`` or ``"expression"``.
    retrieval
        ``method``, ``k``, ``temperature`` and ``smoothing`` {``inner_um``, ``outer_um``,
        ``weight``}.
    training
        ``sections`` (each ``section``, ``donor``, ``digest``, ``spots``), ``pitch_um``, ``seed``.
    licence
        Of the backbone's weights.
    scores
        Held-out scores: ``about``, ``sets``, and per gene ``pcc``, ``noise_ceiling``,
        ``predictable``; empty until an evaluation fills it.
    calibration
        ``image`` and ``expression`` embeddings of the canonical tiles and profiles; empty until
        `calibrated`.
    weights_file
        The backbone's weights, where they are no part of a library.
    readout
        (genes, rank) float32, what reads genes off the coordinates of the low-rank map
        (`bleepdb.imputation.LowRank`); None: its components.
    """

    recipe: str
    hyper: Mapping[str, Any]
    feature_spec: FeatureSpec
    context: Context | None
    image_tower: Tower
    profile_tower: Tower
    panel: Panel
    profile_mean: NDArray[np.float32]
    components: NDArray[np.float32] | None
    key: str
    retrieval: Mapping[str, Any]
    training: Mapping[str, Any]
    licence: str = "unknown"
    scores: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    weights_file: str | None = None
    readout: NDArray[np.float32] | None = None

    @property
    def dimension(self) -> int:
        """Dimension of the space."""
        return self.image_tower.dimension

    @property
    def pitch_um(self) -> float:
        """Distance of adjacent training spots."""
        return float(self.training["pitch_um"])

    @property
    def training_sections(self) -> tuple[str, ...]:
        """Sections whose spots trained it."""
        return tuple(s["section"] for s in self.training["sections"])

    @property
    def training_donors(self) -> tuple[str, ...]:
        """Donors whose spots trained it."""
        return tuple(dict.fromkeys(s["donor"] for s in self.training["sections"]))

    @cached_property
    def space_id(self) -> str:
        """Digest of weights and preprocessing, 64 hex digits; never of versions or precision.

        Two models of one space give the same vectors, so that their embeddings may meet.
        """
        features = self.feature_spec.to_json()
        del features["weights"]  # where weights came from does not change what they are
        about = {
            "features": features,
            "context": None if self.context is None else self.context.to_json(),
            "panel": self.panel.digest,
            "target_sum": TARGET_SUM,
            "key": self.key,
        }
        parts: list[bytes | str] = ["space", canonical_json(about)]
        for name, tower in (("image", self.image_tower), ("profile", self.profile_tower)):
            for key, tensor in sorted(tower.tensors().items()):
                parts += [f"{name}.{key}", str(tensor.dtype), canonical_json(list(tensor.shape))]
                parts.append(np.ascontiguousarray(tensor).tobytes())
        return digest(*parts)

    def backbone(self) -> Backbone:
        """Load the backbone that its features come from (once).

        Weights of another digest (the same ones at half precision, say) are taken where the
        calibration embeddings agree.

        Raises
        ------
        ModelError
            If its weights cannot be had, or are not those that the model was trained with.
        """
        return self._backbone

    @cached_property
    def _backbone(self) -> Backbone:
        made = self.feature_spec.load_backbone(weights=self.weights_file)
        if made.weights_digest != self.feature_spec.weights_digest:
            self._accept_other(made)
        return made

    def _accept_other(self, backbone: Backbone) -> None:
        """Refuse weights of another digest unless the calibration embeddings agree."""
        wrong = ModelError(
            f"the weights of {backbone.spec} here ({backbone.weights}) are not those that the "
            f"model was trained with ({self.feature_spec.weights})",
            hint="give the right weights file, or train a model with these",
        )
        if not self.calibration:
            raise wrong
        try:
            self.check_against(backbone)
        except ModelError as error:
            raise wrong from error
        log.warning(
            "the weights of %s have another digest than in training, and give the same neighbours",
            backbone.spec,
        )

    def embed_images(
        self, features: NDArray[np.float32], positions_um: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return unit vectors of places.

        Parameters
        ----------
        features
            (n, F) float32 as `feature_spec` says, all places of one slide.
        positions_um
            (n, 2) where they are; used by the context alone.

        Returns
        -------
        numpy.ndarray
            (n, dimension) float32.
        """
        x = features if self.context is None else self.context.append(features, positions_um)
        if x.shape[1] != self.image_tower.inputs:
            message = f"features of width {x.shape[1]} for a tower of {self.image_tower.inputs}"
            raise ValueError(message)
        return unit(self.image_tower(x))

    def embed_profiles(self, profiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit vectors of log1p profiles on the model's panel.

        Parameters
        ----------
        profiles
            (n, genes) float32; NaN where a gene was not measured.

        Returns
        -------
        numpy.ndarray
            (n, dimension) float32.
        """
        if profiles.shape[1] != len(self.panel):
            message = f"profiles of {profiles.shape[1]} genes for a panel of {len(self.panel)}"
            raise ValueError(message)
        return unit(self.profile_tower(profiles))

    @property
    def gene_scores(self) -> dict[str, NDArray[np.float32]] | None:
        """Held-out scores of each gene of the panel by name, float32; None before an evaluation.

        ``predictable`` is 1 or 0; an unknown score is NaN.
        """
        genes = self.scores.get("genes")
        if genes is None:
            return None
        return {
            name: np.array([np.nan if v is None else v for v in values], dtype=np.float32)
            for name, values in genes.items()
        }

    @property
    def predictable(self) -> NDArray[np.bool_] | None:
        """Which genes held-out scores call predictable, (genes,) bool; None before one."""
        scores = self.gene_scores
        return None if scores is None else np.nan_to_num(scores[PREDICTABLE]) > 0

    def with_scores(self, scores: Mapping[str, Any]) -> Model:
        """Return the same model with held-out scores in its card.

        Raises
        ------
        ModelError
            If the scores are not one a gene of the panel.
        """
        for name, values in scores.get("genes", {}).items():
            if len(values) != len(self.panel):
                raise ModelError(
                    f"{len(values)} values of {name} for a panel of {len(self.panel)} genes"
                )
        return replace(self, scores=dict(scores))

    def described(self, *, licence: str) -> Model:
        """Return the same model with the licence of its backbone's weights."""
        return replace(self, licence=licence)

    def canonical_embeddings(self, backbone: Backbone) -> dict[str, NDArray[np.float32]]:
        """Encode the canonical tiles and profiles."""
        geometry = self.feature_spec.geometry
        tiles = canonical_tiles(geometry.tile_px, len(geometry.scales_um))
        flat = tiles.reshape(-1, *tiles.shape[2:])
        features = backbone.features(flat, self.feature_spec.levels).reshape(len(tiles), -1)
        return {
            "image": self.embed_images(features, canonical_places(self.pitch_um)),
            "expression": self.embed_profiles(canonical_profiles(len(self.panel))),
        }

    def calibrated(self, backbone: Backbone) -> Model:
        """Return the same model with the embeddings of the canonical tiles and profiles."""
        return replace(self, calibration=self.canonical_embeddings(backbone))

    def check_calibration(self, *, where: str | Path | None = None) -> None:
        """Encode the canonical tiles and profiles again, and compare.

        Raises
        ------
        ModelError
            If the mean cosine or the mean overlap of nearest neighbours is too low: what is here
            is not what was trained.
        """
        self.check_against(self.backbone(), where=where)

    def check_against(self, backbone: Backbone, *, where: str | Path | None = None) -> None:
        """Do the same with a given backbone; errors as `check_calibration`."""
        now = self.canonical_embeddings(backbone)
        for name, before in self.calibration.items():
            cosine, overlap = agreement(before, now[name])
            # Written so that a NaN does not pass.
            if not (cosine >= LEAST_COSINE and overlap >= LEAST_OVERLAP):
                raise ModelError(
                    f"its {name} encoder gives other embeddings here than where it was trained "
                    f"(cosine {cosine:.3f}, neighbours in common {overlap:.0%})",
                    where=where,
                    hint="check the backbone's weights and the library versions in model.json",
                )
