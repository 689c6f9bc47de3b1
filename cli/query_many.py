"""What `bleepdb query` does with several slides: progress, tables, and how a run ends."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bleepdb.querying.ahead import ENCODING, OPENING, Watch

from .render import bar, counted, log, note, plain, print_json, table, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bleepdb.querying.estimate import Foreseen, Plan
    from bleepdb.querying.many import Many
    from bleepdb.querying.run_report import Entry, RunReport

MARKS = {"done": "done", "skipped": "skipped", "failed": "FAILED", "left": "left"}
MOST_WARNED = 5  # slides that a warning which many of them share names


class Bars(Watch):
    """Progress over slides and tiles on stderr; where that is no terminal, a line a slide."""

    def __init__(self, progress: Progress, slides: int) -> None:
        self._progress = progress
        self._slides = progress.add_task("slides", total=slides)
        self._tasks: dict[bool, TaskID] = {}  # of what runs ahead, and of what is at hand
        self._lock = threading.Lock()

    def begins(self, stage: str, name: str) -> Callable[[int, int], None]:
        """Show what runs ahead on one line, and what is searched and written on another."""
        if stage == OPENING:
            return lambda _done, _total: None
        ahead = stage == ENCODING
        with self._lock:
            if ahead in self._tasks:
                self._progress.remove_task(self._tasks[ahead])
            task = self._progress.add_task(plain(f"{name}: {stage}"), total=None)
            self._tasks[ahead] = task

        def move(done: int, total: int) -> None:
            with self._lock:
                if self._tasks[ahead] == task:
                    self._progress.update(task, completed=done, total=total)

        return move

    def ended(self, entry: Entry) -> None:
        """Count a slide."""
        self._progress.advance(self._slides)
        if not log.is_terminal:
            what = f"{entry.places} places" if entry.places is not None else entry.reason or ""
            note(f"{entry.name}: {MARKS[entry.status]}, {what}")


@contextmanager
def bars(slides: int) -> Iterator[Bars]:
    """Show progress over many slides."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, disable=not log.is_terminal) as progress:
        yield Bars(progress, slides)


def run(many: Many) -> RunReport:
    """Impute all slides; where that is interrupted, say how to go on."""
    try:
        with bars(len(many.rows)) as watch:
            return replace(many, watch=watch).run()
    except KeyboardInterrupt:
        note(
            f"interrupted: what is written is whole ({many.report}). The same command again skips "
            "what is done and goes on with the rest"
        )
        raise


def show_report(report: RunReport, out: Path) -> None:
    """Show a run's report as a table on stderr, the failures last."""
    columns = (
        "slide",
        "status",
        "places",
        "µm/px",
        "from",
        "opened",
        "encoded",
        "searched",
        "written",
    )
    rows = [
        (
            e.name,
            MARKS[e.status],
            "-" if e.places is None else f"{e.places:,}",
            "-" if e.slide_mpp is None else f"{e.slide_mpp:.4g}",
            e.mpp_source or "-",
            *(_seconds(e.seconds, s) for s in (OPENING, ENCODING, "searching", "writing")),
        )
        for e in report.entries
    ]
    log.print(table("Slides", columns, rows))
    show_warnings({e.name: e.warnings for e in report.entries})
    for e in report.entries:
        if e.status == "failed":
            warn(f"{e.name} failed: {e.reason}" + ("" if _known(e) else f" ({e.error})"))
    counts = ", ".join(f"{n} {s}" for s in MARKS if (n := report.count(s)))
    beside = report.cohort or "no cohort table"
    note(f"{out}: {counts or 'no slides'}; {report.path.name}, {beside}")


def _known(entry: Entry) -> bool:
    """Tell whether a slide failed with one of our own errors, whose words say enough."""
    from bleepdb import errors

    return hasattr(errors, entry.error or "")


def _seconds(seconds: Mapping[str, float], stage: str) -> str:
    return f"{seconds[stage]:.1f} s" if stage in seconds else "-"


def show_warnings(said: Mapping[str, Sequence[str]]) -> None:
    """Show each warning once, with the slides that it is about."""
    by_text: dict[str, list[str]] = {}
    for name, texts in said.items():
        for text in dict.fromkeys(texts):
            by_text.setdefault(text, []).append(name)
    for text, slides in by_text.items():
        more = f" and {len(slides) - MOST_WARNED} more" if len(slides) > MOST_WARNED else ""
        warn(f"{', '.join(slides[:MOST_WARNED])}{more}: {text}")


def dry_run(many: Many, *, output: Path | None, as_json: bool) -> int:
    """Show what a run would do and cost; return the exit code."""
    from bleepdb.querying.estimate import foresee

    with bar("looking at slides") as move:
        plan = foresee(many, output=output, progress=move)
    show_plan(plan)
    if as_json:
        print_json(plan.document())
    return plan.exit_code


def show_plan(plan: Plan) -> None:
    """Show a plan on stderr."""
    columns = ("slide", "status", "px", "µm/px", "from", "tiles", "features", "hours", "output")
    total = plan.document()["total"]
    rows = [_plan_row(s) for s in plan.slides]
    rows.append(
        (
            "total", f"{total['ready']} ready", "", "", "", f"{total['places']:,}",
            f"{total['cache_gb']:.3f} GB", f"{total['hours']:.3f}", f"{total['output_gb']:.3f} GB",
        )
    )  # fmt: skip
    speed = (
        "nothing has to be encoded"
        if plan.tiles_per_second is None
        else f"{plan.tiles_per_second:.1f} tiles a second, measured here on {plan.measured_on}"
    )
    caption = f"dry run, nothing was written; {counted(plan.genes, 'gene')} a tile; {speed}"
    log.print(table("What would be done", columns, rows, caption=caption))
    show_warnings({s.name: s.warnings for s in plan.slides})
    for s in plan.slides:
        if s.status == "refused":
            warn(f"{s.name} would fail: {s.reason}")
    for text in plan.refusals:
        warn(text)


def _plan_row(seen: Foreseen) -> tuple[str, ...]:
    if seen.size_px is None:
        return (seen.name, seen.status, *("-" for _ in range(7)))
    ready = seen.status == "ready"
    features = "cached" if seen.cached else f"{seen.cache_gb:.3f} GB"
    return (
        seen.name,
        seen.status,
        f"{seen.size_px[0]} x {seen.size_px[1]}",
        "-" if seen.slide_mpp is None else f"{seen.slide_mpp:.4g}",
        seen.mpp_source or "-",
        f"{seen.places:,}",
        features if ready else "-",
        f"{seen.hours:.3f}" if ready else "-",
        f"{seen.output_gb:.3f} GB" if ready else "-",
    )


def exits(code: int) -> None:
    """End the command with a code, where it is not 0."""
    import typer

    sys.stdout.flush()
    if code:
        raise typer.Exit(code)
