"""`bleepdb atlas`: what is in an atlas."""

from __future__ import annotations

from typing import Annotated

import typer

from .inputs import AtlasOption, LockTimeoutOption
from .render import note, out, print_json, table

app = typer.Typer(help="See what is in an atlas.", no_args_is_help=True)


@app.callback()
def atlas() -> None:
    """Keep `list` a command of its own."""


@app.command(name="list")
def list_sections(
    atlas: AtlasOption,
    lock_timeout: LockTimeoutOption = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the collections of an atlas and the sections that are live in them."""
    from bleepdb.atlas import open_atlas

    with open_atlas(atlas, lock_timeout=lock_timeout) as place:
        aliases = {target: alias for alias, target in place.aliases().items()}
        manifests = [place.read_manifest(name) for name in place.collections()]
    if as_json:
        print_json([m.to_json() | {"alias": aliases.get(m.collection)} for m in manifests])
        return
    if not manifests:
        note(f"{atlas}: empty; run `bleepdb index`")
    for manifest in manifests:
        columns = ("section", "donor", "spots", "revision")
        lines = [(s.section, s.donor, str(s.spots), s.revision[:12]) for s in manifest.live]
        alias = aliases.get(manifest.collection, "no alias")
        title = f"{manifest.collection} ({alias}), generation {manifest.generation}"
        out.print(table(title, columns, lines, caption=f"{manifest.spots} spots"))
