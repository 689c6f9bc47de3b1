"""10x matrices, told by their headers and names: no counts are loaded."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import h5py
import numpy as np

from bleepdb.errors import SectionError
from bleepdb.inspecting.findings import Findings, quoted
from bleepdb.inspecting.looking import text_head
from bleepdb.panel import ENSEMBL, SPECIES_OF_PREFIX
from bleepdb.tissue.readers.hdf5 import open_hdf5
from bleepdb.tissue.readers.outs import outs_folder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.inspecting.findings import Inspection

GENE_EXPRESSION: Final = "Gene Expression"
MOST_NAMES: Final = 20_000_000
NAMES_BYTES: Final = 2**28
MATRIX_FILES: Final = ("matrix.mtx", "matrix.mtx.gz")
FEATURE_FILES: Final = ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz")
BARCODE_FILES: Final = ("barcodes.tsv", "barcodes.tsv.gz")
SPATIAL_NEXT: Final = "put it into the Space Ranger folder whose spatial/ belongs to it"


@dataclass
class MatrixLook:
    """What the headers of a 10x matrix say.

    Attributes
    ----------
    path
        The file or folder.
    layout
        Such as ``"10x HDF5"``.
    features, barcodes, stored
        Sizes; None where they are not known.
    types
        How many features of each type.
    genomes
        Names of the genomes of the genes.
    twice
        Genes whose symbol stands more than once.
    faults
        What keeps it from being read, each a clause.
    """

    path: Path
    layout: str
    features: int | None = None
    barcodes: int | None = None
    stored: int | None = None
    types: dict[str, int] = field(default_factory=dict)
    genomes: list[str] = field(default_factory=list)
    species: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def genes(self) -> int | None:
        """Features that are genes."""
        return self.types.get(GENE_EXPRESSION, 0) if self.types else self.features

    def tell(self, found: Findings) -> None:
        """Add what is known to the findings."""
        found.fact("matrix", self.layout)
        if self.genes is not None:
            others = {k: n for k, n in self.types.items() if k != GENE_EXPRESSION}
            more = f" ({', '.join(f'{n:,} {k}' for k, n in others.items())} left out)"
            found.fact("genes", self.genes, f"{self.genes:,}{more if others else ''}")
        if self.barcodes is not None:
            found.fact("barcodes", self.barcodes)
        if self.stored is not None:
            found.fact("stored counts", self.stored)
        if self.genomes:
            found.fact("genomes", self.genomes)
        elif self.species:
            found.fact("species", self.species)
        for fault in self.faults:
            found.lacks(
                f"a matrix that can be used: {fault}",
                needed_for="train and index",
                remedy="write it again with Space Ranger, or as .h5ad",
            )


def look_at_h5(path: Path) -> MatrixLook:
    """Look at a 10x HDF5 file.

    Raises
    ------
    SectionError
        If it is damaged, or holds no 10x matrix.
    """
    with open_hdf5(path, "a 10x matrix") as handle:
        if "matrix" in handle:
            return _feature_barcode(handle["matrix"], path)
        old = [
            name
            for name, item in handle.items()
            if isinstance(item, h5py.Group) and {"genes", "barcodes"} <= set(item)
        ]
        if not old:
            raise SectionError("no 10x matrix in it", where=path)
        look = MatrixLook(path, "Cell Ranger 2 HDF5, one group a genome", genomes=sorted(old))
        first = handle[old[0]]
        look.features, look.barcodes = len(first["genes"]), len(first["barcodes"])
        look.stored = len(first["data"]) if "data" in first else None
        look.faults.append(
            f"it holds {len(old)} genomes"
            if len(old) > 1
            else "Cell Ranger 2 wrote it so, no Space Ranger"
        )
        return look


def _feature_barcode(group: h5py.Group, path: Path) -> MatrixLook:
    features = group.get("features", {})
    look = MatrixLook(path, "10x HDF5, feature-barcode")
    look.barcodes = len(group["barcodes"]) if "barcodes" in group else None
    look.features = len(features["id"]) if "id" in features else None
    look.stored = len(group["data"]) if "data" in group else None
    wanted = {"data", "indices", "indptr", "shape", "barcodes", "features"}
    lacking = sorted(wanted - set(group)) + sorted(
        f"features/{k}" for k in {"id", "name", "feature_type"} - set(features)
    )
    if lacking:
        look.faults.append(f"it lacks {', '.join(lacking)}")
    kinds = _names(features["feature_type"]) if "feature_type" in features else None
    if kinds is not None:
        look.types = dict(Counter(kinds))
    if "genome" in features:
        genomes = _names(features["genome"]) or []
        look.genomes = sorted(
            {g for g, k in zip(genomes, kinds or genomes, strict=False) if k == GENE_EXPRESSION}
            or set(genomes)
        )
    if "id" in features:
        look.species = species_of(_names(features["id"]) or [])
    if len(look.genomes) > 1:
        look.faults.append(f"it holds {len(look.genomes)} genomes: {', '.join(look.genomes)}")
    if look.types and not look.genes:
        look.faults.append(f'no features of type "{GENE_EXPRESSION}"')
    return look


def look_at_folder(folder: Path) -> MatrixLook:
    """Look at a folder with a Matrix Market file, features and barcodes."""
    look = MatrixLook(folder, "Matrix Market folder")
    matrix, features, barcodes = (
        next((folder / n for n in names if (folder / n).is_file()), None)
        for names in (MATRIX_FILES, FEATURE_FILES, BARCODE_FILES)
    )
    for path, name in (
        (matrix, "matrix.mtx"),
        (features, "features.tsv"),
        (barcodes, "barcodes.tsv"),
    ):
        if path is None:
            look.faults.append(f"no {name} (plain or .gz)")
    sizes = None if matrix is None else matrix_market_sizes(matrix)
    if sizes is not None:
        look.features, look.barcodes, look.stored = sizes
    elif matrix is not None:
        look.faults.append(f"{matrix.name} is no Matrix Market file")
    if features is not None:
        rows = [r.split("\t") for r in _lines(features)]
        ids = [r[0] for r in rows]
        if all(len(r) > 2 for r in rows) and rows:
            look.types = dict(Counter(r[2] for r in rows))
        look.species = species_of(ids)
        prefixes = sorted({i.split("_ENS", 1)[0].rstrip("_") for i in ids if "_ENS" in i})
        if len(prefixes) > 1:
            look.genomes = prefixes
            look.faults.append(f"it holds {len(prefixes)} genomes: {', '.join(prefixes)}")
        _same(look, "features", look.features, len(rows))
    if barcodes is not None:
        _same(look, "barcodes", look.barcodes, len(_lines(barcodes)))
    return look


def barcodes_of(look: MatrixLook) -> NDArray[np.bytes_] | None:
    """Return the barcodes of a matrix; None where there are too many, or none can be read."""
    if look.path.is_dir():
        path = next((look.path / n for n in BARCODE_FILES if (look.path / n).is_file()), None)
        return None if path is None else np.array([b.encode() for b in _lines(path)], "S")
    with open_hdf5(look.path, "a 10x matrix") as handle:
        found = handle.get("matrix/barcodes")
        if not isinstance(found, h5py.Dataset):
            return None
        if found.dtype.kind == "S" and found.ndim == 1 and found.nbytes <= NAMES_BYTES:
            return np.asarray(found[:])
        named = _names(found)
        return None if named is None else np.array([n.encode() for n in named], "S")


def matrix_market_sizes(path: Path) -> tuple[int, int, int] | None:
    """Rows, columns and entries that the head of a Matrix Market file states, or None."""
    head = text_head(path)
    if head is None or not head.startswith("%%MatrixMarket"):
        return None
    for line in head.splitlines():
        if line.strip() and not line.startswith("%"):
            cells = line.split()
            if len(cells) == 3 and all(c.isdecimal() and len(c) < 16 for c in cells):
                return int(cells[0]), int(cells[1]), int(cells[2])
            return None
    return None


def species_of(ids: list[str]) -> list[str]:
    """Species that Ensembl ids tell by their prefixes."""
    prefixes = {m.group(1) for i in ids if (m := ENSEMBL.fullmatch(i))}
    return sorted(SPECIES_OF_PREFIX.get(p, str(p).lower()) for p in prefixes)


def inspect_matrix(path: Path) -> Inspection:
    """Tell what a 10x matrix is, and whether the folder around it has positions.

    Raises
    ------
    SectionError
        If it cannot be read.
    """
    found = Findings(path)
    look = look_at_folder(path) if path.is_dir() else look_at_h5(path)
    look.tell(found)
    outs = outs_folder(path.parent if path.is_dir() else path)
    if path.is_dir() and outs is not None and outs != path.parent:
        outs = None
    if outs is None:
        found.lacks(
            "positions of its spots (no spatial/ beside it)",
            needed_for="train and index",
            remedy=SPATIAL_NEXT,
        )
        return found.made("10x matrix", "a 10x matrix alone, without positions")
    then = f"bleepdb inspect {quoted(outs)}"
    return found.made("10x matrix", f"the 10x matrix of the Space Ranger folder {outs}", then=then)


def inspect_matrix_part(path: Path) -> Inspection:
    """Tell one file of a Matrix Market folder."""
    found = Findings(path)
    if path.name in MATRIX_FILES:
        sizes = matrix_market_sizes(path)
        if sizes is not None:
            found.fact("genes", sizes[0])
            found.fact("barcodes", sizes[1])
            found.fact("stored counts", sizes[2])
        what = "the counts"
    else:
        found.fact("rows", len(_lines(path)))
        what = "the genes" if path.name in FEATURE_FILES else "the barcodes"
    then = f"bleepdb inspect {quoted(path.parent)}"
    return found.made("part", f"{what} of a 10x Matrix Market folder", then=then)


def _same(look: MatrixLook, what: str, stated: int | None, named: int) -> None:
    if stated is not None and stated != named:
        look.faults.append(f"a matrix of {stated:,} {what}, but {named:,} are named")


def _lines(path: Path) -> list[str]:
    """Return the lines of a small text, gzip or plain; at most what a barcodes file has."""
    opened = gzip.open if path.name.endswith(".gz") else open
    try:
        with opened(path, "rb") as handle:
            data = handle.read(NAMES_BYTES)
    except (OSError, EOFError, zlib.error):
        return []
    return data.decode("utf-8", "replace").splitlines()


def _names(dataset: h5py.Dataset) -> list[str] | None:
    """Return a dataset of text; None where it declares more than names take."""
    if dataset.ndim != 1 or len(dataset) > MOST_NAMES or dataset.nbytes > NAMES_BYTES:
        return None
    values = dataset[:]
    if dataset.dtype.kind not in "SO":
        return [str(v) for v in values.tolist()]
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
