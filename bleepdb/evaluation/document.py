"""The document of an evaluation as text: one line a fact, whatever its length."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bleepdb.files import whole_file

if TYPE_CHECKING:
    from pathlib import Path


def text_of(document: dict[str, Any]) -> str:
    """Return the document as JSON, one line a key and one line a fold; NaN is refused.

    It holds every bootstrap draw, since a merge needs them; a line a number would be unreadable.
    """
    lines = []
    for key, value in document.items():
        if key == "folds":
            folds = ",\n  ".join(_line(fold) for fold in value)
            lines.append(f' "folds": [\n  {folds}\n ]')
        else:
            lines.append(f" {_line(key)}: {_line(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write the document whole."""
    with whole_file(path) as part:
        part.write_text(text_of(document), encoding="utf-8")


def _line(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
