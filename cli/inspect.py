"""`bleepdb inspect`: what a file or folder is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .inputs import SlideMppOption
from .render import out, plain, print_json

if TYPE_CHECKING:
    from bleepdb.inspecting import Entry, Inspection

SCREEN = 40
"""Lines that are shown at most; a list is cut to what the rest leaves."""
LONGEST = 220
LEAST_ENTRIES = 4
MOST_MISSING = 8
MOST_NOTES = 6


def inspect(
    path: Annotated[Path, typer.Argument(help="Any file or folder.", show_default=False)],
    slide_mpp: SlideMppOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Tell what a file or folder is, what was found in it, what is missing, and what to do next.

    Slides of every format, sections (Space Ranger, Visium HD, AnnData, SpatialData, HEST-1k,
    legacy ST), 10x matrices, sheets, masks, models, atlases, imputed slides; of a folder of many
    things each. Nothing is changed. Exit code 2 where nothing could be told.
    """
    from bleepdb.inspecting import inspect_path

    made = inspect_path(path, slide_mpp=slide_mpp)
    if as_json:
        print_json(made.to_json())
        return
    _show(made)


def _show(made: Inspection) -> None:
    out.print(f"[bold]{_cut(made.path)}[/]: {_cut(made.title)}", soft_wrap=True)
    facts = [(f.name, f.shown) for f in made.facts]
    width = max((len(name) for name, _ in facts), default=0)
    for name, text in facts:
        out.print(f"  {plain(name):<{width}}  {_cut(text)}", soft_wrap=True)
    others = (
        2 + len(facts) + min(len(made.missing), MOST_MISSING) + min(len(made.notes), MOST_NOTES)
    )
    _show_entries(made.entries, made.further, most=max(LEAST_ENTRIES, SCREEN - others - 2))
    for lacking in made.missing[:MOST_MISSING]:
        out.print(
            f"[yellow]missing[/]  {_cut(lacking.what)} (needed for {_cut(lacking.needed_for)}): "
            f"{_cut(lacking.remedy)}",
            soft_wrap=True,
        )
    _rest(len(made.missing) - MOST_MISSING, "missing")
    for text in made.notes[:MOST_NOTES]:
        out.print(f"[cyan]note[/]  {_cut(text)}", soft_wrap=True)
    _rest(len(made.notes) - MOST_NOTES, "notes")
    if made.next is not None:
        out.print(f"[bold]next:[/] {plain(made.next)}", soft_wrap=True)
    elif made.missing:
        out.print(f"[bold]next:[/] {_cut(made.missing[0].remedy)}", soft_wrap=True)


def _show_entries(entries: tuple[Entry, ...], further: int, *, most: int) -> None:
    shown = entries[:most]
    first = max((len(e.name) for e in shown), default=0)
    second = max((len(e.kind) for e in shown), default=0)
    for entry in shown:
        name = f"{plain(entry.name):<{min(first, 60)}}"
        out.print(f"  {name}  {plain(entry.kind):<{second}}  {_cut(entry.state)}", soft_wrap=True)
    _rest(further + len(entries) - len(shown), "entries (--json lists more of them)")


def _rest(number: int, what: str) -> None:
    if number > 0:
        out.print(f"  and {number:,} more {what}")


def _cut(text: object) -> str:
    """Return a text of any length on one line, safe to print."""
    said = " ".join(str(text).split())
    return plain(said if len(said) <= LONGEST else said[: LONGEST - 1] + "…")
