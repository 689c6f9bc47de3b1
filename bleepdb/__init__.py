"""bleepdb: gene expression imputed from H&E by retrieval from an atlas of measured spots.

Public names load when they are first used (PEP 562), so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bleepdb.atlas import open_atlas
    from bleepdb.encoders import load_model
    from bleepdb.tissue import read_section, read_sheet

__version__ = "0.1.0"

_HOMES = {
    "load_model": "bleepdb.encoders",
    "open_atlas": "bleepdb.atlas",
    "read_section": "bleepdb.tissue",
    "read_sheet": "bleepdb.tissue",
}
__all__ = ["__version__", "load_model", "open_atlas", "read_section", "read_sheet"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
