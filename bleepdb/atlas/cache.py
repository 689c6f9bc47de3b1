"""Decoded spots on this machine's disk, by point id, so that a second query decodes nothing.

A point's id is made from its section, revision and barcode, and a revision never changes, so what
was decoded once stays right. Each atlas and collection has a folder of its own, since an atlas
could lie about another's ids. The cache never says what is live: when it is opened, spots of
revisions that the manifest no longer lists are removed from the disk, bytes and all.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bleepdb.atlas.segment import TEXT_FIELDS, Segment, SpotTable, packed_ids, write_segment
from bleepdb.errors import AtlasCorruptError
from bleepdb.files import cache_dir, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bleepdb.atlas.protocol import Atlas

__all__ = ["TEXT_FIELDS", "ProfileCache", "SpotTable", "packed_ids", "purge"]

log = logging.getLogger(__name__)

FOLDER: Final = "profiles"
SUFFIX: Final = ".spots"
MEMORY_KIND: Final = "exact"
GB_SETTING: Final = "BLEEPDB_CACHE_GB"
DEFAULT_GB: Final = 8.0
DISK_RESERVE: Final = 2**28
MOST_SEGMENTS: Final = 64
LEFT_BEHIND_S: Final = 3600.0


def most_bytes() -> int:
    """How large all cached spots may be: ``BLEEPDB_CACHE_GB``, 8 by default, 0 for no cache."""
    text = os.environ.get(GB_SETTING, "")
    try:
        size = float(text) if text else DEFAULT_GB
    except ValueError:
        log.warning("%s=%s is no number: %g is taken", GB_SETTING, text[:40], DEFAULT_GB)
        size = DEFAULT_GB
    return int(min(max(size, 0.0), 2.0**30) * 2**30)


def purge(revisions: Iterable[str]) -> int:
    """Remove all spots of some revisions from the caches of all atlases, bytes and all.

    Returns
    -------
    int
        How many spots were removed.

    Raises
    ------
    OSError
        If a file cannot be removed.
    """
    gone = frozenset(revisions)
    root = cache_dir() / FOLDER
    for part in root.glob("*/.*.part"):  # a killed writer's; one that is at work keeps nothing
        part.unlink(missing_ok=True)
    return sum(_remove(folder, gone) for folder in sorted(root.glob("*")) if folder.is_dir())


class ProfileCache:
    """The cached spots of one collection.

    Parameters
    ----------
    folder
        Where its segments are.
    atlas, collection
        Whose manifest says what is live.
    """

    def __init__(self, folder: Path, atlas: Atlas, collection: str) -> None:
        self.folder = folder
        self._atlas, self._collection = atlas, collection

    @classmethod
    def of(cls, atlas: Atlas, collection: str) -> ProfileCache | None:
        """Open the cache of a collection; what is no longer live goes from the disk.

        None where there can be no cache: for an atlas in memory, where the setting is 0, or
        where the folder cannot be used.
        """
        if atlas.kind == MEMORY_KIND or not most_bytes():
            return None
        where = atlas.location
        if "://" not in where:
            where = str(Path(where).resolve())
        try:
            root = cache_dir() / FOLDER
            folder = root / digest(FOLDER, where, collection)[:32]
            for one in (root, folder):
                one.mkdir(exist_ok=True, mode=0o700)
                one.chmod(0o700)
            made = cls(folder, atlas, collection)
            made.drop_dead()
        except OSError as error:
            log.warning("decoded profiles are not cached: %s", error)
            return None
        return made

    def drop_dead(self) -> int:
        """Remove the spots whose revision is no longer live; return how many."""
        live = self._atlas.read_manifest(self._collection).revisions
        held = {r for segment in _segments(self.folder) for r in segment.revisions}
        return _remove(self.folder, held - live) if held - live else 0

    def get(self, ids: Sequence[str]) -> tuple[list[SpotTable], tuple[str, ...]]:
        """Return what is cached of some points, and the ids of the others."""
        try:
            wanted = packed_ids(ids)
        except ValueError:
            return [], tuple(ids)  # the atlas says what is wrong with them
        tables: list[SpotTable] = []
        missing = np.ones(len(ids), dtype=bool)
        for segment in _segments(self.folder):
            asked = np.flatnonzero(missing)
            if not len(asked):
                break
            try:
                rows = segment.find(wanted[asked])
                if (rows >= 0).any():
                    tables.append(segment.table(rows[rows >= 0]))
                    missing[asked[rows >= 0]] = False
            except AtlasCorruptError as error:
                _drop(segment.path, error)
        return tables, tuple(ids[i] for i in np.flatnonzero(missing).tolist())

    def add(self, tables: Sequence[SpotTable]) -> None:
        """Keep decoded spots, a segment a panel. Where that fails, nothing is kept but a warning.

        The manifest is read again afterwards: a section that was retracted while its spots were
        on their way leaves the disk at once.
        """
        try:
            for panel in dict.fromkeys(t.panel for t in tables):
                _write(self.folder, [t for t in tables if t.panel == panel])
            self.drop_dead()
            _merge(self.folder)
            _bound(self.folder.parent)
        except OSError as error:
            log.warning("decoded profiles are not cached: %s", error)


def _segments(folder: Path) -> list[Segment]:
    """Open segments, the newest first; files that are none are dropped."""
    made = []
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=_age, reverse=True):
        try:
            made.append(Segment(path))
        except FileNotFoundError:
            continue  # another process replaced it
        except (AtlasCorruptError, OSError) as error:
            _drop(path, error)
    return made


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _drop(path: Path, error: Exception) -> None:
    log.warning("cached profiles are dropped and fetched again (%s)", error)
    path.unlink(missing_ok=True)


def _write(folder: Path, tables: Sequence[SpotTable]) -> None:
    """Write one segment: under a name of its own, which it takes when it is whole."""
    size = sum(2 * int(t.counts.nnz.sum()) + 256 * len(t) for t in tables)
    if size > most_bytes():
        return
    if shutil.disk_usage(folder).free < 2 * size + DISK_RESERVE:
        log.warning("decoded profiles are not cached: %s is nearly full", folder)
        return
    name = secrets.token_hex(8)
    part = folder / f".{name}.part"
    try:
        # Not flushed to the disk: what a power cut leaves of it fails its checksum.
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - opened for its owner alone
            write_segment(file, tables)
        with suppress(FileNotFoundError):  # purged meanwhile
            part.replace(folder / f"{name}{SUFFIX}")
    finally:
        part.unlink(missing_ok=True)


def _remove(folder: Path, revisions: frozenset[str] | set[str]) -> int:
    """Rewrite the segments of a folder without some revisions; return how many spots went."""
    count = 0
    for segment in _segments(folder):
        if not segment.revisions & revisions:
            continue
        try:
            kept = segment.without(revisions)
        except AtlasCorruptError as error:
            _drop(segment.path, error)
            continue
        count += segment.spots - len(kept)
        if len(kept):
            _write(folder, [kept])
        segment.path.unlink(missing_ok=True)
    return count


def _merge(folder: Path) -> None:
    """Where there are many segments, make one of the smaller half of each panel."""
    segments = _segments(folder)
    if len(segments) <= MOST_SEGMENTS:
        return
    small = sorted(segments, key=lambda s: s.spots)[: len(segments) // 2]
    for panel in {s.panel for s in small}:
        mine = [s for s in small if s.panel == panel]
        try:
            tables = [s.table() for s in mine]
        except AtlasCorruptError:
            continue  # found and dropped when it is next asked
        _write(folder, tables)
        for segment in mine:
            segment.path.unlink(missing_ok=True)


def _bound(root: Path) -> None:
    """Remove the oldest segments of all atlases until the rest fits; and what a kill left."""
    files = []
    for path in root.glob("*/*"):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        if path.suffix == ".part" and time.time() - state.st_mtime > LEFT_BEHIND_S:
            path.unlink(missing_ok=True)
            continue
        files.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files, key=lambda f: f[0]):
        if total <= most_bytes():
            break
        path.unlink(missing_ok=True)
        total -= size
