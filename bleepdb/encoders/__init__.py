"""Image backbones, paired encoders, and the model folder.

Names load when they are first used (PEP 562): reading slides, which `extract` does, is not needed
to load a model or to train one on features that exist.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bleepdb.encoders.backbone import Backbone, default_tile_px, load_backbone
    from bleepdb.encoders.features import PendingFeatures, begin_features, extract
    from bleepdb.encoders.folder import load_model, model_from_blobs, model_to_blobs, save_model
    from bleepdb.encoders.known import KnownEncoder, known_encoder, known_encoders
    from bleepdb.encoders.model import Model
    from bleepdb.encoders.spec import FeatureSpec
    from bleepdb.encoders.speed import Speed, measure_speed
    from bleepdb.encoders.towers import Affine, Context, Joined, Projection

_HOMES = {
    "Affine": "towers",
    "Backbone": "backbone",
    "Context": "towers",
    "FeatureSpec": "spec",
    "Joined": "towers",
    "KnownEncoder": "known",
    "Model": "model",
    "PendingFeatures": "features",
    "Projection": "towers",
    "Speed": "speed",
    "begin_features": "features",
    "default_tile_px": "backbone",
    "extract": "features",
    "known_encoder": "known",
    "known_encoders": "known",
    "load_backbone": "backbone",
    "load_model": "folder",
    "measure_speed": "speed",
    "model_from_blobs": "folder",
    "model_to_blobs": "folder",
    "save_model": "folder",
}
__all__ = [
    "Affine",
    "Backbone",
    "Context",
    "FeatureSpec",
    "Joined",
    "KnownEncoder",
    "Model",
    "PendingFeatures",
    "Projection",
    "Speed",
    "begin_features",
    "default_tile_px",
    "extract",
    "known_encoder",
    "known_encoders",
    "load_backbone",
    "load_model",
    "measure_speed",
    "model_from_blobs",
    "model_to_blobs",
    "save_model",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
