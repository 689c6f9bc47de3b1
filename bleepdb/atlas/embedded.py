"""The embedded atlas: Qdrant's own engine in this process, one shard a collection, in a folder."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.atlas import checks
from bleepdb.atlas.folder import FIRST_SHARD, AtlasFolder
from bleepdb.atlas.manifest import NONE_YET
from bleepdb.atlas.protocol import Closes, Hits
from bleepdb.atlas.shard import Shard
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.names import EXPR, REV

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import CollectionSpec, Points, Record, Where

DISK_RESERVE = 256 * 2**20  # the engine maps sparse files of 32 MB; on a full disk it dies
DISK_FACTOR = 3  # log, storage and index of one written byte


class EmbeddedAtlas(Closes):
    """An atlas in a folder, opened by one process at a time.

    Neighbours come in order of falling score, equal scores in order of rising id; where more
    points tie at the limit than fit, those with the lowest ids are given, as far as the engine
    tells ties apart: its float32 sums differ from NumPy's in the last bits.

    A collection is loaded when it is first used. Then the points of each live revision are
    counted against the manifest, so that a truncated shard is reported before it answers.

    Parameters
    ----------
    location
        The folder.
    create
        Make an atlas where the folder is missing or empty.
    lock_timeout
        Seconds to wait for another process that has it open.

    Raises
    ------
    EmptyAtlasError, AtlasLockedError, AtlasCorruptError, AtlasError
        As `bleepdb.atlas.folder.AtlasFolder`.
    """

    kind = "embedded"

    def __init__(
        self, location: str | Path, *, create: bool = False, lock_timeout: float = 10.0
    ) -> None:
        self.location = str(location)
        self._lock = threading.RLock()
        self._closed = False
        self._shards: dict[str, Shard] = {}
        self._specs: dict[str, CollectionSpec] = {}
        self._folder = AtlasFolder(Path(location), create=create, lock_timeout=lock_timeout)

    # --- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            raise AtlasError("this atlas was closed", where=self.location)

    def _place(self, collection: str) -> str:
        return str(self._folder.collection(collection))

    def _exists(self, collection: str) -> bool:
        self._open()
        checks.check_collection_name(collection, where=self.location)
        return self._folder.collection(collection).is_dir()

    def _require(self, collection: str) -> None:
        if not self._exists(collection):
            raise checks.no_collection(collection, where=self.location)

    def _load(self, collection: str) -> tuple[Shard, CollectionSpec]:
        """Return the shard and its specification, loaded and counted on first use."""
        with self._lock:
            self._open()
            if collection not in self._shards:
                self._require(collection)
                spec = self._folder.read_spec(collection)
                shard = Shard.load(self._folder.shard(collection), self._place(collection))
                try:
                    self._count_live(collection, shard)
                except AtlasError:
                    shard.close()
                    raise
                self._shards[collection], self._specs[collection] = shard, spec
            return self._shards[collection], self._specs[collection]

    def _count_live(self, collection: str, shard: Shard) -> None:
        """Compare the points of each live revision with the manifest's count."""
        manifest = self._folder.read_manifest(collection)
        if manifest is None:
            return
        found = shard.facet(REV)
        for section in manifest.live:
            number = found.get(section.revision, 0)
            if number != section.spots:
                raise AtlasCorruptError(
                    f"section {section.section} has {number} of its {section.spots} spots",
                    where=shard.place,
                    hint=f"restore the atlas from a copy, or remove {shard.place} and run "
                    "`bleepdb index` again",
                )

    # --- collections --------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        self._open()
        return self._folder.collections()

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        self._open()
        return self._folder.aliases()

    def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection, in one step."""
        checks.check_collection_name(alias, where=self.location)
        with self._lock:
            self._require(collection)
            self._folder.set_alias(alias, collection)

    def ensure(self, spec: CollectionSpec) -> None:
        """Create a collection and its indexes, or check that the existing one has these vectors."""
        checks.check_spec(spec, where=self.location)
        with self._lock:
            if not self._exists(spec.name):
                self._check_disk(0)
                with self._folder.new_collection(spec) as part:
                    Shard.create(part / FIRST_SHARD, spec, self.location).close()
                return
            shard, present = self._load(spec.name)
            merged = checks.merged_spec(present, spec, where=shard.place)
            if merged != present:
                further = merged.keyword_fields[len(present.keyword_fields) :]
                shard.index(further)
                self._folder.write_spec(merged)
                self._specs[spec.name] = merged

    def drop(self, collection: str) -> None:
        """Remove a collection with all that belongs to it; nothing happens where it is not."""
        with self._lock:
            if self._exists(collection):
                self._release(collection)
                self._folder.drop(collection)

    def _release(self, collection: str) -> None:
        self._specs.pop(collection, None)
        shard = self._shards.pop(collection, None)
        if shard is not None:
            shard.close()

    # --- points -------------------------------------------------------------------------------

    def _check_disk(self, size: int) -> None:
        """Refuse a write for which the disk has no room, since the engine would end the process."""
        free, needed = shutil.disk_usage(self._folder.root).free, DISK_FACTOR * size + DISK_RESERVE
        if free < needed:
            raise AtlasError(
                f"{free // 2**20} MB are free on this disk and {needed // 2**20} MB are needed",
                where=self.location,
                hint="free some space; nothing was written",
            )

    def upsert(self, collection: str, points: Points) -> None:
        """Write points; every row is validated first: where one fails, none is written.

        The engine takes at most 1,000 at a time; an interruption between two such batches leaves
        the first one, which is why points become visible through the manifest alone.
        """
        shard, spec = self._load(collection)
        checks.check_points(spec, points, where=shard.place)
        bytes_a_row = 1024 + 4 * sum(spec.vectors.values())
        self._check_disk(sum(len(p[EXPR]) for p in points.payloads) + bytes_a_row * len(points))
        with self._lock:
            shard.upsert(points)

    def query_batch(
        self,
        collection: str,
        queries: NDArray[np.float32],
        *,
        using: str,
        limit: int,
        where: Where | None = None,
        exact: bool = True,
    ) -> Hits:
        """Nearest points of each query row by dot product; ids and scores only.

        With `exact` false the HNSW graph is used where `optimize` has built one.
        """
        shard, spec = self._load(collection)
        checks.check_queries(spec, queries, using, limit, where=shard.place)
        checks.check_where(spec, where, where=shard.place)
        if checks.matches_nothing(where):
            return Hits([[] for _ in queries], [np.empty(0, np.float32) for _ in queries])
        with self._lock:  # nothing is written between the count and the search
            if where is not None and shard.count(where) == shard.count(None):
                where = None  # a filter that every point passes nearly doubles a search
            return shard.neighbours(queries, using=using, limit=limit, where=where, exact=exact)

    def retrieve(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> list[Record]:
        """Points by id, in the order asked; an id that is not there raises AtlasCorruptError.

        Vectors are compared with their checksum.
        """
        shard, _ = self._load(collection)
        checks.check_ids(ids, where=shard.place)
        distinct = list(dict.fromkeys(ids))
        found = shard.retrieve(distinct, fields=fields, with_vectors=with_vectors)
        missing = [i for i in distinct if i not in found]
        if missing:
            raise checks.missing_points(missing, len(distinct), where=shard.place)
        return [found[i] for i in ids]

    def scroll(
        self,
        collection: str,
        *,
        where: Where | None = None,
        fields: Sequence[str] | None = None,
        with_vectors: bool = False,
        batch: int = 1000,
    ) -> Iterator[list[Record]]:
        """All points that match, in batches, in order of id."""
        shard, spec = self._load(collection)
        checks.check_where(spec, where, where=shard.place)
        if checks.matches_nothing(where):
            return iter(())
        return shard.scroll(where=where, fields=fields, with_vectors=with_vectors, batch=batch)

    def delete(self, collection: str, where: Where) -> None:
        """Delete the points that match. An empty filter is refused."""
        shard, spec = self._load(collection)
        checks.check_delete(where, where=shard.place)
        checks.check_where(spec, where, where=shard.place)
        if not checks.matches_nothing(where):
            with self._lock:
                shard.delete(where)

    def count(self, collection: str, where: Where | None = None) -> int:
        """Exact number of points that match."""
        shard, spec = self._load(collection)
        checks.check_where(spec, where, where=shard.place)
        return 0 if checks.matches_nothing(where) else shard.count(where)

    def facet(self, collection: str, name: str, where: Where | None = None) -> dict[str, int]:
        """Exact number of points a value of an indexed keyword field."""
        shard, spec = self._load(collection)
        checks.check_where(spec, where, where=shard.place)
        checks.check_field(spec, name, where=shard.place)
        return {} if checks.matches_nothing(where) else shard.facet(name, where)

    # --- manifest and documents ---------------------------------------------------------------

    def read_manifest(self, collection: str) -> Manifest:
        """Return the manifest as it stands."""
        self._require(collection)
        found = self._folder.read_manifest(collection)
        if found is None:
            raise checks.no_manifest(where=self._place(collection))
        return found

    def swap_manifest(self, collection: str, expected_generation: int, new: Manifest) -> bool:
        """Replace the manifest if its generation is still the expected one; tell whether it was."""
        place = self._place(collection)
        checks.check_successor(collection, expected_generation, new, where=place)
        with self._lock:
            self._require(collection)
            found = self._folder.read_manifest(collection)
            generation = NONE_YET if found is None else found.generation
            if generation != expected_generation:
                return False
            self._folder.write_manifest(collection, new)
            return True

    def put_blob(self, collection: str, name: str, data: bytes) -> None:
        """Store a small named document beside the manifest."""
        checks.check_blob_name(name, where=self.location)
        self._require(collection)
        self._folder.put_blob(collection, name, data)

    def get_blob(self, collection: str, name: str) -> bytes | None:
        """Read such a document; None where it is not."""
        checks.check_blob_name(name, where=self.location)
        self._require(collection)
        return self._folder.get_blob(collection, name)

    def drop_blob(self, collection: str, name: str) -> None:
        """Remove such a document; nothing happens where it is not."""
        checks.check_blob_name(name, where=self.location)
        self._require(collection)
        self._folder.drop_blob(collection, name)

    def list_blobs(self, collection: str) -> list[str]:
        """Names of all such documents, sorted."""
        self._require(collection)
        return self._folder.list_blobs(collection)

    def disk_bytes(self, collection: str) -> int:
        """Bytes that a collection takes on disk, its holes left out."""
        self._require(collection)
        return self._folder.size(collection)

    # --- care ---------------------------------------------------------------------------------

    def flush(self, collection: str) -> None:
        """Return when all acknowledged writes are on disk."""
        self._load(collection)[0].flush()

    def optimize(self, collection: str) -> None:
        """Build or finish the HNSW graph where there are points enough for one; blocks."""
        shard, _ = self._load(collection)
        self._check_disk(self._folder.size(collection))
        with self._lock:
            shard.optimize()

    def compact(self, collection: str) -> int:
        """Write all points into new files, which take the place of the old ones in one step.

        The engine keeps deleted points in its files and its log until it has reason to rewrite
        them; after this their bytes are gone. Nobody else may read the collection meanwhile.

        Returns
        -------
        int
            Bytes that the collection takes less on disk.

        Raises
        ------
        AtlasCorruptError
            If a point is not what was written; nothing has changed then.
        AtlasError
            If the disk has no room for both.
        """
        with self._lock:
            old, spec = self._load(collection)
            before = self._folder.size(collection)
            self._check_disk(before)
            with self._folder.new_shard(collection) as path:
                new = Shard.create(path, spec, self._place(collection))
                try:
                    for batch in old.scroll(where=None, fields=None, with_vectors=True, batch=1000):
                        new.upsert(checks.points_of(batch, spec))
                    new.flush()
                    if new.count(None) != old.count(None):
                        raise AtlasCorruptError(
                            "the points that can be listed are not those that are counted",
                            where=self._place(collection),
                            hint="restore the atlas from a copy; nothing was changed",
                        )
                    if old.indexed:
                        new.optimize()
                finally:
                    new.close()
                self._release(collection)
            self._load(collection)
            return before - self._folder.size(collection)

    def close(self) -> None:
        """Close the shards and let go of the folder. Closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                try:
                    for collection in list(self._shards):
                        self._release(collection)
                finally:
                    self._folder.lock.release()
