"""One file of decoded spots: plain arrays behind a small header, mapped when it is read.

Layout, little-endian: 8 bytes of magic, header length and CRC-32 of the header as uint32, the
header as JSON padded with blanks to a multiple of 64 bytes, then the arrays, each padded likewise.
The header names each array with its dtype, shape and place, and holds the CRC-32 of all that
follows it. A file is written once, under a name of its own, and never changed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.counts import Counts
from bleepdb.errors import AtlasCorruptError
from bleepdb.names import BARCODE, DONOR, REV, SECTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

MAGIC = b"BDBSPOT1"
ALIGNED = 64
MOST_HEADER = 2**26
TEXT_FIELDS = (SECTION, DONOR, BARCODE, REV)
CODED = (SECTION, DONOR, REV)  # few distinct values: numbers into lists of the header
_HEAD = struct.Struct("<8sII")
_KINDS = {
    "ids": "S16", "row": "<i4", "section": "<i4", "donor": "<i4", "rev": "<i4", "xy_px": "<f8",
    "library_total": "<i8", "total": "<i8", "run_start": "<i8", "run_count": "<u4",
    "run_length": "<i4",
}  # fmt: skip


def packed_ids(ids: Sequence[str]) -> NDArray[np.bytes_]:
    """Return point ids as (n,) S16; ValueError where one is no UUID."""
    data = bytes.fromhex("".join(ids).replace("-", ""))
    if len(data) != 16 * len(ids):
        message = "an id is no UUID"
        raise ValueError(message)
    return np.frombuffer(data, "S16")


@dataclass(frozen=True)
class SpotTable:
    """Decoded spots of one panel, in columns.

    Attributes
    ----------
    panel
        Digest of the panel.
    ids
        (n,) S16, the bytes of the point ids.
    texts
        (n,) str of each of `TEXT_FIELDS`.
    xy_px, library_total, total
        As `bleepdb.atlas.reading.Profiles`.
    counts
        Raw counts by runs.
    """

    panel: str
    ids: NDArray[np.bytes_]
    texts: Mapping[str, NDArray[np.str_]]
    xy_px: NDArray[np.float64]
    library_total: NDArray[np.int64]
    total: NDArray[np.int64]
    counts: Counts

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> SpotTable:
        """Return some of the spots."""
        return SpotTable(
            self.panel,
            self.ids[rows],
            {name: values[rows] for name, values in self.texts.items()},
            self.xy_px[rows],
            self.library_total[rows],
            self.total[rows],
            self.counts.take(rows),
        )


def _padded(size: int) -> int:
    return -size % ALIGNED


def write_segment(file: BinaryIO, tables: Sequence[SpotTable]) -> None:
    """Write spots of one panel; the genes are copied a page at a time."""
    counts = Counts.together(tables[0].counts.n_genes, [t.counts for t in tables])
    ids = np.concatenate([t.ids for t in tables])
    order = np.argsort(ids, kind="stable")
    texts = {f: np.concatenate([t.texts[f] for t in tables]) for f in TEXT_FIELDS}
    coded = {f: np.unique(texts[f], return_inverse=True) for f in CODED}
    barcode = texts[BARCODE].astype(f"<U{max(1, texts[BARCODE].dtype.itemsize // 4)}")
    arrays: dict[str, NDArray[Any]] = {
        "ids": ids[order],
        "row": order.astype(np.int32),
        **{f: codes.astype(np.int32) for f, (_, codes) in coded.items()},
        "barcode": barcode,
        "xy_px": np.concatenate([t.xy_px for t in tables]),
        "library_total": np.concatenate([t.library_total for t in tables]),
        "total": np.concatenate([t.total for t in tables]),
        "run_start": counts.run_start,
        "run_count": counts.run_count,
        "run_length": counts.run_length,
    }
    kind = np.dtype("<u2" if counts.n_genes <= 2**16 else "<u4")
    places: dict[str, tuple[str, list[int], int]] = {}
    at = 0
    for name, array in arrays.items():
        arrays[name] = np.ascontiguousarray(array, dtype=_KINDS.get(name, array.dtype))
        places[name] = (arrays[name].dtype.str, list(array.shape), at)
        at += arrays[name].nbytes + _padded(arrays[name].nbytes)
    places["genes"] = (kind.str, [int(counts.nnz.sum())], at)
    about = {
        "panel": tables[0].panel,
        "n_genes": counts.n_genes,
        "spots": len(counts),
        "names": {f: values.tolist() for f, (values, _) in coded.items()},
        "arrays": places,
        "bytes": at + places["genes"][1][0] * kind.itemsize,
        "crc32": 0,
    }
    room = len(json.dumps(about)) + 16  # the checksum is known when all is written
    room += -(_HEAD.size + room) % ALIGNED
    file.write(bytes(_HEAD.size + room))
    crc = 0
    for block in _blocks(arrays, counts, kind):
        file.write(block)
        crc = zlib.crc32(block, crc)
    header = json.dumps(about | {"crc32": crc}).encode().ljust(room)
    file.seek(0)
    file.write(_HEAD.pack(MAGIC, room, zlib.crc32(header)) + header)


def _blocks(
    arrays: Mapping[str, NDArray[Any]], counts: Counts, kind: np.dtype[Any]
) -> Iterator[bytes | memoryview]:
    for array in arrays.values():
        if array.nbytes:
            yield array.reshape(-1).view(np.uint8).data
        yield bytes(_padded(array.nbytes))
    for rows in counts.pages():
        yield counts.genes_of(rows).astype(kind, copy=False).view(np.uint8).data


class Segment:
    """An open segment.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    AtlasCorruptError
        If it is not what `write_segment` wrote, or belongs to somebody else.
    FileNotFoundError
        If it went away meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if hasattr(os, "getuid") and state.st_uid != os.getuid():
                raise self._wrong("belongs to somebody else")
            head = file.read(_HEAD.size).ljust(_HEAD.size)
            magic, room, crc = _HEAD.unpack(head)
            header = file.read(room) if magic == MAGIC and room <= MOST_HEADER else b""
            if not header or len(header) < room or zlib.crc32(header) != crc:
                raise self._wrong("is no file of spots")
            try:
                about = json.loads(header)
                self.panel, self.n_genes = str(about["panel"]), int(about["n_genes"])
                self.names: dict[str, list[str]] = {
                    f: [str(text) for text in about["names"][f]] for f in CODED
                }
                self._places, size = about["arrays"], int(about["bytes"])
                self._crc32, self.spots = int(about["crc32"]), int(about["spots"])
            except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
                raise self._wrong("has a header of another kind") from error
            begin = _HEAD.size + room
            if state.st_size != begin + size or size < 1:
                raise self._wrong("is cut off")
            # Mapped while it is open: another process may remove it at any time.
            self._mapped = np.memmap(file, np.uint8, "r", offset=begin, shape=(size,))
        self._sound = False

    def _wrong(self, what: str) -> AtlasCorruptError:
        return AtlasCorruptError(what, where=self.path)

    @property
    def revisions(self) -> frozenset[str]:
        """Revisions of its spots."""
        return frozenset(self.names[REV])

    def _array(self, name: str) -> NDArray[Any]:
        try:
            text, shape, at = self._places[name]
            kind = np.dtype(_KINDS.get(name, text))
            count = int(np.prod(shape, dtype=np.int64))
            known = kind.str in {text, f"|{text}"} and kind.kind in "iufUS"
            if known:
                return np.frombuffer(self._mapped, kind, count, at).reshape(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong("lacks what its header names") from error
        raise self._wrong("holds numbers of another kind")

    @cached_property
    def _ids(self) -> NDArray[np.bytes_]:
        return self._array("ids")

    def find(self, ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return the row of each id, (n,) int64; -1 where it is not here."""
        self.check()
        if not len(self._ids):
            return np.full(len(ids), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[at] == ids, self._array("row")[at], -1).astype(np.int64)

    def check(self) -> None:
        """Compare all of it with its checksum, once; and that no number points outside.

        Raises
        ------
        AtlasCorruptError
            If something differs.
        """
        if self._sound:
            return
        if zlib.crc32(self._mapped.data) != self._crc32:
            raise self._wrong("is damaged")
        n, genes = self.spots, self._array("genes")
        run_start, run_length = self._array("run_start"), self._array("run_length")
        codes = [(self._array(f), len(self.names[f])) for f in CODED]
        row = self._array("row")
        columns = [self._array(c) for c in ("ids", "barcode", "xy_px", "library_total", "total")]
        sound = (
            all(len(c) == n for c in (*columns, row, *(c for c, _ in codes)))
            and len(run_start) == n + 1
            and len(run_length) == len(self._array("run_count")) == run_start[-1]
            and run_start[0] == 0
            and (np.diff(run_start) >= 0).all()
            and (run_length >= 0).all()
            and run_length.sum(dtype=np.int64) == len(genes)
            and (not len(genes) or genes.max() < self.n_genes)
            and all(not n or (c.min() >= 0 and c.max() < m) for c, m in codes)
            and (not n or (row.min() >= 0 and row.max() < n))
        )
        if not sound:
            raise self._wrong("points outside itself")
        self._sound = True

    def table(self, rows: NDArray[np.int64] | None = None) -> SpotTable:
        """Return some of its spots, or all; their genes stay mapped."""
        self.check()
        run_start, run_length = self._array("run_start"), self._array("run_length")
        ends = np.concatenate([[0], np.cumsum(run_length, dtype=np.int64)])
        counts = Counts(
            n_genes=self.n_genes,
            stores=(self._array("genes"),),
            store=np.zeros(self.spots, np.int32),
            start=ends[run_start[:-1]],
            run_start=run_start,
            run_count=self._array("run_count"),
            run_length=run_length,
        )
        chosen = np.arange(self.spots) if rows is None else rows
        ids = np.empty(self.spots, "S16")
        ids[self._array("row")] = self._ids
        texts = {BARCODE: self._array("barcode")[chosen]}
        for name in CODED:
            texts[name] = np.array(self.names[name], dtype=np.str_)[self._array(name)[chosen]]
        return SpotTable(
            self.panel,
            ids[chosen],
            texts,
            self._array("xy_px")[chosen],
            self._array("library_total")[chosen],
            self._array("total")[chosen],
            counts.take(chosen),
        )

    def without(self, revisions: Iterable[str]) -> SpotTable:
        """Return the spots of other revisions."""
        lost = set(revisions)
        bad = np.array([name in lost for name in self.names[REV]], dtype=bool)
        return self.table(np.flatnonzero(~bad[self._array(REV)]))
