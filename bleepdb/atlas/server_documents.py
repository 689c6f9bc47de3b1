"""Manifest and documents of a collection on a server: points without vectors inside it.

They lie in the collection itself, so that one server snapshot holds all that belongs together.
Their fields begin with an underscore, which no field of a spot may, so that no filter on spots
finds them by mistake, and `not_documents` keeps them out of every other question.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
import uuid
from hashlib import sha256
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from bleepdb.atlas import checks
from bleepdb.atlas.manifest import NONE_YET, Manifest
from bleepdb.errors import AtlasCorruptError, AtlasError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bleepdb.atlas.server_client import Client

NAMESPACE = uuid.UUID("6f3b8a52-6d0e-5c5b-9a1e-b1ee9d8a0002")
KIND, NAME, TEXT, DIGEST, SIZE, CHUNKS = "_doc", "_name", "_text", "_digest", "_size", "_chunks"
GENERATION, TOKENS = "_generation", "_tokens"
MANIFEST, BLOB, CHUNK = "manifest", "blob", "chunk"
MOST_TOKENS = 64
CHUNK_TEXT = 2**20  # characters of base64 in one point
CHUNKS_AT_ONCE = 3  # so that a request stays below 4 MB
SCROLL_AT_ONCE = 1000
READINGS = 5  # of a document that is being replaced
UPDATE_MODE_SINCE = (1, 17)


def not_documents() -> models.FieldCondition:
    """Return the condition that every document meets and no spot does, for `must_not`."""
    match = models.MatchAny(any=[MANIFEST, BLOB, CHUNK])
    return models.FieldCondition(key=KIND, match=match)


def _id(*parts: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "\0".join(parts)))


def _pieces(name: str, head: Mapping[str, Any]) -> list[str]:
    """Return the ids of the pieces that a document's head names."""
    number, digest = int(head.get(CHUNKS) or 0), str(head.get(DIGEST))
    return [_id(CHUNK, name, digest, str(i)) for i in range(number)]


MANIFEST_ID = _id(MANIFEST)


class Documents:
    """Manifest and documents of all collections of a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def _place(self, collection: str) -> str:
        return f"{self._client.where}/{collection}"

    def _read(
        self, collection: str, ids: Sequence[str], fields: Sequence[str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Payloads by id of those documents that are there, as most replicas have them."""
        found = self._client.call(
            "read documents",
            lambda q: q.retrieve(
                collection,
                list(ids),
                with_payload=True if fields is None else list(fields),
                with_vectors=False,
                consistency=models.ReadConsistencyType.MAJORITY,
            ),
            collection=collection,
        )
        return {str(one.id): one.payload or {} for one in found}

    def _write(
        self,
        collection: str,
        documents: Sequence[tuple[str, dict[str, Any]]],
        *,
        update_filter: models.Filter | None = None,
        update_mode: models.UpdateMode | None = None,
    ) -> None:
        points = [models.PointStruct(id=i, vector={}, payload=p) for i, p in documents]
        self._client.call(
            "write documents",
            lambda q: q.upsert(
                collection,
                points,
                wait=True,
                ordering=models.WriteOrdering.STRONG,
                update_filter=update_filter,
                update_mode=update_mode,
            ),
            collection=collection,
            writes=True,
        )

    # --- manifest -----------------------------------------------------------------------------

    def read_manifest(self, collection: str) -> Manifest:
        """Return the manifest as most replicas have it."""
        payload = self._read(collection, [MANIFEST_ID], [TEXT]).get(MANIFEST_ID)
        if payload is None:
            raise checks.no_manifest(where=self._place(collection))
        text = payload.get(TEXT)
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
        return Manifest.from_bytes(data, where=self._place(collection))

    def swap_manifest(self, collection: str, expected: int, new: Manifest) -> bool:
        """Replace the manifest if its generation is the expected one; tell whether it was.

        The server compares: the point is updated only where its generation still is the expected
        one. It does not say what it did, and its answer may be lost, so that the point is read
        back: it carries the tokens of the latest swaps, and ours among them tells that we swapped,
        even where others have swapped since.
        """
        present = self._read(collection, [MANIFEST_ID], [GENERATION, TOKENS]).get(MANIFEST_ID)
        generation = NONE_YET if present is None else present.get(GENERATION)
        if generation != expected:
            return False
        earlier = (present or {}).get(TOKENS)
        token = secrets.token_hex(16)
        payload = {
            KIND: MANIFEST,
            GENERATION: new.generation,
            TOKENS: [*(earlier if isinstance(earlier, list) else []), token][-MOST_TOKENS:],
            TEXT: new.to_bytes().decode(),
        }
        # A point that is missing is inserted whatever the filter says, unless the mode forbids it.
        condition = models.FieldCondition(key=GENERATION, match=models.MatchValue(value=expected))
        modes = present is not None and self._client.version >= UPDATE_MODE_SINCE
        self._write(
            collection,
            [(MANIFEST_ID, payload)],
            update_filter=models.Filter(must=[condition]),
            update_mode=models.UpdateMode.UPDATE_ONLY if modes else None,
        )
        after = self._read(collection, [MANIFEST_ID], [TOKENS]).get(MANIFEST_ID, {})
        return token in (after.get(TOKENS) or [])

    # --- documents ----------------------------------------------------------------------------

    def put(self, collection: str, name: str, data: bytes) -> None:
        """Store a document, replaced in one step.

        A short one is one point. The pieces of a longer one are written first, under ids of their
        own; then the point that names them; then the pieces of the earlier one go.
        """
        head = _id(BLOB, name)
        old = self._read(collection, [head], [DIGEST, CHUNKS]).get(head)
        text = base64.b64encode(data).decode()
        digest = sha256(data).hexdigest()
        pieces = [text[at : at + CHUNK_TEXT] for at in range(0, len(text), CHUNK_TEXT)]
        payload: dict[str, Any] = {KIND: BLOB, NAME: name, DIGEST: digest, SIZE: len(data)}
        if len(pieces) <= 1:
            payload |= {CHUNKS: 0, TEXT: text}
        else:
            payload |= {CHUNKS: len(pieces)}
            made = [
                (_id(CHUNK, name, digest, str(i)), {KIND: CHUNK, NAME: name, TEXT: piece})
                for i, piece in enumerate(pieces)
            ]
            for at in range(0, len(made), CHUNKS_AT_ONCE):
                self._write(collection, made[at : at + CHUNKS_AT_ONCE])
        self._write(collection, [(head, payload)])
        if old is not None and old.get(DIGEST) != digest:
            self._delete(collection, _pieces(name, old))

    def drop(self, collection: str, name: str) -> None:
        """Remove a document; nothing happens where it is not."""
        head = _id(BLOB, name)
        old = self._read(collection, [head], [DIGEST, CHUNKS]).get(head)
        if old is not None:
            self._delete(collection, [head, *_pieces(name, old)])

    def _delete(self, collection: str, ids: Sequence[str]) -> None:
        if ids:
            self._client.call(
                "delete documents",
                lambda q: q.delete(
                    collection,
                    models.PointIdsList(points=list(ids)),
                    wait=True,
                    ordering=models.WriteOrdering.STRONG,
                ),
                collection=collection,
                writes=True,
            )

    def get(self, collection: str, name: str) -> bytes | None:
        """Read a document; None where it is not. One that is replaced meanwhile is read again."""
        head = _id(BLOB, name)
        for reading in range(READINGS):
            time.sleep(0.05 * reading)
            payload = self._read(collection, [head]).get(head)
            if payload is None:
                return None
            data = self._joined(collection, name, payload)
            if data is not None:
                return data
        raise AtlasCorruptError(
            f"document {name} is not what was written",
            where=self._place(collection),
            hint="restore the atlas from a copy, or remove the collection and index again",
        )

    def _joined(self, collection: str, name: str, payload: dict[str, Any]) -> bytes | None:
        """Put the pieces together; None where they are not those of the digest."""
        try:
            digest, number = str(payload[DIGEST]), int(payload[CHUNKS])
            if number == 0:
                text = str(payload[TEXT])
            else:
                ids = _pieces(name, payload)
                pieces: dict[str, dict[str, Any]] = {}
                for at in range(0, number, CHUNKS_AT_ONCE):
                    pieces |= self._read(collection, ids[at : at + CHUNKS_AT_ONCE], [TEXT])
                text = "".join(str(pieces[i][TEXT]) for i in ids)
            data = base64.b64decode(text, validate=True)
        except (KeyError, ValueError, TypeError, binascii.Error):
            return None
        return data if sha256(data).hexdigest() == digest else None

    def names(self, collection: str) -> list[str]:
        """Names of all documents, sorted; their contents are not sent."""
        condition = models.FieldCondition(key=KIND, match=models.MatchValue(value=BLOB))
        names: list[str] = []
        offset: Any = None
        while True:
            scroll = methodcaller(
                "scroll",
                collection,
                scroll_filter=models.Filter(must=[condition]),
                limit=SCROLL_AT_ONCE,
                offset=offset,
                with_payload=[NAME],
                with_vectors=False,
                consistency=models.ReadConsistencyType.MAJORITY,
            )
            found, offset = self._client.call("list documents", scroll, collection=collection)
            for one in found:
                name = (one.payload or {}).get(NAME)
                if not isinstance(name, str):
                    raise AtlasError("a document has no name", where=self._place(collection))
                names.append(name)
            if offset is None:
                return sorted(names)
