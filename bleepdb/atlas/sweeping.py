"""Dead points: those that no manifest names, left by interrupted writers, and how they go.

Where one process writes alone (the lock of an embedded atlas) every point whose revision is
neither live nor being staged by a thread of this process is dead. On a server that several
processes share, writers say in the manifest what they stage, and a revision is condemned in the
manifest before its points are deleted; nobody stages a condemned one. So no writer deletes what
another has written, and a writer whose staging was swept learns of it before it publishes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bleepdb.atlas.entries import Condemned, LogEntry, age_s, now
from bleepdb.atlas.protocol import Where
from bleepdb.errors import AtlasCorruptError, AtlasError
from bleepdb.names import REV

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas

MOST_RACES = 1000  # lost compare-and-swaps before a writer gives up
CONDEMNED_S = 300.0  # above two deadlines of a request: after it, who condemned is taken for dead
ABANDONED_S = 24 * 3600.0  # after this long who stages a revision is taken for dead


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


def swap(
    atlas: Atlas, collection: str, successor: Callable[[Manifest], Manifest | None]
) -> tuple[Manifest, Manifest]:
    """Replace the manifest by its successor, again and again until no other writer came between.

    Returns the manifest before and after. Where `successor` gives None there is nothing left to
    do, and both are the same object.
    """
    for _ in range(MOST_RACES):
        present = atlas.read_manifest(collection)
        new = successor(present)
        if new is None:
            return present, present
        if atlas.swap_manifest(collection, present.generation, new):
            return present, new
        time.sleep(0.001)
    raise AtlasError(
        f"other writers came first {MOST_RACES} times",
        where=f"{atlas.location}/{collection}",
        hint="run again when they are done; what was staged is kept",
    )


def sweep(atlas: Atlas, collection: str, *, keep: Collection[str] = ()) -> int:
    """Delete orphans: points whose revision is neither live nor being staged by this process.

    Safe while no other process writes, which the lock of an embedded atlas ensures. Where several
    may write at once, `vacuum` is what to call.

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
    earlier attempt as there already, and publish a revision whose points are about to go. On a
    shared server only condemned revisions are deleted, and those nobody stages.

    Raises
    ------
    AtlasCorruptError
        If this process stood still for so long between the two that another took it for dead and
        published a revision again, whose points are gone now.
    """
    wanted = set(revisions)
    with STAGING.held():
        # Counted before the look, upon which the deletion follows at once.
        present = atlas.read_manifest(collection)
        where = Where(must={REV: sorted(wanted - present.revisions)})
        counts = atlas.facet(collection, REV, where)
        present = atlas.read_manifest(collection)
        dead = wanted - present.revisions
        if sole_writer(atlas):
            dead -= STAGING.now(collection)
        else:
            dead &= {c.revision for c in present.condemned}
        if dead:
            atlas.delete(collection, Where(must={REV: sorted(dead)}))
            atlas.flush(collection)
    gone = frozenset(dead)

    def forgotten(manifest: Manifest) -> Manifest | None:
        back = [s.section for s in manifest.live if s.revision in gone]
        if back:
            raise AtlasCorruptError(
                f"section {back[0]} was published again while its deletion stood still, and lost "
                "its points",
                where=f"{atlas.location}/{collection}",
                hint="retract it and index it again",
            )
        here = {c.revision for c in manifest.condemned} & gone
        return manifest.without_condemned(here) if here else None

    if gone and present.condemned:
        swap(atlas, collection, forgotten)
    return sum(counts.get(rev, 0) for rev in dead)


def vacuum(
    atlas: Atlas, collection: str, *, abandoned_after_s: float = ABANDONED_S, actor: str
) -> int:
    """Delete all dead points, whoever left them.

    Parameters
    ----------
    abandoned_after_s
        On a server, seconds after which a writer that has not finished is taken for dead; should
        it live, it is told when it wants to publish, and loses nothing but time.
    actor
        Who does it, for the log.

    Returns
    -------
    int
        How many points there were.
    """
    if sole_writer(atlas):
        return sweep(atlas, collection)
    deleting_s = min(CONDEMNED_S, abandoned_after_s)
    found = atlas.facet(collection, REV)

    mine: set[str] = set()

    def condemning(present: Manifest) -> Manifest | None:
        mine.clear()
        fresh = {s.revision for s in present.staging if age_s(s.since) <= abandoned_after_s}
        given_up = {s.token for s in present.staging if age_s(s.since) > abandoned_after_s}
        at_work = {c.revision for c in present.condemned if age_s(c.since) <= deleting_s}
        sections = {s.revision: s.section for s in present.staging}
        sections |= {c.revision: c.section for c in present.condemned}
        dead = {*found, *sections} - present.revisions - fresh - at_work - STAGING.now(collection)
        if not dead and not given_up:
            return None
        mine.update(dead)
        new = (Condemned(rev, sections.get(rev, ""), now()) for rev in sorted(dead))
        return present.with_condemned(new, abandoned=given_up)

    before, after = swap(atlas, collection, condemning)
    if before is after:
        return 0
    number = delete_revisions(atlas, collection, mine)
    if number:
        entry = LogEntry.now(actor, f"vacuumed {number} points of {len(mine)} dead revisions")
        swap(atlas, collection, lambda present: present.with_entry(entry))
    return number
