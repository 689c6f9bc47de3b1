"""Image backbones, paired encoders, and the model folder.

Names load when they are first used (PEP 562): reading slides, which `extract` does, is not needed
to load a model or to train one on features that exist.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bleepdb.encoders.backbone import Backbone, load_backbone
    from bleepdb.encoders.features import extract
    from bleepdb.encoders.spec import FeatureSpec

_HOMES = {
    "Backbone": "backbone",
    "FeatureSpec": "spec",
    "extract": "features",
    "load_backbone": "backbone",
}
__all__ = ["Backbone", "FeatureSpec", "extract", "load_backbone"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
