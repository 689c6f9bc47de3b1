"""The report of a run over many slides: what was done, skipped and failed, and why.

It is written again after each slide, so that a run that was killed leaves one too.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bleepdb.contracts import check
from bleepdb.files import write_json
from bleepdb.run_card import make_run_card, now, redact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT: Final = "bleepdb-query-report"
VERSION: Final = 1
SCHEMA_NAME: Final = "query_report"
DONE, SKIPPED, FAILED, LEFT = "done", "skipped", "failed", "left"
STATUSES: Final = (DONE, SKIPPED, FAILED, LEFT)


@dataclass
class Entry:
    """What happened to one slide.

    Attributes
    ----------
    name, slide, line, fields
        As the row says.
    status
        ``done``, ``skipped`` (an output that says the same is there), ``failed``, or ``left`` (the
        run ended before).
    reason
        Why it failed, was skipped or left, as one line.
    error
        Kind of the error that it failed with.
    places
        How many tiles or spots were imputed.
    seconds
        Of each stage. Opening and encoding of one slide run beside searching and writing of the
        one before.
    warnings
        Sentences to read.
    output, overlay
        Names of the files beside the report.
    slide_digest, output_digest
        Of the slide's content and the output's bytes.
    slide_mpp, mpp_source
        Microns per level-0 pixel, and who says so.
    """

    name: str
    slide: str
    line: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    status: str = LEFT
    reason: str | None = None
    error: str | None = None
    places: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    output: str | None = None
    overlay: str | None = None
    slide_digest: str | None = None
    output_digest: str | None = None
    slide_mpp: float | None = None
    mpp_source: str | None = None

    def failed(self, error: BaseException) -> None:
        """Note that it failed, and with what."""
        self.status, self.error = FAILED, type(error).__name__
        self.reason = redact(" ".join(str(error).split())) or type(error).__name__


class RunReport:
    """The report while it grows.

    Parameters
    ----------
    path
        Where it is written.
    entries
        All slides of the run.
    shard
        Which part of how many, or None.
    facts
        What holds for all: atlas, collection, generation, model, settings.
    """

    def __init__(
        self,
        path: Path,
        entries: list[Entry],
        *,
        shard: tuple[int, int] | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.entries = entries
        self.stopped: str | None = None
        self.cohort: str | None = None
        self._shard = shard
        self._card = make_run_card(**facts)
        self._began = time.monotonic()
        self._finished: str | None = None

    def count(self, status: str) -> int:
        """How many slides have this status."""
        return sum(e.status == status for e in self.entries)

    @property
    def exit_code(self) -> int:
        """1 where a slide failed, else 0."""
        return 1 if self.count(FAILED) else 0

    def finish(self, stopped: str | None = None) -> None:
        """Note the end of the run, and why it ended early; write it."""
        self.stopped = None if stopped is None else redact(" ".join(stopped.split()))
        for entry in self.entries:
            if entry.status == LEFT:
                entry.reason = self.stopped
        self._finished = now()
        check(SCHEMA_NAME, self.document(), where=self.path)
        self.write()

    def document(self) -> dict[str, Any]:
        """Return it as JSON values (schemas/query_report.schema.json)."""
        index, of = self._shard or (1, 1)
        return {
            "format": FORMAT,
            "version": VERSION,
            "run_card": self._card,
            "shard": None if self._shard is None else {"index": index, "of": of},
            "finished": self._finished,
            "stopped": self.stopped,
            "seconds": round(time.monotonic() - self._began, 3),
            "counts": {status: self.count(status) for status in STATUSES},
            "cohort": self.cohort,
            "slides": [
                asdict(e) | {"seconds": {k: round(v, 3) for k, v in e.seconds.items()}}
                for e in self.entries
            ],
        }

    def write(self) -> None:
        """Write it as it stands."""
        write_json(self.path, self.document())
