"""AnnData files, told by their headers: counts or not, places, pictures; or an imputed slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np

from bleepdb import names
from bleepdb.errors import SectionError
from bleepdb.inspecting.columns import MOST_NAMES, index_length, index_of, is_large, texts
from bleepdb.inspecting.findings import Findings
from bleepdb.inspecting.hest import species_said
from bleepdb.inspecting.imputed import inspect_imputed
from bleepdb.inspecting.matrices import species_of
from bleepdb.inspecting.sections import indexing_next, mpp_facts, needs_image, needs_species
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.annotated import ID_COLUMNS
from bleepdb.tissue.readers.assemble import COUNTS_AT, OBSM, count_fault
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.hest import hest_parts
from bleepdb.tissue.readers.places import BARE_COLUMNS, PIXEL_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.inspecting.findings import Inspection

COORDINATES: Final = (*PIXEL_COLUMNS, *BARE_COLUMNS)
MPP_KEYS: Final = ("microns_per_pixel", "mpp", "pixel_size_um_estimated", "pixel_size_um_embedded")
SAMPLED: Final = 200_000
"""Stored values that are looked at to tell counts from normalised values."""
MOST_VALUES: Final = 2**22


def is_anndata(handle: h5py.File) -> bool:
    """Tell an AnnData file by its groups."""
    return "obs" in handle and "var" in handle


def inspect_anndata(path: Path) -> Inspection:
    """Tell what an AnnData ``.h5ad`` holds.

    Raises
    ------
    SectionError
        If it is damaged, points outside itself, or is no AnnData file.
    """
    with open_hdf5(path, "AnnData") as handle:
        if not is_anndata(handle):
            raise SectionError("no obs and var in it: not an AnnData file", where=path)
        if isinstance(handle.get(f"uns/{names.UNS_KEY}/run_card"), h5py.Dataset):
            return inspect_imputed(path, handle)
        return _section(path, handle)


def _section(path: Path, handle: h5py.File) -> Inspection:
    found = Findings(path)
    spots, genes = index_length(handle["obs"]), index_length(handle["var"])
    found.fact("spots", spots)
    found.fact("genes", genes)
    counts = _counts(found, handle)
    species = _genes(found, handle)
    placed = _places(found, handle, spots)
    _libraries(found, handle)
    suffixed = path.suffix.lower() == ".h5ad"
    if not suffixed:
        found.lacks("the ending .h5ad", needed_for="train and index", remedy="rename the file")
    single = _one_library(found, handle)
    usable = all((counts, placed, suffixed, single, needs_species(found, species)))
    parts = hest_parts(path)
    slide = None if parts is None else parts.slide
    said = None if parts is None else species_said(parts)
    if not species and said is not None:
        species = [said]  # symbols alone tell none
    if slide is None:
        needs_image(found)
    else:
        found.fact("image", slide.name, f"{slide.name}, as HEST-1k lays it out")
    title = "an AnnData section" if placed else "an AnnData file without places"
    return found.made(
        "h5ad",
        title if parts is None else f"{title} of HEST-1k layout",
        then=indexing_next(path, image=slide is None, species=species) if usable else None,
    )


def _counts(found: Findings, handle: h5py.File) -> bool:
    """Tell of each matrix whether it holds counts; return whether one does."""
    words: dict[str, str] = {}
    taken = None
    layers = handle.get("layers")
    others = [f"layers/{k}" for k in layers] if isinstance(layers, h5py.Group) else []
    for key in [*COUNTS_AT, *sorted(set(others) - set(COUNTS_AT))][:8]:
        if key not in handle:
            continue
        values, kind = sample(handle[key])
        if values is None:
            words[key] = f"{kind}, not looked at"
            continue
        fault = count_fault(values) if len(values) else None
        if not np.issubdtype(values.dtype, np.number):
            fault = "does not hold numbers"
        words[key] = f"{kind}, " + ("counts" if fault is None else fault)
        if fault is None and key in COUNTS_AT and taken is None:
            taken = key
    found.fact("matrices", words, "; ".join(f"{k}: {w}" for k, w in words.items()))
    found.fact("counts in", taken)
    if taken is None and not any("not looked at" in w for w in words.values()):
        found.lacks(
            "raw counts (in layers/counts, raw/X or X)",
            needed_for="train and index",
            remedy='write the raw counts to layers["counts"]',
        )
        return False
    return True


def sample(item: Any) -> tuple[NDArray[Any] | None, str]:  # noqa: ANN401 - a group or a dataset
    """Return some stored values of a matrix (None where a piece is too large), and its kind."""
    if isinstance(item, h5py.Group):
        kind = item.attrs.get("encoding-type", "sparse")
        data = item.get("data")
        kind = f"{kind}, {getattr(data, 'dtype', '?')}".replace("_matrix", "")
        if not isinstance(data, h5py.Dataset) or data.ndim != 1 or is_large(data):
            return None, kind
        return np.asarray(data[:SAMPLED]), kind
    kind = f"dense, {item.dtype}"
    if item.ndim != 2 or is_large(item):
        return None, kind
    rows = max(1, SAMPLED // max(1, item.shape[1]))
    return np.asarray(item[:rows]).ravel()[: 4 * SAMPLED], kind


def _genes(found: Findings, handle: h5py.File) -> list[str]:
    """Tell how genes are named; return the species that their ids tell."""
    var = handle["var"]
    symbols = texts(index_of(var), MOST_NAMES)
    column = next((c for c in ID_COLUMNS if isinstance(var, h5py.Group) and c in var), None)
    ids = texts(var[column], MOST_NAMES) if column is not None else []
    species = species_of(ids or symbols)
    twice = len(symbols) - len(set(symbols))
    named = f"var names such as {', '.join(symbols[:3])}" if symbols else "not named"
    found.fact("genes are", {"ids": column, "species": species}, named
               + (f"; ids in {column}" if column else "; no Ensembl ids")
               + (f"; {', '.join(species)}" if species else ""))  # fmt: skip
    if twice:
        found.lacks(
            f"unique gene names ({twice:,} stand twice)",
            needed_for="train and index" if not ids else "matching by symbol",
            remedy="make the names unique, or write Ensembl ids to var['gene_ids']",
        )
    return species


def _places(found: Findings, handle: h5py.File, spots: int | None) -> bool:
    """Tell where the coordinates are, and the mpp of each source; return whether there are any."""
    held = next((n for n in OBSM if f"obsm/{n}" in handle), OBSM[0])
    spatial = handle.get(f"obsm/{held}")
    obs = handle["obs"]
    columns = set(obs) if isinstance(obs, h5py.Group) else set()
    in_obs = next((c for c in COORDINATES if set(c) <= columns), None)
    xy_px = None
    if isinstance(spatial, h5py.Dataset) and spatial.ndim == 2 and spatial.shape[1] >= 2:
        found.fact("coordinates", f'obsm["{held}"]', f'obsm["{held}"], {spatial.dtype}')
        if spatial.dtype.kind in "iuf" and not is_large(spatial):
            xy_px = np.asarray(spatial[: MOST_VALUES // spatial.shape[1], :2], np.float64)
    elif in_obs is not None:
        found.fact("coordinates", list(in_obs), f"obs columns {in_obs[0]} and {in_obs[1]}")
        xy_px = _columns(obs, in_obs)
    else:
        found.fact("coordinates", None, "none found")
        found.lacks(
            'coordinates (obsm["spatial"], or columns of obs)',
            needed_for="train and index",
            remedy="write the spots' (x, y) in full-resolution pixels to obsm['spatial']",
        )
        return False
    if xy_px is not None and not np.isfinite(xy_px).all():
        found.note(f"{(~np.isfinite(xy_px).all(axis=1)).sum():,} spots have no finite place")
    inside = obs.get("in_tissue") if isinstance(obs, h5py.Group) else None
    if isinstance(inside, h5py.Dataset) and inside.dtype.kind in "iufb" and not is_large(inside):
        under = int((np.asarray(inside[:MOST_VALUES], np.float64) == 1).sum())
        found.fact("under tissue", under, f"{under:,} of {spots or 0:,}")
    _scales(found, handle, xy_px)
    return True


def _scales(found: Findings, handle: h5py.File, xy_px: NDArray[np.float64] | None) -> None:
    obs = handle["obs"]
    sources: dict[str, float | None] = {"h5ad": None, "spot diameter": None, "spot pitch": None}
    widths: list[float] = []
    for library in _library_groups(handle):
        for place in ("metadata", "scalefactors"):
            for key in MPP_KEYS:
                value = _scalar(library.get(f"{place}/{key}"))
                sources["h5ad"] = sources["h5ad"] or value
        diameter = _scalar(library.get("scalefactors/spot_diameter_fullres"))
        widths = [*widths, diameter] if diameter is not None else widths
    if xy_px is not None and len(xy_px):
        good = np.isfinite(xy_px).all(axis=1)
        array = _columns(obs, ("array_row", "array_col"))
        if array is not None and len(array) == len(xy_px):
            good &= np.isfinite(array).all(axis=1)
            made = scales.visium_array_um(*array[good].T)
            pitch = scales.mpp_of_array(made, xy_px[good], scales.VISIUM_PITCH_UM)
        else:
            pitch = scales.mpp_of_neighbours(xy_px[good], scales.VISIUM_PITCH_UM)
        sources["spot pitch"] = pitch
    if widths:
        sources["spot diameter"] = scales.mpp_of_diameter(widths[0], sources["spot pitch"])
    mpp_facts(found, sources)


def _libraries(found: Findings, handle: h5py.File) -> None:
    """Tell the pictures of each library, and whether they are blank."""
    words: list[str] = []
    blank = 0
    for library in _library_groups(handle)[:4]:
        images = library.get("images")
        for name in sorted(images) if isinstance(images, h5py.Group) else ():
            item = images[name]
            if not isinstance(item, h5py.Dataset) or item.ndim != 3:
                continue
            one = False
            if item.size <= MOST_VALUES * 16 and not is_large(item):
                pixels = np.asarray(item[:])
                one = bool((pixels == pixels[:1, :1]).all())
            blank += one
            words.append(f"{name} {item.shape[1]} x {item.shape[0]}{', blank' if one else ''}")
    found.fact("pictures", words)
    if not words:
        found.lacks(
            "a picture of the tissue in uns['spatial']",
            needed_for="the registration check",
            remedy="none is needed where the image is surely the right one",
        )
    elif blank == len(words):
        found.note("its pictures are of one colour: registration cannot be checked with them")


def _one_library(found: Findings, handle: h5py.File) -> bool:
    libraries = [g.name.rsplit("/", 1)[-1] for g in _library_groups(handle)]
    obs = handle["obs"]
    column = obs.get(names.LIBRARY_ID) if isinstance(obs, h5py.Group) else None
    if isinstance(column, h5py.Group) and "categories" in column:
        known = texts(column["categories"], 1000)
        own = [known[c] for c in np.unique(column["codes"][:MOST_VALUES]) if 0 <= c < len(known)]
        # Part of a file of several keeps what all had.
        libraries = own if len(own) == 1 and own[0] in libraries else max(libraries, own, key=len)
    if libraries:
        found.fact("libraries", libraries)
    if len(libraries) > 1:
        found.lacks(
            f"one section ({len(libraries)} libraries are in it)",
            needed_for="train and index",
            remedy="write one file a section",
        )
        return False
    return True


def _library_groups(handle: h5py.File) -> list[h5py.Group]:
    spatial = handle.get(f"uns/{names.SPATIAL}")
    if not isinstance(spatial, h5py.Group):
        return []
    return [item for item in spatial.values() if isinstance(item, h5py.Group)]


def _scalar(item: Any) -> float | None:  # noqa: ANN401 - whatever is stored
    if not isinstance(item, h5py.Dataset) or item.shape != () or item.dtype.kind not in "iuf":
        return None
    value = float(item[()])
    return value if value > 0 and np.isfinite(value) else None


def _columns(obs: Any, wanted: Sequence[str]) -> NDArray[np.float64] | None:  # noqa: ANN401 - a group, or not
    found = [obs.get(c) if isinstance(obs, h5py.Group) else None for c in wanted]
    items = [
        i
        for i in found
        if isinstance(i, h5py.Dataset) and i.ndim == 1 and i.dtype.kind in "iuf" and not is_large(i)
    ]
    if len(items) < len(wanted):
        return None
    values = [np.asarray(i[:MOST_VALUES], np.float64) for i in items]
    if len({len(v) for v in values}) > 1:
        return None
    return np.column_stack(values)
