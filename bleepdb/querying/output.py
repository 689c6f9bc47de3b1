"""The imputed file: what stands under which key, written block by block, whole or not at all.

The result of a query is W, the weights on named reference spots; values are made from it for the
genes that were chosen, a block of tiles at a time, so that memory does not grow with the slide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata._io.specs.registry import IORegistryError  # anndata has no public name for it

from bleepdb import names
from bleepdb.errors import InputError
from bleepdb.files import whole_file
from bleepdb.tissue.readers.hdf5 import open_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from bleepdb.imputation import Aggregator
    from bleepdb.querying.rows import WeightRows

FORMAT_VERSION = 1
REFERENCE_COLUMNS = frozenset(
    {names.SECTION, names.DONOR, names.BARCODE, names.X_PX, names.Y_PX, names.REV}
)
CAUTION = (
    "Imputed values are averages over reference spots; where they are smoothed or projected on few "
    "components they overstate co-expression and spatial autocorrelation. Research use only."
)


def bytes_a_place(genes: int, references: int, *, neighbour_sd: bool) -> int:
    """Return the bytes that values and weights of one place take at the most."""
    return 4 * (2 if neighbour_sd else 1) * genes + 8 * references


@dataclass(frozen=True)
class Imputed:
    """A query's result before any value is made.

    Attributes
    ----------
    rows
        W (places, references), made a block of rows at a time.
    longest
        References of the place that has most of them.
    references
        One row a reference: id, section, donor, barcode, x_px, y_px, rev.
    aggregator
        Makes values of the chosen genes from rows of W.
    obs, var
        Tables of tiles and genes, as they are written.
    xy_px
        (n, 2) float64 tile centres in level-0 pixels.
    spatial
        ``uns["spatial"]``: the thumbnail and scale factors.
    about
        ``uns["bleepdb"]`` without the references: run card, settings, atlas and model.
    neighbour_sd
        Whether the layer ``neighbor_sd`` is written.
    renew
        Searches again on the atlas as it now stands, with the places as they were encoded.
    """

    rows: WeightRows
    longest: int
    references: pd.DataFrame
    aggregator: Aggregator
    obs: pd.DataFrame
    var: pd.DataFrame
    xy_px: NDArray[np.float64]
    spatial: dict[str, Any]
    about: dict[str, Any]
    neighbour_sd: bool = False
    renew: Callable[[], Imputed] | None = field(default=None, repr=False, compare=False)

    @property
    def weights(self) -> sp.csr_matrix:
        """All of W, (places, references) CSR float32. For small jobs."""
        return self.rows.whole()

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """The slide, (h, w, 3) uint8 RGB."""
        picture: NDArray[np.uint8] = next(iter(self.spatial.values()))["images"]["hires"]
        return picture

    @property
    def thumbnail_scale(self) -> float:
        """Thumbnail pixels per level-0 pixel."""
        return float(next(iter(self.spatial.values()))["scalefactors"]["tissue_hires_scalef"])

    @property
    def facts(self) -> dict[str, Any]:
        """What the run card says of the run: atlas, generation, settings, warnings."""
        facts: dict[str, Any] = json.loads(self.about["run_card"])["facts"]
        return facts

    @property
    def most_bytes(self) -> int:
        """Bytes that its file takes at the most: nothing in it grows by being compressed."""
        tables = (self.references, self.obs, self.var)
        return (
            bytes_a_place(len(self.var), self.longest, neighbour_sd=self.neighbour_sd) * len(self)
            + self.thumbnail.nbytes
            + sum(int(t.memory_usage(deep=True).sum()) for t in tables)
        )

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield (rows, values (rows, genes) float32) from first to last."""
        for rows, W in self.rows.blocks():
            yield rows, self.aggregator.impute(W).values

    def values(self) -> NDArray[np.float32]:
        """Return all values, (n, genes) float32."""
        made = np.empty((len(self), len(self.var)), dtype=np.float32)
        for rows, block in self.blocks():
            made[rows] = block
        return made

    def frame(self) -> ad.AnnData:
        """Return the AnnData without values: everything but X and layers."""
        made = self._bare()
        columns, weights = padded_rows(self.weights)
        made.obsm[names.NEIGHBOURS_KEY], made.obsm[names.WEIGHTS_KEY] = columns, weights
        return made

    def _bare(self) -> ad.AnnData:
        """Return it without weights as well."""
        return ad.AnnData(
            obs=self.obs,
            var=self.var,
            obsm={names.SPATIAL: self.xy_px},
            uns={
                names.SPATIAL: self.spatial,
                "log1p": {},
                names.UNS_KEY: {**self.about, names.REFERENCES_KEY: self.references},
            },
        )

    def to_anndata(self) -> ad.AnnData:
        """Return the whole result in memory."""
        made = self.frame()
        made.X = self.values()
        if self.neighbour_sd:
            made.layers[names.NEIGHBOUR_SD_LAYER] = self.aggregator.neighbour_sd(self.weights)
        return made

    def write(
        self,
        path: Path,
        *,
        progress: Callable[[int, int], None] | None = None,
        still_valid: Callable[[], None] | None = None,
    ) -> None:
        """Write an ``.h5ad`` whole, values block by block.

        Parameters
        ----------
        path
            Ends in ``.h5ad``; an existing file is replaced when the new one is complete.
        progress
            Called with (tiles done, tiles).
        still_valid
            Called last, before the file takes its name; raises where the result no longer holds.
        """
        with whole_file(path) as part:
            self._bare().write_h5ad(part, compression="gzip")
            width, genes = max(1, self.longest), len(self.var)
            with h5py.File(part, "r+") as file:
                x = self._dataset(file, "X", genes)
                near = self._dataset(file, f"obsm/{names.NEIGHBOURS_KEY}", width, "<i4")
                shares = self._dataset(file, f"obsm/{names.WEIGHTS_KEY}", width)
                sd = None
                if self.neighbour_sd:
                    sd = self._dataset(file, f"layers/{names.NEIGHBOUR_SD_LAYER}", genes)
                for rows, W in self.rows.blocks():
                    x[rows] = self.aggregator.impute(W).values
                    near[rows], shares[rows] = padded_rows(W, width)
                    if sd is not None:
                        sd[rows] = self.aggregator.neighbour_sd(W)
                    if progress is not None:
                        progress(rows.stop, len(self))
            if still_valid is not None:
                still_valid()

    def _dataset(self, file: h5py.File, key: str, width: int, kind: str = "<f4") -> h5py.Dataset:
        """Make an empty dense array, (places, width), where AnnData will look for it."""
        if key in file:
            del file[key]
        shape = (len(self), width)
        chunks = (min(256, max(1, shape[0])), min(256, max(1, shape[1])))
        made = file.create_dataset(
            key, shape, kind, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True
        )
        made.attrs["encoding-type"] = "array"
        made.attrs["encoding-version"] = "0.2.0"
        return made


def padded_rows(
    W: sp.csr_matrix, width: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the columns and weights of each row side by side, heaviest first.

    Parameters
    ----------
    W
        (n, references) weights.
    width
        m; None: the longest row (at least 1).

    Returns
    -------
    tuple
        (n, m) int32 columns, -1 behind the last, and (n, m) float32 weights, 0 there.
    """
    lengths = np.diff(W.indptr)
    width = width or max(1, int(lengths.max(initial=0)))
    columns = np.full((W.shape[0], width), -1, dtype=np.int32)
    weights = np.zeros((W.shape[0], width), dtype=np.float32)
    rows = np.repeat(np.arange(W.shape[0]), lengths)
    order = np.lexsort((W.indices, -np.abs(W.data), rows))
    place = np.arange(W.nnz) - np.repeat(W.indptr[:-1], lengths)
    columns[rows, place] = W.indices[order]
    weights[rows, place] = W.data[order]
    return columns, weights


def from_padded(
    columns: NDArray[np.int32], weights: NDArray[np.float32], n_references: int
) -> sp.csr_matrix:
    """Return W from what `padded_rows` made."""
    there = columns >= 0
    rows = np.repeat(np.arange(len(columns)), there.sum(axis=1))
    return sp.csr_matrix(
        (weights[there], (rows, columns[there])), shape=(len(columns), n_references)
    )


@dataclass(frozen=True)
class Opened:
    """An imputed file, read back without its values."""

    path: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    xy_px: NDArray[np.float64]
    weights: sp.csr_matrix
    references: pd.DataFrame
    about: dict[str, Any]

    @property
    def run_card(self) -> dict[str, Any]:
        """The run card."""
        card: dict[str, Any] = json.loads(self.about["run_card"])
        return card

    def value(self, row: int, gene: int) -> float:
        """Return the stored value of one gene at one tile."""
        with h5py.File(self.path, "r") as file:
            return float(file["X"][row, gene])


def open_imputed(path: Path) -> Opened:
    """Read an imputed ``.h5ad`` but for its values.

    Raises
    ------
    InputError
        If the file is missing, damaged, or was not written by `bleepdb query`.
    """
    if not path.is_file():
        raise InputError(
            "no such file", where=path, hint="give the .h5ad that `bleepdb query` wrote"
        )
    with open_hdf5(path, "AnnData") as file:
        # Links to other files and damage are refused before anndata follows them.
        shape = getattr(file.get("X"), "shape", None)
    try:
        read = ad.read_h5ad(path, backed="r")
        obs, var, uns = read.obs, read.var, read.uns
        obsm = {k: np.asarray(read.obsm[k]) for k in read.obsm}
        read.file.close()
    except (OSError, KeyError, ValueError, IORegistryError) as error:
        raise InputError(
            f"not a readable .h5ad ({' '.join(str(error).split())[:160]})",
            where=path,
            hint="run `bleepdb query` again",
        ) from error
    about = dict(uns[names.UNS_KEY]) if isinstance(uns.get(names.UNS_KEY), Mapping) else {}
    references = about.pop(names.REFERENCES_KEY, None)
    wanted = (names.SPATIAL, names.NEIGHBOURS_KEY, names.WEIGHTS_KEY)
    if not isinstance(references, pd.DataFrame) or any(key not in obsm for key in wanted):
        raise InputError(
            "holds no weights on reference spots", where=path, hint="give a file of `bleepdb query`"
        )
    columns, shares = obsm[names.NEIGHBOURS_KEY], obsm[names.WEIGHTS_KEY]
    if columns.shape != shares.shape or columns.max(initial=-1) >= len(references):
        raise InputError(
            "names reference spots that it does not list",
            where=path,
            hint="run `bleepdb query` again",
        )
    whole = (
        np.isfinite(shares).all()
        and set(references) >= REFERENCE_COLUMNS
        and names.GENE_IDS in var
        and "denoised" in about
        and shape == (len(obs), len(var))
        and _names_its_atlas(about)
    )
    if not whole:
        raise InputError(
            "is not as `bleepdb query` wrote it: its evidence was changed",
            where=path,
            hint="run `bleepdb query` again",
        )
    weights = from_padded(columns, shares, len(references))
    return Opened(Path(path), obs, var, obsm[names.SPATIAL], weights, references, about)


def _names_its_atlas(about: Mapping[str, Any]) -> bool:
    """Tell whether the run card can be read and says where its references are."""
    try:
        facts = json.loads(about["run_card"])["facts"]
        return isinstance(facts["atlas"], str) and isinstance(facts["collection"], str)
    except (KeyError, TypeError, ValueError):
        return False
