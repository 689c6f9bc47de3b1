"""Collections of a server: what they are made with, their indexes and aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qdrant_client import models

from bleepdb.atlas import checks
from bleepdb.atlas.protocol import CollectionSpec
from bleepdb.atlas.server_documents import GENERATION, KIND
from bleepdb.errors import AtlasError, EmptyAtlasError, SpaceMismatchError

if TYPE_CHECKING:
    from bleepdb.atlas.protocol import Where
    from bleepdb.atlas.server_client import Client

PREFIX = "bleepdb_"
FORMAT, VERSION = "bleepdb-collection", 1
HNSW_M, HNSW_EF_CONSTRUCT = 32, 256
MEMORY_SINCE = (1, 19)


class Collections:
    """The collections ``bleepdb_*`` of a server; others are left alone.

    Parameters
    ----------
    client
        The connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._specs: dict[str, CollectionSpec] = {}

    def _place(self, collection: str) -> str:
        return f"{self._client.where}/{collection}"

    def names(self) -> list[str]:
        """Names of our collections, sorted; with a token of few scopes, those that it may read."""
        found = self._client.call("list collections", lambda q: q.get_collections())
        return sorted(c.name for c in found.collections if c.name.startswith(PREFIX))

    def aliases(self) -> dict[str, str]:
        """Alias -> collection, for our collections."""
        found = self._client.call("list aliases", lambda q: q.get_aliases())
        ours = [a for a in found.aliases if a.collection_name.startswith(PREFIX)]
        return {a.alias_name: a.collection_name for a in sorted(ours, key=lambda a: a.alias_name)}

    def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection, in one step."""
        checks.check_collection_name(alias, where=self._client.where)
        self._check_ours(alias)
        self.read_spec(collection)
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)
        )
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        steps = [delete, create] if alias in self.aliases() else [create]
        self._client.call(
            "set an alias",
            lambda q: q.update_collection_aliases(steps),
            collection=collection,
            writes=True,
        )

    def _check_ours(self, name: str) -> None:
        if not name.startswith(PREFIX):
            raise AtlasError(
                f"{name!r:.80} on a server must begin with {PREFIX!r}", where=self._client.where
            )

    def read_spec(self, collection: str) -> CollectionSpec:
        """Ask the server what a collection is made with, and remember it."""
        self._client.check_open()
        checks.check_collection_name(collection, where=self._client.where)
        self._specs.pop(collection, None)
        if not collection.startswith(PREFIX):
            raise checks.no_collection(collection, where=self._client.where)
        info = self._client.call(
            "read a collection", lambda q: q.get_collection(collection), collection=collection
        )
        vectors = info.config.params.vectors
        if not isinstance(vectors, dict) or any(
            v.distance != models.Distance.DOT or v.multivector_config for v in vectors.values()
        ):
            raise SpaceMismatchError(
                "not a collection of named vectors compared by Dot",
                where=self._place(collection),
                hint="it was not made by bleepdb; rename or remove it",
            )
        fields = [
            name
            for name, one in info.payload_schema.items()
            if one.data_type == models.PayloadSchemaType.KEYWORD and not name.startswith("_")
        ]
        about = _about(info)
        order = {name: i for i, name in enumerate(about.get("keyword_fields", []))}
        fields.sort(key=lambda name: (order.get(name, len(order)), name))
        alias = str(about.get("alias", collection))
        spec = CollectionSpec(
            collection, alias, {n: v.size for n, v in sorted(vectors.items())}, tuple(fields)
        )
        self._specs[collection] = spec
        return spec

    def spec(self, collection: str) -> CollectionSpec:
        """Return what a collection is made with, as it was when it was last read."""
        self._client.check_open()
        return self._specs.get(collection) or self.read_spec(collection)

    def spec_for(
        self, collection: str, where: Where | None = None, field: str | None = None
    ) -> CollectionSpec:
        """Return the specification, read again where it knows not all the fields named."""
        spec = self.spec(collection)
        named = {*(where.must if where else ()), *(where.must_not if where else ())}
        if not named | ({field} if field else set()) <= set(spec.keyword_fields):
            spec = self.read_spec(collection)  # another client may have added an index
        checks.check_where(spec, where, where=self._place(collection))
        if field is not None:
            checks.check_field(spec, field, where=self._place(collection))
        return spec

    def ensure(self, spec: CollectionSpec) -> None:
        """Create a collection and its indexes, or check that the existing one has these vectors.

        A creation that was interrupted is completed: indexes that are missing are added.
        """
        self._client.check_open()
        checks.check_spec(spec, where=self._client.where)
        self._check_ours(spec.name)
        self._check_ours(spec.alias)
        try:
            present = self.read_spec(spec.name)
        except EmptyAtlasError:
            self._create(spec)
            present = self.read_spec(spec.name)
        checks.merged_spec(present, spec, where=self._place(spec.name))
        schema = self._schema(spec.name)
        self._index(spec.name, schema, KIND, models.PayloadSchemaType.KEYWORD)
        self._index(spec.name, schema, GENERATION, models.PayloadSchemaType.INTEGER)
        for field in spec.keyword_fields:
            self._index(spec.name, schema, field, models.PayloadSchemaType.KEYWORD)
        self.read_spec(spec.name)

    def _schema(self, collection: str) -> dict[str, Any]:
        info = self._client.call(
            "read a collection", lambda q: q.get_collection(collection), collection=collection
        )
        return dict(info.payload_schema)

    def _create(self, spec: CollectionSpec) -> None:
        about = {
            "bleepdb": {
                "format": FORMAT,
                "version": VERSION,
                "alias": spec.alias,
                "keyword_fields": list(spec.keyword_fields),
            }
        }
        hnsw = models.HnswConfigDiff(m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT)
        vectors = {
            name: models.VectorParams(size=size, distance=models.Distance.DOT)
            for name, size in spec.vectors.items()
        }
        # By default every payload that is asked for would be read from the disk.
        placed: dict[str, Any] = {"on_disk_payload": False}
        if self._client.version >= MEMORY_SINCE:
            placed = {"payload": models.PayloadStorageParams(memory=models.Memory.CACHED)}

        def act(qdrant: Any) -> None:  # noqa: ANN401 - qdrant-client's types are not for us
            if not qdrant.collection_exists(spec.name):
                qdrant.create_collection(
                    spec.name, vectors_config=vectors, hnsw_config=hnsw, metadata=about, **placed
                )

        try:
            self._client.call("create a collection", act, writes=True)
        except AtlasError:
            # Another writer may have been faster: then it is there.
            if spec.name not in self.names():
                raise

    def _index(
        self, collection: str, schema: dict[str, Any], field: str, kind: models.PayloadSchemaType
    ) -> None:
        if field not in schema:
            self._client.call(
                "create an index",
                lambda q: q.create_payload_index(collection, field, kind, wait=True),
                collection=collection,
                writes=True,
            )

    def drop(self, collection: str) -> None:
        """Remove a collection with all that belongs to it; nothing happens where it is not."""
        self._client.check_open()
        checks.check_collection_name(collection, where=self._client.where)
        self._specs.pop(collection, None)
        if collection in self.names():
            self._client.call(
                "remove a collection", lambda q: q.delete_collection(collection), writes=True
            )


def _about(info: Any) -> dict[str, Any]:  # noqa: ANN401 - a models.CollectionInfo, of either protocol
    """Return what the collection's metadata says of us; empty where it does not."""
    metadata = getattr(info.config, "metadata", None) or {}
    about = metadata.get("bleepdb") if isinstance(metadata, dict) else None
    return about if isinstance(about, dict) else {}
