"""`bleepdb cohort`: one table of many imputed slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bleepdb.errors import InputError

from .inputs import refuse_output
from .render import bar, counted, note, print_json, warn


def cohort(
    results: Annotated[
        Path,
        typer.Argument(help="The folder that `bleepdb query` wrote slides to.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .parquet to write.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Make one table of all imputed slides in a folder, such as the shards of a Slurm array wrote.

    One row a slide and gene: mean, percentiles, share of tiles with a value, and of the slide its
    share of unfamiliar tiles. Rows that tables in the folder hold already are taken over; the
    others are made from the imputed files.
    """
    if out.suffix.lower() != ".parquet":
        raise InputError("must end in .parquet", where=out, hint="write --out NAME.parquet")
    refuse_output(out)
    from bleepdb.querying.cohort import merge_cohort

    with bar("slides") as move:
        made = merge_cohort(results, out, progress=move)
    for name, reason in made.left_out:
        warn(f"{results / name} is left out: {reason}")
    if as_json:
        print_json({"out": str(out), "slides": list(made.slides), "left_out": dict(made.left_out)})
        return
    note(f"{out}: {counted(len(made.slides), 'slide')}")
