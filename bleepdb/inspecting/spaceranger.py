"""Space Ranger folders: matrix, positions, their join, microns from each source, pictures."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np

from bleepdb.errors import SectionError
from bleepdb.inspecting.findings import Entry, Findings, quoted
from bleepdb.inspecting.matrices import barcodes_of, look_at_folder, look_at_h5
from bleepdb.inspecting.placing import FETCH, MOST_JOINED, PlacesLook, look_at_positions
from bleepdb.inspecting.sections import indexing_next, mpp_facts, needs_image, needs_species
from bleepdb.tissue.binning import TARGET_UM
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.outs import Outs, find_outs, hd_bin, hd_bins
from bleepdb.tissue.readers.reference import read_picture

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.inspecting.findings import Inspection
    from bleepdb.inspecting.matrices import MatrixLook

MOST_FITTED: Final = 20_000
HALF: Final = 0.5
SPOT_DIAMETER: Final = "spot_diameter_fullres"


def inspect_outs(path: Path) -> Inspection:
    """Tell what a Space Ranger folder, or one bin folder of Visium HD, holds.

    Raises
    ------
    SectionError
        If nothing there can be read as one.
    """
    outs = find_outs(path)
    if outs is None:
        raise SectionError("no spatial/ and no positions", where=path, hint=FETCH)
    found = Findings(path)
    factors = read_factors(outs.scalefactors)
    damaged = outs.scalefactors is not None and not factors
    bin_um = _number(factors, "bin_size_um")
    matrix = _matrix(found, outs)
    places = _positions(found, outs)
    joined = None if matrix is None or places is None else _join(found, matrix, places)
    _versions(found, outs, matrix)
    _scales(found, factors, places, bin_um)
    _pictures(found, outs)
    usable = joined is not None and joined >= HALF and matrix is not None and not matrix.faults
    usable = usable and not damaged
    if matrix is not None:
        usable = needs_species(found, matrix.species) and usable
    species = [] if matrix is None else matrix.species
    needs_image(found)
    hd = bin_um is not None
    what = "a Space Ranger folder" if not hd else f"Visium HD, bins of {bin_um:g} µm"
    return found.made(
        "visium hd bin" if hd else "spaceranger",
        what,
        then=indexing_next(path, species=species) if usable else None,
    )


def inspect_hd(path: Path) -> Inspection:
    """Tell what a Visium HD folder of several bin sizes holds.

    Raises
    ------
    SectionError
        If it holds no bins.
    """
    found = Findings(path)
    bins = hd_bins(path)
    used = hd_bin(path, TARGET_UM)
    if not bins or used is None:
        raise SectionError("no square_XXXum/ folder in it", where=path, hint=FETCH)
    found.fact("bins", [f"{um} µm" for um in sorted(bins)])
    found.fact("index reads", used.name, f"{used.name}, pooled to {TARGET_UM:g} µm (--bin-um)")
    entries = []
    usable = False
    species: list[str] = []
    for um, folder in sorted(bins.items()):
        state, share, seen = _bin_state(folder)
        entries.append(Entry(folder.name, "visium hd bin", state))
        if folder == used:
            usable, species = share is not None and share >= HALF, seen
            if share is not None and share < HALF:
                found.lacks(
                    f"places of more than half of the bins with counts at {um} µm ({share:.0%})",
                    needed_for="train and index",
                    remedy="fetch the run again"
                    + (", or pass --allow-loss to go on with what is left" if share else ""),
                )
    usable = needs_species(found, species) and usable
    needs_image(found)
    return found.made(
        "visium hd",
        "a Visium HD folder",
        entries=tuple(entries),
        then=indexing_next(path, species=species) if usable else None,
    )


def _bin_state(folder: Path) -> tuple[str, float | None, list[str]]:
    """One bin size in short, the share of its counts that have a place, and its species."""
    try:
        outs = find_outs(folder)
    except SectionError as error:
        return error.what, None, []
    if outs is None:
        return "no spatial/ in it", None, []
    quiet = Findings(folder)
    matrix, places = _matrix(quiet, outs), _positions(quiet, outs)
    share = None if matrix is None or places is None else _join(quiet, matrix, places)
    parts = [m.what for m in quiet.missing]
    joined = next((f.shown for f in quiet.facts if f.name == "join"), None)
    if matrix is not None:
        parts.insert(0, f"{matrix.genes or 0:,} genes")
    return (
        "; ".join([*parts, *([joined] if joined else [])]),
        share,
        matrix.species if matrix else [],
    )


def inspect_spatial(path: Path) -> Inspection:
    """Tell the ``spatial/`` part of a Space Ranger folder."""
    found = Findings(path)
    found.note("the parent folder is what bleepdb reads")
    then = f"bleepdb inspect {quoted(path.parent)}"
    return found.made("part", "the spatial/ part of a Space Ranger folder", then=then)


def _matrix(found: Findings, outs: Outs) -> MatrixLook | None:
    if outs.matrix is None:
        found.lacks(
            "the matrix of counts (filtered_feature_bc_matrix.h5 or its folder)",
            needed_for="train and index",
            remedy=FETCH,
        )
        return None
    try:
        if outs.matrix.suffix == ".h5":
            look = look_at_h5(outs.matrix)
        else:
            look = look_at_folder(outs.matrix if outs.matrix.is_dir() else outs.matrix.parent)
    except SectionError as error:
        found.lacks(
            f"a matrix that can be read: {outs.matrix.name} {error.what}",
            needed_for="train and index",
            remedy=error.hint or FETCH,
        )
        return None
    look.tell(found)
    if outs.raw:
        found.note("only the raw matrix is there: places tell which spots are under tissue")
    return look


def _positions(found: Findings, outs: Outs) -> PlacesLook | None:
    if outs.positions is None:
        found.lacks(
            "the table of spot positions (spatial/tissue_positions.csv or .parquet)",
            needed_for="train and index",
            remedy=FETCH,
        )
        return None
    try:
        places = look_at_positions(outs.positions)
    except SectionError as error:
        found.lacks(
            f"positions that can be read: {outs.positions.name}: {error.what}",
            needed_for="train and index",
            remedy=error.hint or FETCH,
        )
        return None
    header = "parquet" if outs.positions.suffix == ".parquet" else _header(outs.positions)
    found.fact("positions", outs.positions.name, f"{outs.positions.name} ({header})")
    if places.under is None:
        found.fact("spots", places.spots)
    else:
        under = int(places.under.sum())
        found.fact(
            "spots",
            {"placed": places.spots, "under tissue": under},
            f"{under:,} of {places.spots:,} places are under tissue",
        )
        _doubt(found, places)
    return places


def _doubt(found: Findings, places: PlacesLook) -> None:
    """Note places under tissue that no image can have, and spots that lie on one another."""
    if places.xy_px is None or places.under is None or not places.under.any():
        return
    xy_px = places.xy_px[places.under]
    negative = int((xy_px < 0).any(axis=1).sum())
    if negative:
        found.note(f"{negative:,} places under tissue are negative: index refuses them")
    alike = len(xy_px) - len(np.unique(xy_px, axis=0))
    if alike:
        found.note(f"{alike:,} places under tissue lie on another spot")


def _header(path: Path) -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as handle:
        first = handle.readline(4096)
    return "with header" if b"barcode" in first else "without header"


def _join(found: Findings, matrix: MatrixLook, places: PlacesLook) -> float | None:
    """Share of the counted barcodes that have a place under tissue; None where not joined."""
    if places.under is None or places.barcodes is None or (matrix.barcodes or 0) > MOST_JOINED:
        found.fact("join", None, f"not made here: more than {MOST_JOINED:,} barcodes")
        return 1.0
    try:
        counted = barcodes_of(matrix)
    except SectionError:
        return None
    if counted is None or not len(counted):
        return None
    both = int(np.isin(counted, places.barcodes[places.under]).sum())
    share = both / len(counted)
    found.fact(
        "join",
        {"counted": len(counted), "placed": both, "share": share},
        f"{both:,} of {len(counted):,} barcodes with counts have a place under tissue "
        f"({share:.0%})",
    )
    if share < HALF:
        found.lacks(
            "positions that belong to the counts: "
            + ("no barcode is in both" if not both else f"only {share:.0%} of the barcodes are"),
            needed_for="train and index",
            remedy="give counts and positions of the same run"
            + (", or pass --allow-loss to go on with what is left" if both else ""),
        )
    elif share < 1:
        found.note(f"{len(counted) - both:,} barcodes with counts have no place under tissue")
    return share


def _versions(found: Findings, outs: Outs, matrix: MatrixLook | None) -> None:
    """Guess the version: the matrix states it in its attributes, else file names tell."""
    said = None
    if matrix is not None and matrix.path.suffix == ".h5":
        with h5py.File(matrix.path, "r") as handle:
            stated = handle.attrs.get("software_version")
        said = stated.decode("utf-8", "replace") if isinstance(stated, bytes) else stated
    name = "" if outs.positions is None else outs.positions.name
    guess = (
        "3 or later (Visium HD)"
        if "parquet" in name
        else "1"
        if "list" in name
        else "2 or later"
        if name
        else None
    )
    if said is not None:
        found.fact("written by", str(said)[:80])
    elif guess is not None:
        found.fact("written by", f"Space Ranger {guess}, by its file names")


def read_factors(path: Path | None) -> dict[str, Any]:
    """Read the scale factors; an empty object where there are none, or they are damaged."""
    if path is None:
        return {}
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as handle:
            made = json.loads(handle.read(2**20))
    except (OSError, EOFError, ValueError, RecursionError, zlib.error):
        return {}
    return made if isinstance(made, dict) else {}


def _number(factors: dict[str, Any], key: str) -> float | None:
    value = factors.get(key)
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if right and value > 0 else None  # type: ignore[arg-type, operator] # a number


def _scales(
    found: Findings,
    factors: dict[str, Any],
    places: PlacesLook | None,
    bin_um: float | None,
) -> None:
    if not factors:
        found.lacks(
            "scale factors that can be read (spatial/scalefactors_json.json)",
            needed_for="the registration check, --image hires",
            remedy=FETCH,
        )
    known = {
        k.removeprefix("tissue_").removesuffix("_scalef"): v
        for k in ("tissue_hires_scalef", "tissue_lowres_scalef")
        if (v := _number(factors, k)) is not None
    }
    if known:
        found.fact("scale factors", known)
    diameter = _number(factors, SPOT_DIAMETER)
    pitch = _pitch(places, bin_um)
    by_spot = scales.mpp_of_diameter(diameter, pitch)
    if bin_um is not None:
        by_spot = None if diameter is None else bin_um / diameter
    sources = {
        "scalefactors": _number(factors, "microns_per_pixel"),
        "spot diameter": by_spot,
        "bin pitch" if bin_um else "spot pitch": pitch,
    }
    mpp_facts(found, sources)


def _pitch(places: PlacesLook | None, bin_um: float | None) -> float | None:
    if places is None or places.array is None or places.xy_px is None or not places.spots:
        return None
    every = slice(None, None, max(1, places.spots // MOST_FITTED))
    array, xy_px = places.array[every], places.xy_px[every]
    good = np.isfinite(array).all(axis=1) & np.isfinite(xy_px).all(axis=1)
    row, col = array[good].T
    if bin_um is None:
        made = scales.visium_array_um(row, col)
        return scales.mpp_of_array(made, xy_px[good], scales.VISIUM_PITCH_UM)
    return scales.mpp_of_array(bin_um * np.column_stack([col, row]), xy_px[good], bin_um)


def _pictures(found: Findings, outs: Outs) -> None:
    said, blank = [], []
    for name, path in outs.pictures.items():
        try:
            pixels = read_picture(path)
        except SectionError as error:
            said.append(f"{name} (cannot be read)")
            found.note(f"{name}: {error.what}")
            continue
        one = bool((pixels == pixels[:1, :1]).all())
        if one:
            blank.append(name)
        said.append(f"{name} {pixels.shape[1]} x {pixels.shape[0]}{', blank' if one else ''}")
    found.fact("pictures", said)
    if not outs.pictures:
        found.lacks(
            "the reduced pictures of the tissue (spatial/tissue_hires_image.png)",
            needed_for="the registration check",
            remedy=FETCH,
        )
    elif blank and len(blank) == len(outs.pictures):
        found.note("its pictures are of one colour: registration cannot be checked with them")
