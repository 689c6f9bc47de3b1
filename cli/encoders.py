"""`bleepdb encoders`: known encoders, their licence and access, and which are here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .render import out, plain, print_json, table

if TYPE_CHECKING:
    from bleepdb.encoders.known import KnownEncoder
    from bleepdb.encoders.presence import Presence

NOT_CONFIRMED = "not confirmed"


def encoders(
    name: Annotated[
        str | None, typer.Argument(help="Show one: a short name or a spec.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List known image encoders: licence, access, and which can be used on this machine.

    Any model of timm or open_clip can be used by its name besides; `bleepdb encoders NAME` shows
    how one is had and the --encoder that names it. Nothing is downloaded.
    """
    from bleepdb.encoders.known import known_encoder, known_encoders

    if name is not None:
        found = known_encoder(name)
        _show_one(found) if not as_json else print_json(_document(found))
        return
    every = list(known_encoders().values())
    if as_json:
        print_json([_document(one) for one in every])
        return
    rows = [
        (
            k.name, k.about, str(k.input_px), "?" if k.mpp is None else f"{k.mpp:g}",
            "?" if k.width is None else f"{k.width:,}", k.licence or NOT_CONFIRMED, k.access,
            _here(k, _presence(k)),
        )
        for k in every
    ]  # fmt: skip
    out.print(
        table(
            "known encoders",
            ("name", "what", "px", "µm/px", "values", "licence", "access", "here"),
            rows,
            caption="bleepdb encoders NAME: how one is had. Facts as their sources state them; "
            f"weights tried by bleepdb: {', '.join(k.name for k in every if k.tried)}. Any "
            "timm:NAME, open_clip:NAME/PRETRAINED and hf-hub:ORG/NAME works besides.",
        )
    )


def _presence(known: KnownEncoder) -> Presence:
    from bleepdb.encoders.presence import presence

    return presence(known)


def _here(known: KnownEncoder, found: Presence) -> str:
    if found.missing is not None:
        return f"no: needs {found.missing}"
    if found.place is not None:
        return f"yes: {found.place}"
    return "no: to download" if known.access == "open" else "no: to ask for"


def _document(known: KnownEncoder) -> dict[str, Any]:
    from bleepdb.encoders.known import resolve

    found = _presence(known)
    return known.to_json() | {
        "encoder": resolve(known.name)[0],
        "here": {
            "usable": found.usable,
            "built_by": found.builder,
            "missing": found.missing,
            "place": found.place,
            "path": None if found.path is None else str(found.path),
        },
    }


def _show_one(known: KnownEncoder) -> None:
    from bleepdb.encoders.known import resolve

    found = _presence(known)
    fed = "as its own configuration says"
    if known.pixels is not None:
        mean, std = (", ".join(f"{v:g}" for v in x) for x in known.pixels)
        fed = f"mean {mean}; SD {std}"
    facts = [
        ("use", f"--encoder {known.name}"),
        *(
            []
            if known.library == "builtin"
            else [("or from a file", f"--encoder {known.name} --weights FILE (.safetensors, .pth)")]
        ),
        ("recorded as", resolve(known.name)[0]),
        ("tiles", f"{known.input_px} px" + (
            f" at {known.mpp:g} µm/px: --tile-mpp {known.mpp:g}" if known.mpp else
            f"; microns per pixel {NOT_CONFIRMED}"
        )),
        ("pixels", fed),
        ("features", f"{'?' if known.width is None else f'{known.width:,}'}: {known.feature}"),
        ("licence", known.licence or NOT_CONFIRMED),
        ("access", _how(known)),
        ("here", _here_long(known, found)),
        ("tried", "yes" if known.tried else "no: bleepdb has not run these weights"),
        ("paper", known.paper or NOT_CONFIRMED),
        ("facts from", known.source),
    ]  # fmt: skip
    if known.note:
        facts.append(("note", known.note))
    out.print(f"[bold]{plain(known.name)}[/]: {plain(known.about)}", soft_wrap=True)
    width = max(len(label) for label, _ in facts)
    for label, text in facts:
        out.print(f"  {plain(label):<{width}}  {plain(text)}", soft_wrap=True)


def _how(known: KnownEncoder) -> str:
    page = f"https://huggingface.co/{known.repository}"
    if known.access == "package":
        return f"from the package index: {known.install}"
    if known.library == "builtin":
        return "part of bleepdb"
    if known.access == "open":
        return "open: downloaded when it is first used"
    asked = (
        f"ask for access at {page}, where people decide on each request"
        if known.access == "on request"
        else f"accept its terms at {page}"
    )
    return f"{known.access}: {asked}, then set HF_TOKEN or run `hf auth login`"


def _here_long(known: KnownEncoder, found: Presence) -> str:
    if found.missing is not None:
        return f"no: {known.install or f'pip install {found.missing}'}"
    built = f" (built by {found.builder})"
    if found.place is None:
        offline = f"; offline: hf download {known.repository}" if known.repository else ""
        return f"no weights yet{built}{offline}"
    if found.place == "torch cache":
        return f"yes, with --weights {found.path}{built}"
    return f"yes, {found.place}{'' if found.path is None else f': {found.path}'}{built}"
