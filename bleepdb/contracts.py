"""Documents that cross a trust boundary are checked against the JSON Schemas in `schemas/`."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from bleepdb.errors import BleepdbError


@cache
def schema(name: str) -> dict[str, Any]:
    """Read a shipped JSON Schema, such as ``"manifest"`` or ``"model_card"``."""
    text = files("bleepdb.schemas").joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def _validator(name: str) -> Draft202012Validator:
    made = schema(name)
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def faults(name: str, document: object) -> list[str]:
    """List what a document breaks of a schema, each with its place; empty if it holds."""
    found = sorted(_validator(name).iter_errors(document), key=lambda e: list(map(str, e.path)))
    return [
        f"{'.'.join(map(str, e.absolute_path)) or 'document'}: {e.message[:200]}" for e in found
    ]


def check(
    name: str,
    document: object,
    *,
    where: object = None,
    error: type[BleepdbError] = BleepdbError,
    hint: str | None = None,
) -> None:
    """Raise `error` if a document breaks a schema; the first three faults are named.

    Raises
    ------
    BleepdbError
        Or the subclass given.
    """
    broken = faults(name, document)
    if broken:
        more = f" (and {len(broken) - 3} more)" if len(broken) > 3 else ""
        raise error(
            f"breaks the {name} schema: {'; '.join(broken[:3])}{more}",
            where=None if where is None else str(where),
            hint=hint,
        )
