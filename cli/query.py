"""`bleepdb query`: slides against an atlas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .connecting import OPENING, Opening, connected
from .inputs import (
    AtlasOption,
    MaskOption,
    MisfitOption,
    SlideMppOption,
    UpsamplingOption,
    gene_file,
    genes_asked,
    is_sheet,
    most_upsampling,
    refuse_output,
    refuse_place,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    mask: MaskOption = None,
    allow_misfit: MisfitOption = False,
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay", help="Draw the slide, its tissue and its tiles beside each output (PNG)."
        ),
    ] = False,
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

    from .query_runs import Asked

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
        allow_misfit=allow_misfit,
    )
    asked = Asked(
        slides, out, atlas, tissue, model, named, settings, opening,
        slide_mpp=slide_mpp, donor=donor, mask=mask, overlay=overlay, as_json=as_json,
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


def _is_many(slides: Sequence[Path], out: Path) -> bool:
    """Tell whether the output is a folder: there are several slides, or a folder is named."""
    if len(slides) > 1 or is_sheet(slides[0]):
        return True
    return out.suffix.lower() != ".h5ad" and (out.is_dir() or out.suffix == "")


def _refuse_slide(slide: Path, out: Path, *, reads: Sequence[Path | None]) -> None:
    """Refuse what one slide and one file cannot be used for."""
    if out.suffix.lower() != ".h5ad":
        raise InputError("the output must be an .h5ad", where=out, hint="write --out NAME.h5ad")
    if not slide.exists():  # an image of a Zarr store is a folder
        raise InputError("no such slide", where=slide, hint="check the path")
    if slide.exists() and not slide.is_file() and not slide.is_dir():
        raise InputError("is no file", where=slide, hint="name the image file")
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
