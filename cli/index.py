"""`bleepdb index`: sections into an atlas."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from bleepdb.errors import EmptyAtlasError

from .connecting import OPENING, Opening, connected
from .inputs import (
    AtlasOption,
    BinOption,
    DonorOption,
    ImageOption,
    LossOption,
    MaskOption,
    MinCountsOption,
    MinGenesOption,
    MisfitOption,
    OverlayFolderOption,
    SectionOption,
    SheetArgument,
    SlideMppOption,
    SpeciesOption,
    TissueOption,
    UpsamplingOption,
    load_all,
    most_upsampling,
    rows_of,
    without,
)
from .render import bar, note, out, print_json, table


@connected
def index(
    sheet: SheetArgument,
    atlas: AtlasOption,
    model: Annotated[
        Path, typer.Option("--model", help="Folder of the trained model.", show_default=False)
    ],
    field: Annotated[
        list[str] | None,
        typer.Option("--field", help="A sheet column to store and filter by (repeatable)."),
    ] = None,
    exclude_section: Annotated[
        list[str] | None, typer.Option("--exclude-section", help="Leave a section out.")
    ] = None,
    exclude_donor: Annotated[
        list[str] | None, typer.Option("--exclude-donor", help="Leave a donor out.")
    ] = None,
    section: SectionOption = None,
    donor: DonorOption = None,
    tissue: TissueOption = None,
    species: SpeciesOption = None,
    image: ImageOption = None,
    slide_mpp: SlideMppOption = None,
    min_counts: MinCountsOption = 10,
    min_genes: MinGenesOption = 5,
    bin_um: BinOption = None,
    allow_loss: LossOption = False,
    mask: MaskOption = None,
    allow_misfit: MisfitOption = False,
    overlay: OverlayFolderOption = None,
    allow_upsampling: UpsamplingOption = False,
    opening: Opening = OPENING,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Grow an atlas: encode each spot and publish each section whole.

    A section that is already live is left alone; a changed one replaces its earlier revision in
    one step. Sections of one tissue share a collection.
    """
    from bleepdb.admission import check_fields, check_sections
    from bleepdb.encoders import load_model
    from bleepdb.indexing import check_writable, encode_section, index_section, is_live
    from bleepdb.names import collection_name

    opening.check_writable(atlas)
    rows = without(
        rows_of(sheet, section=section, donor=donor, tissue=tissue, image=image, species=species),
        sections=exclude_section or (),
        donors=exclude_donor or (),
        where=sheet,
    )
    check_fields(rows, field or (), where=sheet)
    trained = load_model(model)
    sections = load_all(
        rows,
        slide_mpp=slide_mpp,
        min_counts=min_counts,
        min_genes=min_genes,
        bin_um=bin_um,
        allow_loss=allow_loss,
        mask=mask,
        allow_misfit=allow_misfit,
        overlay=overlay,
    )
    most = most_upsampling(allowed=allow_upsampling)
    check_sections(sections, trained, max_upsampling=most)
    waiting = sections
    with contextlib.suppress(EmptyAtlasError), opening.open(atlas) as place:
        waiting = [s for s in sections if not is_live(s, trained, place, fields=field or ())]
        check_writable(place, {collection_name(s.tissue, trained.space_id) for s in waiting})
    for one in waiting:  # others may use the atlas meanwhile
        with bar(f"encoding {one.section}") as move:
            encode_section(one, trained, max_upsampling=most, progress=move)
    done = []
    with opening.open(atlas, create=True) as place:
        for one in sections:
            with bar(f"indexing {one.section}") as move:
                done.append(
                    index_section(
                        one,
                        trained,
                        place,
                        fields=field or (),
                        max_upsampling=most,
                        progress=move,
                    )
                )
        for name in sorted({entry.collection for entry in done}):
            place.optimize(name)
    if as_json:
        print_json(
            [
                {
                    "section": e.section, "collection": e.collection, "status": e.outcome.status,
                    "spots": e.spots, "generation": e.outcome.generation,
                    "shared_genes": e.shared, "model_genes": e.model_genes,
                }
                for e in done
            ]
        )  # fmt: skip
        return
    columns = ("section", "status", "spots", "genes shared", "scaled on", "generation")
    lines = [
        (
            e.section,
            e.outcome.status,
            str(e.spots),
            f"{e.shared}/{e.model_genes} by {e.matched_by}",
            "the model's panel" if e.shared == e.model_genes else f"{e.shared} shared genes",
            str(e.outcome.generation),
        )
        for e in done
    ]
    out.print(
        table(f"Atlas {atlas}, {', '.join(sorted({e.collection for e in done}))}", columns, lines)
    )
    note(f"next: bleepdb query SLIDE --atlas {atlas} --tissue {sections[0].tissue} --out out.h5ad")
