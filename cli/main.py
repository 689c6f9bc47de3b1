"""The `bleepdb` command: one app, one place where errors become one line.

Nothing heavy is imported here: each command imports what it runs when it runs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from bleepdb import __version__
from bleepdb.encoders.runtime import tune_process
from bleepdb.errors import BleepdbError

from . import (
    atlas_commands,
    atlas_copies,  # noqa: F401 - adds its commands to those of `atlas`
    atlas_retract,  # noqa: F401 - likewise
    cohort,
    demo,
    encoders,
    evaluate,
    explain,
    index,
    inspect,
    query,
    train,
)
from .render import help_of

# The class of all faults in the words of a command line: typer carries it under changing names.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
INTERRUPTED = 130

app = typer.Typer(
    name="bleepdb",
    help="Impute gene expression from H&E slides by retrieval from an atlas of measured spots.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    epilog="For research use only. Settings: flags, then BLEEPDB_* variables, then defaults.",
)


for one in (
    demo.demo,
    inspect.inspect,
    train.train,
    index.index,
    query.query,
    cohort.cohort,
    evaluate.evaluate,
    explain.explain,
    encoders.encoders,
):
    app.command(name=one.__name__, help=help_of(one))(one)
app.add_typer(atlas_commands.app, name="atlas")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"bleepdb {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001 - handled by the callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error.", envvar="BLEEPDB_DEBUG"),
    ] = False,
) -> None:
    """Set up the log, which goes to stderr."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    if debug:
        os.environ["BLEEPDB_DEBUG"] = "1"


def run() -> None:
    """Run the app; what a person can mend ends with one line on stderr and exit code 2."""
    tune_process()  # before torch is loaded
    try:
        code = app(standalone_mode=False) or 0
    except (BleepdbError, UsageError, OSError, MemoryError) as error:
        if os.environ.get("BLEEPDB_DEBUG"):
            raise
        from .render import error_line

        if said := _said(error):
            error_line(said)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code, and says nothing
        sys.stderr.write("\ninterrupted\n")
    sys.exit(code)


def _said(error: Exception) -> str:
    """Word an error as one line; empty where the help that was shown instead says it."""
    if isinstance(error, UsageError):
        if type(error).__name__ == "NoArgsIsHelpError":
            return ""
        path = getattr(getattr(error, "ctx", None), "command_path", "bleepdb")
        said = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined] # as click's
        return f"{said}; see `{path} --help`"
    if isinstance(error, OSError):
        # What no reader or writer of ours has worded: a full disk, a folder without permission.
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}; check the path, its permissions and the disk"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); ask for less at once, or use a larger machine"
    return str(error)


if __name__ == "__main__":
    run()
