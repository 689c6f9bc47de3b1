"""What several commands take: sections by sheet or by path, atlas locations, gene lists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError
from bleepdb.names import MAX_UPSAMPLING

from .render import bar, log, note, table, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bleepdb.tissue import Loaded, Section, SheetRow

SHEET_SUFFIXES = (".csv", ".tsv", ".txt")

SheetArgument = Annotated[
    Path,
    typer.Argument(
        help="Sample sheet (CSV/TSV), or one section: an .h5ad, a Space Ranger or Visium HD "
        "folder, a SpatialData .zarr, or legacy ST counts (.tsv.gz).",
        show_default=False,
    ),
]
SlideMppOption = Annotated[
    float | None,
    typer.Option("--slide-mpp", help="Microns per level-0 pixel, where files do not say."),
]
AtlasOption = Annotated[
    str,
    typer.Option(
        "--atlas",
        envvar="BLEEPDB_ATLAS",
        help="The atlas: a folder, a Qdrant server (http(s)://host:6333), or a read-only "
        "NAME.snapshot folder.",
        show_default=False,
    ),
]
LockTimeoutOption = Annotated[
    float, typer.Option("--lock-timeout", help="Seconds to wait for another process's lock.")
]
SectionOption = Annotated[
    str | None, typer.Option("--section", help="Name of the section, where no sheet is given.")
]
DonorOption = Annotated[
    str | None, typer.Option("--donor", help="Its donor, where no sheet is given.")
]
TissueOption = Annotated[
    str | None, typer.Option("--tissue", help="Its tissue, where no sheet is given.")
]
SpeciesOption = Annotated[
    str | None,
    typer.Option(
        "--species",
        help="Its species (human, mouse or rat), where no sheet is given; else human.",
        show_default=False,
    ),
]
ImageOption = Annotated[
    str | None,
    typer.Option("--image", help="Its H&E image (or `hires`), where no sheet is given."),
]
MinCountsOption = Annotated[
    int, typer.Option("--min-counts", min=1, help="Least counts of a spot.")
]
MinGenesOption = Annotated[int, typer.Option("--min-genes", min=1, help="Least genes of a spot.")]
BinOption = Annotated[
    float | None,
    typer.Option(
        "--bin-um",
        help="Edge of the squares that Visium HD bins are pooled to, in µm; else as the sheet "
        "says, else 56. The bins' own size leaves them as they are.",
        show_default=False,
    ),
]
LossOption = Annotated[
    bool,
    typer.Option(
        "--allow-loss", help="Go on where less than half of the counted spots have a place."
    ),
]
MaskOption = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help="How tissue is found: otsu (of log optical density, the default), hsv or entropy; or "
        "a file that draws it: GeoJSON (QuPath), a TRIDENT or CLAM .h5, a WSIData .zarr.",
    ),
]
MisfitOption = Annotated[
    bool,
    typer.Option(
        "--allow-misfit",
        help="Go on where a slide looks turned, mirrored, rescaled or foreign beside its spots.",
    ),
]
OverlayFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--overlay", help="Draw each section's image, tissue and spots into this folder (PNG)."
    ),
]
UpsamplingOption = Annotated[
    bool,
    typer.Option("--allow-upsampling", help="Enlarge tiles to more than 1.7 times their slide."),
]
MOST_SEED = 2**32 - 1  # NumPy and torch take this one, and each below


def most_upsampling(*, allowed: bool) -> float:
    """Return how many times finer than its slide a tile may be."""
    return float("inf") if allowed else MAX_UPSAMPLING


def refuse_mask(mask: str | None, slides: int) -> None:
    """Refuse a mask that is neither a method nor a file, or one slide's mask for several."""
    from bleepdb.tissue.mask import METHODS

    if mask is None or mask.lower() in METHODS:
        return
    if not Path(mask).exists():
        raise InputError(
            "no such mask", where=mask, hint=f"use {', '.join(METHODS)}, or name a file"
        )
    if slides != 1:
        raise InputError(
            f"draws the tissue of one slide, and there are {slides}",
            where=mask,
            hint="give one section, or a method",
        )


def refuse_output(path: Path, *, reads: Sequence[Path | None] = ()) -> None:
    """Refuse before the work what could not be written after it.

    Parameters
    ----------
    path
        The file to write.
    reads
        What the command reads: none of it may be replaced.
    """
    if path.is_dir():
        raise InputError("is a folder", where=path, hint="name a file for the output")
    if any(p is not None and p.exists() and path.exists() and path.samefile(p) for p in reads):
        raise InputError(
            "is read by this command and would be replaced",
            where=path,
            hint="name another file for the output",
        )
    refuse_place(path)


def refuse_place(path: Path) -> None:
    """Refuse a file or folder that could not be made, as far as its nearest folder tells."""
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise InputError(f"{parent} is a file, not a folder", where=path, hint="name another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{parent} does not let you write", where=path, hint="name a folder of your own"
        )


def is_sheet(path: Path) -> bool:
    """Tell whether a path is a sheet: a table of text, and not one of counts."""
    if not path.is_file() or path.suffix.lower() not in SHEET_SUFFIXES:
        return False
    from bleepdb.tissue.readers.legacy_st import is_counts

    return not is_counts(path)


def one_row(path: Path, *, image: str | None = None, species: str | None = None) -> SheetRow:
    """Return the one section that a path names: a sheet of one row, or its counts."""
    if not is_sheet(path):
        return rows_of(path, donor="unknown", tissue="unknown", image=image, species=species)[0]
    rows = rows_of(path, image=image, species=species)
    if len(rows) != 1:
        raise InputError(
            f"names {len(rows)} sections", where=path, hint="give the counts of one section"
        )
    return rows[0]


def rows_of(
    path: Path,
    *,
    section: str | None = None,
    donor: str | None = None,
    tissue: str | None = None,
    image: str | None = None,
    species: str | None = None,
) -> list[SheetRow]:
    """Read a sheet, or make the one row of a section that is given by its path."""
    from bleepdb.tissue import read_sheet, row_for
    from bleepdb.tissue.sheet import SPECIES_DEFAULT

    if not path.exists():
        raise InputError("no such file or folder", where=path, hint="check the path")
    if is_sheet(path):
        options = {
            "--section": section,
            "--donor": donor,
            "--tissue": tissue,
            "--image": image,
            "--species": species,
        }
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise InputError(
                f"{', '.join(given)} cannot be given with a sample sheet",
                where=path,
                hint="leave it out: each row of the sheet says its own",
            )
        return read_sheet(path)
    if donor is None or tissue is None:
        raise InputError(
            "a section without a sheet needs a donor and a tissue",
            where=path,
            hint="pass --donor and --tissue, or write a sample sheet",
        )
    return [
        row_for(
            path,
            section=section,
            donor=donor,
            tissue=tissue,
            species=SPECIES_DEFAULT if species is None else species,
            image=image,
        )
    ]


def without(
    rows: Sequence[SheetRow], *, sections: Sequence[str], donors: Sequence[str], where: Path
) -> list[SheetRow]:
    """Leave out sections and donors by name; a name that is not there is an error."""
    for what, asked, known in (
        ("section", sections, {r.section for r in rows}),
        ("donor", donors, {r.donor for r in rows}),
    ):
        for name in asked:
            if name not in known:
                raise InputError(
                    f"no {what} {name!r} to exclude",
                    where=where,
                    hint=f"there is {', '.join(sorted(known))}",
                )
    left = [r for r in rows if r.section not in sections and r.donor not in donors]
    if not left:
        raise InputError("no section is left", where=where, hint="exclude less")
    return left


def load_all(
    rows: Sequence[SheetRow],
    *,
    slide_mpp: float | None,
    min_counts: int,
    min_genes: int,
    bin_um: float | None = None,
    allow_loss: bool = False,
    mask: str | None = None,
    allow_misfit: bool = False,
    overlay: Path | None = None,
) -> list[Section]:
    """Read all sections, show what their spots hold, and warn of what is odd."""
    from bleepdb.tissue import load_section

    refuse_mask(mask, len(rows))
    if overlay is not None:
        refuse_place(overlay / "section.png")
    loaded: list[Loaded] = []
    with bar("reading sections") as move:
        for done, row in enumerate(rows):
            move(done, len(rows))
            loaded.append(
                load_section(
                    row,
                    slide_mpp=slide_mpp,
                    min_counts=min_counts,
                    min_genes=min_genes,
                    bin_um=bin_um,
                    allow_loss=allow_loss,
                    mask=mask,
                    allow_misfit=allow_misfit,
                    overlay=None if overlay is None else overlay / f"{row.section}.png",
                )
            )
        move(len(rows), len(rows))
    show_quality(loaded)
    return [entry.section for entry in loaded]


def show_quality(loaded: Sequence[Loaded]) -> None:
    """Show the spots of each section as a table on stderr."""
    columns = ("section", "donor", "spots", "counts", "genes", "MT", "µm/px", "from", "on tissue")
    lines = []
    for entry in loaded:
        section, qc = entry.section, entry.qc
        lines.append(
            (
                section.section,
                section.donor,
                f"{qc.kept}/{qc.spots}",
                f"{qc.counts[1]:,.0f}",
                f"{qc.genes[1]:,.0f}",
                "-" if qc.mitochondrial is None else f"{qc.mitochondrial:.1%}",
                "-" if section.slide_mpp is None else f"{section.slide_mpp:.3f}",
                section.mpp_source or "-",
                "-" if entry.on_tissue is None else f"{entry.on_tissue:.0%}",
            )
        )
    log.print(table("Spots (kept of those under tissue; medians)", columns, lines))
    for entry in loaded:
        for reason, number in entry.qc.dropped.items():
            note(f"{entry.section.section}: {number} spots dropped ({reason})")
        for text in entry.section.notes:
            note(f"{entry.section.section}: {text}")
        for text in entry.warnings:
            warn(text)


def genes_asked(value: str | None) -> str | tuple[str, ...] | None:
    """Turn --genes into a set's name, or the names in a file or in a comma-separated list."""
    from bleepdb.panel import read_gene_list

    if value is None or value in ("all", "predictable", "model"):
        return value
    path = gene_file(value)
    if path is not None:
        return tuple(read_gene_list(path))
    if "/" in value or value.endswith((".txt", ".csv", ".tsv")):
        raise InputError("no such gene list", where=value, hint="check the path")
    asked = tuple(name.strip() for name in value.split(",") if name.strip())
    if not asked:
        raise InputError("--genes names no gene", hint="write --genes A,B,C or --genes FILE")
    return asked


def gene_file(value: str | None) -> Path | None:
    """Return the file that --genes names, or None; a long list of genes is no path."""
    try:
        return Path(value) if value and Path(value).is_file() else None
    except OSError:
        return None
