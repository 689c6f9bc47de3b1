"""`bleepdb explain`: a value back to the spots that it comes from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from bleepdb.errors import InputError
from bleepdb.names import NOISE_CEILING, PCC, PREDICTABLE

from .connecting import OPENING, Opening, connected
from .render import log, note, out, plain, print_json, table


@connected
def explain(
    imputed: Annotated[
        Path, typer.Argument(help="The .h5ad of `bleepdb query`.", show_default=False)
    ],
    gene: Annotated[
        list[str],
        typer.Option("--gene", help="Symbol or Ensembl id (repeatable).", show_default=False),
    ],
    at: Annotated[str | None, typer.Option("--at", help="A place X,Y in level-0 pixels.")] = None,
    tile: Annotated[str | None, typer.Option("--tile", help="A tile's or spot's name.")] = None,
    atlas: Annotated[
        str | None,
        typer.Option("--atlas", envvar="BLEEPDB_ATLAS", help="Default: the one the file names."),
    ] = None,
    most: Annotated[
        int, typer.Option("--most", min=0, help="Reference spots to list; 0 for all.")
    ] = 15,
    opening: Opening = OPENING,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Show which spots and donors a value comes from, and recompute it from their counts."""
    from bleepdb.explaining import explain as explain_pairs
    from bleepdb.explaining import find_gene, find_tile
    from bleepdb.indexing import model_of
    from bleepdb.querying import open_imputed

    if at is not None and tile is not None:
        raise InputError("--at and --tile name two places", hint="give one of them")
    opened = open_imputed(imputed)
    facts = opened.run_card["facts"]
    if atlas is None and "://" not in facts["atlas"] and not Path(facts["atlas"]).exists():
        raise InputError(
            f"the atlas that this file names is not there ({facts['atlas']})",
            where=imputed,
            hint="pass --atlas",
        )
    row = find_tile(opened, at=None if at is None else _place(at), tile=tile)
    pairs = [(row, find_gene(opened, name)) for name in gene]
    named_by = imputed if atlas is None else None
    with opening.open(atlas or facts["atlas"], named_by=named_by) as place:
        model = model_of(place, facts["collection"])
        explained = explain_pairs(opened, model, place, pairs)
    if as_json:
        print_json([entry.to_json() for entry in explained])
        return
    for entry in explained:
        out.print(plain(_held_out(entry.gene, entry.held_out)), soft_wrap=True)
        if entry.evidence is None:
            note(
                f"{entry.tile} {entry.gene} = {entry.stored:.5f}: evidence was withdrawn "
                f"({', '.join(entry.withdrawn)}), so the value cannot be recomputed"
            )
            continue
        columns = ("reference", "donor", "barcode", "weight", "measured", "contribution")
        shown = entry.rows if most == 0 else entry.rows[:most]
        lines = [
            (
                str(r["section"]),
                str(r["donor"]),
                str(r["barcode"]),
                f"{r['weight']:.4f}",
                "-" if math.isnan(r["measured"]) else f"{r['measured']:.3f}",
                f"{r['contribution']:+.5f}",
            )
            for r in shown
        ]
        rest = len(entry.rows) - len(shown)
        caption = f"and {rest} further spots (--most 0 lists them)" if rest else None
        out.print(table(f"{entry.gene} at {entry.tile}", columns, lines, caption=caption))
        out.print(entry.evidence.formula, soft_wrap=True)
        out.print(
            f"stored {entry.stored:.5f}, recomputed {entry.evidence.value:.5f}, "
            f"difference {abs(entry.stored - entry.evidence.value):.1e}"
        )
    log.print(f"[dim]{opened.about['caution']}[/]")


def _held_out(gene: str, scores: dict[str, float] | None) -> str:
    """How far values of this gene can be trusted, by what was held out."""
    if scores is None or math.isnan(scores.get(PCC, math.nan)):
        return f"{gene}: no held-out score is known; the model's card has none of it"
    top = scores.get(NOISE_CEILING, math.nan)
    most = "" if math.isnan(top) else f", where counting noise allows {top:.2f}"
    sure = "predictable" if scores.get(PREDICTABLE, 0.0) > 0 else "not called predictable"
    return f"{gene}: held-out correlation {scores[PCC]:.2f}{most}; {sure}"


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise InputError(f"{text!r} is no place", hint="write --at X,Y, such as 1200,3400")
    return x, y
