"""Documents that cross a trust boundary are checked against the JSON Schemas in `schemas/`."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from bleepdb.errors import BleepdbError
from bleepdb.files import canonical_json, digest


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


def sealed(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with its checksum: the digest of its canonical JSON.

    Raises
    ------
    TypeError, ValueError
        If it holds what is no JSON.
    """
    return {**document, "checksum": digest(name, canonical_json(document))}


def unsealed(
    name: str,
    data: bytes | object,
    *,
    newest: int,
    where: object,
    hint: str,
    error: type[BleepdbError],
    damaged: type[BleepdbError],
) -> dict[str, Any]:
    """Return what `sealed` made, judged before it is believed: version, schema, checksum.

    Parameters
    ----------
    name
        Of the schema.
    data
        The JSON text, or the value read from it.
    newest
        The highest version that this bleepdb knows.
    where, hint
        For the messages.
    error, damaged
        What is raised for a newer version, and for what is broken or was changed.

    Raises
    ------
    BleepdbError
        One of the two.
    """
    place = None if where is None else str(where)
    try:
        document = json.loads(data) if isinstance(data, bytes) else data
    except (ValueError, RecursionError) as fault:
        raise damaged(f"cannot be read ({fault})", where=place, hint=hint) from fault
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > newest:
        raise error(
            f"format version {version}, this bleepdb knows {newest}",
            where=place,
            hint="upgrade bleepdb",
        )
    check(name, document, where=where, error=damaged, hint=hint)
    assert isinstance(document, dict)  # noqa: S101 - the schema has just said so
    rest = {k: v for k, v in document.items() if k != "checksum"}
    try:
        same = digest(name, canonical_json(rest)) == document["checksum"]
    except ValueError as fault:  # NaN, or text that is not Unicode
        raise damaged(f"cannot be read ({fault})", where=place, hint=hint) from fault
    if not same:
        raise damaged("its checksum is wrong", where=place, hint=hint)
    return document
