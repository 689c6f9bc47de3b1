"""Folders of HEST-1k layout: ``st/ID.h5ad``, ``wsis/ID.tif``, ``metadata/ID.json``, patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bleepdb.errors import SectionError
from bleepdb.inspecting.findings import Entry, Findings
from bleepdb.inspecting.looking import names_in
from bleepdb.inspecting.sections import indexing_next
from bleepdb.tissue.readers.hest import hest_parts, read_facts

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection
    from bleepdb.tissue.readers.hest import HestParts

ST: Final = "st"


def is_hest(path: Path) -> bool:
    """Tell a folder of this layout by its names."""
    if not (path / ST).is_dir():
        return False
    beside = any((path / n).is_dir() for n in ("wsis", "metadata", "patches"))
    return beside and any(n.endswith(".h5ad") for n in names_in(path / ST))


def inspect_hest(path: Path) -> Inspection:
    """Tell which samples a folder holds, and what of each."""
    found = Findings(path)
    samples = [path / ST / n for n in names_in(path / ST) if n.endswith(".h5ad")]
    found.fact("sections", len(samples))
    entries, whole = [], []
    for sample in samples:
        state, good = _state(sample)
        entries.append(Entry(sample.stem, "hest", state))
        if good:
            whole.append(sample)
    if len(whole) < len(samples):
        found.lacks(
            f"the slide of {len(samples) - len(whole)} of {len(samples)} sections",
            needed_for="train and index",
            remedy="fetch their wsis/, or name the image with --image",
        )
    then = None
    if whole:
        found.note("each section is given by its own path, or all in a sample sheet")
        parts = hest_parts(whole[0])
        said = None if parts is None else species_said(parts)
        then = indexing_next(whole[0], image=False, species=() if said is None else (said,))
    return found.made("hest", "a folder of HEST-1k layout", entries=tuple(entries), then=then)


def _state(sample: Path) -> tuple[str, bool]:
    parts = hest_parts(sample)
    if parts is None:
        return "no slide, metadata or patches beside it", False
    words = [f"slide {parts.slide.name}" if parts.slide else "no slide"]
    if parts.metadata is not None:
        try:
            facts = read_facts(parts.metadata)
        except SectionError as error:
            words.append(f"metadata {error.what}")
        else:
            mpp = None if facts.mpp is None else f"{facts.mpp:.4g} µm/px"
            words += [w for w in (facts.assay, facts.species, mpp) if w is not None]
    else:
        words.append("no metadata")
    words.append("patches" if parts.patches else "no patches")
    return ", ".join(words), parts.slide is not None


def species_said(parts: HestParts) -> str | None:
    """Return the species that a sample's metadata say; None where they cannot be read."""
    try:
        return None if parts.metadata is None else read_facts(parts.metadata).species
    except SectionError:
        return None
