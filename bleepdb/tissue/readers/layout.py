"""What a path is, told by its layout alone, before anything in it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.hest import hest_parts
from bleepdb.tissue.readers.outs import BINNED, MATRIX_FOLDERS, find_outs, hd_bins, outs_folder
from bleepdb.tissue.readers.store import store_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HIRES", "READ", "Kind", "Seen", "kind_of", "look", "outs_folder"]

Kind = Literal["h5ad", "hest", "spaceranger", "visium hd", "spatialdata", "legacy st"]

HIRES: Final = "hires"
SEGMENTED: Final = "segmented_outputs"
READ: Final = (
    "give an AnnData .h5ad, a Space Ranger outs/ folder, a SpatialData .zarr, "
    "or a legacy ST counts table (.tsv, .csv, also .gz)"
)
TABLES: Final = (".tsv", ".tsv.gz", ".csv", ".csv.gz")
SPOTS: Final = "_selection."
WORDS: Final[dict[Kind, str]] = {
    "h5ad": "an AnnData file",
    "hest": "a section of HEST-1k layout",
    "spaceranger": "a Space Ranger section",
    "visium hd": "a Visium HD section",
    "spatialdata": "a SpatialData store",
    "legacy st": "a legacy ST table of counts",
}


@dataclass(frozen=True)
class Seen:
    """What a path looks like.

    Attributes
    ----------
    kind
        Which reader takes it, or None.
    what
        What it is in plain words, such as ``"a Visium HD section"``.
    fault, hint
        Why no reader takes it and what to do; None where one does.
    """

    kind: Kind | None
    what: str
    fault: str | None = None
    hint: str | None = None


def look(path: Path) -> Seen:
    """Tell what a path is; nothing is raised, and only names are looked at."""
    try:
        return _look(path)
    except (SectionError, OSError) as error:
        hint = error.hint if isinstance(error, SectionError) else None
        what = error.what if isinstance(error, SectionError) else f"cannot be reached ({error})"
        return Seen(None, "unknown", what, hint or READ)


def kind_of(path: Path) -> Kind:
    """Tell which reader takes a path.

    Raises
    ------
    SectionError
        If the path does not exist, or no reader takes it.
    """
    seen = look(path)
    if seen.kind is None:
        raise SectionError(seen.fault or "not a section", where=path, hint=seen.hint)
    return seen.kind


def _look(path: Path) -> Seen:
    name = path.name.lower()
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        return Seen(None, "nothing", "no such file or folder", READ)
    if name.endswith(".h5ad"):
        return _seen("h5ad" if hest_parts(path) is None else "hest")
    if name.endswith((".h5", "matrix.mtx", "matrix.mtx.gz")):
        return _seen("spaceranger")
    if name.endswith(TABLES) and SPOTS in name:
        return Seen(
            None,
            "a legacy ST table of spots",
            "a table of spots, not of counts",
            "give the table of counts beside it",
        )
    if name.endswith(TABLES):
        return _seen("legacy st")
    return Seen(None, "a file", "not a kind of section that can be read", READ)


def _folder(path: Path) -> Seen:
    if store_of(path) is not None:
        return _seen("spatialdata")
    if path.name == SEGMENTED:
        return Seen(
            None,
            "cells of a Visium HD section",
            "holds segmented cells, which are not read",
            f"give {BINNED}/ beside it",
        )
    if hd_bins(path) or _is_bin(path):
        return _seen("visium hd")
    if find_outs(path) is not None or path.name.endswith(MATRIX_FOLDERS):
        return _seen("spaceranger")
    found = sorted((path / "st").glob("*.h5ad")) if (path / "st").is_dir() else []
    if found:
        return Seen(
            None,
            "a folder of HEST-1k layout",
            f"a HEST-1k folder of {len(found)} sections",
            f"give one of them, such as {found[0]}",
        )
    if (path / "obs").is_dir() and (path / "var").is_dir():
        return Seen(None, "an AnnData store", "AnnData in Zarr is not read", "write it as .h5ad")
    return Seen(None, "a folder", "a folder without spatial/ in it", READ)


def _is_bin(path: Path) -> bool:
    return path.name.startswith("square_") and find_outs(path) is not None


def _seen(kind: Kind) -> Seen:
    return Seen(kind, WORDS[kind])
