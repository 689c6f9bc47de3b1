"""Where the parts of a Space Ranger section lie, under the names that folders give them.

Space Ranger writes ``outs/`` with a matrix and ``spatial/``; archives such as GEO hold the same
files with a prefix (``GSM123_A1_filtered_feature_bc_matrix.h5``), packed, and often in one folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BINNED: Final = "binned_outputs"
SQUARE: Final = re.compile(r"square_(\d{3})um")
SPATIAL: Final = "spatial"
HIRES_IMAGE: Final = "tissue_hires_image.png"
LOWRES_IMAGE: Final = "tissue_lowres_image.png"
POSITIONS: Final = (
    "tissue_positions.csv",
    "tissue_positions.parquet",
    "tissue_positions_list.csv",
    "tissue_positions.csv.gz",
    "tissue_positions_list.csv.gz",
)
SCALEFACTORS: Final = ("scalefactors_json.json", "scalefactors_json.json.gz")
MATRICES: Final = (
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "matrix.mtx.gz",
    "matrix.mtx",
    "raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix",
)
"""The filtered matrix first; a raw one serves, since places tell which spots are under tissue."""
MATRIX_FOLDERS: Final = ("filtered_feature_bc_matrix", "raw_feature_bc_matrix")
MOST_ENTRIES: Final = 100_000
"""Files of a folder that are looked through."""


@dataclass(frozen=True)
class Outs:
    """The parts of one section; what is None was not found.

    Attributes
    ----------
    folder
        Where the matrix lies.
    matrix
        An ``.h5`` file, a folder with a Matrix Market file, or that file itself.
    positions, scalefactors
        Files of ``spatial/``, or beside the matrix.
    pictures
        Reduced images by their name in Space Ranger (``tissue_hires_image.png``, ...).
    """

    folder: Path
    matrix: Path | None
    positions: Path | None
    scalefactors: Path | None
    pictures: dict[str, Path] = field(default_factory=dict)

    @property
    def spatial(self) -> Path:
        """Folder of the positions, or where it should be."""
        return self.folder / SPATIAL if self.positions is None else self.positions.parent

    @property
    def raw(self) -> bool:
        """Whether the matrix holds barcodes off the tissue too."""
        return self.matrix is not None and "raw_feature_bc" in self.matrix.name

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the parts that a section needs and that are not there."""
        parts = {"matrix": self.matrix, "positions": self.positions}
        return tuple(name for name, path in parts.items() if path is None)


def find_outs(path: Path) -> Outs | None:
    """Find the parts of the section that a path names.

    Parameters
    ----------
    path
        ``outs/``, its parent, a folder of prefixed files, or the matrix of one section.

    Returns
    -------
    Outs or None
        None where neither positions nor a ``spatial/`` folder is in reach.

    Raises
    ------
    SectionError
        If a folder holds the files of several sections.
    """
    if path.is_file() and path.parent.name.endswith(MATRIX_FOLDERS):
        path = path.parent
    if path.is_file() or path.name.endswith(MATRIX_FOLDERS):
        folder = path.parent
        return _parts(folder, path, _prefix(path.name, MATRICES) or "")
    for folder in (path, path / "outs"):
        found = _parts(folder, None, None)
        if found is not None:
            return found
    return None


def outs_folder(path: Path) -> Path | None:
    """Return the folder of a Space Ranger section, or None."""
    try:
        found = find_outs(path)
    except SectionError:
        return None
    return None if found is None else found.folder


def hires_picture(path: Path) -> Path | None:
    """Return the section's own ``tissue_hires_image.png``, or where it should lie.

    None where `path` is no Space Ranger section.
    """
    try:
        binned = hd_bin(path)
        found = find_outs(path if binned is None else binned)
    except SectionError:
        return None
    if found is None:
        return None
    return found.pictures.get(HIRES_IMAGE, found.spatial / HIRES_IMAGE)


def hd_bins(path: Path) -> dict[int, Path]:
    """Return the bin folders of a Visium HD ``outs/`` (or its parent) by bin size in µm."""
    places = (path, path / BINNED, path / "outs" / BINNED)
    for place in places:
        if place.is_dir():
            found = {
                int(m.group(1)): folder
                for folder in _entries(place)
                if (m := SQUARE.fullmatch(folder.name)) and folder.is_dir()
            }
            if found:
                return found
    return {}


def hd_bin(path: Path, target_um: float | None = None) -> Path | None:
    """Choose the bin folder to read from a Visium HD folder.

    The largest bins that divide `target_um` are read, since their tables are the smallest; where
    none divides it (or no target is named), bins of 8 µm, else the largest below the target.

    Returns
    -------
    Path or None
        None where `path` is no folder of several bin sizes.
    """
    bins = hd_bins(path) if path.is_dir() else {}
    if not bins:
        return None
    if target_um is not None:
        whole = [um for um in bins if target_um / um >= 1 and (target_um / um) % 1 == 0]
        below = [um for um in bins if um <= target_um]
        if whole or below:
            return bins[max(whole or below)]
    return bins.get(8) or bins[min(bins)]


def _parts(folder: Path, matrix: Path | None, prefix: str | None) -> Outs | None:
    """Parts in a folder and its ``spatial/``; None where nothing there tells of places."""
    if not folder.is_dir():
        return None
    own = _entries(folder)
    inside = [
        p
        for sub in own
        if sub.is_dir() and (sub.name == SPATIAL or sub.name.endswith(f"_{SPATIAL}"))
        if prefix is None or sub.name == SPATIAL or sub.name.startswith(prefix)
        for p in _entries(sub)
    ]
    has_spatial = bool(inside) or (folder / SPATIAL).is_dir()
    if matrix is None:
        matrix, prefix = _one_matrix(own, prefix, folder)
    near = inside + [p for p in own if p.is_file()]
    positions = _pick(near, POSITIONS, prefix)
    if not has_spatial and positions is None:
        return None
    pictures = {
        name: found
        for name in (HIRES_IMAGE, LOWRES_IMAGE)
        if (found := _pick(near, (name,), prefix)) is not None
    }
    return Outs(folder, matrix, positions, _pick(near, SCALEFACTORS, prefix), pictures)


def _one_matrix(
    own: Sequence[Path], prefix: str | None, folder: Path
) -> tuple[Path | None, str | None]:
    for name in MATRICES:
        found = [p for p in own if p.name.endswith(name) and _prefix(p.name, (name,)) is not None]
        exact = [p for p in found if p.name == name]
        if exact:
            return exact[0], ""
        if len(found) > 1:
            raise SectionError(
                f"holds the matrices of {len(found)} sections",
                where=folder,
                hint=f"give one of them, such as {found[0]}",
            )
        if found:
            return found[0], _prefix(found[0].name, (name,))
    return None, prefix


def _pick(near: Sequence[Path], names: Sequence[str], prefix: str | None) -> Path | None:
    """Find a file of one of these names: its prefix that of the section, none, or any if alone."""
    for name in names:
        found = [p for p in near if _prefix(p.name, (name,)) is not None]
        for wanted in (f"{prefix or ''}{name}", name):
            exact = [p for p in found if p.name == wanted]
            if exact:
                return exact[0]
        if len(found) == 1:
            return found[0]
    return None


def _prefix(name: str, known: Sequence[str]) -> str | None:
    """Return what stands before a known name: ``""``, or text ending in ``_``, ``-`` or ``.``."""
    for end in known:
        if name.endswith(end):
            before = name[: -len(end)]
            if not before or before[-1] in "_-.":
                return before
    return None


def _entries(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in folder.iterdir():
        found.append(path)
        if len(found) > MOST_ENTRIES:
            break
    return sorted(found)
