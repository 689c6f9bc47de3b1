"""`bleepdb query`: slides against an atlas."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import GeneError, InputError

from .connecting import OPENING, Opening, connected
from .inputs import (
    AtlasOption,
    SlideMppOption,
    UpsamplingOption,
    gene_file,
    genes_asked,
    is_sheet,
    most_upsampling,
    refuse_output,
    refuse_place,
)
from .render import bar, note, print_json, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bleepdb.atlas import Atlas
    from bleepdb.encoders import Model
    from bleepdb.querying import QuerySettings
    from bleepdb.querying.slide_sheet import SlideRow


@connected
def query(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="The H&E slide, several of them, or a sheet of slides (CSV/TSV) with a column "
            "`slide`, and where known `mpp`, `donor`, `library_id`, `spots`, `mask`.",
            show_default=False,
        ),
    ],
    atlas: AtlasOption,
    tissue: Annotated[
        str,
        typer.Option("--tissue", help="Tissue, alias or collection to search.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The .h5ad to write; with several slides a folder, which gets one NAME.h5ad a "
            "slide, report.json and cohort.parquet.",
            show_default=False,
        ),
    ],
    spots: Annotated[
        Path | None,
        typer.Option(
            "--spots",
            help="Impute at these places: a table with x_px and y_px, a legacy selection table, "
            "tissue_positions, or an .h5ad. Default: tiles over the tissue.",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Model folder; default: the one stored with the atlas."),
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(
            "--genes",
            help="Genes to write: a file, a list A,B,C, `predictable`, `model` or `all`. Default: "
            "those that held-out tests call predictable, else the 2,000 highest expressed.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="softmax, simple, average, weighted or local."),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Neighbours a place.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the softmax.")
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option("--smoothing", help="Share of adjacent places, 0 for none.")
    ] = None,
    denoise: Annotated[
        bool, typer.Option("--denoise/--no-denoise", help="Use the model's low-rank map.")
    ] = True,
    donor: Annotated[
        str | None,
        typer.Option("--donor", help="Whose slide this is: that donor's spots are not searched."),
    ] = None,
    exclude_donor: Annotated[
        list[str] | None, typer.Option("--exclude-donor", help="Do not search a donor's spots.")
    ] = None,
    exclude_section: Annotated[
        list[str] | None, typer.Option("--exclude-section", help="Do not search a section.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Search only spots that meet conditions: `stage=II`, `donor!=P3`, `stage=I|II`, "
            "joined by commas (repeatable).",
        ),
    ] = None,
    per_donor: Annotated[
        int | None,
        typer.Option("--per-donor", help="Most neighbours of a place from one donor."),
    ] = None,
    search: Annotated[
        str,
        typer.Option(
            "--search", help="exact, approximate (the search index), or auto: by the work it is."
        ),
    ] = "auto",
    slide_mpp: SlideMppOption = None,
    stride_um: Annotated[
        float | None,
        typer.Option("--stride-um", help="Distance of tiles; default: the training pitch."),
    ] = None,
    min_tissue: Annotated[
        float, typer.Option("--min-tissue", help="Least share of tissue in a tile.")
    ] = 0.5,
    neighbour_sd: Annotated[
        bool, typer.Option("--neighbour-sd", help="Also write the spread among neighbours.")
    ] = False,
    library_id: Annotated[
        str | None, typer.Option("--library-id", help="Name of the slide in the output.")
    ] = None,
    allow_upsampling: UpsamplingOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="Take one part of the slides: `2/8` is the second of eight, `auto` the part of "
            "this job of a Slurm array.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Make again what is there; else outputs that still hold are skipped."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Write nothing: tell tiles, hours, gigabytes, and what would fail."
        ),
    ] = False,
    opening: Opening = OPENING,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Impute gene expression on slides from the measured spots of an atlas.

    The output holds, for every place, the weights on named reference spots (always) and the
    imputed values of the chosen genes (log1p of counts per 10,000; NaN where nobody measured
    them). squidpy and scanpy plot it as it is.

    With several slides, one is encoded while the one before is searched and written. A slide that
    fails is listed at the end with its reason, and the exit code is 1; a second run skips what is
    done.
    """
    named = gene_file(genes)
    many = _is_many(slides, out)
    if many:
        _refuse_single(slides, out, spots=spots, library_id=library_id)
    else:
        _refuse_slide(slides[0], out, reads=(slides[0], spots, named))
        if shard is not None:
            raise InputError("--shard is for several slides", hint="leave it out")
    from bleepdb.querying import QuerySettings, parse_conditions

    settings = QuerySettings(
        method=method,
        k=k,
        temperature=temperature,
        smoothing=smoothing,
        denoise=denoise,
        exclude_donors=tuple(exclude_donor or ()),
        exclude_sections=tuple(exclude_section or ()),
        where=tuple(c for text in where or () for c in parse_conditions(text)),
        per_donor=per_donor,
        search=search,
        genes=genes_asked(genes),
        neighbour_sd=neighbour_sd,
        stride_um=stride_um,
        min_tissue=min_tissue,
        max_upsampling=most_upsampling(allowed=allow_upsampling),
    )
    asked = _Asked(
        slides, out, atlas, tissue, model, named, settings, opening,
        slide_mpp=slide_mpp, donor=donor, as_json=as_json,
    )  # fmt: skip
    if many or dry_run:
        asked.many(
            spots=spots,
            library_id=library_id,
            shard=shard,
            force=force,
            dry=dry_run,
            single=not many,
        )
    else:
        asked.one(spots=spots, library_id=library_id)


@dataclass(frozen=True)
class _Asked:
    """What the options say."""

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
    as_json: bool

    def one(self, *, spots: Path | None, library_id: str | None) -> None:
        """Impute one slide into one file."""
        from bleepdb import ledger, names
        from bleepdb.atlas import resolve
        from bleepdb.atlas.whole_folder import check_room
        from bleepdb.querying import Query, query_slide, write_current
        from bleepdb.tissue import read_spots

        out = self.out
        check_room(out, 0)  # HDF5 does not outlive a disk that fills up: it is refused before
        asked = Query(
            slide_path=self.slides[0],
            slide_mpp=self.slide_mpp,
            spots=None if spots is None else read_spots(spots),
            library_id=library_id,
            donor=self.donor,
        )
        with self.opening.open(self.atlas) as place, ExitStack() as bars:
            collection = resolve(place, self.tissue)
            used = self.used_model(place, collection)

            def step(name: str) -> Callable[[int, int], None]:
                bars.close()
                return bars.enter_context(bar(name))

            with self.genes_named():
                made = query_slide(
                    asked, used, place, collection, settings=self.settings, progress=step
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
        from bleepdb.atlas import resolve
        from bleepdb.querying.many import Many
        from bleepdb.querying.slide_sheet import parse_shard, shard_of

        from . import query_many

        part = None if shard is None else parse_shard(shard, os.environ)
        rows = self._rows()
        if single:
            rows = [replace(r, spots=spots, name=library_id or r.name) for r in rows]
        elif part is not None:
            rows = shard_of(rows, *part)
        with self.opening.open(self.atlas) as place:
            collection = resolve(place, self.tissue)
            used = self.used_model(place, collection)
        with query_many.bars(len(rows)) as bars, self.genes_named():
            job = Many(
                rows,
                used,
                partial(self.opening.open, self.atlas),
                collection,
                self.out,
                self.settings,
                shard=part,
                force=force,
                watch=bars,
            )
            if not dry:
                report = query_many.run(job)
        if dry:
            query_many.exits(
                query_many.dry_run(job, output=self.out if single else None, as_json=self.as_json)
            )
            return
        query_many.show_report(report, self.out)
        if self.as_json:
            print_json(report.document())
        query_many.exits(report.exit_code)

    def _rows(self) -> list[SlideRow]:
        """Return the slides with what the options say of them."""
        from bleepdb.querying.slide_sheet import read_slide_sheet, rows_of_paths

        sheet = is_sheet(self.slides[0])
        rows = read_slide_sheet(self.slides[0]) if sheet else rows_of_paths(self.slides)
        return [replace(r, mpp=self.slide_mpp or r.mpp, donor=r.donor or self.donor) for r in rows]

    def used_model(self, place: Atlas, collection: str) -> Model:
        """Return the model that is named, else the one stored with the collection."""
        from bleepdb.encoders import load_model
        from bleepdb.indexing import model_of

        return model_of(place, collection) if self.model is None else load_model(self.model)

    @contextmanager
    def genes_named(self) -> Iterator[None]:
        """Say which file named genes that are not known."""
        try:
            yield
        except GeneError as error:
            where = self.named or error.where
            raise GeneError(error.what, where=where, hint=error.hint) from error


def _is_many(slides: Sequence[Path], out: Path) -> bool:
    """Tell whether the output is a folder: there are several slides, or a folder is named."""
    if len(slides) > 1 or is_sheet(slides[0]):
        return True
    return out.is_dir() or out.suffix == ""


def _refuse_slide(slide: Path, out: Path, *, reads: Sequence[Path | None]) -> None:
    """Refuse what one slide and one file cannot be used for."""
    if out.suffix.lower() != ".h5ad":
        raise InputError("the output must be an .h5ad", where=out, hint="write --out NAME.h5ad")
    if not slide.is_file():
        raise InputError("no such slide", where=slide, hint="check the path")
    refuse_output(out, reads=reads)


def _refuse_single(
    slides: Sequence[Path], out: Path, *, spots: Path | None, library_id: str | None
) -> None:
    """Refuse what several slides and a folder cannot be used with."""
    if sheets := [s for s in slides if len(slides) > 1 and is_sheet(s)]:
        raise InputError(
            "is a sheet among other slides", where=sheets[0], hint="give the sheet alone"
        )
    if out.suffix.lower() == ".h5ad" or (out.exists() and not out.is_dir()):
        raise InputError(
            "is no folder, and several slides need one", where=out, hint="write --out FOLDER"
        )
    refuse_place(out / "report.json")
    for option, given in (("--spots", spots), ("--library-id", library_id)):
        if given is not None:
            raise InputError(
                f"{option} is for one slide and one .h5ad",
                hint="name it in the column of a sheet of slides",
            )
