"""Any imputed value back to the spots that it comes from, recomputed from decoded payloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bleepdb.atlas import fetch_profiles
from bleepdb.errors import GeneError, InputError
from bleepdb.imputation import explain as explain_value
from bleepdb.names import HELD_OUT_SCORES
from bleepdb.panel import Panel
from bleepdb.places import spacing
from bleepdb.profiles import low_rank_of, reference_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bleepdb.atlas import Atlas
    from bleepdb.encoders import Model
    from bleepdb.imputation import Evidence
    from bleepdb.querying import Opened

FAR = 1.0  # in distances of adjacent tiles; a place further from the nearest is not on it


@dataclass(frozen=True)
class Explained:
    """One value with its evidence.

    Attributes
    ----------
    tile, gene
        Names in the file.
    stored
        The value in the file.
    evidence
        The value recomputed, and each reference's share in it.
    rows
        One object a reference: id, section, donor, barcode, weight, measured, contribution.
    withdrawn
        Sections that answered and are no longer live, as ``section (donor)``; where there are
        any the value cannot be recomputed and `evidence` is None.
    held_out
        How well the gene was predicted where it was held out, as the file has it of its model's
        card: ``pcc``, ``noise_ceiling``, ``predictable`` (1 or 0), NaN where unknown; None where
        the card had no scores.
    """

    tile: str
    gene: str
    stored: float
    evidence: Evidence | None
    rows: list[dict[str, Any]]
    withdrawn: tuple[str, ...]
    held_out: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of this value; NaN becomes null."""
        rows = [{k: _plain(v) for k, v in row.items()} for row in self.rows]
        return {
            "tile": self.tile,
            "gene": self.gene,
            "stored": _plain(self.stored),
            "recomputed": None if self.evidence is None else _plain(self.evidence.value),
            "formula": None if self.evidence is None else self.evidence.formula,
            "neighbours": rows,
            "withdrawn": list(self.withdrawn),
            "held_out": self.held_out and {k: _plain(v) for k, v in self.held_out.items()},
        }


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def find_tile(opened: Opened, *, at: tuple[float, float] | None, tile: str | None) -> int:
    """Return the row of a tile named by its name, its number, or a place (x, y) in level-0 px.

    Raises
    ------
    InputError
        If there is no such tile, or the place is not on one.
    """
    if tile is not None:
        labels = opened.obs.index.tolist()
        if tile in labels:
            return int(labels.index(tile))
        ends = [i for i, name in enumerate(labels) if name.partition(":")[2] == tile]
        if len(ends) == 1:
            return ends[0]
        raise InputError(
            f"no tile {tile!r}", where=opened.path, hint=f"there is {labels[0]!r}, for one"
        )
    if at is None:
        raise InputError("which tile?", hint="pass --at X,Y or --tile NAME")
    away = np.linalg.norm(opened.xy_px - np.asarray(at), axis=1)
    row = int(away.argmin())
    if away[row] > FAR * spacing(opened.xy_px):
        raise InputError(
            f"the nearest tile is {away[row]:,.0f} px from {at[0]:g},{at[1]:g}",
            where=opened.path,
            hint="give level-0 pixels (x,y) of a place on the tissue",
        )
    return row


def find_gene(opened: Opened, gene: str) -> int:
    """Return the column of a gene named by symbol or Ensembl id.

    Raises
    ------
    GeneError
        If the file has no value of it.
    """
    symbols = opened.var.index.tolist()
    if gene in symbols:
        return int(symbols.index(gene))
    ids = opened.var["gene_ids"].astype(str).tolist()
    if gene in ids:
        return int(ids.index(gene))
    raise GeneError(
        f"no values of {gene} in this file",
        where=opened.path,
        hint="query again with --genes naming it",
    )


def _held_out(opened: Opened, column: int) -> dict[str, float] | None:
    there = [name for name in HELD_OUT_SCORES if name in opened.var]
    return {name: float(opened.var[name].iloc[column]) for name in there} or None


def explain(
    opened: Opened, model: Model, atlas: Atlas, pairs: Sequence[tuple[int, int]]
) -> list[Explained]:
    """Recompute values from the payloads of the spots that they come from.

    Parameters
    ----------
    opened
        The file, without its values.
    model
        Of the space in which it was made.
    atlas
        Where its references are.
    pairs
        (row, column) of each value to explain.

    Returns
    -------
    list of Explained
        In the order asked.
    """
    collection = opened.run_card["facts"]["collection"]
    live = atlas.read_manifest(collection).revisions
    genes = Panel(tuple(opened.var.index), tuple(opened.var["gene_ids"].astype(str)))
    low_rank = low_rank_of(model) if opened.about["denoised"] else None
    made = []
    for row, column in pairs:
        weights = opened.weights[[row]]
        used = np.sort(weights.indices)
        table = opened.references.iloc[used]
        gone = table[~table["rev"].isin(live)]
        withdrawn = tuple(
            sorted({f"{s} ({d})" for s, d in zip(gone["section"], gone["donor"], strict=True)})
        )
        evidence, rows = None, []
        if not withdrawn:
            profiles = fetch_profiles(atlas, collection, table.index)
            groups = reference_groups(profiles, model.panel)
            evidence = explain_value(
                weights[:, used].tocsr(), groups, genes, column, low_rank=low_rank
            )
            rows = evidence.table(
                {"id": list(profiles.ids)}
                | {
                    name: table[name].tolist()
                    for name in ("section", "donor", "barcode", "x_px", "y_px")
                }
            )
        made.append(
            Explained(
                tile=str(opened.obs.index[row]),
                gene=str(opened.var.index[column]),
                stored=opened.value(row, column),
                evidence=evidence,
                rows=rows,
                withdrawn=withdrawn,
                held_out=_held_out(opened, column),
            )
        )
    return made
