"""Find the four sections in the layout of the BLEEP repository or of GEO, and write their sheet."""

from __future__ import annotations

import csv
import io
import shutil
from typing import TYPE_CHECKING

from bleepdb.errors import InputError
from bleepdb.files import whole_file

if TYPE_CHECKING:
    from pathlib import Path

GSM_OF = {
    "C73_A1": "GSM7697868",
    "C73_B1": "GSM7697869",
    "C73_C1": "GSM7697870",
    "C73_D1": "GSM7697871",
}
SECTIONS = tuple(GSM_OF)
HELD_OUT = "C73_C1"  # "slice 3 randomly chosen to be test" (BLEEP_main.py)
MATRICES, POSITIONS = "data/filtered_expression_matrices", "data/tissue_pos_matrices"
README = "see examples/liver_gse240429/README.md"


def write_sheet(data: Path, out: Path) -> Path:
    """Write a sample sheet of the four sections; its mpp column stays empty.

    The microns per pixel of these images stand nowhere in them. bleepdb takes them from the array:
    an affine fit of the spots' pixels on a Visium array, whose spots are 100 µm apart.

    Parameters
    ----------
    data
        The folder of the BLEEP repository (``data/``, ``image/``), or one that holds GEO's files.
    out
        Where the sheet goes, and the links that give each section a folder of its own.

    Raises
    ------
    InputError
        If a part of a section is missing.
    """
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(("section", "donor", "tissue", "species", "assay", "expression", "image"))
    for number, section in enumerate(SECTIONS, start=1):
        found = _matrix(data, out, section, number)
        table.writerow(
            (section, "C73", "liver", "human", "visium", found.resolve(), _image(data, section))
        )
    with whole_file(out / "samples.csv") as part:
        part.write_text(lines.getvalue(), encoding="utf-8")
    return out / "samples.csv"


def _matrix(data: Path, out: Path, section: str, number: int) -> Path:
    """Return what the sheet's expression column names: GEO's matrix, or a folder of links."""
    geo = f"{GSM_OF[section]}_{section.replace('_', '')}_matrix.mtx"
    for name in (geo, f"{geo}.gz"):
        if (data / name).is_file():
            return data / name
    matrices, own = data / MATRICES, data / MATRICES / str(number)
    if not (own / "matrix.mtx").is_file():
        raise InputError(
            f"neither {MATRICES}/{number}/matrix.mtx nor {geo}.gz", where=data, hint=README
        )
    # The four sections share their genes, and some copies of the data hold them once.
    holders = (own, *sorted(matrices.glob("*")))
    features = next((p for p in holders if (p / "features.tsv").is_file()), own)
    folder = out / "sections" / section
    for source, name in (
        (own / "matrix.mtx", "filtered_feature_bc_matrix/matrix.mtx"),
        (own / "barcodes.tsv", "filtered_feature_bc_matrix/barcodes.tsv"),
        (features / "features.tsv", "filtered_feature_bc_matrix/features.tsv"),
        (
            data / POSITIONS / f"tissue_positions_list_{number}.csv",
            "spatial/tissue_positions_list.csv",
        ),
    ):
        if not source.is_file():
            raise InputError("no such file", where=source, hint=README)
        _link(source, folder / name)
    return folder


def _image(data: Path, section: str) -> Path:
    pattern = f"*GEX_{section}_Merged.tif*"
    found = sorted(p for place in (data / "image", data) for p in place.glob(pattern))
    for path in found:
        if path.suffix != ".gz":
            return path.resolve()
    if found:
        raise InputError("is packed", where=found[0], hint=f"unpack it: gunzip -k {found[0]}")
    raise InputError(f"no image/GEX_{section}_Merged.tif", where=data, hint=README)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
