"""A snapshot: an atlas in read-only files that any number of processes map at once.

::

    NAME.snapshot/
        bleepdb-snapshot.json   what this folder is: manifests, aliases, files and their digests
        NAME OF COLLECTION/
            points.arrow        all live points, in order of their ids (schemas/snapshot.md)
            blobs/              model card, heads, panels

Nothing in it is ever written or locked. `write_snapshot` (snapshotting.py) makes it.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bleepdb.atlas import checks
from bleepdb.atlas.manifest import Manifest
from bleepdb.atlas.mapped import MappedRows
from bleepdb.atlas.protocol import CollectionSpec
from bleepdb.atlas.rows import RowsReader
from bleepdb.contracts import unsealed
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError
from bleepdb.files import disk_bytes, file_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bleepdb.atlas.protocol import Points, Where
    from bleepdb.atlas.rows import Rows

MARKER_FILE = "bleepdb-snapshot.json"
FORMAT = "bleepdb-snapshot"
VERSION = 1
SUFFIX = ".snapshot"
POINTS_FILE = "points.arrow"
BLOBS = "blobs"
_MEND = "write the snapshot again"


class SnapshotAtlas(RowsReader):
    """An atlas in the files of a snapshot. Answers as `ExactAtlas`; every write is refused.

    A collection's file is mapped when it is first asked for: vectors are never copied, and what
    is not asked for is never read.

    Parameters
    ----------
    location
        The folder.

    Raises
    ------
    EmptyAtlasError
        If there is no such folder.
    AtlasCorruptError
        If what it holds is not what was written.
    AtlasError
        If it is no snapshot, or of a newer format.
    """

    kind = "snapshot"

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self.root = Path(location)
        self._lock = threading.Lock()
        self._closed = False
        self._rows: dict[str, MappedRows] = {}
        self._document = read_marker(self.root)
        self._manifests: dict[str, Manifest] = {}
        self._specs: dict[str, CollectionSpec] = {}
        for name, about in self._document["collections"].items():
            manifest = Manifest.from_json(about["manifest"], where=self.root / MARKER_FILE)
            if manifest.collection != name:
                raise AtlasCorruptError(
                    f"{name} has the manifest of {manifest.collection}",
                    where=self.root / MARKER_FILE,
                    hint=_MEND,
                )
            self._manifests[name] = manifest
            self._specs[name] = CollectionSpec(
                name, about["alias"], manifest.vectors, manifest.keyword_fields
            )
            self._check_size(self.root / name / POINTS_FILE, about["points"])
            for blob, file in about["blobs"].items():
                self._check_size(self.root / name / BLOBS / blob, file)

    def _check_size(self, path: Path, about: Mapping[str, Any]) -> None:
        try:
            found = path.stat().st_size
        except OSError as error:
            raise AtlasCorruptError(
                f"cannot be read ({error.strerror})", where=path, hint=_MEND
            ) from error
        if found != about["bytes"]:
            raise AtlasCorruptError(
                f"has {found} of its {about['bytes']} bytes", where=path, hint=_MEND
            )

    def _about(self, collection: str) -> dict[str, Any]:
        if self._closed:
            raise AtlasError("this atlas was closed", where=self.location)
        found = self._document["collections"].get(collection)
        if found is None:
            raise checks.no_collection(collection, where=self.location)
        about: dict[str, Any] = found
        return about

    def _held(self, collection: str) -> tuple[CollectionSpec, Rows]:
        self._about(collection)
        with self._lock:
            spec = self._specs[collection]
            if collection not in self._rows:
                path = self.root / collection / POINTS_FILE
                spots = self._manifests[collection].spots
                self._rows[collection] = MappedRows(path, spec, rows=spots)
            return spec, self._rows[collection]

    # --- reading ------------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        if self._closed:
            raise AtlasError("this atlas was closed", where=self.location)
        return sorted(self._manifests)

    def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        self.collections()
        return dict(self._document["aliases"])

    def read_manifest(self, collection: str) -> Manifest:
        """Return the manifest as it stood when the snapshot was made."""
        self._about(collection)
        return self._manifests[collection]

    def list_blobs(self, collection: str) -> list[str]:
        """Names of all documents beside the manifest, sorted."""
        return sorted(self._about(collection)["blobs"])

    def get_blob(self, collection: str, name: str) -> bytes | None:
        """Read such a document; None where it is not. It is compared with its digest."""
        checks.check_blob_name(name, where=self._place(collection))
        about = self._about(collection)["blobs"].get(name)
        if about is None:
            return None
        path = self.root / collection / BLOBS / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AtlasCorruptError(
                f"cannot be read ({error.strerror})", where=path, hint=_MEND
            ) from error
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise AtlasCorruptError("is not what was written", where=path, hint=_MEND)
        return data

    def flush(self, collection: str) -> None:
        """Nothing is kept back."""
        self._about(collection)

    def optimize(self, collection: str) -> None:
        """There is no index to build."""
        self._about(collection)

    def check_files(self, collection: str) -> list[str]:
        """Compare a collection's files with their digests; return what is wrong, each a clause."""
        about = self._about(collection)
        files = {POINTS_FILE: about["points"]}
        files |= {f"{BLOBS}/{name}": file for name, file in about["blobs"].items()}
        found = []
        for name, file in files.items():
            path = self.root / collection / name
            try:
                same = file_digest(path) == file["sha256"]
            except OSError as error:
                found.append(f"{path}: cannot be read ({error.strerror})")
            else:
                if not same:
                    found.append(f"{path}: is not what was written")
        return found

    def close(self) -> None:
        """Let go of the files. Closing twice is fine."""
        with self._lock:
            self._closed = True
            self._rows.clear()

    # --- writing ------------------------------------------------------------------------------

    def _refuse(self) -> NoReturn:
        if self._closed:
            raise AtlasError("this atlas was closed", where=self.location)
        raise AtlasError(
            "a snapshot is read-only",
            where=self.location,
            hint="change the atlas that it was made from, then write a new snapshot; or "
            "`bleepdb atlas copy` it to an atlas that can be written",
        )

    def set_alias(self, alias: str, collection: str) -> None:  # noqa: ARG002 - refused
        """Refused."""
        self._refuse()

    def ensure(self, spec: CollectionSpec) -> None:  # noqa: ARG002 - refused
        """Refused."""
        self._refuse()

    def drop(self, collection: str) -> None:  # noqa: ARG002 - refused
        """Refused."""
        self._refuse()

    def upsert(self, collection: str, points: Points) -> None:  # noqa: ARG002 - refused
        """Refused."""
        self._refuse()

    def delete(self, collection: str, where: Where) -> None:
        """Refused, as any atlas refuses a filter that it cannot take."""
        checks.check_where(self._held(collection)[0], where, where=self._place(collection))
        checks.check_delete(where, where=self._place(collection))
        self._refuse()

    def swap_manifest(
        self,
        collection: str,  # noqa: ARG002 - refused
        expected_generation: int,  # noqa: ARG002 - refused
        new: Manifest,  # noqa: ARG002 - refused
    ) -> bool:
        """Refused."""
        self._refuse()

    def disk_bytes(self, collection: str) -> int:
        """Bytes that a collection takes on disk."""
        self._held(collection)
        return disk_bytes(self.root / collection)

    def put_blob(self, collection: str, name: str, data: bytes) -> None:  # noqa: ARG002 - refused
        """Refused."""
        self._refuse()

    def drop_blob(self, collection: str, name: str) -> None:  # noqa: ARG002 - refused
        """Refused."""
        self._refuse()


def read_marker(root: Path) -> dict[str, Any]:
    """Read the document that says what a snapshot holds.

    Raises
    ------
    EmptyAtlasError, AtlasCorruptError, AtlasError
        As `SnapshotAtlas`.
    """
    path = root / MARKER_FILE
    if not root.exists():
        raise EmptyAtlasError(
            "there is no snapshot here", where=root, hint="make one with `bleepdb atlas snapshot`"
        )
    if not path.is_file():
        raise AtlasError(
            f"this is no snapshot (it holds no {MARKER_FILE})",
            where=root,
            hint="name a folder that `bleepdb atlas snapshot` made",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AtlasCorruptError(
            f"cannot be read ({error.strerror})", where=path, hint=_MEND
        ) from error
    return unsealed(
        "snapshot", data, newest=VERSION, where=path, hint=_MEND,
        error=AtlasError, damaged=AtlasCorruptError,
    )  # fmt: skip
