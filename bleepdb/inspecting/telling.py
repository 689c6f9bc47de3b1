"""From a path to what it is: folders by the names in them, files by their first bytes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from bleepdb.errors import BleepdbError, InputError
from bleepdb.inspecting.findings import Entry, Findings, quoted, size_text
from bleepdb.inspecting.looking import (
    head_of,
    magic_of,
    names_in,
    refuse_special,
    text_head,
)
from bleepdb.inspecting.zarr_paths import MARKS, root_of
from bleepdb.names import MODEL_CARD_FILE, WEIGHTS_FILE
from bleepdb.tissue.readers.outs import (
    BINNED,
    MATRIX_FOLDERS,
    SPATIAL,
    SQUARE,
    find_outs,
    hd_bins,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection

IMAGES: Final = frozenset({"PNG", "JPEG", "TIFF", "BigTIFF", "DICOM", "JPEG 2000", "WebP", "BMP"})
SLIDE_SUFFIXES: Final = frozenset(
    {
        ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".dcm", ".vms", ".vmu",
        ".svslide", ".zvi", ".czi", ".jpg", ".jpeg", ".png", ".jp2", ".bmp", ".webp", ".gif",
    }
)  # fmt: skip
ARCHIVES: Final = frozenset({"ZIP", "bzip2", "XZ", "Zstandard"})
ATLAS_MARKERS: Final = {
    "bleepdb-atlas.json": "inspect_atlas",
    "bleepdb-snapshot.json": "inspect_snapshot",
    "bleepdb-export.json": "inspect_export",
}
MRXS_INDEX: Final = "Slidedat.ini"
CLIMB: Final = 10
MOST_LOOKED: Final = 40
"""Entries of a folder that are looked at; further ones are only counted."""


def inspect_path(path: Path, *, slide_mpp: float | None = None) -> Inspection:
    """Tell what a file or folder is, what was found in it, and what is missing.

    Nothing is written, locked or followed to other files; no more is read than headers, names
    and small tables.

    Parameters
    ----------
    path
        Any path.
    slide_mpp
        Microns per level-0 pixel of a slide, as the user states it.

    Raises
    ------
    BleepdbError
        If the path does not exist, cannot be read, or nothing could be told: it says what each
        reader said.
    """
    try:
        return _folder(path) if refuse_special(path) else _file(path, slide_mpp)
    except PermissionError as error:
        raise InputError(
            f"cannot be read ({error.strerror})",
            where=error.filename or path,
            hint="check its permissions",
        ) from error
    except (RecursionError, MemoryError) as error:
        raise InputError(
            f"is nested or declared too large to be looked at ({type(error).__name__})", where=path
        ) from error


def _asked(module: str, function: str) -> Callable[..., Any]:
    """Return a function of a family: each is imported only where it is asked."""
    found: Callable[..., Any] = getattr(import_module(f"bleepdb.inspecting.{module}"), function)
    return found


# --- folders ----------------------------------------------------------------------------------


def _folder(path: Path) -> Inspection:
    told = _whole_folder(path) or _part_of(path)
    return _many(path) if told is None else told


def _whole_folder(path: Path) -> Inspection | None:
    """Tell a folder that is one thing; None where it is not."""
    names = set(names_in(path))
    made: Inspection | None = None
    marker = next((m for m in ATLAS_MARKERS if m in names), None)
    if marker is not None:
        made = _asked("atlases", ATLAS_MARKERS[marker])(path)
    elif MODEL_CARD_FILE in names and WEIGHTS_FILE in names:
        made = _asked("models", "inspect_model")(path)
    elif names & set(MARKS):
        root = root_of(path)
        store = root is None or root == path
        made = (
            _asked("stores", "inspect_store")(path)
            if store
            else _asked("stores", "inspect_store_part")(path, root)
        )
    elif MRXS_INDEX in names:
        made = _mrxs_part(path)
    elif _asked("hest", "is_hest")(path):
        made = _asked("hest", "inspect_hest")(path)
    return made if made is not None else _section_folder(path, names)


def _section_folder(path: Path, names: set[str]) -> Inspection | None:
    """Tell a folder of Space Ranger or a 10x matrix; None where it is none."""
    if path.name == SPATIAL and _outs(path.parent) is not None:
        return _made("spaceranger", "inspect_spatial", path)
    if path.name.endswith(MATRIX_FOLDERS) or names & {"matrix.mtx", "matrix.mtx.gz"}:
        return _made("matrices", "inspect_matrix", path)
    if hd_bins(path):
        return _made("spaceranger", "inspect_hd", path)
    if _outs(path) is not None:
        return _made("spaceranger", "inspect_outs", path)
    if path.name == BINNED or SQUARE.fullmatch(path.name):
        found = Findings(path)
        found.lacks(
            "spatial/ and the matrix", needed_for="train and index", remedy="fetch the run again"
        )
        return found.made("visium hd", "a part of Visium HD without its tables")
    return None


def _outs(path: Path) -> object | None:
    try:
        return find_outs(path)
    except BleepdbError:
        return None


def _part_of(path: Path) -> Inspection | None:
    """Tell what lies inside an atlas or a store; None where it lies in none."""
    for folder in path.absolute().parents[:CLIMB]:
        if any((folder / marker).is_file() for marker in ATLAS_MARKERS):
            return _made("atlases", "inspect_part", path, folder)
    root = root_of(path)
    return None if root is None else _made("stores", "inspect_store_part", path, root)


def _many(path: Path) -> Inspection:
    """List a folder of many things, each with its kind."""
    found = Findings(path)
    names = [n for n in names_in(path) if not n.startswith(".")]
    if not names:
        found.fact("entries", 0)
        return found.made("folder", "an empty folder")
    entries = [_entry(path / name) for name in names[:MOST_LOOKED]]
    found.fact("entries", len(names))
    kinds = sorted({e.kind for e in entries})
    found.fact("kinds", {k: sum(e.kind == k for e in entries) for k in kinds})
    try:
        find_outs(path)
    except BleepdbError as error:
        found.note(f"{error.what}; {error.hint}")
    slides = [e.name for e in entries if e.kind in {"slide", "image"}]
    sheet = next((e.name for e in entries if e.kind == "sample sheet"), None)
    then = None
    if sheet is not None:
        then = f"bleepdb inspect {quoted(path / sheet)}"
    elif len(slides) == len(entries):
        then = f"bleepdb query {quoted(path)}/* --atlas ATLAS --tissue TISSUE --out FOLDER"
    return found.made(
        "folder",
        "a folder of several things",
        entries=tuple(entries),
        further=len(names) - len(entries),
        then=then,
    )


def _entry(path: Path) -> Entry:
    """One entry of a folder in short."""
    try:
        if refuse_special(path):
            made = _whole_folder(path)
            if made is None:
                return Entry(path.name + "/", "folder", f"{len(names_in(path)):,} entries")
            return Entry(path.name + "/", made.kind, _short(made))
        made = _file(path, None, tissue=False)
    except BleepdbError as error:
        return Entry(path.name, "unknown", error.what)
    except (OSError, RecursionError, MemoryError) as error:
        return Entry(path.name, "unknown", f"cannot be read ({error})")
    return Entry(path.name, made.kind, _short(made))


def _short(made: Inspection) -> str:
    lacking = f"; lacks {made.missing[0].what}" if made.missing else ""
    return f"{made.title}{lacking}"


def _mrxs_part(path: Path) -> Inspection:
    found = Findings(path)
    slide = path.with_name(f"{path.name}.mrxs")
    if not slide.is_file():
        found.lacks(slide.name, needed_for="opening the slide", remedy="put it beside the folder")
        return found.made("part", "the data of an MRXS slide, without its .mrxs")
    return found.made("part", "the data of an MRXS slide", then=f"bleepdb inspect {quoted(slide)}")


# --- files ------------------------------------------------------------------------------------


def _file(path: Path, slide_mpp: float | None, *, tissue: bool = True) -> Inspection:
    """Tell a file by its first bytes, then by its text, then by who opens it."""
    if not path.stat().st_size:
        part = _part_of(path)
        if part is not None:
            return part
        raise InputError("an empty file (0 bytes)", where=path, hint="fetch or write it again")
    head = head_of(path)
    magic = magic_of(head)
    suffix = path.suffix.lower()
    if path.name in ATLAS_MARKERS or path.name == MODEL_CARD_FILE:
        return _made("documents", "inspect_card", path)
    if magic == "HDF5":
        return _hdf5(path)
    if magic == "Parquet":
        part = _part_of(path)
        return part if part is not None else _made("tables", "inspect_parquet", path)
    if magic in IMAGES or suffix in SLIDE_SUFFIXES:
        return _slide(path, magic, slide_mpp, tissue=tissue)
    if magic in ARCHIVES or path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
        part = _part_of(path)
        return part or _made("documents", "inspect_archive", path, magic or "tar")
    if suffix == ".safetensors":
        return _made("models", "inspect_safetensors", path)
    text = text_head(path) if magic in {None, "gzip"} else None
    if text is not None and text.strip():
        return _text(path, text)
    return _rest(path, head, magic, slide_mpp)


def _rest(path: Path, head: bytes, magic: str | None, slide_mpp: float | None) -> Inspection:
    """Tell what has neither a known beginning nor text."""
    part = _part_of(path)
    if part is not None:
        return part
    if magic is not None:
        found = Findings(path)
        found.fact("file", path.stat().st_size, size_text(path.stat().st_size))
        if magic == "profile cache":
            found.note("a cache: it can be removed, and is made again")
            return found.made("other", "profiles of an atlas, cached by `bleepdb query`")
        if magic == "pickle":
            found.note("a pickle can run code when it is read: bleepdb never opens one")
        return found.made("other", f"a file of format {magic}; bleepdb takes nothing from it")
    try:
        return _made("slides", "inspect_slide", path, slide_mpp=slide_mpp)
    except BleepdbError as error:
        raise InputError(
            f"nothing could be told: it begins with {head[:8].hex(' ')}, which is no known "
            f"format, and {error.what}",
            where=path,
            hint="check that it is the right file, whole",
        ) from error


def _slide(path: Path, magic: str | None, slide_mpp: float | None, *, tissue: bool) -> Inspection:
    try:
        return _made("slides", "inspect_slide", path, slide_mpp=slide_mpp, tissue=tissue)
    except BleepdbError as error:
        part = _part_of(path)
        if part is not None:
            return part
        begins = f"a {magic} by its first bytes" if magic else "no image by its first bytes"
        if magic is None and text_head(path) is not None:
            begins = f"holds text, though its name ends in {path.suffix}"
        raise InputError(
            f"{begins}; {error.what}", where=error.where or path, hint=error.hint
        ) from error


def _hdf5(path: Path) -> Inspection:
    """Tell an HDF5 file by the groups at its top."""
    hdf5 = import_module("bleepdb.tissue.readers.hdf5")
    with hdf5.open_hdf5(path, "an HDF5 file") as handle:
        top = list(handle)[:1000]
        if "coords" in top:
            made: Inspection = _asked("masks", "inspect_patches")(path, handle)
            return made
    groups = set(top)
    if {"obs", "var"} <= groups:
        return _made("anndata_files", "inspect_anndata", path)
    if "matrix" in groups or path.suffix.lower() == ".h5":
        try:
            return _made("matrices", "inspect_matrix", path)
        except BleepdbError:
            if "matrix" in groups:
                raise
    found = Findings(path)
    found.fact("holds", top[:20])
    found.fact("file", path.stat().st_size, size_text(path.stat().st_size))
    if path.suffix.lower() == ".h5ad":
        found.lacks("obs and var: it is no AnnData file", needed_for="train and index",
                    remedy="write it again with anndata")  # fmt: skip
    return found.made("hdf5", "an HDF5 file that is none of those that bleepdb reads")


def _text(path: Path, text: str) -> Inspection:
    if text.lstrip()[:1] in {"{", "["}:
        part = _part_of(path)
        told = part if part is not None else _asked("documents", "inspect_json")(path)
        if told is not None:
            made: Inspection = told
            return made
    part = _part_of(path)
    return part if part is not None else _made("tables", "inspect_text", path)


def _made(module: str, function: str, *given: Any, **options: Any) -> Inspection:  # noqa: ANN401 - what the function takes
    made: Inspection = _asked(module, function)(*given, **options)
    return made
