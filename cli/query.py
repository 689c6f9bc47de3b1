"""`bleepdb query`: a slide against an atlas."""

from __future__ import annotations

from contextlib import ExitStack
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
    most_upsampling,
    refuse_output,
)
from .render import bar, note, print_json, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bleepdb.querying import Imputed


@connected
def query(
    slide: Annotated[Path, typer.Argument(help="The H&E slide.", show_default=False)],
    atlas: AtlasOption,
    tissue: Annotated[
        str,
        typer.Option("--tissue", help="Tissue, alias or collection to search.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .h5ad to write.", show_default=False)
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
    opening: Opening = OPENING,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Impute gene expression on a slide from the measured spots of an atlas.

    The output holds, for every place, the weights on named reference spots (always) and the
    imputed values of the chosen genes (log1p of counts per 10,000; NaN where nobody measured
    them). squidpy and scanpy plot it as it is.
    """
    if out.suffix.lower() != ".h5ad":
        raise InputError("the output must be an .h5ad", where=out, hint="write --out NAME.h5ad")
    if not slide.is_file():
        raise InputError("no such slide", where=slide, hint="check the path")
    named = gene_file(genes)
    refuse_output(out, reads=(slide, spots, named))
    from bleepdb import ledger, names
    from bleepdb.atlas import resolve
    from bleepdb.atlas.whole_folder import check_room
    from bleepdb.encoders import load_model
    from bleepdb.indexing import model_of
    from bleepdb.querying import (
        Query,
        QuerySettings,
        parse_conditions,
        query_slide,
        write_current,
    )
    from bleepdb.tissue import read_spots

    check_room(out, 0)  # HDF5 does not outlive a disk that fills up: it is refused before
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
    asked = Query(
        slide_path=slide,
        slide_mpp=slide_mpp,
        spots=None if spots is None else read_spots(spots),
        library_id=library_id,
        donor=donor,
    )
    with opening.open(atlas) as place, ExitStack() as bars:
        collection = resolve(place, tissue)
        used = model_of(place, collection) if model is None else load_model(model)

        def step(name: str) -> Callable[[int, int], None]:
            bars.close()
            return bars.enter_context(bar(name))

        try:
            made = query_slide(asked, used, place, collection, settings=settings, progress=step)
        except GeneError as error:
            raise GeneError(error.what, where=named or error.where, hint=error.hint) from error
        bars.close()
        check_room(out, _most_bytes(made))
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
    if as_json:
        print_json({"out": str(out), "places": len(made), "genes": len(made.var), **facts})
        return
    note(
        f"{out}: {len(made)} places x {len(made.var)} genes from {len(made.references)} reference "
        f"spots of {made.references['donor'].nunique()} donors ({facts['settings']['method']}, "
        f"k={facts['settings']['k']}, {facts['search']}, atlas generation {facts['generation']})"
    )
    note(f"next: bleepdb explain {out} --atlas {atlas} --at X,Y --gene {made.var.index[0]}")


def _most_bytes(made: Imputed) -> int:
    """Return the bytes that the file takes at the most: nothing in it grows by being compressed."""
    layers = 2 if made.neighbour_sd else 1
    a_place = 4 * layers * len(made.var) + 8 * made.longest
    tables = (made.references, made.obs, made.var)
    return (
        a_place * len(made)
        + made.thumbnail.nbytes
        + sum(int(t.memory_usage(deep=True).sum()) for t in tables)
    )
