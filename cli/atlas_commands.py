"""`bleepdb atlas`: what is in an atlas, whether it is sound, and its care."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bleepdb.errors import InputError

from .connecting import OPENING, Opening, connected
from .inputs import AtlasOption
from .render import bar, counted, help_of, megabytes, note, out, plain, print_json, table, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bleepdb.atlas import Atlas, Report

app = typer.Typer(
    help="See what is in an atlas, check it, copy it, take sections out of it.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
OneTissueOption = Annotated[
    str, typer.Option("--tissue", help="Tissue, alias or collection.", show_default=False)
]
AnyTissueOption = Annotated[
    str | None,
    typer.Option("--tissue", help="Tissue, alias or collection; default: all.", show_default=False),
]


def atlas_command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the commands of `bleepdb atlas`, with the options of a connection."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        made = connected(command)
        app.command(name=name, help=help_of(command))(made)
        return made

    return add


def chosen(place: Atlas, tissue: str | None) -> list[str]:
    """Return the collections that --tissue names, or all into which something was indexed."""
    from bleepdb.atlas import resolve
    from bleepdb.errors import EmptyAtlasError

    if tissue is not None:
        return [resolve(place, tissue)]
    made = []
    for name in place.collections():
        try:
            place.read_manifest(name)
        except EmptyAtlasError:
            continue
        made.append(name)
    if not made:
        raise EmptyAtlasError(
            "nothing was indexed here yet", where=place.location, hint="run `bleepdb index`"
        )
    return made


@atlas_command("list")
def list_sections(
    atlas: AtlasOption, opening: Opening = OPENING, as_json: JsonOption = False
) -> None:
    """List the collections of an atlas and the sections that are live in them."""
    from bleepdb.errors import EmptyAtlasError

    manifests = []
    with opening.open(atlas) as place:
        aliases = {target: alias for alias, target in place.aliases().items()}
        for name in place.collections():
            try:
                manifests.append(place.read_manifest(name))
            except EmptyAtlasError:
                note(f"{name}: nothing was indexed into it yet")
        kind = place.kind
    if as_json:
        print_json(
            [m.to_json() | {"alias": aliases.get(m.collection), "kind": kind} for m in manifests]
        )
        return
    if not manifests:
        note(f"{atlas}: empty; run `bleepdb index`")
    for manifest in manifests:
        columns = ("section", "donor", "spots", "revision")
        lines = [(s.section, s.donor, str(s.spots), s.revision[:12]) for s in manifest.live]
        alias = aliases.get(manifest.collection, "no alias")
        title = f"{manifest.collection} ({alias}, {kind}), generation {manifest.generation}"
        out.print(table(title, columns, lines, caption=counted(manifest.spots, "spot")))


@atlas_command("info")
def info(
    atlas: AtlasOption,
    tissue: OneTissueOption,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Show one collection on one screen: sections, panels, model, size, copies, what was done."""
    from bleepdb.atlas import describe, resolve

    with opening.open(atlas) as place:
        about = describe(place, resolve(place, tissue))
    if as_json:
        print_json(about)
        return
    _show(about)


def _show(about: dict[str, Any]) -> None:
    columns = ("section", "donor", "spots", "slide", "revision")
    lines = [
        (
            s["section"],
            s["donor"],
            str(s["spots"]),
            str(s["provenance"].get("slide", "-")),
            s["revision"][:12],
        )
        for s in about["sections"]
    ]
    names = ", ".join(about["aliases"]) or "no alias"
    title = f"{about['collection']} ({names}, {about['kind']}), generation {about['generation']}"
    out.print(table(title, columns, lines))
    size = "not known here"
    if about["bytes"] is not None:
        a_spot = about["bytes_a_spot"]
        size = megabytes(about["bytes"])
        size += "" if a_spot is None else f", {a_spot:,.0f} bytes a spot"
    model = about["model"]
    facts = [
        ("holds", (f"{about['species']} {about['tissue']}, {counted(about['spots'], 'spot')} of "
         f"{counted(len(about['donors']), 'donor')}")),
        ("donors", ", ".join(
            f"{d} ({counted(n['sections'], 'section')}, {counted(n['spots'], 'spot')})"
            for d, n in about["donors"].items()
        ) or "-"),
        ("on disk", size),
        *(
            ("panel", (f"{p['digest'][:12]}: {p['genes'] or '?'} genes, "
             f"{counted(len(p['sections']), 'section')}"))
            for p in about["panels"]
        ),
        ("filterable", ", ".join(about["fields"])),
        ("vectors", ", ".join(f"{n} {d}" for n, d in about["vectors"].items())
         + f"; queries are compared with {about['key']}"),
        ("space", about["space_id"][:12]),
        ("model", "none is stored here" if model is None else
         f"{model['recipe']} on {model['encoder']} ({model['licence']}), trained on "
         f"{', '.join(model['training_donors']) or 'unknown donors'}"),
        *((("held out", _held_out(model["scores"])),) if model is not None else ()),
        *(("copy", f"{c['kind']} at {c['where']}, by {c['who']}, {c['when']}")
          for c in about["copies"]),
        *(("staging", f"{s['section']} by {s['who']}, since {s['since']}")
          for s in about["staging"]),
        *(("log", f"{e['when']} {e['who']}: {e['what']}") for e in about["log"]),
    ]  # fmt: skip
    for name, text in facts:
        out.print(f"{name:>11}  {plain(text)}", soft_wrap=True)


def _held_out(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "no scores in its card (`bleepdb evaluate --card` writes them)"
    parts = [f"{n} {v:.3f}" for n, v in scores["sets"].items() if isinstance(v, int | float)]
    if scores["genes"]:
        parts.append(f"{scores['predictable']:,} of {scores['genes']:,} genes predictable")
    left_out = f" ({scores['held_out']} held out)" if scores["held_out"] else ""
    return (", ".join(parts) or "no scores") + left_out


@atlas_command("verify")
def verify(
    atlas: AtlasOption,
    tissue: AnyTissueOption = None,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Read everything again and compare it with its digests; name all that is wrong.

    Exit code 0 where nothing is, 1 where something is, 2 where it could not be looked at.
    Nothing is changed.
    """
    from bleepdb.atlas import verify as verify_collection
    from bleepdb.errors import EmptyAtlasError

    reports = []
    with opening.open(atlas) as place:
        # By name, not by manifest: one that is damaged is a fault to report.
        names = chosen(place, tissue) if tissue is not None else place.collections()
        for name in names:
            try:
                with bar(f"verifying {name}") as move:
                    reports.append(verify_collection(place, name, progress=move))
            except EmptyAtlasError:
                note(f"{name}: nothing was indexed into it yet")
    if as_json:
        print_json([r.to_json() for r in reports])
    else:
        for report in reports:
            _show_report(report)
    if not all(r.sound for r in reports):
        raise typer.Exit(1)


def _show_report(report: Report) -> None:
    columns = ("section", "spots", "found", "digest", "faults")
    lines = [
        (s.section, str(s.spots), str(s.found), s.digest, str(s.faults)) for s in report.sections
    ]
    number = len(report.faults) + report.further
    verdict = "sound" if report.sound else counted(number, "fault")
    out.print(table(f"{report.collection}: {verdict}", columns, lines))
    for fault in report.faults:
        out.print(f"  {plain(str(fault))}", soft_wrap=True)
    if report.further:
        out.print(f"  and {report.further} further")
    for text in report.notes:
        note(f"{report.collection}: {text}")


@atlas_command("vacuum")
def vacuum(
    atlas: AtlasOption,
    tissue: AnyTissueOption = None,
    abandoned_after: Annotated[
        float,
        typer.Option(
            "--abandoned-after",
            min=0,
            help="Hours after which a writer on a server that has not finished is taken for dead.",
        ),
    ] = 24.0,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Remove what no reader can see: points of interrupted writers, unused panels, freed space.

    An embedded atlas is rewritten, so that what was deleted leaves its files.
    """
    from bleepdb.atlas import tidy
    from bleepdb.indexing import who

    done = {}
    with opening.open(atlas) as place:
        for name in chosen(place, tissue):
            with bar(f"tidying {name}"):
                done[name] = tidy(
                    place, name, actor=who(), abandoned_after_s=3600 * abandoned_after
                )
    if as_json:
        print_json({name: asdict(t) for name, t in done.items()})
        return
    columns = ("collection", "points removed", "panels removed", "freed")
    lines = [
        (
            name,
            str(t.points),
            str(t.panels),
            "not known" if t.bytes is None else megabytes(t.bytes),
        )
        for name, t in done.items()
    ]
    out.print(table(f"Atlas {atlas}", columns, lines))
    for name, t in done.items():
        if t.kept:
            note(
                f"{name}: {t.kept} dead points stay, since a writer holds them or somebody began "
                "to delete them; run again in five minutes, and where the writer is dead with "
                "--abandoned-after 0"
            )


@atlas_command("alias")
def alias(
    atlas: AtlasOption,
    tissue: Annotated[
        str | None, typer.Option("--tissue", help="The tissue to point elsewhere.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The collection that it shall mean from now on.")
    ] = None,
    opening: Opening = OPENING,
    as_json: JsonOption = False,
) -> None:
    """Show which collection each tissue means, or point a tissue at another collection.

    After training again, index into the same atlas, then switch here: queries go over in one
    step, and back as easily.
    """
    from bleepdb import names

    if (tissue is None) != (to is None):
        raise InputError(
            "--tissue and --to belong together", hint="give both, or none to see all aliases"
        )
    with opening.open(atlas) as place:
        if tissue is not None and to is not None:
            manifest = place.read_manifest(to)
            if names.slug(tissue.removeprefix("bleepdb_")) != manifest.tissue:
                raise InputError(
                    f"{to} holds {manifest.tissue}, not {tissue}",
                    where=atlas,
                    hint="name a collection of this tissue (see `bleepdb atlas list`)",
                )
            if not manifest.live:
                warn(f"no section is live in {to}")
            place.set_alias(names.alias_name(manifest.tissue), to)
        aliases, there = place.aliases(), place.collections()
    if as_json:
        print_json(aliases)
        return
    lines = [(a, t if t in there else f"{t} (not there)") for a, t in sorted(aliases.items())]
    out.print(table(f"Aliases of {atlas}", ("alias", "collection"), lines))
