"""What `bleepdb query` runs: one slide into a file, or many into a folder."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb import ledger, names
from bleepdb.atlas import resolve
from bleepdb.atlas.whole_folder import check_room
from bleepdb.encoders import load_model
from bleepdb.errors import GeneError
from bleepdb.indexing import model_of
from bleepdb.querying import Query, query_slide, write_current
from bleepdb.querying.many import Many
from bleepdb.tissue import read_spots
from bleepdb.tissue.slide_sheet import parse_shard, read_slide_sheet, rows_of_paths, shard_of

from . import query_many
from .connecting import Opening
from .inputs import is_sheet, refuse_mask
from .render import bar, note, print_json, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bleepdb.atlas import Atlas
    from bleepdb.encoders import Model
    from bleepdb.querying import QuerySettings
    from bleepdb.tissue.slide_sheet import SlideRow


@dataclass(frozen=True)
class Asked:
    """What the options say of a query."""

    slides: list[Path]
    out: Path
    atlas: str
    tissue: str
    model: Path | None
    named: Path | None
    settings: QuerySettings
    opening: Opening
    slide_mpp: float | None
    donor: str | None
    mask: str | None
    overlay: bool
    as_json: bool

    def one(self, *, spots: Path | None, library_id: str | None) -> None:
        """Impute one slide into one file."""
        out = self.out
        refuse_mask(self.mask, 1)
        check_room(out, 0)  # HDF5 does not outlive a disk that fills up: it is refused before
        asked = Query(
            slide_path=self.slides[0],
            slide_mpp=self.slide_mpp,
            spots=None if spots is None else read_spots(spots),
            library_id=library_id,
            donor=self.donor,
            mask=self.mask,
        )
        overlay = out.with_suffix(".overlay.png") if self.overlay else None
        with self.opening.open(self.atlas) as place, ExitStack() as bars:
            collection = resolve(place, self.tissue)
            used = self.used_model(place, collection)

            def step(name: str) -> Callable[[int, int], None]:
                bars.close()
                return bars.enter_context(bar(name))

            with self.genes_named():
                made = query_slide(
                    asked,
                    used,
                    place,
                    collection,
                    settings=self.settings,
                    progress=step,
                    overlay=overlay,
                )
            bars.close()
            check_room(out, made.most_bytes)
            with bar("writing") as move:
                made = write_current(made, place, out, progress=move)
            ledger.record(
                out,
                atlas=place.location,
                collection=collection,
                donors=made.references[names.DONOR],
                sections=made.references[names.SECTION],
            )
        facts = made.facts
        for text in facts["warnings"]:
            warn(text)
        if self.as_json:
            print_json({"out": str(out), "places": len(made), "genes": len(made.var), **facts})
            return
        note(
            f"{out}: {len(made)} places x {len(made.var)} genes from {len(made.references)} "
            f"reference spots of {made.references['donor'].nunique()} donors "
            f"({facts['settings']['method']}, k={facts['settings']['k']}, {facts['search']}, atlas "
            f"generation {facts['generation']})"
        )
        gene = made.var.index[0]
        note(f"next: bleepdb explain {out} --atlas {self.atlas} --at X,Y --gene {gene}")

    def many(
        self,
        *,
        spots: Path | None,
        library_id: str | None,
        shard: str | None,
        force: bool,
        dry: bool,
        single: bool,
    ) -> None:
        """Impute several slides into a folder, or tell what that would do."""
        part = None if shard is None else parse_shard(shard, os.environ)
        rows = self._rows()
        if single:
            rows = [replace(r, spots=spots, name=library_id or r.name) for r in rows]
        elif part is not None:
            rows = shard_of(rows, *part)
        with self.opening.open(self.atlas) as place:
            collection = resolve(place, self.tissue)
            used = self.used_model(place, collection)
        job = Many(
            rows,
            used,
            partial(self.opening.open, self.atlas),
            collection,
            self.out,
            self.settings,
            shard=part,
            force=force,
            overlay=self.overlay,
        )
        with self.genes_named():
            if dry:
                output = self.out if single else None
                query_many.exits(query_many.dry_run(job, output=output, as_json=self.as_json))
                return
            report = query_many.run(job)
        query_many.show_report(report, self.out)
        if self.as_json:
            print_json(report.document())
        query_many.exits(report.exit_code)

    def _rows(self) -> list[SlideRow]:
        """Return the slides with what the options say of them."""
        sheet = is_sheet(self.slides[0])
        rows = read_slide_sheet(self.slides[0]) if sheet else rows_of_paths(self.slides)
        refuse_mask(self.mask, len(rows))
        rows = [replace(r, donor=r.donor or self.donor, mask=r.mask or self.mask) for r in rows]
        if self.slide_mpp is not None:
            rows = [replace(r, mpp=self.slide_mpp, mpp_source="--slide-mpp") for r in rows]
        return rows

    def used_model(self, place: Atlas, collection: str) -> Model:
        """Return the model that is named, else the one stored with the collection."""
        return model_of(place, collection) if self.model is None else load_model(self.model)

    @contextmanager
    def genes_named(self) -> Iterator[None]:
        """Say which file named genes that are not known."""
        try:
            yield
        except GeneError as error:
            where = self.named or error.where
            raise GeneError(error.what, where=where, hint=error.hint) from error
