"""Panels: the ordered genes on which a profile is measured, and how two panels meet."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.errors import GeneError
from bleepdb.files import canonical_json, digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ENSEMBL = re.compile(r"ENS([A-Z]{3})?G(\d{11})(\.\d+)?", re.ASCII)
SPECIES_OF_PREFIX = {None: "human", "MUS": "mouse", "RNO": "rat"}


def strip_version(gene_id: str) -> str:
    """Drop the version of an Ensembl id: ``ENSG00000141736.14`` -> ``ENSG00000141736``."""
    found = ENSEMBL.fullmatch(gene_id)
    return gene_id[: found.start(3)] if found and found.group(3) else gene_id


@dataclass(frozen=True)
class Match:
    """Which genes two panels share.

    Attributes
    ----------
    left, right
        Positions in the two panels, int64, same length; `left` rises.
    by
        ``"gene_id"`` or ``"symbol"``.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    by: str

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True)
class Panel:
    """Ordered genes with symbols and, where known, Ensembl ids without version.

    Parameters
    ----------
    symbols
        One name a gene; not empty.
    gene_ids
        One Ensembl id a gene, or ``""`` where unknown. Empty tuple: none is known.

    Raises
    ------
    GeneError
        If genes stand twice (by id where ids are known, else by symbol), or species are mixed.
    """

    symbols: tuple[str, ...]
    gene_ids: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.gene_ids and len(self.gene_ids) != len(self.symbols):
            raise GeneError(f"{len(self.gene_ids)} gene ids for {len(self.symbols)} symbols")
        if self.gene_ids:
            object.__setattr__(self, "gene_ids", tuple(strip_version(g) for g in self.gene_ids))
            if not any(self.gene_ids):
                object.__setattr__(self, "gene_ids", ())
        if not all(self.symbols):
            raise GeneError("a gene has an empty symbol", hint="name every gene")
        twice = [k for k, n in Counter(self.keys).items() if n > 1]
        if twice:
            shown = ", ".join(sorted(twice)[:5])
            raise GeneError(
                f"{len(twice)} genes stand more than once: {shown}",
                hint="make the genes unique (sum their counts or drop one)",
            )
        if len(self.species_seen) > 1:
            raise GeneError(
                f"genes of several species in one panel: {', '.join(sorted(self.species_seen))}",
                hint="keep the genes of one species",
            )

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What must be unique: the Ensembl id where there is one, else the symbol."""
        if not self.gene_ids:
            return self.symbols
        return tuple(g or s for g, s in zip(self.gene_ids, self.symbols, strict=True))

    @cached_property
    def species_seen(self) -> frozenset[str]:
        """Species that the Ensembl prefixes tell."""
        prefixes = {m.group(1) for g in self.gene_ids if (m := ENSEMBL.fullmatch(g))}
        return frozenset(SPECIES_OF_PREFIX.get(p, str(p).lower()) for p in prefixes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over symbols and ids in order; 64 hex digits."""
        return digest("panel", canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return ``{"symbols": [...], "gene_ids": [...]}``."""
        return {"symbols": list(self.symbols), "gene_ids": list(self.gene_ids)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Panel:
        """Read what `to_json` wrote."""
        return cls(tuple(document["symbols"]), tuple(document["gene_ids"]))

    def take(self, positions: Sequence[int] | NDArray[np.integer[Any]]) -> Panel:
        """Return the panel of the genes at `positions`, in that order."""
        where = np.asarray(positions, dtype=np.int64)
        ids = tuple(self.gene_ids[i] for i in where) if self.gene_ids else ()
        return Panel(tuple(self.symbols[i] for i in where), ids)

    def match(self, other: Panel) -> Match:
        """Find the genes that both panels have.

        By Ensembl id where both panels have ids, else by symbol (symbols that stand more than
        once in a panel are left out then, since they name no one gene).
        """
        if self.gene_ids and other.gene_ids:
            return Match(*_positions(self.keys, other.keys), by="gene_id")
        return Match(*_positions(_once(self.symbols), _once(other.symbols)), by="symbol")

    def find(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Positions of genes named by symbol or Ensembl id; -1 where a name is unknown. int64."""
        table = {s: i for i, s in reversed(list(enumerate(self.symbols)))}
        table |= {g: i for i, g in enumerate(self.gene_ids) if g}
        return np.array([table.get(strip_version(n.strip()), -1) for n in names], dtype=np.int64)


def _once(symbols: tuple[str, ...]) -> tuple[str, ...]:
    counts = Counter(symbols)
    return tuple(s if counts[s] == 1 else "" for s in symbols)


def _positions(
    left: tuple[str, ...], right: tuple[str, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = {k: i for i, k in enumerate(right) if k}
    pairs = [(i, table[k]) for i, k in enumerate(left) if k in table]
    made = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return made[:, 0], made[:, 1]


def read_gene_list(path: Path) -> list[str]:
    """Read gene names from a text file: one a line, or the first column of a CSV/TSV.

    Blank lines and lines that start with ``#`` are passed over.

    Raises
    ------
    GeneError
        If the file is missing, is not text, or names no gene.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise GeneError("no such gene list", where=path, hint="give a text file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GeneError(f"not a readable text file ({error})", where=path) from error
    lines = (
        re.split(r"[,\t]", line, maxsplit=1)[0].strip().strip('"') for line in text.splitlines()
    )
    names = [n for n in lines if n and not n.startswith("#")]
    if not names:
        raise GeneError(
            "names no gene", where=path, hint="write one gene symbol or Ensembl id a line"
        )
    return list(dict.fromkeys(names))
