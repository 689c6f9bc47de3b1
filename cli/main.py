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
from bleepdb.errors import BleepdbError

from . import atlas_commands, demo, evaluate, explain, index, query, train

app = typer.Typer(
    name="bleepdb",
    help="Impute gene expression from H&E slides by retrieval from an atlas of measured spots.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    epilog="For research use only. Settings: flags, then BLEEPDB_* variables, then defaults.",
)
app.command(name="demo")(demo.demo)
app.command(name="train")(train.train)
app.command(name="index")(index.index)
app.command(name="query")(query.query)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="explain")(explain.explain)
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
    try:
        app()
    except BleepdbError as error:
        if os.environ.get("BLEEPDB_DEBUG"):
            raise
        from .render import error_line

        error_line(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    run()
