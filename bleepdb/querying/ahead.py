"""Slides on their way to the search: one is encoded while the next one is opened and decoded.

Two threads work ahead of the caller: one opens slides, finds their places and starts the reading
of their tiles; the other encodes. While the caller searches and writes slide i, slide i+1 is
encoded and slide i+2 is opened; no more than that is ever held.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bleepdb.querying.places import PendingPlaces, Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from bleepdb.querying.places import Located
    from bleepdb.querying.run_report import Entry
    from bleepdb.tissue.slide_sheet import SlideRow

T = TypeVar("T")
OPENING: Final = "opening"
ENCODING: Final = "encoding"
PATIENCE_S: Final = 5.0
HURRY_S: Final = 2.0  # Ctrl-C is answered soon: what is cut off is continued by the next run


class Watch:
    """Is told what happens; all of it may be called from several threads."""

    def begins(self, stage: str, name: str) -> Callable[[int, int], None]:  # noqa: ARG002 - what subclasses use
        """Tell that a stage of a slide begins; give what is called with (done, total)."""
        return lambda _done, _total: None

    def ended(self, entry: Entry) -> None:
        """Tell what became of a slide."""


@dataclass(frozen=True)
class Skipped:
    """A slide whose output is there already.

    Attributes
    ----------
    facts
        Of that output's run card.
    """

    facts: dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """A slide whose features are there.

    Attributes
    ----------
    located
        What was seen of it.
    places
        With their features.
    """

    located: Located
    places: Places


@dataclass
class Arrived:
    """What became of a slide before its search.

    Attributes
    ----------
    row
        The slide.
    outcome
        What was made of it, or the error that it failed with.
    seconds
        Of each stage.
    """

    row: SlideRow
    outcome: Skipped | Encoded | Exception
    seconds: dict[str, float]


class Stopped(Exception):  # noqa: N818 - no error: the caller has gone
    """The caller wants no more."""


class _Worker:
    """One thread that does one thing after another, and does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have something done; the future holds its value, or the error that it raised."""
        made: Future[T] = Future()
        self._waiting.put((made, work))
        return made

    def _work(self) -> None:
        while (entry := self._waiting.get()) is not None:
            future, work = entry
            try:
                value = work()
            except BaseException as error:  # noqa: BLE001 - the caller gets it, whatever it is
                future.set_exception(error)
            else:
                future.set_result(value)
            del entry, future, work

    def close(self, patience_s: float) -> None:
        """Take no more work, and wait for what is being done, but not for ever."""
        self._waiting.put(None)
        self._thread.join(patience_s)


class Line:
    """Slides that arrive one after another, each prepared while the ones before are worked on.

    Parameters
    ----------
    rows
        The slides.
    open_slide
        Gives a slide whose tiles are being read, or that it is skipped.
    watch
        Is told what happens.
    """

    def __init__(
        self,
        rows: Sequence[SlideRow],
        open_slide: Callable[[SlideRow], PendingPlaces | Skipped],
        watch: Watch,
    ) -> None:
        self._rows = rows
        self._open_slide = open_slide
        self._watch = watch
        self._stop = threading.Event()
        self._opener, self._encoder = _Worker("bleepdb-open"), _Worker("bleepdb-encode")
        self._opened: dict[int, Future[PendingPlaces | Skipped]] = {}
        self._seconds: dict[int, dict[str, float]] = {}

    def __iter__(self) -> Iterator[Arrived]:
        """Yield all slides in their order; whatever a slide fails with arrives as its outcome."""
        coming: Future[Skipped | Encoded] | None = None
        if self._rows:
            self._begin(0)
            coming = self._encoder.submit(lambda: self._encode(0))
        for i, row in enumerate(self._rows):
            assert coming is not None  # noqa: S101 - there are as many as rows
            try:
                outcome: Skipped | Encoded | Exception = coming.result()
            except Exception as error:  # noqa: BLE001 - judged by the caller
                outcome = error
            coming = None
            if i + 1 < len(self._rows):
                coming = self._encoder.submit(lambda i=i: self._encode(i + 1))  # type: ignore[misc] # mypy does not infer the default's type
            yield Arrived(row, outcome, self._seconds.pop(i, {}))
            del outcome

    def _begin(self, i: int) -> None:
        self._seconds[i] = {}
        self._opened[i] = self._opener.submit(lambda: self._open(i))

    def _open(self, i: int) -> PendingPlaces | Skipped:
        row, began = self._rows[i], time.monotonic()
        self._check()
        self._watch.begins(OPENING, row.name)
        try:
            made = self._open_slide(row)
        finally:
            self._seconds[i][OPENING] = time.monotonic() - began
        if self._stop.is_set() and isinstance(made, PendingPlaces):
            made.close()
        self._check()
        return made

    def _encode(self, i: int) -> Skipped | Encoded:
        if i + 1 < len(self._rows):
            self._begin(i + 1)
        pending = self._opened.pop(i).result()
        if isinstance(pending, Skipped):
            return pending
        began = time.monotonic()
        with pending:
            move = self._watch.begins(ENCODING, self._rows[i].name)

            def progress(done: int, total: int) -> None:
                self._check()
                move(done, total)

            self._check()
            places = pending.finish(progress)
        self._seconds[i][ENCODING] = time.monotonic() - began
        return Encoded(pending.located, places)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Stop what works ahead, and let go of what is open."""
        self._stop.set()
        until = time.monotonic() + patience_s
        for worker in (self._encoder, self._opener):
            worker.close(max(until - time.monotonic(), 0.0))
        for future in list(self._opened.values()):
            if not future.done():
                continue
            try:
                pending = future.result()
            except (Exception, CancelledError):  # noqa: BLE001, S112 - nobody asks for it any more
                continue
            if isinstance(pending, PendingPlaces):
                pending.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(HURRY_S if kind is KeyboardInterrupt else PATIENCE_S)
