"""What readers of an atlas share: find the collection, pin what is live, fetch profiles once."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.atlas.cache import TEXT_FIELDS, ProfileCache, SpotTable, packed_ids
from bleepdb.atlas.decoding import Helper, decoded
from bleepdb.atlas.manifest import live_where
from bleepdb.atlas.panels import get_panel
from bleepdb.counts import Counts
from bleepdb.errors import AtlasCorruptError, EmptyAtlasError, PayloadError
from bleepdb.names import (
    BARCODE,
    CODEC,
    DONOR,
    EXPR,
    LIBRARY_TOTAL,
    NNZ,
    PANEL,
    REV,
    SECTION,
    TOTAL,
    X_PX,
    Y_PX,
    alias_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.atlas.decoding import Runs
    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas, Record, Where
    from bleepdb.panel import Panel

RETRIEVE_AT_ONCE = 1000
AWAY_AT_ONCE = 2  # batches that wait for a helper or are decoded there
_EXPRESSION_FIELDS = (CODEC, NNZ, TOTAL, EXPR)
_FIELDS = (*TEXT_FIELDS, PANEL, X_PX, Y_PX, LIBRARY_TOTAL, *_EXPRESSION_FIELDS)
_NEEDED = frozenset(_FIELDS)


@dataclass(frozen=True)
class Pinned:
    """What one reader sees until it is done, whatever writers do meanwhile.

    Attributes
    ----------
    collection
        Full name.
    manifest
        As it stood. A reader compares its generation again before it writes its output.
    where
        The filter on live revisions, for every search.
    """

    collection: str
    manifest: Manifest
    where: Where


@dataclass(frozen=True)
class Profiles:
    """Raw counts and origin of distinct reference spots.

    Attributes
    ----------
    ids
        n point ids, each once, in the order in which they were first asked for.
    section, donor, barcode, rev
        (n,) str.
    xy_px
        (n, 2) float64, (x, y) level-0 pixels of the reference slide.
    library_total
        (n,) int64, counts of the spot over all genes that were read.
    total
        (n,) int64, counts of the spot over the genes of its panel.
    panels
        The panels met, in order of first use.
    panel
        (n,) int64, position in `panels` of each spot's panel.
    row
        (n,) int64, row of each spot in the counts of its panel.
    stored
        Raw counts by runs, one object a panel, (its spots, its genes).
    """

    ids: tuple[str, ...]
    section: NDArray[np.str_]
    donor: NDArray[np.str_]
    barcode: NDArray[np.str_]
    rev: NDArray[np.str_]
    xy_px: NDArray[np.float64]
    library_total: NDArray[np.int64]
    total: NDArray[np.int64]
    panels: tuple[Panel, ...]
    panel: NDArray[np.int64]
    row: NDArray[np.int64]
    stored: tuple[Counts, ...]

    @cached_property
    def counts(self) -> tuple[sp.csr_matrix, ...]:
        """The same as one CSR matrix a panel: uint16 or uint32, sorted indices. For small jobs."""
        return tuple(one.csr() for one in self.stored)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def panel_digests(self) -> tuple[str, ...]:
        """Digest of each panel in `panels`."""
        return tuple(p.digest for p in self.panels)

    def spots_of(self, panel: int) -> NDArray[np.int64]:
        """Return positions of the spots measured on a panel, in order of the rows of its counts."""
        return np.flatnonzero(self.panel == panel)


def resolve(atlas: Atlas, name: str) -> str:
    """Return the collection that a tissue, an alias or a collection's own name means.

    Raises
    ------
    EmptyAtlasError
        If there is none; the message lists what is there.
    """
    collections, aliases = atlas.collections(), atlas.aliases()
    if name in collections:
        return name
    try:
        wanted = [name, alias_name(name)]
    except ValueError:
        wanted = [name]
    for alias in wanted:
        if aliases.get(alias) in collections:
            return aliases[alias]
    reached = sorted(a.removeprefix("bleepdb_") for a, c in aliases.items() if c in collections)
    there = reached or collections
    raise EmptyAtlasError(
        f"nothing is indexed for {name!r:.80}",
        where=atlas.location,
        hint=f"there is: {', '.join(there)}" if there else "run `bleepdb index` first",
    )


def pin(atlas: Atlas, collection: str) -> Pinned:
    """Read the manifest once, for everything that one reader does.

    Raises
    ------
    EmptyAtlasError
        If no section is live.
    """
    manifest = atlas.read_manifest(collection)
    if not manifest.live:
        raise EmptyAtlasError(
            "no section is live here",
            where=f"{atlas.location}/{collection}",
            hint="run `bleepdb index`",
        )
    return Pinned(collection, manifest, live_where(manifest))


class _Spots:
    """Spots of one panel, in columns, in the order in which they came."""

    def __init__(self, panel: Panel, where: str) -> None:
        self.panel = panel
        self.payloads: list[Mapping[str, Any]] = []
        self.runs: list[Runs] = []
        self.ids: list[str] = []
        self.texts: dict[str, list[str]] = {name: [] for name in TEXT_FIELDS}
        self.places: list[tuple[float, float]] = []
        self.totals: list[tuple[int, int]] = []
        self._where = where
        self._sent: Future[list[Runs]] | None = None

    def add(self, record: Record) -> None:
        """Add one point, not yet decoded."""
        payload = record.payload
        self.payloads.append(payload)
        self.ids.append(record.id)
        for name, values in self.texts.items():
            values.append(str(payload[name]))
        self.places.append((payload[X_PX], payload[Y_PX]))
        self.totals.append((payload[LIBRARY_TOTAL], payload[TOTAL]))

    def send(self, helper: Helper) -> None:
        """Have a helper decode them."""
        self._sent = helper.send(self.payloads, len(self.panel))

    @property
    def ready(self) -> bool:
        """Whether the helper is done with them."""
        return self._sent is not None and self._sent.done()

    def _decode(self) -> None:
        """Decode them, or wait for the helper; PayloadError names the point."""
        if self._sent is not None:
            # Whatever went wrong there is found again here, or does not matter.
            with suppress(Exception):
                self.runs = self._sent.result()
        if len(self.runs) != len(self.ids):
            self.runs = [self._decoded(*both) for both in zip(self.ids, self.payloads, strict=True)]
        self.payloads.clear()

    def _decoded(self, identity: str, payload: Mapping[str, Any]) -> Runs:
        try:
            return decoded([payload], len(self.panel))[0]
        except PayloadError as error:
            raise PayloadError(
                f"point {identity}: {error.what}",
                where=self._where,
                hint=error.hint or "restore the atlas from a copy, or index the section again",
            ) from error

    def table(self) -> SpotTable:
        """Decode what was gathered and return it; PayloadError names the point."""
        self._decode()
        both = np.array(self.totals, dtype=np.int64).reshape(-1, 2)
        return SpotTable(
            panel=self.panel.digest,
            ids=packed_ids(self.ids),
            texts={name: np.array(values, dtype=np.str_) for name, values in self.texts.items()},
            xy_px=np.array(self.places, dtype=np.float64).reshape(-1, 2),
            library_total=both[:, 0],
            total=both[:, 1],
            counts=Counts.joined(len(self.panel), self.runs),
        )


def fetch_profiles(
    atlas: Atlas,
    collection: str,
    ids: Iterable[str],
    *,
    cache: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Profiles:
    """Fetch and decode the payloads of distinct points, each once.

    Parameters
    ----------
    ids
        Point ids, such as all neighbours of all queries; repeats cost nothing.
    cache
        Whether decoded spots are taken from the cache of this machine, and kept there
        (`bleepdb.atlas.cache`). What is no longer live is first removed from it.
    progress
        Called with (done, total) after each 1,000 points.

    Raises
    ------
    AtlasCorruptError
        If a point is not there (replaced or retracted since the search: ask again), or its panel.
    PayloadError
        If a payload does not decode; the message names the point.
    """
    distinct = tuple(dict.fromkeys(ids))
    kept = ProfileCache.of(atlas, collection) if cache and distinct else None
    tables: list[SpotTable] = []
    missing: Sequence[str] = distinct
    if kept is not None:
        tables, missing = kept.get(distinct)
        if progress is not None and tables:
            progress(len(distinct) - len(missing), len(distinct))
    done = len(distinct) - len(missing)
    panels: dict[str, Panel] = {}
    for table in tables:
        if table.panel not in panels:
            panels[table.panel] = get_panel(atlas, collection, table.panel)
    new: list[SpotTable] = []
    with ExitStack() as ends:
        helper = Helper.start(len(missing))
        if helper is not None:
            ends.enter_context(helper)
        away: list[_Spots] = []
        for start in range(0, len(missing), RETRIEVE_AT_ONCE):
            part = missing[start : start + RETRIEVE_AT_ONCE]
            for spots in _retrieved(atlas, collection, part, panels):
                if helper is not None and len(away) < AWAY_AT_ONCE:
                    spots.send(helper)
                    away.append(spots)
                    continue
                new.append(spots.table())
                while away and away[0].ready:
                    new.append(away.pop(0).table())
            if progress is not None:
                progress(done + start + len(part), len(distinct))
        new += [spots.table() for spots in away]
    if kept is not None and new:
        kept.add(new)
    return _joined(distinct, [*tables, *new], panels)


def _retrieved(
    atlas: Atlas, collection: str, ids: Sequence[str], panels: dict[str, Panel]
) -> list[_Spots]:
    """Retrieve some points by panel; panels not met before are read."""
    fetched: dict[str, _Spots] = {}
    where = f"{atlas.location}/{collection}"
    for record in atlas.retrieve(collection, ids, fields=_FIELDS):
        if not record.payload.keys() >= _NEEDED:
            lacking = next(name for name in _FIELDS if name not in record.payload)
            raise AtlasCorruptError(f"point {record.id} lacks {lacking!r}", where=where)
        digest = str(record.payload[PANEL])
        if digest not in panels:
            panels[digest] = get_panel(atlas, collection, digest)
        if digest not in fetched:
            fetched[digest] = _Spots(panels[digest], where)
        fetched[digest].add(record)
    return list(fetched.values())


def _joined(
    ids: tuple[str, ...], tables: Sequence[SpotTable], panels: Mapping[str, Panel]
) -> Profiles:
    """Put tables of spots into the order in which they were asked for."""
    every = np.concatenate([np.zeros(0, "S16"), *(t.ids for t in tables)])
    order = np.argsort(every)
    wanted = packed_ids(ids)
    # Position of each asked spot among the spots of all tables.
    place = order[np.searchsorted(every, wanted, sorter=order)] if len(ids) else order
    code = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(len(t), i) for i, t in enumerate(tables))]
    )[place]
    first = np.cumsum([0, *(len(t) for t in tables)])
    # Panels in order of first use.
    digests = np.array([t.panel for t in tables], dtype=np.str_)[code]
    _, firsts = np.unique(digests, return_index=True)
    named = digests[np.sort(firsts)].tolist()
    panel, row = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    stored = []
    for number, digest in enumerate(named):
        mine = np.flatnonzero(digests == digest)
        used = [i for i, t in enumerate(tables) if t.panel == digest]
        whole = Counts.together(len(panels[digest]), [tables[i].counts for i in used])
        begins = np.zeros(len(tables), np.int64)
        begins[used] = np.cumsum([0, *(len(tables[i]) for i in used)])[:-1]
        inside = place[mine] - first[code[mine]] + begins[code[mine]]
        stored.append(whole.take(inside))
        panel[mine], row[mine] = number, np.arange(len(mine))

    def column(values: Iterable[NDArray[Any]], none: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([none, *values])[place]

    texts = {
        name: column((t.texts[name] for t in tables), np.zeros(0, np.str_)) for name in TEXT_FIELDS
    }
    return Profiles(
        ids=ids,
        section=texts[SECTION],
        donor=texts[DONOR],
        barcode=texts[BARCODE],
        rev=texts[REV],
        xy_px=column((t.xy_px for t in tables), np.zeros((0, 2))),
        library_total=column((t.library_total for t in tables), np.zeros(0, np.int64)),
        total=column((t.total for t in tables), np.zeros(0, np.int64)),
        panels=tuple(panels[d] for d in named),
        panel=panel,
        row=row,
        stored=tuple(stored),
    )
