"""What AnnData files and SpatialData tables share: spots, counts and genes of an open group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata._io.specs.registry import IORegistryError  # anndata has no public name for it
from anndata.io import read_elem

from bleepdb.errors import SectionError
from bleepdb.tissue.readers.assemble import COUNTS_AT, count_fault, mostly_ensembl

if TYPE_CHECKING:
    from pathlib import Path

ID_COLUMNS: Final = ("gene_ids", "gene_id", "ensembl_id", "ensembl")
SYMBOL_COLUMNS: Final = ("gene_symbols", "feature_name", "gene_symbol", "gene_name", "symbol")
WRITE_AGAIN: Final = "read and write the file with a current anndata"
DENSE_STEP: Final = 2**25
"""Cells of a dense matrix that are read at once."""

Group = Any
"""An open ``h5py.Group`` or ``zarr.Group``: both answer ``in``, ``get``, ``attrs`` and paths."""


def is_group(item: object) -> bool:
    """Tell a group from a dataset, of HDF5 or of Zarr."""
    return hasattr(item, "keys")


def read_element(group: Group, key: str, path: Path) -> Any:  # noqa: ANN401 - whatever is stored
    """Read one element as anndata does.

    Raises
    ------
    SectionError
        If it is missing, or not written as this anndata knows.
    """
    item = group.get(key)
    if item is None:
        raise SectionError(f"no {key}", where=path, hint="is this an AnnData file?")
    if "encoding-type" not in item.attrs and is_group(item):
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


def read_frame(group: Group, key: str, path: Path) -> pd.DataFrame:
    """Read a table such as ``obs``.

    Raises
    ------
    SectionError
        If it is missing or no table.
    """
    frame = read_element(group, key, path)
    if not isinstance(frame, pd.DataFrame):
        raise SectionError(
            f"{key} is not a table (anndata before 0.7 wrote it so)",
            where=path,
            hint=WRITE_AGAIN,
        )
    return frame


def read_counts(group: Group, path: Path) -> tuple[sp.csr_matrix, pd.DataFrame]:
    """Read the first matrix that holds counts, and the table of its columns' genes.

    Raises
    ------
    SectionError
        If there is none; it says what each one holds.
    """
    said: list[str] = []
    for key in COUNTS_AT:
        if key not in group:
            continue
        matrix = _matrix(group, key, path)
        fault = (
            count_fault(matrix.data)
            if np.issubdtype(matrix.dtype, np.number)
            else "does not hold numbers"
        )
        if fault is None:
            var = read_frame(group, "raw/var" if key == "raw/X" else "var", path)
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


def _matrix(group: Group, key: str, path: Path) -> sp.csr_matrix:
    """Read a matrix as CSR, a dense one some rows at a time."""
    item = group[key]
    if is_group(item) or getattr(item, "ndim", 0) != 2:
        stored = read_element(group, key, path)
        if isinstance(stored, sp.csr_matrix | sp.csc_matrix | sp.csr_array | sp.csc_array):
            # SciPy's routines trust indices, and would read outside of memory.
            stored.check_format(full_check=True)
        return sp.csr_matrix(stored)
    rows, columns = (int(n) for n in item.shape)
    if not rows or not columns:
        none = np.zeros(0, dtype=np.int64)
        return sp.csr_matrix((none, (none, none)), shape=(rows, columns))
    step = max(1, DENSE_STEP // columns)
    parts = [sp.csr_matrix(np.asarray(item[at : at + step])) for at in range(0, rows, step)]
    return parts[0] if len(parts) == 1 else sp.csr_matrix(sp.vstack(parts, format="csr"))


def genes_of(var: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Symbols and ids (or no ids) of the genes of a table."""
    index = [str(v) for v in var.index]
    if mostly_ensembl(index):
        column = next((c for c in SYMBOL_COLUMNS if c in var), None)
        return (index if column is None else _text(var[column])), index
    column = next((c for c in ID_COLUMNS if c in var), None)
    return index, ([] if column is None else _text(var[column]))


def _text(column: pd.Series[Any]) -> list[str]:
    return ["" if pd.isna(v) else str(v) for v in column]
