"""Matrices as Space Ranger writes them: HDF5, or a folder with a Matrix Market file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mmread

from bleepdb.errors import GeneError, SectionError
from bleepdb.tissue.readers.assemble import as_counts
from bleepdb.tissue.readers.hdf5 import open_hdf5

if TYPE_CHECKING:
    from pathlib import Path

AGAIN: Final = "fetch the matrix again as Space Ranger wrote it"
GENE_EXPRESSION: Final = "Gene Expression"
H5: Final = "filtered_feature_bc_matrix.h5"
FOLDER: Final = "filtered_feature_bc_matrix"


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


def read_matrix(outs: Path) -> TenxMatrix:
    """Read the filtered matrix of a Space Ranger folder; the ``.h5`` goes first.

    Raises
    ------
    SectionError
        If there is none, or it is damaged.
    GeneError
        If it holds several genomes.
    """
    if (outs / H5).is_file():
        return read_h5(outs / H5)
    if (outs / FOLDER).is_dir():
        return read_folder(outs / FOLDER)
    raise SectionError(f"neither {H5} nor {FOLDER}/", where=outs, hint=AGAIN)


def read_h5(path: Path) -> TenxMatrix:
    """Read a 10x HDF5 matrix of feature-barcode layout (Cell Ranger 3 and later).

    Raises
    ------
    SectionError
        If it is damaged, or of the older layout with one group a genome.
    GeneError
        If it holds several genomes.
    """
    with open_hdf5(path, "a 10x matrix") as handle:
        if "matrix" not in handle:
            _refuse_old(handle, path)
        group = handle["matrix"]
        genes, barcodes_n = (int(n) for n in group["shape"][:])
        matrix = sp.csr_matrix(
            (group["data"][:], group["indices"][:], group["indptr"][:]), shape=(barcodes_n, genes)
        )
        matrix.check_format(full_check=True)
        barcodes = _strings(group["barcodes"])
        features = group["features"]
        ids, symbols = _strings(features["id"]), _strings(features["name"])
        types = _strings(features["feature_type"])
        genomes = _strings(features["genome"]) if "genome" in features else []
    return _made(matrix, barcodes, ids, symbols, types, genomes, path)


def read_folder(folder: Path) -> TenxMatrix:
    """Read ``matrix.mtx``, ``features.tsv`` (or ``genes.tsv``) and ``barcodes.tsv``, gzip or not.

    Raises
    ------
    SectionError
        If a file is missing or damaged, or they do not fit together.
    """
    matrix_path = _one_of(folder, "matrix.mtx")
    features = _tsv(_one_of(folder, "features.tsv", "genes.tsv"))
    barcodes = _tsv(_one_of(folder, "barcodes.tsv"))[0].tolist()
    try:
        matrix = sp.csr_matrix(mmread(matrix_path).T)
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise SectionError(
            f"not a readable Matrix Market file ({error})",
            where=matrix_path,
            hint="fetch or write the file again",
        ) from error
    if features.shape[1] < 2:
        raise SectionError(
            "needs the columns id and name", where=folder / "features.tsv", hint=AGAIN
        )
    ids, symbols = features[0].tolist(), features[1].tolist()
    types = features[2].tolist() if features.shape[1] > 2 else []
    return _made(matrix, barcodes, ids, symbols, types, [], folder)


def _made(
    matrix: sp.csr_matrix,
    barcodes: list[str],
    ids: list[str],
    symbols: list[str],
    types: list[str],
    genomes: list[str],
    where: Path,
) -> TenxMatrix:
    if matrix.shape != (len(barcodes), len(ids)) or len(symbols) != len(ids):
        raise SectionError(
            f"a matrix of {matrix.shape[1]} features and {matrix.shape[0]} barcodes, but "
            f"{len(ids)} features and {len(barcodes)} barcodes are named",
            where=where,
            hint=AGAIN,
        )
    kept = np.array([t == GENE_EXPRESSION for t in types] if types else [True] * len(ids))
    if not kept.any():
        raise SectionError(f'no features of type "{GENE_EXPRESSION}"', where=where, hint=AGAIN)
    measured = np.flatnonzero(kept)
    # Folders do not name the genome, but put it before every id and name where there are several.
    named = {genomes[i] for i in measured} if genomes else _prefixes([ids[i] for i in measured])
    _refuse_several(sorted(named), where)
    return TenxMatrix(
        counts=as_counts(matrix[:, measured], where),
        barcodes=barcodes,
        symbols=[symbols[i] for i in measured],
        gene_ids=[ids[i] for i in measured],
        source=where,
    )


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
    raise SectionError("no group named matrix: not a 10x matrix", where=path, hint=AGAIN)


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
            path, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE
        )
    except (OSError, EOFError, ValueError) as error:
        raise SectionError(f"not a readable table ({error})", where=path, hint=AGAIN) from error
