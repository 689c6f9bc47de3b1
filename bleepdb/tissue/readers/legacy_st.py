"""Sections of legacy Spatial Transcriptomics: a table of counts and a table of spots beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.assemble import as_counts, assemble, join_barcodes, panel_of
from bleepdb.tissue.readers.tables import Table, refuse_duplicates

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

AGAIN: Final = "correct the table and run again"
ASSAY: Final = "st"
PIXEL_COLUMNS: Final = ("pixel_x", "pixel_y")
SELECTED: Final = "selected"
IMAGE_ENDINGS: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff")


def read_legacy_st(
    row: SheetRow, *, slide_mpp: float | None = None, allow_loss: bool = False
) -> Section:
    """Read ``{stem}.tsv`` (rows are spots ``{x}x{y}``, columns genes) and its spot table.

    The spot table is ``{stem}_selection.tsv`` beside it; the image, where the row names none,
    ``{stem}.jpg`` (``.png``, ``.tif``).

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel that the user states.

    Raises
    ------
    SectionError
        If a table is missing or damaged, or the two do not belong together.
    """
    path = row.expression
    stem = path.name.removesuffix(".gz").removesuffix(".tsv").removesuffix("_stdata")
    barcodes, genes, values = _counts(path)
    spots = read_selection(_selection(path.parent, stem))
    counted, placed, notes = join_barcodes(barcodes, spots.names, path, allow_loss=allow_loss)
    pitch_mpp = scales.mpp_of_array(
        scales.ST_PITCH_UM * spots.array_xy, spots.xy_px, scales.ST_PITCH_UM
    )
    return assemble(
        row,
        assay=ASSAY,
        counts=as_counts(values[counted], path, "the table"),
        panel=panel_of(genes, [], row.species, path),
        barcodes=[barcodes[i] for i in counted],
        xy_px=spots.xy_px[placed],
        scale=scales.choose_mpp(
            [("--slide-mpp", slide_mpp), ("sheet", row.mpp), ("array pitch", pitch_mpp)], path
        ),
        slide_path=row.image or _image_beside(path.parent, stem),
        pitch_um=scales.ST_PITCH_UM,
        spot_diameter_um=scales.ST_SPOT_UM,
        notes=notes,
    )


class Selection:
    """Spots under tissue of a legacy array.

    Attributes
    ----------
    names
        ``{x}x{y}`` with both rounded: the names that the counts use.
    array_xy
        (spots, 2) float64, place on the array in steps of its pitch.
    xy_px
        (spots, 2) float64, centres in pixels.
    """

    def __init__(self, table: Table) -> None:
        if table.has(SELECTED):
            table = table.take(table.numbers(SELECTED) == 1)
            if not table.rows:
                raise SectionError("no spot is selected", where=table.path, hint=AGAIN)
        self.array_xy: NDArray[np.float64] = np.rint(
            np.column_stack([table.numbers("x"), table.numbers("y")])
        )
        self.names = [f"{x:.0f}x{y:.0f}" for x, y in self.array_xy]
        self.xy_px: NDArray[np.float64] = np.column_stack([table.numbers(c) for c in PIXEL_COLUMNS])
        refuse_duplicates(self.names, "spots", table.path)


def read_selection(path: Path) -> Selection:
    """Read a spot table with the columns x, y, pixel_x, pixel_y and perhaps selected.

    Raises
    ------
    SectionError
        If columns are missing, cells are no numbers, or spots stand twice.
    """
    return Selection(Table.read(path))


def _selection(folder: Path, stem: str) -> Path:
    tried = [
        f"{stem}_selection.tsv",
        f"{stem}_selection.tsv.gz",
        f"spot_data-selection-{stem}.tsv",
        f"{stem}_spot_data-selection.tsv",
    ]
    for name in tried:
        if (folder / name).is_file():
            return folder / name
    raise SectionError(
        f"no spot table for {stem}", where=folder, hint=f"put {tried[0]} beside the counts"
    )


def _image_beside(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}{ending}" for ending in IMAGE_ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _counts(path: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Spot names, gene names and the (spots, genes) values of a counts table."""
    try:
        # The header is read as a row, since pandas would rename genes that stand twice.
        head = pd.read_csv(path, sep="\t", header=None, nrows=1, dtype=str, keep_default_na=False)
        body = pd.read_csv(path, sep="\t", header=None, skiprows=1, index_col=0, dtype={0: str})
    except (OSError, EOFError, ValueError) as error:
        raise SectionError(
            f"not a readable table of counts ({' '.join(str(error).split())[:160]})",
            where=path,
            hint="fetch or write the file again",
        ) from error
    genes = [str(cell).strip() for cell in head.iloc[0]]
    if len(genes) == body.shape[1] + 1:
        genes = genes[1:]
    if len(genes) != body.shape[1]:
        raise SectionError(
            f"{len(genes)} gene names for {body.shape[1]} columns", where=path, hint=AGAIN
        )
    text = [g for g, kind in zip(genes, body.dtypes, strict=True) if not is_numeric_dtype(kind)]
    if text:
        raise SectionError(f"column {text[0]} does not hold numbers", where=path, hint=AGAIN)
    return [str(b) for b in body.index], genes, body.to_numpy(np.float64)
