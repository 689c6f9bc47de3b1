"""Small tables of text, read with the line of every row, so that a fault can be named."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SHOWN = 5
STEP_BYTES = 2**22
MOST_BYTES = 2**30
"""A table of text that unpacks to more than this is refused: those of a section are a hundred
times smaller."""
CORRECT = "correct the table and run again"


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV or TSV (UTF-8, with or without byte order mark, gzip or plain).

    The delimiter is the one that the name tells (tab for ``.tsv``, else comma), or, where the
    first line has none of it, the commonest of tab, semicolon and comma.

    Returns
    -------
    list
        (line number from 1, stripped cells); rows that are blank are left out.

    Raises
    ------
    SectionError
        If the file is missing, is not UTF-8 text, or is not a table.
    """
    rows: list[tuple[int, list[str]]] = []
    try:
        with io.StringIO(unpacked(path).decode("utf-8-sig"), newline="") as handle:
            first = handle.readline()
            handle.seek(0)
            reader = csv.reader(handle, delimiter=_delimiter(path, first), strict=True)
            line = 1
            for cells in reader:
                stripped = [c.strip() for c in cells]
                if any(stripped):
                    rows.append((line, stripped))
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise SectionError("not UTF-8 text", where=path, hint="save it as UTF-8") from error
    except csv.Error as error:
        raise SectionError(
            f"not a readable table ({error})", where=path, hint="save it again as CSV or TSV"
        ) from error
    return rows


def unpacked(path: Path, *, first: int | None = None) -> bytes:
    """Return the bytes of a file, unpacked where its name ends in ``.gz``, within a limit.

    Parameters
    ----------
    first
        Return no more than this many bytes.

    Raises
    ------
    SectionError
        If the file is missing, damaged, or unpacks to more than 1 GiB.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as handle:
            if first is not None:
                return handle.read(first)
            # In steps: asked for all at once, the limit itself would be allocated.
            parts, left = [], MOST_BYTES + 1
            while left and (part := handle.read(min(left, STEP_BYTES))):
                parts.append(part)
                left -= len(part)
            data = b"".join(parts)
    except FileNotFoundError:
        raise SectionError("no such file", where=path, hint="check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise SectionError(
            f"cannot be read, it may be damaged or incomplete ({error})",
            where=path,
            hint="fetch the file again",
        ) from error
    if len(data) > MOST_BYTES:
        raise SectionError(
            f"{'unpacks to' if packed else 'has'} more than 1 GiB: not a table of one section",
            where=path,
            hint="fetch or write the file again",
        )
    return data


def _delimiter(path: Path, first: str) -> str:
    stem = path.name.lower().removesuffix(".gz")
    named = "\t" if stem.endswith((".tsv", ".tab")) else ","
    return named if named in first else max("\t;,", key=first.count)


@dataclass(frozen=True)
class Table:
    """A table with a header, its cells as text.

    Parameters
    ----------
    path
        The file, for messages.
    header
        Column names.
    rows
        Cells of each row, as many as the header has.
    lines
        Line of each row in the file, from 1.
    """

    path: Path
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table whose first row is its header.

        Raises
        ------
        SectionError
            If it has no rows, or rows with another number of cells than the header has.
        """
        rows = read_rows(path)
        if not rows:
            raise SectionError("an empty table", where=path, hint=CORRECT)
        return cls.made(path, rows[0][1], rows[1:])

    @classmethod
    def made(
        cls, path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]]
    ) -> Table:
        """Check that every row has the header's number of cells.

        Raises
        ------
        SectionError
            If there are no rows, or some have another number of cells.
        """
        if not rows:
            raise SectionError("a table without rows", where=path, hint=CORRECT)
        wrong = [f"line {n} has {len(c)}" for n, c in rows if len(c) != len(header)]
        if wrong:
            raise SectionError(
                f"{len(wrong)} rows do not have the header's {len(header)} cells: {_some(wrong)}",
                where=path,
                hint=CORRECT,
            )
        return cls(path, header, [c for _, c in rows], [n for n, _ in rows])

    def has(self, *names: str) -> bool:
        """Tell whether all of these columns are there."""
        return set(names) <= set(self.header)

    def text(self, name: str) -> list[str]:
        """Cells of a column, none empty.

        Raises
        ------
        SectionError
            If the column is missing or has empty cells.
        """
        if name not in self.header:
            raise SectionError(
                f"no column {name} (there are {', '.join(self.header[:12])})",
                where=self.path,
                hint=CORRECT,
            )
        at = list(self.header).index(name)
        cells = [row[at] for row in self.rows]
        empty = [f"line {n}" for n, c in zip(self.lines, cells, strict=True) if not c]
        if empty:
            raise SectionError(
                f"column {name} is empty in {_some(empty)}", where=self.path, hint=CORRECT
            )
        return cells

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Cells of a column as finite numbers, float64.

        Raises
        ------
        SectionError
            If the column is missing or a cell is not a finite number.
        """
        cells = self.text(name)
        values = np.array([_number(c) for c in cells], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values)).tolist()
        if bad:
            shown = _some([f"line {self.lines[i]} has {cells[i][:20]!r}" for i in bad])
            raise SectionError(
                f"column {name} is not a number: {shown}", where=self.path, hint=CORRECT
            )
        return values

    def take(self, kept: NDArray[np.bool_]) -> Table:
        """Return the table of the rows where `kept` holds."""
        at = np.flatnonzero(kept).tolist()
        return Table(
            self.path, self.header, [self.rows[i] for i in at], [self.lines[i] for i in at]
        )


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def refuse_duplicates(names: Sequence[str], what: str, where: Path) -> None:
    """Refuse names that stand more than once.

    Raises
    ------
    SectionError
        It names the first few.
    """
    values, counts = np.unique(np.asarray(names, dtype=np.str_), return_counts=True)
    twice = values[counts > 1].tolist()
    if twice:
        raise SectionError(
            f"{len(twice)} {what} stand more than once: {_some(twice)}",
            where=where,
            hint="make the names unique",
        )
