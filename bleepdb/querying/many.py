"""Many slides against one atlas, one after another, the next one on its way meanwhile.

One bad slide does not stop the others: it is noted, and the run goes on. What concerns all slides
(the atlas, the model, the disk) ends the run. The atlas is opened for the search and the writing of
each slide and let go in between, so that others can use an embedded one while tiles are encoded.
"""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bleepdb import ledger, names
from bleepdb.atlas.whole_folder import check_room
from bleepdb.errors import (
    AtlasError,
    AtlasLockedError,
    AtlasMovedError,
    BleepdbError,
    EmptyAtlasError,
    InputError,
    ModelError,
)
from bleepdb.files import file_digest
from bleepdb.querying.ahead import Encoded, Line, Skipped, Watch
from bleepdb.querying.cohort import CohortWriter, cohort_parts
from bleepdb.querying.places import locate
from bleepdb.querying.resuming import is_current, live_sections, refuse_foreign, request_of
from bleepdb.querying.run import write_current
from bleepdb.querying.run_report import DONE, SKIPPED, Entry, RunReport
from bleepdb.querying.settings import Query
from bleepdb.querying.slide import answer, check_query, refuse_nobody
from bleepdb.tissue import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bleepdb.atlas import Atlas, Pinned
    from bleepdb.encoders import Model
    from bleepdb.querying.ahead import Arrived
    from bleepdb.querying.places import PendingPlaces
    from bleepdb.querying.settings import QuerySettings
    from bleepdb.tissue.slide_sheet import SlideRow

log = logging.getLogger(__name__)

SEARCHING: Final = "searching"
WRITING: Final = "writing"
LOCK_PATIENCE_S: Final = 600.0  # how long a run waits for who holds an embedded atlas
NO_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
AS_IT_IS: Final = "its output is there, of the same slide, settings, model and atlas"


@dataclass(frozen=True)
class Many:
    """What is asked of many slides.

    Parameters
    ----------
    rows
        The slides, each with a name of its own.
    model
        Of the collection's space.
    borrow
        Opens the atlas; it is closed again after each slide.
    collection
        Which of its collections.
    out
        Folder of the outputs.
    settings
        How; the same for all.
    shard
        Which part of how many `rows` are, for the names of report and cohort table.
    force
        Make again what is there.
    overlay
        Draw each slide's tissue and tiles beside its output.
    watch
        Is told what happens.
    """

    rows: Sequence[SlideRow]
    model: Model
    borrow: Callable[[], AbstractContextManager[Atlas]]
    collection: str
    out: Path
    settings: QuerySettings
    shard: tuple[int, int] | None = None
    force: bool = False
    overlay: bool = False
    watch: Watch = field(default_factory=Watch)

    @property
    def suffix(self) -> str:
        """What follows the names of report and cohort table: nothing, or the shard's."""
        return "" if self.shard is None else f"-{self.shard[0]}-of-{self.shard[1]}"

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.out / f"report{self.suffix}.json"

    def output(self, row: SlideRow) -> Path:
        """Path of a slide's imputed file."""
        return self.out / f"{row.name}.h5ad"

    def run(self) -> RunReport:
        """Impute all slides.

        Returns
        -------
        RunReport
            Written; slides that failed are in it.

        Raises
        ------
        BleepdbError
            What concerns all slides; the report says it, and what was done before is whole.
        KeyboardInterrupt
            Likewise.
        """
        self.model.backbone()  # its faults concern all slides
        check_room(self.report, 0)
        with self._held() as atlas:
            pinned = check_query(self.model, atlas, self.collection, self.settings)
            location = atlas.location
        entries = [
            Entry(r.name, str(r.slide), line=r.line, fields=dict(r.fields)) for r in self.rows
        ]
        report = RunReport(
            self.report,
            entries,
            shard=self.shard,
            facts=self._facts(location, pinned),
        )
        report.write()
        stopped = "killed"
        with (
            CohortWriter(cohort_parts(self.out)) as cohort,
            Line(self.rows, lambda row: self._open(row, location, pinned), self.watch) as line,
        ):
            try:
                for entry, arrived in zip(entries, line, strict=True):
                    self._take(entry, arrived, cohort)
                    report.write()
                    self.watch.ended(entry)
            except KeyboardInterrupt:
                stopped = "interrupted"
                raise
            except BleepdbError as error:
                stopped = str(error)
                raise
            except OSError as error:
                stopped = error.strerror or str(error)
                raise
            else:
                stopped = ""
            finally:
                if cohort.slides:
                    _quietly(lambda: self._finish_cohort(cohort, report), stopped)
                _quietly(lambda: report.finish(stopped or None), stopped)
        return report

    def _finish_cohort(self, cohort: CohortWriter, report: RunReport) -> None:
        path = self.out / f"cohort{self.suffix}.parquet"
        cohort.finish(path)
        report.cohort = path.name

    def _facts(self, location: str, pinned: Pinned) -> dict[str, Any]:
        chosen = asdict(self.settings)
        chosen["where"] = [str(condition) for condition in self.settings.where]
        if chosen["max_upsampling"] == float("inf"):
            chosen["max_upsampling"] = None
        return {
            "atlas": location,
            "collection": self.collection,
            "generation": pinned.manifest.generation,
            "live_sections": live_sections(pinned),
            "space_id": self.model.space_id,
            "recipe": self.model.recipe,
            "backbone": self.model.feature_spec.backbone,
            "device": self.model.backbone().device,
            "settings": chosen,
        }

    def _open(self, row: SlideRow, location: str, pinned: Pinned) -> PendingPlaces | Skipped:
        """Open a slide and start to read its tiles, or find that its output is there."""
        query = Query.of(row)
        refuse_foreign(self.output(row))
        if not self.force and (facts := self._kept(row, query, location, pinned)) is not None:
            return Skipped(dict(facts))
        refuse_nobody(query, self.settings, self.model, pinned, location=location)
        overlay = self._overlay(row) if self.overlay else None
        return locate(query, self.model, self.settings, overlay=overlay).begin(self.model)

    def _kept(
        self, row: SlideRow, query: Query, location: str, pinned: Pinned
    ) -> Mapping[str, Any] | None:
        path = self.output(row)
        if self.overlay and not self._overlay(row).is_file():
            return None
        facts = is_current(
            path,
            request=request_of(query, self.settings, self.model),
            atlas=location,
            pinned=pinned,
        )
        if facts is None:
            return None
        with open_slide(query.slide_path, mpp=query.slide_mpp) as slide:
            return facts if slide.digest == facts["slide_digest"] else None

    def _overlay(self, row: SlideRow) -> Path:
        return self.out / f"{row.name}.overlay.png"

    def _take(self, entry: Entry, arrived: Arrived, cohort: CohortWriter) -> None:
        """Make the output of a slide, or note why there is none."""
        entry.seconds |= arrived.seconds
        path = self.output(arrived.row)
        try:
            if isinstance(arrived.outcome, Exception):
                raise arrived.outcome  # noqa: TRY301 - judged with what may be raised below
            if isinstance(arrived.outcome, Encoded):
                self._answer(entry, arrived.row, arrived.outcome)
                entry.status = DONE
            else:
                facts = arrived.outcome.facts
                entry.status, entry.reason = SKIPPED, AS_IT_IS
                _note_facts(entry, facts)
            entry.output = path.name
            entry.overlay = self._overlay(arrived.row).name if self.overlay else None
            entry.output_digest = file_digest(path)
            cohort.add(path)
        except Exception as error:  # one that nobody foresaw is listed too
            self._raise_common(error)
            entry.failed(error)
            if not isinstance(error, BleepdbError):
                log.debug("%s failed", entry.name, exc_info=error)
            entry.output = entry.output_digest = entry.overlay = None
            if path.is_file():
                entry.warnings.append(f"{path.name} is of an earlier run")

    def _answer(self, entry: Entry, row: SlideRow, seen: Encoded) -> None:
        """Search, weigh and write."""
        path, query = self.output(row), seen.located.query
        began = time.monotonic()

        def step(name: str) -> Callable[[int, int], None]:
            return self.watch.begins(name, row.name)

        with self._held() as atlas:
            made = answer(
                query, seen.places, self.model, atlas, self.collection,
                settings=self.settings, progress=step, says=False,
            )  # fmt: skip
            entry.seconds[SEARCHING] = time.monotonic() - began
            began = time.monotonic()
            check_room(path, made.most_bytes)
            made = write_current(made, atlas, path, progress=step(WRITING))
            ledger.record(
                path,
                atlas=atlas.location,
                collection=self.collection,
                donors=made.references[names.DONOR],
                sections=made.references[names.SECTION],
            )
        entry.seconds[WRITING] = time.monotonic() - began
        _note_facts(entry, made.facts)

    def _held(self) -> AbstractContextManager[Atlas]:
        """Open the atlas; where another process holds it, wait: it will be let go."""
        until, said = time.monotonic() + LOCK_PATIENCE_S, False
        while True:
            try:
                return self.borrow()
            except AtlasLockedError as error:
                if time.monotonic() > until:
                    raise
                if not said:
                    log.warning("%s: waiting", error.what)
                    said = True

    def _raise_common(self, error: Exception) -> None:
        """Raise what concerns all slides."""
        if isinstance(error, EmptyAtlasError):
            # Nothing is left without this slide's donor, or without any: the atlas tells.
            with self._held() as atlas:
                check_query(self.model, atlas, self.collection, self.settings)
            return
        if isinstance(error, AtlasMovedError):
            return
        if isinstance(error, (AtlasError, ModelError)):
            raise error
        if isinstance(error, OSError) and error.errno in NO_DISK:
            raise error


def _note_facts(entry: Entry, facts: Mapping[str, Any]) -> None:
    """Note what an output's run card says of it."""
    entry.slide_digest = facts["slide_digest"]
    entry.slide_mpp = facts["slide_mpp"]
    entry.mpp_source = facts["mpp_source"]
    entry.places = facts["places"]
    entry.warnings += facts["warnings"]


def _quietly(work: Callable[[], None], stopped: str) -> None:
    """Do the last work of a run that is ending; its fault does not hide why it ends."""
    try:
        work()
    except (BleepdbError, OSError) as error:
        if not stopped:
            raise
        log.warning("at the end of the run: %s", error)


def refuse_folder(out: Path) -> None:
    """Refuse a folder for outputs that could not be used.

    Raises
    ------
    InputError
        If it is a file.
    """
    if out.exists() and not out.is_dir():
        raise InputError(
            "is a file", where=out, hint="name a folder: each slide gets a file of its own there"
        )
