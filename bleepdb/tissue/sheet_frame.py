"""What every sheet is: a header of known names and fields, and rows as wide as it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bleepdb.errors import SectionError, SheetError
from bleepdb.names import RESERVED_FIELDS
from bleepdb.tissue.readers.tables import read_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

LONGEST_SHOWN: Final = 40
FIELD_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

Fault = tuple[str, str]
"""A column and what is wrong in it."""


@dataclass(frozen=True)
class Frame:
    """A sheet before its rows are judged.

    Attributes
    ----------
    rows
        (line from 1, cells by the name of their column), of the rows that are as wide as the
        header; columns without a usable name are left out.
    faults
        What is wrong with the header and with the other rows, one sentence each.
    """

    rows: tuple[tuple[int, dict[str, str]], ...]
    faults: tuple[str, ...]


def read_frame(
    path: Path,
    *,
    required: Sequence[str],
    known: Collection[str],
    aliases: Mapping[str, str],
) -> Frame:
    """Read a sheet (CSV or TSV) as far as all sheets are alike.

    Parameters
    ----------
    path
        The sheet.
    required
        Columns that must stand in it.
    known
        Columns with a meaning of their own; any other is a field, and may have no reserved name.
    aliases
        Other names of columns.

    Raises
    ------
    SheetError
        If it is no table, or empty.
    """
    try:
        table = read_rows(path)
    except SectionError as error:
        raise SheetError(path, [error.what]) from error
    if not table:
        raise SheetError(path, ["an empty sheet"])
    (head_line, head), *body = table
    columns, faults = _header(head, head_line, required, known, aliases)
    if not body:
        faults.append("no rows below the header")
    rows = []
    for line, cells in body:
        if len(cells) == len(head):
            rows.append((line, {c: v for c, v in zip(columns, cells, strict=True) if c}))
        else:
            faults.append(f"line {line}: {len(cells)} cells where the header has {len(head)}")
    return Frame(tuple(rows), tuple(faults))


def _header(
    head: Sequence[str],
    line: int,
    required: Sequence[str],
    known: Collection[str],
    aliases: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Canonical name of each column ("" where it has no usable name), and the faults."""
    faults: list[str] = []
    columns: list[str] = []
    for number, cell in enumerate(head, start=1):
        name = aliases.get(cell.lower(), cell.lower())
        place = f"line {line}, column {cell[:LONGEST_SHOWN] or number}"
        if name in known:
            pass
        elif name in RESERVED_FIELDS:
            faults.append(f"{place}: the name is reserved; rename the column")
            name = ""
        elif not FIELD_NAME.fullmatch(name):
            faults.append(f"{place}: a column name is a letter, then letters, digits or _")
            name = ""
        columns.append(name)
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    faults += [f"line {line}, column {name}: stands more than once" for name in twice]
    for name in required:
        if name not in columns:
            also = " or ".join(a for a, of in aliases.items() if of == name)
            faults.append(
                f"line {line}, column {name}: missing{f' (may be named {also})' if also else ''}"
            )
    return columns, faults
