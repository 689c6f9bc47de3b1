"""Matrices as Space Ranger writes them: HDF5, or a folder with a Matrix Market file."""

from __future__ import annotations

import csv
import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mmread

from bleepdb.errors import GeneError, SectionError
from bleepdb.tissue.readers.assemble import as_counts
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.tables import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

AGAIN: Final = "fetch the matrix again as Space Ranger wrote it"
GENE_EXPRESSION: Final = "Gene Expression"
STEP: Final = 2**24
"""Stored values that are read at once."""
MOST_AT_ONCE: Final = 2**30
"""Stored values of a matrix that is read whole."""
LEAST_ENTRY: Final = 4
"""Bytes of the shortest entry of a Matrix Market file: two numbers of one digit, and the line."""
PACKED: Final = 200
"""How far a packed Matrix Market file is believed to unpack."""


@dataclass(frozen=True)
class TenxMatrix:
    """Counts of the "Gene Expression" features.

    Attributes
    ----------
    counts
        (barcodes, genes) CSR, int64.
    barcodes, symbols, gene_ids
        Names of rows and columns.
    source
        The file or folder.
    """

    counts: sp.csr_matrix
    barcodes: list[str]
    symbols: list[str]
    gene_ids: list[str]
    source: Path


class OpenMatrix:
    """An open 10x HDF5 matrix, read a run of barcodes at a time.

    Attributes
    ----------
    barcodes
        (barcodes,) bytes, fixed width.
    symbols, gene_ids
        Of the "Gene Expression" features, in order.
    source
        The file.

    Raises
    ------
    SectionError
        If it is damaged, or of the older layout with one group a genome.
    GeneError
        If it holds several genomes.
    """

    def __init__(self, handle: h5py.File, path: Path) -> None:
        if "matrix" not in handle:
            _refuse_old(handle, path)
        self.source = path
        self._group = handle["matrix"]
        self._features, count = (int(n) for n in self._group["shape"][:])
        self.barcodes: NDArray[np.bytes_] = np.asarray(self._group["barcodes"][:], dtype=np.bytes_)
        features = self._group["features"]
        ids, symbols = _strings(features["id"]), _strings(features["name"])
        types = _strings(features["feature_type"])
        genomes = _strings(features["genome"]) if "genome" in features else []
        _refuse_misfit((count, self._features), len(self.barcodes), ids, symbols, path)
        self._measured = _measured(ids, types, genomes, path)
        self.symbols = [symbols[i] for i in self._measured]
        self.gene_ids = [ids[i] for i in self._measured]
        self.indptr = np.asarray(self._group["indptr"][:], dtype=np.int64)
        stored = int(self._group["data"].shape[0])
        if (
            len(self.indptr) != count + 1
            or self.indptr[0] != 0
            or self.indptr[-1] != stored
            or (np.diff(self.indptr) < 0).any()
            or self._group["indices"].shape != (stored,)
        ):
            raise SectionError(
                "indptr, indices and data do not fit together", where=path, hint=AGAIN
            )

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Return counts of the barcodes from `start` to `stop`: CSR, int64."""
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        indices = self._group["indices"][first:last]
        if len(indices) and not 0 <= indices.min() <= indices.max() < self._features:
            raise SectionError(
                f"indices outside its {self._features} features", where=self.source, hint=AGAIN
            )
        matrix = sp.csr_matrix(
            (self._group["data"][first:last], indices, self.indptr[start : stop + 1] - first),
            shape=(stop - start, self._features),
        )
        if len(self._measured) < self._features:
            matrix = matrix[:, self._measured]
        return as_counts(matrix, self.source)

    def runs(self, most: int = STEP) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield (first barcode, counts) of runs of barcodes.

        A run has at most `most` stored values, or is one barcode that has more.
        """
        start, end = 0, len(self.barcodes)
        while start < end:
            reach = int(np.searchsorted(self.indptr, self.indptr[start] + most, side="right")) - 1
            stop = min(max(reach, start + 1), end)
            yield start, self.rows(start, stop)
            start = stop


@contextmanager
def open_h5(path: Path) -> Iterator[OpenMatrix]:
    """Open a 10x HDF5 matrix of feature-barcode layout (Cell Ranger 3 and later).

    Raises
    ------
    SectionError
        If it is damaged, or of the older layout with one group a genome.
    GeneError
        If it holds several genomes.
    """
    with open_hdf5(path, "a 10x matrix") as handle:
        yield OpenMatrix(handle, path)


class WholeMatrix:
    """A matrix in memory, as one run of barcodes; the face of `OpenMatrix`."""

    def __init__(self, matrix: TenxMatrix) -> None:
        self.barcodes = np.asarray([b.encode() for b in matrix.barcodes], dtype=np.bytes_)
        self.symbols, self.gene_ids = matrix.symbols, matrix.gene_ids
        self.source = matrix.source
        self._counts = matrix.counts

    def runs(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        """Yield the first barcode, 0, and all counts."""
        yield 0, self._counts


@contextmanager
def open_matrix(path: Path) -> Iterator[OpenMatrix | WholeMatrix]:
    """Open a matrix to read it in runs: an ``.h5``, or what `read_matrix` reads, in one run.

    Raises
    ------
    SectionError
        If it is damaged.
    GeneError
        If it holds several genomes.
    """
    if path.suffix == ".h5":
        with open_h5(path) as matrix:
            yield matrix
    else:
        yield WholeMatrix(read_matrix(path))


def read_matrix(path: Path) -> TenxMatrix:
    """Read a matrix: an ``.h5``, a folder with a Matrix Market file, or that file.

    Raises
    ------
    SectionError
        If it is damaged.
    GeneError
        If it holds several genomes.
    """
    if path.is_dir():
        return read_folder(path)
    if path.name.endswith((".mtx", ".mtx.gz")):
        return read_folder(path.parent, path.name.removesuffix(".gz").removesuffix("matrix.mtx"))
    return read_h5(path)


def read_h5(path: Path) -> TenxMatrix:
    """Read a 10x HDF5 matrix whole.

    Raises
    ------
    SectionError
        If it is damaged, too large, or of the older layout with one group a genome.
    GeneError
        If it holds several genomes.
    """
    with open_h5(path) as matrix:
        if matrix.indptr[-1] > MOST_AT_ONCE:
            raise SectionError(
                f"{matrix.indptr[-1]:,} stored values are too many to read at once",
                where=path,
                hint="of a Visium HD section give the folder, so that its bins are pooled",
            )
        counts = matrix.rows(0, len(matrix.barcodes))
        barcodes = [str(b) for b in np.char.decode(matrix.barcodes, "utf-8")]
        return TenxMatrix(counts, barcodes, matrix.symbols, matrix.gene_ids, path)


def read_folder(folder: Path, prefix: str = "") -> TenxMatrix:
    """Read ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, gzip or not.

    Parameters
    ----------
    folder
        Where they lie.
    prefix
        What stands before each of their names.

    Raises
    ------
    SectionError
        If a file is missing or damaged, declares more than it can hold, or they do not fit
        together.
    """
    matrix_path = _one_of(folder, f"{prefix}matrix.mtx")
    features_path = _one_of(folder, f"{prefix}features.tsv", f"{prefix}genes.tsv")
    features = _tsv(features_path)
    barcodes = _tsv(_one_of(folder, f"{prefix}barcodes.tsv"))[0].tolist()
    _check_declared(matrix_path)
    try:
        matrix = sp.csr_matrix(mmread(matrix_path).T)
    except (OSError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise SectionError(
            f"not a readable Matrix Market file ({error})",
            where=matrix_path,
            hint="fetch or write the file again",
        ) from error
    if features.shape[1] < 2:
        raise SectionError("needs the columns id and name", where=features_path, hint=AGAIN)
    ids, symbols = features[0].tolist(), features[1].tolist()
    types = features[2].tolist() if features.shape[1] > 2 else []
    _refuse_misfit(matrix.shape, len(barcodes), ids, symbols, folder)
    measured = _measured(ids, types, [], folder)
    return TenxMatrix(
        counts=as_counts(matrix[:, measured], folder),
        barcodes=barcodes,
        symbols=[symbols[i] for i in measured],
        gene_ids=[ids[i] for i in measured],
        source=folder,
    )


def _refuse_misfit(
    shape: tuple[int, int], barcodes: int, ids: list[str], symbols: list[str], where: Path
) -> None:
    if shape != (barcodes, len(ids)) or len(symbols) != len(ids):
        raise SectionError(
            f"a matrix of {shape[1]} features and {shape[0]} barcodes, but "
            f"{len(ids)} features and {barcodes} barcodes are named",
            where=where,
            hint=AGAIN,
        )


def _measured(
    ids: list[str], types: list[str], genomes: list[str], where: Path
) -> NDArray[np.int64]:
    """Positions of the features of type "Gene Expression", all of one genome."""
    kept = np.array([t == GENE_EXPRESSION for t in types] if types else [True] * len(ids))
    if not kept.any():
        raise SectionError(f'no features of type "{GENE_EXPRESSION}"', where=where, hint=AGAIN)
    measured = np.flatnonzero(kept)
    # Folders do not name the genome, but put it before every id and name where there are several.
    named = {genomes[i] for i in measured} if genomes else _prefixes([ids[i] for i in measured])
    _refuse_several(sorted(named), where)
    return measured


def _prefixes(ids: list[str]) -> set[str]:
    """Genomes before the ids: ``GRCh38_ENSG...``, ``mm10___ENSMUSG...``."""
    return {i.split("_ENS", 1)[0].rstrip("_") for i in ids if "_ENS" in i}


def _refuse_several(genomes: list[str], where: Path) -> None:
    if len(genomes) > 1:
        raise GeneError(
            f"holds {len(genomes)} genomes: {', '.join(genomes)}",
            where=where,
            hint="give a section that was aligned to one genome",
        )


def _refuse_old(handle: h5py.File, path: Path) -> None:
    groups = sorted(n for n, item in handle.items() if isinstance(item, h5py.Group))
    old = [n for n in groups if {"genes", "barcodes"} <= set(handle[n])]
    _refuse_several(old, path)
    if old:
        raise SectionError(
            f"a Cell Ranger 2 matrix (group {old[0]}), which no Space Ranger wrote",
            where=path,
            hint="write it again with Cell Ranger 3 or later, or as .h5ad",
        )
    annotated = {"X", "obs", "var"} <= set(handle)
    raise SectionError(
        "no group named matrix: not a 10x matrix" + (", but AnnData" if annotated else ""),
        where=path,
        hint="name the file .h5ad" if annotated else AGAIN,
    )


def _strings(dataset: h5py.Dataset) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in dataset[:]]


def _one_of(folder: Path, *stems: str) -> Path:
    for stem in stems:
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                return path
    raise SectionError(f"no {' or '.join(stems)} (plain or .gz)", where=folder, hint=AGAIN)


def _tsv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(
            io.BytesIO(unpacked(path)),
            sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE,
        )  # fmt: skip
    except (OSError, EOFError, ValueError) as error:
        raise SectionError(f"not a readable table ({error})", where=path, hint=AGAIN) from error


def _check_declared(path: Path) -> None:
    """Refuse a Matrix Market file that declares more entries than its bytes can hold."""
    try:
        head = unpacked(path, first=2**16)
    except SectionError:
        return  # the reader of the file says what is wrong
    sizes: Any = next(
        (line.split() for line in head.splitlines() if line.strip() and not line.startswith(b"%")),
        [],
    )
    if len(sizes) != 3 or not all(s.isdigit() and len(s) < 16 for s in sizes):
        return  # the reader of the file says what is wrong
    bytes_at_most = path.stat().st_size * (PACKED if path.name.endswith(".gz") else 1)
    entries = int(sizes[2])
    if entries > MOST_AT_ONCE or LEAST_ENTRY * entries > bytes_at_most + LEAST_ENTRY:
        raise SectionError(
            f"declares {entries:,} entries, which a file of {path.stat().st_size:,} bytes "
            "does not hold",
            where=path,
            hint=AGAIN,
        )
    if max(int(s) for s in sizes[:2]) > MOST_AT_ONCE:
        raise SectionError(
            f"declares a matrix of {int(sizes[0]):,} by {int(sizes[1]):,}", where=path, hint=AGAIN
        )
