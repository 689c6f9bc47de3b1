"""The sample sheet: one row a section, and every fault of it told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bleepdb import names
from bleepdb.errors import InputError, SheetError
from bleepdb.tissue.binning import LARGEST_UM
from bleepdb.tissue.geometry import mpp_fault
from bleepdb.tissue.readers.hest import hest_sample
from bleepdb.tissue.readers.layout import HIRES
from bleepdb.tissue.readers.outs import hires_picture
from bleepdb.tissue.readers.store import is_zarr
from bleepdb.tissue.sheet_frame import Fault, read_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

EXPRESSION: Final = "expression"
IMAGE: Final = "image"
MPP: Final = "mpp"
BIN_UM: Final = "bin_um"
REQUIRED: Final = (names.SECTION, names.DONOR, names.TISSUE, EXPRESSION)
ALIASES: Final = {
    "sample": names.SECTION,
    "sample_id": names.SECTION,
    names.LIBRARY_ID: names.SECTION,
    "patient": names.DONOR,
}
KNOWN: Final = (*REQUIRED, names.SPECIES, names.ASSAY, IMAGE, MPP, BIN_UM)
SPECIES_DEFAULT: Final = "human"


@dataclass(frozen=True)
class SheetRow:
    """One section as the sheet names it; nothing of it is read yet.

    Parameters
    ----------
    section, donor, tissue, species
        Names; `tissue` is a slug.
    assay
        The assay, or None where the reader tells it.
    expression
        File or folder with the counts; it exists.
    image
        The H&E image, which exists, or None. The sheet's ``hires`` stands here as the path of
        Space Ranger's ``tissue_hires_image.png``.
    mpp
        Micrometres per pixel of `image`, or None.
    bin_um
        Edge in micrometres of the squares that bins of Visium HD are pooled to, or None.
    fields
        Further columns that are not empty.
    line
        Line in the sheet, from 1; 0 where there is no sheet.
    """

    section: str
    donor: str
    tissue: str
    species: str
    assay: str | None
    expression: Path
    image: Path | None = None
    mpp: float | None = None
    bin_um: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    line: int = 0


def read_sheet(path: Path) -> list[SheetRow]:
    """Read a sample sheet (CSV or TSV) and check all of it before anything else is read.

    Columns: ``section`` (or ``sample``, ``sample_id``, ``library_id``), ``donor`` (or
    ``patient``), ``tissue`` and ``expression`` are required; ``species`` (default human),
    ``assay``, ``image``, ``mpp`` and ``bin_um`` are optional; any further column is a field of
    the section. Relative paths start at the sheet's folder. ``expression`` may be the root of a
    HEST-1k folder, where the section's name is the sample's id.

    Raises
    ------
    SheetError
        With all faults, each with its line and column.
    """
    path = Path(path)
    frame = read_frame(path, required=REQUIRED, known=KNOWN, aliases=ALIASES)
    faults = list(frame.faults)
    rows: list[SheetRow] = []
    seen: list[dict[str, str]] = []
    for line, named in frame.rows:
        row, broken = _row(named, path.parent, line)
        faults += [f"line {line}, column {column}: {text}" for column, text in broken]
        faults += _repeats(named, seen, path.parent, line)
        if row is not None:
            rows.append(row)
    if faults:
        raise SheetError(path, faults)
    return rows


def row_for(
    path: Path,
    *,
    section: str | None = None,
    donor: str,
    tissue: str,
    species: str = SPECIES_DEFAULT,
    assay: str | None = None,
    image: Path | str | None = None,
    mpp: float | None = None,
) -> SheetRow:
    """Make the row of a single file or folder that is given without a sheet.

    Parameters
    ----------
    path
        Counts. Relative paths start at the working folder.
    section
        Name of the section; by default the path's name without its endings (the parent's, for
        ``outs``).
    image
        The H&E image, or ``"hires"``.

    Raises
    ------
    InputError
        With all faults.
    """
    path = Path(path)
    named_by = path.parent if path.name == "outs" else path
    cells = {
        names.SECTION: named_by.name.split(".")[0] if section is None else section,
        names.DONOR: donor,
        names.TISSUE: tissue,
        names.SPECIES: species,
        names.ASSAY: assay or "",
        EXPRESSION: str(path),
        IMAGE: "" if image is None else str(image),
        MPP: "" if mpp is None else repr(float(mpp)),
    }
    row, faults = _row(cells, Path(), 0)
    if row is None:
        raise InputError(
            "; ".join(f"{column}: {text}" for column, text in faults),
            where=path,
            hint="correct the options",
        )
    return row


def _row(cells: Mapping[str, str], base: Path, line: int) -> tuple[SheetRow | None, list[Fault]]:
    """Check one row; a column that the header lacks is no fault of the row."""
    faults: list[Fault] = [
        (column, "empty") for column in REQUIRED if column in cells and not cells[column]
    ]
    unprintable = {column for column, cell in cells.items() if not cell.isprintable()}
    faults += [(column, "holds control characters") for column in sorted(unprintable)]
    cells = {c: v for c, v in cells.items() if v and c not in unprintable}
    section = cells.get(names.SECTION, "")
    if section and not names.SECTION_ID.fullmatch(section):
        faults.append(
            (names.SECTION, f"{section!r}: use letters, digits and . _ -, at most 127, no blanks")
        )
    tissue = ""
    if names.TISSUE in cells:
        try:
            tissue = names.slug(cells[names.TISSUE])
        except ValueError as error:
            faults.append((names.TISSUE, str(error)))
    species = cells.get(names.SPECIES, SPECIES_DEFAULT).lower()
    if species not in names.SPECIES_KNOWN:
        faults.append(
            (names.SPECIES, f"{species!r} is not known; use {', '.join(names.SPECIES_KNOWN)}")
        )
    expression = _path(cells, EXPRESSION, base, faults)
    if expression is not None and names.SECTION_ID.fullmatch(section):
        expression = hest_sample(expression, section) or expression
    image = _image(cells, base, expression, faults)
    mpp = _mpp(cells, faults)
    bin_um = _bin_um(cells, faults)
    if faults or expression is None or not set(REQUIRED) <= set(cells):
        return None, faults
    return SheetRow(
        section=section,
        donor=cells[names.DONOR],
        tissue=tissue,
        species=species,
        assay=cells.get(names.ASSAY),
        expression=expression,
        image=image,
        mpp=mpp,
        bin_um=bin_um,
        fields={c: v for c, v in cells.items() if c not in KNOWN},
        line=line,
    ), []


def _path(cells: Mapping[str, str], column: str, base: Path, faults: list[Fault]) -> Path | None:
    if column not in cells:
        return None
    path = base / cells[column]
    try:
        fault = None if path.exists() else "does not exist"
    except OSError as error:  # a name that is too long, a folder that may not be entered
        fault = f"cannot be reached ({error.strerror})"
    if fault is not None:
        faults.append((column, f"{path} {fault}"))
        return None
    return path


def _image(
    cells: Mapping[str, str], base: Path, expression: Path | None, faults: list[Fault]
) -> Path | None:
    if cells.get(IMAGE, "").lower() != HIRES:
        image = _path(cells, IMAGE, base, faults)
        if image is not None and image.is_dir() and not is_zarr(image):
            faults.append((IMAGE, f"{image} is a folder; name the image file"))
        return image
    if expression is None:
        return None
    image = hires_picture(expression)
    if image is None:
        faults.append((IMAGE, f"{HIRES} needs a Space Ranger folder in column {EXPRESSION}"))
        return None
    if not image.is_file():
        faults.append((IMAGE, f"{image} does not exist"))
    return image


def _mpp(cells: Mapping[str, str], faults: list[Fault]) -> float | None:
    if MPP not in cells:
        return None
    try:
        mpp = float(cells[MPP])
    except ValueError:
        faults.append((MPP, f"{cells[MPP]!r} is not a number"))
        return None
    fault = mpp_fault(mpp)
    if fault is not None:
        faults.append((MPP, fault))
    return mpp


def _bin_um(cells: Mapping[str, str], faults: list[Fault]) -> float | None:
    if BIN_UM not in cells:
        return None
    try:
        bin_um = float(cells[BIN_UM])
    except ValueError:
        faults.append((BIN_UM, f"{cells[BIN_UM]!r} is not a number"))
        return None
    if not 0 < bin_um <= LARGEST_UM:
        faults.append((BIN_UM, f"{bin_um:g} is not an edge from above 0 to {LARGEST_UM:g} µm"))
    return bin_um


def _repeats(
    cells: Mapping[str, str], seen: list[dict[str, str]], base: Path, line: int
) -> list[str]:
    """Faults of a section name or a counts path that an earlier row has too."""
    keys = {names.SECTION: cells.get(names.SECTION, "")}
    if cells.get(EXPRESSION):
        path = base / cells[EXPRESSION].replace("\0", "")
        sample = None
        if names.SECTION_ID.fullmatch(keys[names.SECTION]) and "\0" not in cells[EXPRESSION]:
            sample = hest_sample(path, keys[names.SECTION])
        keys[EXPRESSION] = str((sample or path).resolve())
    faults = [
        f"line {line}, column {column}: {cells[column]} stands in line {earlier['line']} too"
        for column, value in keys.items()
        for earlier in seen
        if value and earlier.get(column) == value
    ]
    seen.append({**keys, "line": str(line)})
    return faults
