"""Options that `bleepdb evaluate` alone has, and what they may not be given with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .inputs import refuse_output

if TYPE_CHECKING:
    from collections.abc import Sequence

PathsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="SHEET | FOLD.json...",
        help="Sample sheet of measured sections; with --merge documents of single folds.",
        show_default=False,
    ),
]
ByOption = Annotated[
    str,
    typer.Option(
        "--by",
        help="Hold out one `donor` or one `section` at a time; auto: donors where there are two "
        "or more.",
    ),
]
TrainOption = Annotated[
    list[str] | None,
    typer.Option("--train", help="A section to train on, instead of --by (repeatable)."),
]
TestOption = Annotated[
    list[str] | None,
    typer.Option("--test", help="A section to test on, instead of --by (repeatable)."),
]
SplitsOption = Annotated[
    Path | None,
    typer.Option("--splits", help="Table of folds: columns fold, section, role (train or test)."),
]
FoldOption = Annotated[
    list[str] | None,
    typer.Option("--fold", help="Run only this fold, by name or by index from 0 (repeatable)."),
]
MergeOption = Annotated[
    bool, typer.Option("--merge", help="Put documents of single folds together: FOLD.json...")
]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        help="A recipe, or a .py file that defines one (repeatable; the first is ours, which the "
        "others are compared with). Default: linear, kernel, average.",
        show_default=False,
    ),
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        help="Baselines: short, all, a family such as ridge, or the name of a row (repeatable). "
        "Default: all.",
        show_default=False,
    ),
]
SeedsOption = Annotated[
    int,
    typer.Option(
        "--seeds", min=1, help="Seeds, from --seed on: methods that draw run once for each."
    ),
]
AllowDonorOption = Annotated[
    list[str] | None,
    typer.Option("--allow-donor", help="A donor that may stand on both sides of --train/--test."),
]
AllowTwinsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-twins",
        help="Near-duplicate sections A=B that may stand on two sides of a split (repeatable).",
    ),
]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", help="Write a page that sums up the evaluation.")
]
FigureOption = Annotated[
    Path | None,
    typer.Option("--figure", help="Draw a summary, or with --growth the curves (.png)."),
]

ENCODING = ("encoder", "levels", "scale_um", "tile_mpp", "tile_px", "resampling")
GROWTH_ALONE = ("orders", "start")
NEVER_GROWTH = (
    "pred", "truth", "card", "permutations", "epochs", "train", "test", "splits", "merge",
    "methods", "seeds", "allow_donor", "allow_twins", "html",
)  # fmt: skip
WITH_MERGE = ("paths", "merge", "json_out", "as_json", "html", "figure")


def given(context: typer.Context) -> list[str]:
    """Return the names of the parameters that stand on the command line."""
    return [
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]


def worded(names: Sequence[str]) -> str:
    """Word parameters as they are typed."""
    return ", ".join("--" + name.replace("_", "-") for name in names)


def refuse_mixed(context: typer.Context, *, growth: bool) -> None:
    """Refuse options that would be ignored: those of growth without it, others beside it."""
    named = [n for n in (NEVER_GROWTH if growth else GROWTH_ALONE) if n in given(context)]
    if not named:
        return
    if growth:
        raise InputError(
            f"{worded(named)} cannot be given with --growth",
            hint="leave it out, or evaluate without --growth",
        )
    raise InputError(f"{worded(named)} needs --growth", hint="add --growth, or leave it out")


def refuse_beside(context: typer.Context, what: str, known: Sequence[str]) -> None:
    """Refuse options that another way of evaluating would ignore."""
    named = [n for n in given(context) if n not in known]
    if named:
        raise InputError(
            f"{worded(named)} cannot be given with {what}", hint="leave it out: it decides nothing"
        )


def refuse_outputs(
    json_out: Path | None, html: Path | None, figure: Path | None, *, reads: Sequence[Path | None]
) -> None:
    """Refuse outputs that could not be written, or would be written over each other."""
    if html is not None and html.suffix.lower() not in {".html", ".htm"}:
        raise InputError("is no .html", where=html, hint="name the page NAME.html")
    if figure is not None and figure.suffix.lower() != ".png":
        raise InputError("is no .png", where=figure, hint="name the picture NAME.png")
    names = {"report": json_out, "page": html, "picture": figure}
    seen: dict[Path, str] = {}
    for what, path in names.items():
        if path is None:
            continue
        if path.absolute() in seen:
            raise InputError(
                f"is named for the {seen[path.absolute()]} and for the {what}",
                where=path,
                hint="name two files",
            )
        seen[path.absolute()] = what
        refuse_output(path, reads=reads)
