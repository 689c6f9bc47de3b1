"""What readers of an atlas share: find the collection, pin what is live, fetch profiles once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from bleepdb.atlas.manifest import live_where
from bleepdb.atlas.panels import get_panel
from bleepdb.atlas.payload import decode_fields
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
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas, Where
    from bleepdb.panel import Panel

RETRIEVE_AT_ONCE = 1000
_EXPRESSION_FIELDS = (CODEC, NNZ, TOTAL, EXPR)
_TEXT_FIELDS = (SECTION, DONOR, BARCODE, REV, PANEL)
_FIELDS = (*_TEXT_FIELDS, X_PX, Y_PX, LIBRARY_TOTAL, *_EXPRESSION_FIELDS)


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
    counts
        One CSR matrix a panel, (its spots, its genes): raw counts, uint16 or uint32, sorted
        indices.
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
    counts: tuple[sp.csr_matrix, ...]

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


class _Gathered:
    """Decoded spots of one panel, on their way into one matrix."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.genes: list[NDArray[Any]] = []
        self.counts: list[NDArray[Any]] = []

    def matrix(self) -> sp.csr_matrix:
        lengths = [len(g) for g in self.genes]
        # One width for both: index arrays of mixed widths make SciPy copy at every row taken.
        width = np.dtype(np.int32 if sum(lengths) < 2**31 else np.int64)
        indptr: NDArray[Any] = np.concatenate([[0], np.cumsum(lengths)]).astype(width)
        genes: NDArray[Any] = np.concatenate(self.genes).astype(width)
        counts: NDArray[Any] = np.concatenate(self.counts)  # as wide as the widest spot
        return sp.csr_matrix((counts, genes, indptr), shape=(len(lengths), len(self.panel)))


def fetch_profiles(
    atlas: Atlas,
    collection: str,
    ids: Iterable[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Profiles:
    """Fetch and decode the payloads of distinct points, each once.

    Parameters
    ----------
    ids
        Point ids, such as all neighbours of all queries; repeats cost nothing.
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
    gathered: dict[str, _Gathered] = {}
    texts: dict[str, list[str]] = {name: [] for name in _TEXT_FIELDS}
    places: list[tuple[float, float]] = []
    totals: list[tuple[int, int]] = []
    rows: list[int] = []
    for start in range(0, len(distinct), RETRIEVE_AT_ONCE):
        part = distinct[start : start + RETRIEVE_AT_ONCE]
        for record in atlas.retrieve(collection, part, fields=_FIELDS):
            payload = record.payload
            missing = [name for name in _FIELDS if name not in payload]
            if missing:
                raise AtlasCorruptError(
                    f"point {record.id} lacks {missing[0]!r}",
                    where=f"{atlas.location}/{collection}",
                )
            digest = str(payload[PANEL])
            if digest not in gathered:
                gathered[digest] = _Gathered(get_panel(atlas, collection, digest))
            mine = gathered[digest]
            try:
                genes, counts = decode_fields(payload, n_genes=len(mine.panel))
            except PayloadError as error:
                raise PayloadError(
                    f"point {record.id}: {error.what}",
                    where=f"{atlas.location}/{collection}",
                    hint=error.hint or "restore the atlas from a copy, or index the section again",
                ) from error
            rows.append(len(mine.genes))
            mine.genes.append(genes)
            mine.counts.append(counts)
            for name, values in texts.items():
                values.append(str(payload[name]))
            places.append((payload[X_PX], payload[Y_PX]))
            totals.append((payload[LIBRARY_TOTAL], payload[TOTAL]))
        if progress is not None:
            progress(min(start + RETRIEVE_AT_ONCE, len(distinct)), len(distinct))
    number = {digest: i for i, digest in enumerate(gathered)}
    both = np.array(totals, dtype=np.int64).reshape(-1, 2)
    return Profiles(
        ids=distinct,
        section=_text(texts[SECTION]),
        donor=_text(texts[DONOR]),
        barcode=_text(texts[BARCODE]),
        rev=_text(texts[REV]),
        xy_px=np.array(places, dtype=np.float64).reshape(-1, 2),
        library_total=both[:, 0],
        total=both[:, 1],
        panels=tuple(g.panel for g in gathered.values()),
        panel=np.array([number[d] for d in texts[PANEL]], dtype=np.int64),
        row=np.array(rows, dtype=np.int64),
        counts=tuple(g.matrix() for g in gathered.values()),
    )


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, dtype=np.str_)
