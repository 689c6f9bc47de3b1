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
    """Tell whether the genes are of one species, as far as their ids tell."""
    if len(species) <= 1:
        return True
    found.lacks(
        f"genes of one species (there are {', '.join(species)})",
        needed_for="train and index",
        remedy="keep the genes of one species",
    )
    return False


def indexing_next(path: Path, *, image: bool = True, species: Sequence[str] = ()) -> str:
    """Return the command that indexes a section that is given by its path."""
    named = "".join(f" --species {s}" for s in species if s != DEFAULT_SPECIES)
    named += " --image IMAGE" if image else ""
    return (
        f"bleepdb index {quoted(path)} --model MODEL --atlas ATLAS --donor DONOR --tissue TISSUE"
        f"{named}"
    )
