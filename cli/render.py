"""What the commands share in showing things: consoles, progress bars, tables, one-line errors."""

from __future__ import annotations

import inspect
import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

PLAIN_WIDTH = 150  # where the output is no terminal, and so has no width of its own


def _console(*, stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


log = _console(stderr=True)
out = _console(stderr=False)


def plain(text: str) -> str:
    """Return text from a file without what would command a terminal, and safe from markup."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def help_of(command: Callable[..., None]) -> str:
    """Return a command's help; the lines of a paragraph run on, however wide the terminal."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs)


def counted(number: int, what: str) -> str:
    """Word a number of things, such as ``1 section`` or ``2 sections``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def megabytes(size: int) -> str:
    """Word a number of bytes."""
    return f"{size / 2**20:,.1f} MB"


def error_line(text: str) -> None:
    """Write one error line to stderr, whatever its text holds."""
    log.quiet = False  # a process that shows nothing else shows why it ended
    log.print(f"[bold red]error:[/] {plain(' '.join(text.split()))}", soft_wrap=True)


def warn(text: str) -> None:
    """Write one warning line to stderr."""
    log.print(f"[bold yellow]warning:[/] {plain(text)}", soft_wrap=True)


def note(text: str) -> None:
    """Write one plain line to stderr."""
    log.print(plain(text), soft_wrap=True)


def print_json(document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a JSON document to stdout."""
    write_out(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_out(text: str) -> None:
    """Write text to stdout as it is."""
    sys.stdout.write(text)


class Speed(ProgressColumn):
    """How many of a unit a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self._unit}/s")


@contextmanager
def bar(what: str, *, unit: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr; give the function that moves it: (done, total).

    With a unit, such as spots, it shows how many a second too.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *([] if unit is None else [Speed(unit)]),
    )
    with Progress(*columns, console=log, disable=not log.is_terminal) as progress:
        task = progress.add_task(plain(what), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def stages(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar whose words change; give the function that moves it: (done, total, what).

    Where stderr is no terminal, such as in the log of a job, the first step of each part (what
    stands before a colon) is a line of its own.
    """
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=log, disable=not log.is_terminal) as progress:
        task = progress.add_task(plain(what), total=None)
        begun: set[str] = set()

        def move(done: int, total: int, text: str) -> None:
            progress.update(task, completed=done, total=total, description=plain(text))
            part = text.partition(": ")[0]
            if not log.is_terminal and part not in begun:
                begun.add(part)
                note(f"{part} ({done} of {total} done)")

        yield move


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str | None = None
) -> Group:
    """Make a table; the first column stands left, the others right.

    Title and caption have lines of their own: a table of few columns does not break them.
    """
    made = Table()
    for number, name in enumerate(columns):
        made.add_column(
            name, justify="left" if number == 0 else "right", overflow="fold", no_wrap=number == 0
        )
    for row in rows:
        made.add_row(*map(plain, row))
    parts: list[Table | str] = [f"[table.title]{plain(title)}[/]", made]
    if caption is not None:
        parts.append(f"[table.caption]{plain(caption)}[/]")
    return Group(*parts)
