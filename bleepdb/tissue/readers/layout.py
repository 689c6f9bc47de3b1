"""What a path is, told by its layout alone, before anything in it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["h5ad", "spaceranger", "legacy st"]

HIRES: Final = "hires"
HIRES_IMAGE: Final = "tissue_hires_image.png"
READ: Final = (
    "give an AnnData .h5ad, a Space Ranger outs/ folder, "
    "or a legacy ST counts table (.tsv, .tsv.gz)"
)


def kind_of(path: Path) -> Kind:
    """Tell which reader takes a path.

    Raises
    ------
    SectionError
        If the path does not exist, or no reader takes it.
    """
    name = path.name.lower()
    if path.is_dir():
        if outs_folder(path) is not None:
            return "spaceranger"
        if (path / "binned_outputs").is_dir():
            bins = sorted(p.name for p in (path / "binned_outputs").iterdir() if p.is_dir())
            raise SectionError(
                "a Visium HD folder with several bin sizes",
                where=path,
                hint=f"give one of them: binned_outputs/{', '.join(bins)}",
            )
        raise SectionError("a folder without spatial/ in it", where=path, hint=READ)
    if not path.exists():
        raise SectionError("no such file or folder", where=path, hint=READ)
    if name.endswith(".h5ad"):
        return "h5ad"
    if name.endswith(".h5"):
        return "spaceranger"
    if name.endswith((".tsv", ".tsv.gz")):
        return "legacy st"
    raise SectionError("not a kind of section that can be read", where=path, hint=READ)


def outs_folder(path: Path) -> Path | None:
    """Return the Space Ranger folder that holds ``spatial/``, or None.

    `path` may be that folder, its parent (with ``outs/`` in it), or its matrix ``.h5``.
    """
    candidates = [path.parent] if path.is_file() else [path, path / "outs"]
    return next((p for p in candidates if (p / "spatial").is_dir()), None)
