"""What all sections have in common: their microns, their image, their species, the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bleepdb.inspecting.findings import quoted
from bleepdb.tissue.readers.scale import DISAGREE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bleepdb.inspecting.findings import Findings

DEFAULT_SPECIES = "human"


def mpp_facts(found: Findings, sources: Mapping[str, float | None]) -> float | None:
    """Tell the mpp of each source that is known, and whether they agree; return the first."""
    known = {source: mpp for source, mpp in sources.items() if mpp is not None}
    if not known:
        found.fact("mpp", None, "no source states it")
        found.lacks(
            "the microns per pixel (mpp)",
            needed_for="any tile, where the image does not state it",
            remedy="fill in the sheet's mpp column or pass --slide-mpp",
        )
        return None
    words = "; ".join(f"{mpp:.4g} by {source}" for source, mpp in known.items())
    first = next(iter(known.values()))
    off = [s for s, mpp in known.items() if abs(mpp / first - 1) > DISAGREE]
    agree = "" if len(known) == 1 else "; they agree" if not off else "; they disagree"
    found.fact("mpp", known, f"{words}{agree}")
    if off:
        found.note(
            f"sources of mpp disagree by more than {DISAGREE:.0%}: {', '.join(off)}; "
            "the first is used; --slide-mpp goes before all"
        )
    return first


def needs_image(found: Findings, *, why: str = "train and index") -> None:
    """Say that the full-resolution image is not in the file."""
    found.lacks("the full-resolution H&E image", needed_for=why, remedy="name it with --image")


def needs_species(found: Findings, species: Sequence[str]) -> bool:
    """Tell whether a section may be given without a sheet, as far as its species goes."""
    if not species or list(species) == [DEFAULT_SPECIES]:
        return True
    if len(species) > 1:
        found.lacks(
            f"genes of one species (there are {', '.join(species)})",
            needed_for="train and index",
            remedy="keep the genes of one species",
        )
        return False
    found.lacks(
        f"a sheet that says species {species[0]}",
        needed_for="train and index (without a sheet a section is human)",
        remedy=f"write a sample sheet with {species[0]} in the column species, then "
        "`bleepdb train SHEET.csv --out MODEL`",
    )
    return False


def indexing_next(path: Path, *, image: bool = True) -> str:
    """Return the command that indexes a section that is given by its path."""
    named = " --image IMAGE" if image else ""
    return (
        f"bleepdb index {quoted(path)} --model MODEL --atlas ATLAS --donor DONOR --tissue TISSUE"
        f"{named}"
    )
