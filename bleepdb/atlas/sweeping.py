"""Orphans: points that no manifest names, left by writers that were interrupted."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bleepdb.atlas.protocol import Where
from bleepdb.names import REV

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from bleepdb.atlas.protocol import Atlas


class _Registry:
    """Revisions that threads of this process are staging, so that none sweeps another's."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._staged: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def of(self, collection: str, revision: str) -> Iterator[None]:
        """Hold a revision as being staged while the block runs."""
        with self._lock:
            self._staged[collection, revision] += 1
        try:
            yield
        finally:
            with self._lock:
                self._staged[collection, revision] -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no thread begin to stage while the block runs."""
        with self._lock:
            yield

    def now(self, collection: str) -> set[str]:
        """Return the revisions of a collection that are being staged."""
        with self._lock:
            return {rev for (name, rev), n in self._staged.items() if name == collection and n > 0}


STAGING = _Registry()


def sole_writer(atlas: Atlas) -> bool:
    """Tell whether no other process can be staging: the embedded lock, or memory of this one."""
    return atlas.kind in {"embedded", "exact"}


def sweep(atlas: Atlas, collection: str, *, keep: Collection[str] = ()) -> int:
    """Delete orphans: points whose revision is neither live nor being staged by this process.

    Safe while no other process writes, which the lock of an embedded atlas ensures. Where several
    may write at once, the revisions that the others are staging must be in `keep`, so that
    commits to a server do not sweep by themselves.

    Returns
    -------
    int
        How many points there were.
    """
    # In this order: what another thread staged before the facet is registered or live after it.
    found = atlas.facet(collection, REV)
    return delete_revisions(atlas, collection, [rev for rev in found if rev not in keep])


def delete_revisions(atlas: Atlas, collection: str, revisions: Iterable[str]) -> int:
    """Delete the points of these revisions, but for those that are live or being staged.

    No thread begins to stage between the look and the deletion: it would count points of an
    earlier attempt as there already, and publish a revision whose points are about to go.
    """
    with STAGING.held():
        kept = STAGING.now(collection)
        kept |= atlas.read_manifest(collection).revisions
        dead = sorted(set(revisions) - kept)
        if not dead:
            return 0
        where = Where(must={REV: dead})
        number = atlas.count(collection, where)
        atlas.delete(collection, where)
        atlas.flush(collection)
        return number
