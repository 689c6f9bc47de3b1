"""`bleepdb atlas retract`: a section or a donor leaves the atlas."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .atlas_commands import AnyTissueOption, JsonOption, atlas_command, chosen
from .connecting import OPENING, Opening
from .inputs import AtlasOption
from .render import bar, counted, log, megabytes, note, out, plain, print_json, table

if TYPE_CHECKING:
    from bleepdb.retracting import Plan, Retracted


@atlas_command("retract")
def retract(
    atlas: AtlasOption,
    section: Annotated[
        str | None, typer.Option("--section", help="The section that goes.", show_default=False)
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option("--donor", help="The donor all whose sections go.", show_default=False),
    ] = None,
    tissue: AnyTissueOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go and what stays; change nothing.")
    ] = False,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Take a section or a donor out of an atlas, and name what that does not reach.

    No later result holds a trace of it; its bytes leave an embedded atlas and this machine's
    cache. Models that were trained on it, snapshots, exports, copies and outputs stay: they are
    listed, with the commands that make a model without it.
    """
    from bleepdb.indexing import who
    from bleepdb.retracting import plan_retraction
    from bleepdb.retracting import retract as carry_out

    with opening.open(atlas) as place:
        plan = plan_retraction(
            place,
            section=section,
            donor=donor,
            collections=None if tissue is None else chosen(place, tissue),
        )
        if not as_json:
            _show_plan(plan)
        done = None
        if not dry_run:
            _require_yes(plan, yes=yes, asks=not as_json)
            with bar("retracting") as move:
                done = carry_out(place, plan, actor=who(), progress=move)
    if as_json:
        print_json(
            plan.to_json() | {"done": None if done is None else asdict(done), "dry_run": dry_run}
        )
        return
    if done is not None:
        _show_done(done)
    else:
        note("nothing was changed")


def _require_yes(plan: Plan, *, yes: bool, asks: bool) -> None:
    if yes:
        return
    if not asks or not sys.stdin.isatty():  # nobody says yes to a plan that is not shown
        raise InputError(
            "nothing is retracted without a yes",
            where=plan.atlas,
            hint="look at it with --dry-run, then pass --yes",
        )
    spots = sum(t.spots for t in plan.targets)
    log.print(f"Take {spots} spots out for good? [y/N] ", end="", markup=False)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        note("nothing was changed")
        raise typer.Abort


def _show_plan(plan: Plan) -> None:
    columns = ("section", "donor", "spots", "collection")
    lines = [(t.section, t.donor, str(t.spots), t.collection) for t in plan.targets]
    out.print(table("Goes", columns, lines))
    if plan.beyond:
        out.print(plain("Stays, out of reach:"))
    for beyond in plan.beyond:
        out.print(f"  {plain(f'{beyond.kind}: {beyond.where}: {beyond.why}')}", soft_wrap=True)
    if plan.refit:
        out.print(plain("A model without it:"))
    for words in plan.refit:
        out.print(f"  {plain(words)}", soft_wrap=True)


def _show_done(done: Retracted) -> None:
    freed = "" if done.bytes is None else f", {megabytes(done.bytes)} on disk"
    note(
        f"gone: {counted(done.points, 'point')}, {counted(done.panels, 'panel')}{freed}; "
        f"from this machine's cache {counted(done.cached_spots, 'decoded spot')} and "
        f"{counted(done.cached_features, 'file')} of features"
    )
