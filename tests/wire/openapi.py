"""Exchanges held against Qdrant's published OpenAPI document."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

if TYPE_CHECKING:
    from pathlib import Path

SHOWN = 2  # items at each end of a long list that are held against the schema
NAME = "urn:qdrant"


def _as_json_schema(node):
    """OpenAPI 3.0 in the words of JSON Schema: `nullable` becomes a choice of null."""
    if isinstance(node, list):
        return [_as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return (
            node.replace("#/", f"{NAME}#/") if isinstance(node, str) and node[:2] == "#/" else node
        )
    if node.get("nullable") is True:
        rest = _as_json_schema({k: v for k, v in node.items() if k != "nullable"})
        return {"anyOf": [rest, {"type": "null"}]} if rest else {"type": "null"}
    return {key: _as_json_schema(one) for key, one in node.items()}


def shortened(node):
    """The same JSON with long lists cut to their first and last items."""
    if isinstance(node, dict):
        return {key: shortened(one) for key, one in node.items()}
    if isinstance(node, list):
        kept = node if len(node) <= 2 * SHOWN else [*node[:SHOWN], *node[-SHOWN:]]
        return [shortened(one) for one in kept]
    return node


class OpenApi:
    """The document as a judge.

    Parameters
    ----------
    path
        The JSON file.
    """

    def __init__(self, path: Path) -> None:
        self._document = _as_json_schema(json.loads(path.read_text()))
        resource = Resource(contents=self._document, specification=DRAFT202012)
        self._registry = Registry().with_resource(NAME, resource)
        self._made = cache(self._make)

    def _make(self, pointer):
        return Draft202012Validator({"$ref": f"{NAME}#{pointer}"}, registry=self._registry)

    def _faults(self, what, pointer, document):
        found = self._made(pointer).iter_errors(shortened(document))
        return [f"{what} {fault.json_path}: {fault.message[:200]}" for fault in found]

    def faults(self, method, path, query, request, status, answer):
        """All that an exchange breaks.

        Parameters
        ----------
        method, path
            Path as the document writes it, such as ``/collections/{collection_name}``.
        query
            Names of the parameters in the URL.
        request, answer
            JSON values; a request of None had no body.
        """
        operation = self._document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            return [f"no operation {method} {path}"]
        base = f"/paths/{path.replace('~', '~0').replace('/', '~1')}/{method.lower()}"
        known = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
        faults = [f"{method} {path}: unknown parameter {q}" for q in query if q not in known]
        json_body = "/content/application~1json/schema"
        if "requestBody" in operation:
            faults += self._faults(
                f"{method} {path} asks", f"{base}/requestBody{json_body}", request
            )
        elif request is not None:
            faults.append(f"{method} {path}: a body where none belongs")
        key = "200" if status == 200 else "4XX"
        described = operation["responses"].get(key, {})
        if "application/json" in described.get("content", {}):
            pointer = f"{base}/responses/{key}{json_body}"
            faults += self._faults(f"{method} {path} answers {status}", pointer, answer)
        return faults
