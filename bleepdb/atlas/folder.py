"""The files of an embedded atlas, all but the engine's own: marker, lock, aliases, documents.

::

    atlas/
        bleepdb-atlas.json      what this folder is, and its format version
        .lock                   who has it open
        aliases.json            alias -> collection
        collections/NAME/
            collection.json     vectors, filterable fields, and which shard folder counts
            manifest.json       what is live
            blobs/              model card, heads, panels
            shard/              the engine's files; shard-XXXXXXXX/ once they were compacted
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bleepdb.atlas.lock import LOCK_FILE, FolderLock
from bleepdb.atlas.manifest import Manifest
from bleepdb.atlas.protocol import CollectionSpec
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError
from bleepdb.files import disk_bytes, fsync_folder, whole_file, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARKER_FILE = "bleepdb-atlas.json"
FORMAT = "bleepdb-atlas"
VERSION = 1
ALIASES_FILE = "aliases.json"
COLLECTIONS = "collections"
SPEC_FILE = "collection.json"
MANIFEST_FILE = "manifest.json"
BLOBS = "blobs"
FIRST_SHARD = "shard"
SHARD_NAME = re.compile(r"shard(-[0-9a-f]{8})?", re.ASCII)
UNFINISHED = "."  # collections being made or removed have hidden names


def read_document(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file that this package wrote.

    Raises
    ------
    AtlasCorruptError
        If it is not JSON any more, or cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AtlasCorruptError(
            f"cannot be read ({error})", where=path, hint="restore the atlas from a copy"
        ) from error


@contextmanager
def written(where: Path) -> Iterator[None]:
    """Turn a failed write (full disk, no permission) into an error of ours."""
    try:
        yield
    except OSError as error:
        raise AtlasError(
            f"cannot be written ({error.strerror or error})",
            where=where,
            hint="see to the disk's space and the folder's permissions, then run again",
        ) from error


def _sweep_parts(folder: Path) -> None:
    """Remove what killed writers of files left: it may name who was retracted since."""
    for path in folder.glob(".*.part*"):
        if path.is_file():
            path.unlink()


class AtlasFolder:
    """The folder of an embedded atlas, locked while this object lives.

    Parameters
    ----------
    root
        The folder.
    create
        Make an atlas where the folder is missing or empty.
    lock_timeout
        Seconds to wait for another process that holds it.

    Raises
    ------
    EmptyAtlasError
        If there is no atlas and `create` is false.
    AtlasLockedError
        If it is held for longer than `lock_timeout`.
    AtlasError
        If the folder holds something else, or a newer format.
    """

    def __init__(self, root: Path, *, create: bool, lock_timeout: float) -> None:
        self.root = root
        self._check_before(create=create)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AtlasError(f"cannot be made ({error.strerror})", where=root) from error
        self.lock = FolderLock(root / LOCK_FILE, timeout=lock_timeout)
        try:
            with written(root):
                self._check_marker(create=create)
                self._sweep()
        except BaseException:
            self.lock.release()
            raise

    def _foreign(self) -> list[str]:
        """Names in the folder that a half-made atlas would not have."""
        names = sorted(p.name for p in self.root.iterdir())
        return [n for n in names if n != LOCK_FILE and not n.startswith(f".{MARKER_FILE}")]

    def _check_before(self, *, create: bool) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise AtlasError(
                "is a file, not an atlas", where=self.root, hint="name the folder of an atlas"
            )
        if (self.root / MARKER_FILE).is_file():
            return
        foreign = self._foreign() if self.root.exists() else []
        if foreign:
            raise AtlasError(
                f"this folder is no atlas (it holds {foreign[0]!r} and no {MARKER_FILE})",
                where=self.root,
                hint="name an atlas, or a new or empty folder to make one",
            )
        if not create:
            raise EmptyAtlasError(
                "there is no atlas here", where=self.root, hint="make one with `bleepdb index`"
            )

    def _check_marker(self, *, create: bool) -> None:
        path = self.root / MARKER_FILE
        if not path.is_file():
            self._check_before(create=create)
            now = datetime.now(UTC).isoformat("T", "seconds")
            write_json(path, {"format": FORMAT, "version": VERSION, "created": now})
        document = read_document(path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise AtlasCorruptError(
                "does not say that this is an atlas",
                where=path,
                hint="restore the atlas from a copy",
            )
        if document.get("version") != VERSION:
            raise AtlasError(
                f"format version {document.get('version')!r:.20}, this bleepdb knows {VERSION}",
                where=path,
                hint="upgrade bleepdb",
            )

    def _sweep(self) -> None:
        """Remove what an interrupted creation, removal, write or index build left behind."""
        home = self.root / COLLECTIONS
        home.mkdir(exist_ok=True)
        _sweep_parts(self.root)
        for folder in [p for p in home.iterdir() if p.is_dir()]:
            if folder.name.startswith(UNFINISHED):
                shutil.rmtree(folder)
            else:
                self._sweep_shards(folder)
                for place in (folder, folder / BLOBS, *(folder / BLOBS).glob("*/")):
                    _sweep_parts(place)

    def _sweep_shards(self, folder: Path) -> None:
        try:
            used = self._shard_name(folder.name)
        except AtlasCorruptError:
            return  # said when the collection is used; until then nothing of it is touched
        for shard in [p for p in folder.iterdir() if SHARD_NAME.fullmatch(p.name)]:
            if shard.name != used:
                shutil.rmtree(shard)
            else:
                # The engine's builds begin here; one that was killed leaves its files for ever.
                shutil.rmtree(shard / "temp_segments", ignore_errors=True)

    # --- collections --------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of the collections, sorted."""
        home = self.root / COLLECTIONS
        found = (p for p in home.iterdir() if p.is_dir())
        return sorted(p.name for p in found if not p.name.startswith(UNFINISHED))

    def collection(self, name: str) -> Path:
        """Return the folder of a collection, which need not exist."""
        return self.root / COLLECTIONS / name

    @contextmanager
    def new_collection(self, spec: CollectionSpec) -> Iterator[Path]:
        """Give a folder to fill; on success it becomes the collection, on error it goes."""
        part = self.root / COLLECTIONS / f"{UNFINISHED}new-{secrets.token_hex(4)}"
        try:
            with written(part):
                (part / BLOBS).mkdir(parents=True)
                yield part
                self.write_spec(spec, part)
                part.rename(self.collection(spec.name))
                fsync_folder(self.root / COLLECTIONS)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def size(self, name: str) -> int:
        """Bytes that a collection takes on disk (its files are sparse)."""
        return disk_bytes(self.collection(name))

    def drop(self, name: str) -> None:
        """Remove a collection: out of sight in one step, then its files, then its aliases."""
        folder = self.collection(name)
        with written(folder):
            if folder.exists():
                gone = folder.with_name(f"{UNFINISHED}old-{secrets.token_hex(4)}")
                folder.rename(gone)
                fsync_folder(folder.parent)
                shutil.rmtree(gone)
            kept = {a: c for a, c in self.aliases().items() if c != name}
            if kept != self.aliases():
                write_json(self.root / ALIASES_FILE, kept)

    def shard(self, name: str) -> Path:
        """Return the folder of a collection's engine files."""
        return self.collection(name) / self._shard_name(name)

    def _shard_name(self, name: str) -> str:
        path = self.collection(name) / SPEC_FILE
        document = read_document(path)
        found = document.get("shard", FIRST_SHARD) if isinstance(document, dict) else None
        if not isinstance(found, str) or not SHARD_NAME.fullmatch(found):
            raise AtlasCorruptError("is damaged", where=path, hint="restore the atlas from a copy")
        return found

    @contextmanager
    def new_shard(self, name: str) -> Iterator[Path]:
        """Give a folder to fill with engine files; on success it takes the place of the present.

        Killed before, the present one counts; the other is removed when the atlas is next opened.
        """
        old = self.shard(name)
        new = self.collection(name) / f"{FIRST_SHARD}-{secrets.token_hex(4)}"
        try:
            with written(new):
                new.mkdir()
                yield new
                fsync_folder(self.collection(name))
                self.write_spec(self.read_spec(name), shard=new.name)
                shutil.rmtree(old)
        except BaseException:
            if self.shard(name) != new:
                shutil.rmtree(new, ignore_errors=True)
            raise

    def write_spec(
        self, spec: CollectionSpec, folder: Path | None = None, *, shard: str | None = None
    ) -> None:
        """Write what a collection is made with, and which shard folder counts (default: as now)."""
        if shard is None:
            shard = FIRST_SHARD if folder is not None else self._shard_name(spec.name)
        document = {
            "name": spec.name,
            "alias": spec.alias,
            "vectors": dict(spec.vectors),
            "keyword_fields": list(spec.keyword_fields),
            "shard": shard,
        }
        path = (folder or self.collection(spec.name)) / SPEC_FILE
        with written(path):
            write_json(path, document)

    def read_spec(self, name: str) -> CollectionSpec:
        """Read what a collection was made with.

        Raises
        ------
        AtlasCorruptError
            If the file is not what was written.
        """
        path = self.collection(name) / SPEC_FILE
        document = read_document(path)
        try:
            spec = CollectionSpec(
                document["name"],
                document["alias"],
                {str(k): int(v) for k, v in document["vectors"].items()},
                tuple(document["keyword_fields"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AtlasCorruptError(
                f"is damaged ({error!r})", where=path, hint="restore the atlas from a copy"
            ) from error
        if spec.name != name:
            raise AtlasCorruptError(
                f"belongs to collection {spec.name!r:.60}",
                where=path,
                hint="restore the atlas from a copy",
            )
        return spec

    # --- aliases, manifests, documents --------------------------------------------------------

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        path = self.root / ALIASES_FILE
        document = read_document(path) if path.is_file() else {}
        if not isinstance(document, dict) or not all(isinstance(v, str) for v in document.values()):
            raise AtlasCorruptError("is damaged", where=path, hint="restore the atlas from a copy")
        return document

    def set_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection, in one step."""
        path = self.root / ALIASES_FILE
        with written(path):
            write_json(path, {**self.aliases(), alias: collection})

    def read_manifest(self, name: str) -> Manifest | None:
        """Read a collection's manifest; None where it has none yet."""
        path = self.collection(name) / MANIFEST_FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AtlasCorruptError(f"cannot be read ({error.strerror})", where=path) from error
        manifest = Manifest.from_bytes(data, where=path)
        if manifest.collection != name:
            raise AtlasCorruptError(
                f"belongs to collection {manifest.collection!r}",
                where=path,
                hint="restore the atlas from a copy",
            )
        return manifest

    def write_manifest(self, name: str, manifest: Manifest) -> None:
        """Replace a collection's manifest, whole."""
        path = self.collection(name) / MANIFEST_FILE
        with written(path), whole_file(path) as part:
            part.write_bytes(manifest.to_bytes())

    def put_blob(self, name: str, blob: str, data: bytes) -> None:
        """Write a document of a collection, whole."""
        path = self.collection(name) / BLOBS / blob
        with written(path), whole_file(path) as part:
            part.write_bytes(data)

    def get_blob(self, name: str, blob: str) -> bytes | None:
        """Read a document of a collection; None where it is not."""
        path = self.collection(name) / BLOBS / blob
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise AtlasCorruptError(f"cannot be read ({error.strerror})", where=path) from error

    def drop_blob(self, name: str, blob: str) -> None:
        """Remove a document of a collection; nothing happens where it is not."""
        path = self.collection(name) / BLOBS / blob
        with written(path):
            if path.is_file():
                path.unlink()
                fsync_folder(path.parent)

    def list_blobs(self, name: str) -> list[str]:
        """Names of a collection's documents, sorted."""
        home = self.collection(name) / BLOBS
        found = (p for p in home.rglob("*") if p.is_file() and not p.name.startswith("."))
        return sorted(p.relative_to(home).as_posix() for p in found)
