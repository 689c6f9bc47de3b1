"""`bleepdb atlas copy | snapshot | export | import`: points go elsewhere, and come from there."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .atlas_commands import AnyTissueOption, JsonOption, OneTissueOption, atlas_command, chosen
from .connecting import OPENING, Opening, read_key, same_place
from .inputs import AtlasOption, refuse_place
from .render import bar, counted, note, out, print_json, table

if TYPE_CHECKING:
    from bleepdb.atlas import Received


@atlas_command("copy")
def copy(
    atlas: AtlasOption,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="The atlas that it goes to: a folder or a server.", show_default=False
        ),
    ],
    tissue: AnyTissueOption = None,
    to_api_key: Annotated[
        str | None,
        typer.Option(
            "--to-api-key",
            metavar="FILE|env:NAME",
            help="Where the key of the target is, if it is another; as --api-key.",
            show_default=False,
        ),
    ] = None,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Copy collections with their model into another atlas, of whatever kind.

    Each section becomes visible there whole, is read again, and compared by digest. Interrupted,
    run it again: what is there already is left alone.
    """
    from bleepdb.atlas import copy_collection
    from bleepdb.indexing import who

    target = opening
    if to_api_key is not None:
        read_key(to_api_key)
        target = replace(opening, api_key=to_api_key)
    target.check_writable(to)
    if same_place(atlas, to):
        raise InputError("is source and target at once", where=to, hint="name another with --to")
    done = []
    with opening.open(atlas) as source, target.open(to, create=True) as place:
        for name in chosen(source, tissue):
            with bar(f"copying {name}") as move:
                done.append(copy_collection(source, place, name, actor=who(), progress=move))
    _show(f"Copied from {atlas} to {to}", done, as_json=as_json)


def _show(title: str, done: list[Received], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(d) | {"written": d.written} for d in done])
        return
    for received in done:
        columns = ("section", "status", "written", "there already")
        lines = [
            (section, o.status, str(o.written), str(o.resumed))
            for section, o in received.outcomes.items()
        ]
        caption = f"{received.verified} points read again; the alias means {received.alias}"
        out.print(table(f"{title}: {received.collection}", columns, lines, caption=caption))


@atlas_command("snapshot")
def snapshot(
    atlas: AtlasOption,
    to: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to make, NAME.snapshot.", show_default=False),
    ],
    tissue: AnyTissueOption = None,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Write what is live into a read-only folder that any number of jobs open at once as an atlas.

    It is mapped, not loaded: for cluster jobs on a shared file system, and for backups.
    """
    from bleepdb.atlas import write_snapshot
    from bleepdb.indexing import who

    refuse_place(to)
    with opening.open(atlas) as place, bar(f"writing {to.name}") as move:
        names = None if tissue is None else chosen(place, tissue)
        with write_snapshot(place, to, names, actor=who(), progress=move) as made:
            spots = {name: made.read_manifest(name).spots for name in made.collections()}
    if as_json:
        print_json({"out": str(to), "spots": spots})
        return
    note(f"{to}: {counted(sum(spots.values()), 'spot')} of {counted(len(spots), 'collection')}")
    note(f"next: bleepdb query SLIDE --atlas {to} --tissue TISSUE --out out.h5ad")


@atlas_command("export")
def export(
    atlas: AtlasOption,
    tissue: OneTissueOption,
    to: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to make.", show_default=False)
    ],
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Export one collection to a folder of Parquet that other tools read (schemas/export.md)."""
    from bleepdb.atlas import export_collection, resolve
    from bleepdb.indexing import who

    refuse_place(to)
    with opening.open(atlas) as place, bar(f"writing {to.name}") as move:
        name = resolve(place, tissue)
        export_collection(place, name, to, actor=who(), progress=move)
    if as_json:
        print_json({"out": str(to), "collection": name})
        return
    note(f"{to}: {name}, one file a section; its format is described in schemas/export.md")


@atlas_command("import")
def import_folder(
    folder: Annotated[
        Path, typer.Argument(help="What `bleepdb atlas export` made.", show_default=False)
    ],
    atlas: AtlasOption,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Import an exported collection: everything is checked before anything becomes visible.

    Interrupted, run it again: what is there already is left alone.
    """
    from bleepdb.atlas import import_collection
    from bleepdb.indexing import who

    opening.check_writable(atlas)
    with opening.open(atlas, create=True) as place, bar("importing") as move:
        made = import_collection(folder, place, actor=who(), progress=move)
    _show(f"Imported {folder} into {atlas}", [made], as_json=as_json)
