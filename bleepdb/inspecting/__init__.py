"""What a file or folder is, what was found in it, and what is missing; nothing is changed.

Names load when they are first used (PEP 562): the command line asks for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bleepdb.inspecting.findings import Entry, Fact, Inspection, Missing
    from bleepdb.inspecting.telling import inspect_path

_HOMES = {
    "Entry": "findings",
    "Fact": "findings",
    "Inspection": "findings",
    "Missing": "findings",
    "inspect_path": "telling",
}
__all__ = ["Entry", "Fact", "Inspection", "Missing", "inspect_path"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted(__all__)
