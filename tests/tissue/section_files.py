"""Sections as other tools lay them out, made small: Visium HD, archives, HEST-1k, SpatialData."""

from __future__ import annotations

import gzip
import json

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from PIL import Image


def write_matrix(path, counts, barcodes, types=None):
    """Write (barcodes, genes) counts as 10x HDF5."""
    matrix = sp.csr_matrix(counts)
    n, genes = matrix.shape
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix")
        group["shape"] = [genes, n]
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["features/id"] = np.array([f"ENSG{i:011d}" for i in range(genes)], dtype="S")
        group["features/name"] = np.array([f"GENE{i}" for i in range(genes)], dtype="S")
        group["features/feature_type"] = np.array(types or ["Gene Expression"] * genes, dtype="S")
        group["features/genome"] = np.array(["GRCh38"] * genes, dtype="S")


def write_mtx(folder, counts, barcodes, prefix=""):
    """Write (barcodes, genes) counts as a packed Matrix Market file with its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    matrix = sp.coo_matrix(np.asarray(counts).T)
    lines = [f"{r + 1} {c + 1} {v}" for r, c, v in zip(*matrix.coords, matrix.data, strict=True)]
    head = "%%MatrixMarket matrix coordinate integer general"
    text = "\n".join([head, f"{matrix.shape[0]} {matrix.shape[1]} {matrix.nnz}", *lines])
    parts = {
        "matrix.mtx.gz": text,
        "barcodes.tsv.gz": "\n".join(barcodes),
        "features.tsv.gz": "\n".join(
            f"ENSG{i:011d}\tGENE{i}\tGene Expression" for i in range(matrix.shape[0])
        ),
    }
    for name, content in parts.items():
        (folder / f"{prefix}{name}").write_bytes(gzip.compress(content.encode()))


class HD:
    """An array of square bins: names, counts, places.

    Parameters
    ----------
    rows, cols
        Size of the array.
    um
        Edge of a bin.
    mpp
        Microns per pixel.
    tissue
        (rows, cols) bool, or None for all.
    """

    def __init__(self, rows=30, cols=40, um=8, mpp=0.4, tissue=None, genes=6, seed=0):
        rng = np.random.default_rng(seed)
        row, col = np.divmod(np.arange(rows * cols), cols)
        self.um, self.mpp, self.row, self.col = um, mpp, row, col
        self.names = [f"s_{um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)]
        self.inside = np.ones(rows * cols, dtype=bool) if tissue is None else tissue.ravel()
        self.counts = rng.poisson(0.8, (rows * cols, genes))
        # Turned by 3 degrees and mirrored, as a capture area lies on a scan.
        turn = np.deg2rad(3)
        step = um / mpp
        self.affine = step * np.array([[np.cos(turn), np.sin(turn)], [np.sin(turn), -np.cos(turn)]])
        self.origin = np.array([400.0, 900.0 + rows * step])
        self.xy = np.column_stack([col, row]) @ self.affine.T + self.origin

    def at(self, col, row):
        """Pixels of a place on the array."""
        return np.column_stack([col, row]) @ self.affine.T + self.origin

    def table(self, columns=True):
        """The table of positions."""
        table = pd.DataFrame({"barcode": self.names, "in_tissue": self.inside.astype(np.int32)})
        if columns:
            table["array_row"], table["array_col"] = self.row, self.col
        table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = self.xy[:, 1], self.xy[:, 0]
        return table

    def write(self, outs, columns=True, raw=False):
        """Write ``binned_outputs/square_XXXum``; return that folder."""
        folder = outs / "binned_outputs" / f"square_{self.um:03d}um"
        (folder / "spatial").mkdir(parents=True)
        kept = slice(None) if raw else self.inside
        write_matrix(
            folder / f"{'raw' if raw else 'filtered'}_feature_bc_matrix.h5",
            self.counts[kept],
            np.array(self.names)[kept],
        )
        self.table(columns).to_parquet(folder / "spatial" / "tissue_positions.parquet")
        (folder / "spatial" / "scalefactors_json.json").write_text(
            json.dumps({"bin_size_um": float(self.um), "microns_per_pixel": self.mpp})
        )
        return folder

    def pooled(self, side, least=0.5):
        """Blocks by plain loops: {(row, col): counts} of those with enough bins."""
        found = {}
        for i, (r, c) in enumerate(zip(self.row // side, self.col // side, strict=True)):
            one = found.setdefault((int(r), int(c)), [0, 0, np.zeros(self.counts.shape[1], int)])
            one[0] += 1
            if self.inside[i]:
                one[1] += 1
                one[2] = one[2] + self.counts[i]
        return {k: v[2] for k, v in sorted(found.items()) if v[1] and v[1] >= least * v[0]}


def visium_adata(seed=0, rows=8, cols=10, mpp=0.5, genes=12):
    """A Visium-like AnnData, (x, y) in full-resolution pixels in obsm."""
    rng = np.random.default_rng(seed)
    row, step = np.divmod(np.arange(rows * cols), cols)
    col = 2 * step + row % 2
    xy = np.column_stack([col * 50, row * 100 * np.sqrt(3) / 2]) / mpp + 120
    counts = rng.poisson(2.0, (rows * cols, genes)).astype(np.int32) + 1
    adata = ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"in_tissue": 1, "array_row": row, "array_col": col},
            index=[f"AC{i:03d}-1" for i in range(len(xy))],
        ),
        var=pd.DataFrame(
            {"gene_ids": [f"ENSG{i:011d}" for i in range(genes)]},
            index=[f"GENE{i}" for i in range(genes)],
        ),
    )
    adata.obsm["spatial"] = xy
    return adata, counts


def tissue_picture(size, seed=0):
    """A picture of (width, height) with structure, so that one place is not another."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 250, (max(2, size[1] // 40), max(2, size[0] // 40), 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def write_hest(root, name="TENX1", mpp=0.5, metadata=None, patches=True, shift=0, flip=False):
    """Write a sample of HEST-1k layout; return its h5ad."""
    adata, _ = visium_adata(mpp=mpp)
    size = (2300, 1700)
    for part in ("st", "wsis", "metadata", "patches"):
        (root / part).mkdir(parents=True, exist_ok=True)
    adata.obs["pxl_col_in_fullres"] = adata.obsm["spatial"][:, 0]
    adata.obs["pxl_row_in_fullres"] = adata.obsm["spatial"][:, 1]
    down = np.asarray(tissue_picture((230, 170)))
    adata.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": down},
            "scalefactors": {
                "tissue_downscaled_fullres_scalef": 0.1, "spot_diameter_fullres": 55 / mpp,
            },
        }
    }  # fmt: skip
    adata.write_h5ad(root / "st" / f"{name}.h5ad")
    picture = tissue_picture(size)
    picture.save(root / "wsis" / f"{name}.tif", compression="jpeg", quality=92, tile=(256, 256))
    said = {
        "id": name, "species": "Homo sapiens", "st_technology": "Visium",
        "pixel_size_um_embedded": float("nan"), "pixel_size_um_estimated": mpp,
        "fullres_px_width": size[0], "fullres_px_height": size[1],
        "inter_spot_dist": 100.0, "spot_diameter": 55.0,
    }  # fmt: skip
    (root / "metadata" / f"{name}.json").write_text(json.dumps({**said, **(metadata or {})}))
    if patches:
        edge = 112 / mpp
        corners = (adata.obsm["spatial"] - edge // 2).astype(int)[3:]
        shown = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else picture
        cut = [
            np.asarray(shown.crop((x, y, x + round(edge), y + round(edge))).resize((224, 224)))
            for x, y in corners
        ]
        with h5py.File(root / "patches" / f"{name}.h5", "w") as handle:
            handle["img"] = np.stack(cut)
            corners = corners.copy()
            corners[::4] += shift
            handle["coords"] = corners
            handle["barcode"] = np.array(adata.obs_names[3:].tolist(), dtype="S")[:, None]
    return root / "st" / f"{name}.h5ad"
