"""Which sections a SpatialData store holds: its tables, and the regions that they annotate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bleepdb.errors import SectionError
from bleepdb.tissue.binning import TARGET_UM
from bleepdb.tissue.readers.elements import read_attrs
from bleepdb.tissue.readers.store import SHAPES, TABLES

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.tissue.readers.store import Store

SQUARE: Final = re.compile(r"square_(\d{3})um")


class Chosen(NamedTuple):
    """A table and the one region of it that is a section."""

    table: str
    region: str
    region_key: str
    instance_key: str


def choose(store: Store, target_um: float = TARGET_UM) -> Chosen:
    """Choose the table and region that a path names.

    Raises
    ------
    SectionError
        If there is none, or several: it names the paths to choose from.
    """
    found = sections_of(store.root)
    part, name = store.part, store.name
    if part == TABLES:
        found = [c for c in found if c.table == name]
    elif part is not None:
        found = [c for c in found if c.region == name]
    if not found:
        raise SectionError(
            "no table that annotates a region" + ("" if part is None else f" by the name {name}"),
            where=store.root,
            hint="give a store with a table of spots and the shapes that it annotates",
        )
    squares = {int(m.group(1)): c for c in found if (m := SQUARE.search(c.table))}
    if len(found) > 1 and len(squares) == len(found):
        whole = [um for um in squares if target_um / um >= 1 and (target_um / um) % 1 == 0]
        return squares[max(whole or [u for u in squares if u <= target_um] or [min(squares)])]
    if len(found) > 1:
        by_table = len({c.table for c in found}) == len(found)
        paths = [f"{TABLES}/{c.table}" if by_table else f"{SHAPES}/{c.region}" for c in found]
        raise SectionError(
            f"holds {len(found)} sections",
            where=store.root,
            hint=f"give one of them: {store.root.name}/{', '.join(paths[:8])}",
        )
    return found[0]


def sections_of(root: Path) -> list[Chosen]:
    """List every table of a store with every region that it annotates.

    Raises
    ------
    SectionError
        If metadata are damaged.
    """
    found = []
    folder = root / TABLES if (root / TABLES).is_dir() else root / "table"
    for table in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not table.is_dir() or table.is_symlink():
            continue
        attrs = read_attrs(table)
        regions: Any = attrs.get("region")
        keys = attrs.get("region_key"), attrs.get("instance_key")
        if not regions or not all(isinstance(k, str) for k in keys):
            continue
        found += [
            Chosen(table.name, str(region), str(keys[0]), str(keys[1]))
            for region in ([regions] if isinstance(regions, str) else list(regions))
        ]
    return found
