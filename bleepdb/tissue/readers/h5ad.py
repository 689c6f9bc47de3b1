"""Sections from AnnData files with ``obsm["spatial"]``; only what a section needs is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata._io.specs.registry import IORegistryError  # anndata has no public name for it
from anndata.io import read_elem

from bleepdb import names
from bleepdb.errors import SectionError
from bleepdb.tissue.readers import scale as scales
from bleepdb.tissue.readers.assemble import (
    as_counts,
    assemble,
    count_fault,
    mostly_ensembl,
    panel_of,
)
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.positions import COL, IN_TISSUE, ROW

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow

ASSAY: Final = "visium"
COUNTS_AT: Final = ("layers/counts", "raw/X", "X")
ID_COLUMNS: Final = ("gene_ids", "gene_id", "ensembl_id", "ensembl")
SYMBOL_COLUMNS: Final = ("gene_symbols", "feature_name", "gene_symbol", "gene_name", "symbol")
WRITE_AGAIN: Final = "read and write the file with a current anndata"
WRITE_PLACES: Final = "write the spots' (x, y) in full-resolution pixels there"
MPP_KEYS: Final = ("microns_per_pixel", "mpp")


@dataclass(frozen=True)
class Places:
    """Where the spots of an AnnData file lie.

    Attributes
    ----------
    obs
        The table of spots, barcodes as index.
    xy_px
        (spots, 2) float64.
    file_mpp
        Microns per pixel that ``uns["spatial"]`` states, or None.
    """

    obs: pd.DataFrame
    xy_px: NDArray[np.float64]
    file_mpp: float | None

    @property
    def under_tissue(self) -> NDArray[np.bool_]:
        """(spots,) bool: ``obs["in_tissue"]`` where it is there, else all."""
        if IN_TISSUE not in self.obs:
            return np.ones(len(self.obs), dtype=np.bool_)
        return np.asarray(pd.to_numeric(self.obs[IN_TISSUE], errors="coerce") == 1)

    @property
    def barcodes(self) -> list[str]:
        """Names of the spots."""
        return [str(b) for b in self.obs.index]


def read_h5ad(row: SheetRow, *, slide_mpp: float | None = None) -> Section:
    """Read a section from an AnnData ``.h5ad``.

    Counts come from the first of ``layers["counts"]``, ``raw.X`` and ``X`` that holds whole
    numbers. Symbols and Ensembl ids are taken from ``var``.

    Parameters
    ----------
    row
        What the sheet says.
    slide_mpp
        Microns per pixel that the user states; goes before every other source.

    Raises
    ------
    SectionError
        If the file is damaged, points outside itself, has no positions, several libraries, or
        no raw counts.
    GeneError
        If genes stand twice or are of another species.
    """
    path = row.expression
    with open_hdf5(path, "AnnData") as handle:
        places = read_places(handle, path)
        counts, var = _counts(handle, path)
    if len(places.obs) != counts.shape[0]:
        raise SectionError(
            f"{counts.shape[0]} rows of counts for {len(places.obs)} spots",
            where=path,
            hint=WRITE_AGAIN,
        )
    symbols, gene_ids = _genes(var)
    kept = places.under_tissue
    notes = () if kept.all() else (f"{(~kept).sum()} of {len(kept)} spots are not under tissue",)
    visium = (row.assay or ASSAY).lower() == ASSAY
    scale = scales.choose_mpp(
        [
            ("--slide-mpp", slide_mpp),
            ("sheet", row.mpp),
            ("h5ad", places.file_mpp),
            ("spot pitch", _pitch_mpp(places) if visium else None),
        ],
        path,
    )
    return assemble(
        row,
        assay=ASSAY,
        counts=as_counts(counts[kept], path),
        panel=panel_of(symbols, gene_ids, row.species, path),
        barcodes=[b for b, k in zip(places.barcodes, kept, strict=True) if k],
        xy_px=places.xy_px[kept],
        scale=scale,
        slide_path=row.image,
        pitch_um=scales.VISIUM_PITCH_UM if visium else None,
        spot_diameter_um=scales.VISIUM_SPOT_UM if visium else None,
        notes=notes,
    )


def read_places(handle: h5py.File, path: Path) -> Places:
    """Read spots and positions of an open AnnData file.

    Raises
    ------
    SectionError
        If there are none, they do not fit together, or belong to several libraries.
    """
    spatial = f"obsm/{names.SPATIAL}"
    if spatial not in handle:
        raise SectionError(
            f'no obsm["{names.SPATIAL}"]',
            where=path,
            hint=WRITE_PLACES,
        )
    obs = _frame(handle, "obs", path)
    xy_px = np.asarray(_element(handle, spatial, path))
    if xy_px.ndim != 2 or xy_px.shape[1] < 2 or len(xy_px) != len(obs):
        raise SectionError(
            f'obsm["{names.SPATIAL}"] has shape {xy_px.shape} for {len(obs)} spots',
            where=path,
            hint=WRITE_PLACES,
        )
    if not np.issubdtype(xy_px.dtype, np.number):
        raise SectionError(
            f'obsm["{names.SPATIAL}"] does not hold numbers', where=path, hint=WRITE_PLACES
        )
    libraries = _libraries(handle)
    sections = max(
        len(libraries), obs[names.LIBRARY_ID].nunique() if names.LIBRARY_ID in obs else 0
    )
    if sections > 1:
        raise SectionError(
            f"holds {sections} libraries", where=path, hint="write one file a section"
        )
    mpp = next((_stated_mpp(library) for library in libraries), None)
    return Places(obs, xy_px[:, :2].astype(np.float64), mpp)


def _element(handle: h5py.File, key: str, path: Path) -> Any:  # noqa: ANN401 - whatever is stored
    item = handle.get(key)
    if item is None:
        raise SectionError(f"no {key}", where=path, hint="is this an AnnData file?")
    if "encoding-type" not in item.attrs and isinstance(item, h5py.Group):
        raise SectionError(
            f"{key} is not written as AnnData writes it",
            where=path,
            hint=WRITE_AGAIN,
        )
    try:
        return read_elem(item)
    except IORegistryError as error:
        said = str(error).splitlines()[0][:160]
        raise SectionError(
            f"{key} is written in a way that this anndata does not know ({said})",
            where=path,
            hint="install a newer anndata, or fetch the file again if it is damaged",
        ) from error


def _frame(handle: h5py.File, key: str, path: Path) -> pd.DataFrame:
    frame = _element(handle, key, path)
    if not isinstance(frame, pd.DataFrame):
        raise SectionError(
            f"{key} is not a table (anndata before 0.7 wrote it so)",
            where=path,
            hint=WRITE_AGAIN,
        )
    return frame


def _counts(handle: h5py.File, path: Path) -> tuple[sp.csr_matrix, pd.DataFrame]:
    """Read the first matrix that holds counts, and the genes of its columns."""
    said: list[str] = []
    for key in COUNTS_AT:
        if key not in handle:
            continue
        matrix = sp.csr_matrix(_element(handle, key, path))
        fault = (
            count_fault(matrix.data)
            if np.issubdtype(matrix.dtype, np.number)
            else "does not hold numbers"
        )
        if fault is None:
            var = _frame(handle, "raw/var" if key == "raw/X" else "var", path)
            if len(var) != matrix.shape[1]:
                raise SectionError(
                    f"{key} has {matrix.shape[1]} columns for {len(var)} genes",
                    where=path,
                    hint=WRITE_AGAIN,
                )
            return matrix, var
        said.append(f"{key} {fault}")
    raise SectionError(
        "no raw counts: " + ("; ".join(said) or "no X"),
        where=path,
        hint='write the raw counts to layers["counts"]',
    )


def _genes(var: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Symbols and ids (or no ids) of the genes."""
    index = [str(v) for v in var.index]
    if mostly_ensembl(index):
        column = next((c for c in SYMBOL_COLUMNS if c in var), None)
        return (index if column is None else _text(var[column])), index
    column = next((c for c in ID_COLUMNS if c in var), None)
    return index, ([] if column is None else _text(var[column]))


def _text(column: pd.Series[Any]) -> list[str]:
    return ["" if pd.isna(v) else str(v) for v in column]


def _libraries(handle: h5py.File) -> list[h5py.Group]:
    spatial = handle.get(f"uns/{names.SPATIAL}")
    if not isinstance(spatial, h5py.Group):
        return []
    return [item for item in spatial.values() if isinstance(item, h5py.Group)]


def _stated_mpp(library: h5py.Group) -> float | None:
    for place in ("metadata", "scalefactors"):
        for key in MPP_KEYS:
            item = library.get(f"{place}/{key}")
            if isinstance(item, h5py.Dataset) and item.shape == ():
                return float(item[()])
    return None


def _pitch_mpp(places: Places) -> float | None:
    """Microns per pixel from the Visium array, or from the distance of adjacent spots."""
    if {ROW, COL} <= set(places.obs):
        array = places.obs[[ROW, COL]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        known = np.isfinite(array).all(axis=1) & np.isfinite(places.xy_px).all(axis=1)
        array_um = scales.visium_array_um(array[known, 0], array[known, 1])
        return scales.mpp_of_array(array_um, places.xy_px[known], scales.VISIUM_PITCH_UM)
    finite = places.xy_px[np.isfinite(places.xy_px).all(axis=1)]
    return scales.mpp_of_neighbours(finite, scales.VISIUM_PITCH_UM)
