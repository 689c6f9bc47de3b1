"""Small sections written as other tools write them, so that one thing at a time can be wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from PIL import Image

ROWS, COLS = 8, 10
MPP = 0.5


def _load(path, name):
    found = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


SLIDE_FILES = _load(Path(__file__).with_name("slide_files.py"), "bleepdb_tests_slide_files")


@pytest.fixture(scope="session")
def slide_files():
    """Makers of test slides."""
    return SLIDE_FILES


def visium_places():
    """array_row, array_col and (x, y) px of a small Visium array at 0.5 µm a pixel."""
    row, step = np.divmod(np.arange(ROWS * COLS), COLS)
    col = 2 * step + row % 2
    xy = np.column_stack([col * 50, row * 100 * np.sqrt(3) / 2]) / MPP + 120
    return row, col, xy


@pytest.fixture
def counts():
    """(80, 12) counts, none of them empty."""
    return np.random.default_rng(0).poisson(2.0, (ROWS * COLS, 12)).astype(np.int32) + 1


@pytest.fixture
def make_h5ad(tmp_path, counts):
    """Write a Visium-like h5ad; `change(adata)` spoils it before it is written."""

    def make(change=None, name="made.h5ad"):
        row, col, xy = visium_places()
        adata = ad.AnnData(
            sp.csr_matrix(counts.astype(np.float32)),
            obs=pd.DataFrame(
                {"in_tissue": 1, "array_row": row, "array_col": col},
                index=[f"spot{i:03d}" for i in range(len(xy))],
            ),
            var=pd.DataFrame(
                {"gene_ids": [f"ENSG{i:011d}.{i}" for i in range(12)]},
                index=[f"GENE{i}" for i in range(12)],
            ),
        )
        adata.obsm["spatial"] = xy
        adata = (change(adata) if change else None) or adata
        path = tmp_path / name
        adata.write_h5ad(path)
        return path

    return make


@pytest.fixture
def make_outs(tmp_path, counts):
    """Write a Space Ranger folder; arguments replace its parts."""

    def make(
        *,
        barcodes=None,
        values=None,
        types=None,
        genomes=None,
        symbols=None,
        placed=None,
        in_tissue=None,
        factors=None,
    ):
        row, col, xy = visium_places()
        n, genes = counts.shape
        barcodes = [f"AC{i:03d}-1" for i in range(n)] if barcodes is None else barcodes
        matrix = sp.csr_matrix(counts if values is None else values)
        outs = tmp_path / "outs"
        spatial = outs / "spatial"
        spatial.mkdir(parents=True)
        with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as handle:
            group = handle.create_group("matrix")
            group["shape"] = [genes, n]
            for key in ("data", "indices", "indptr"):
                group[key] = getattr(matrix, key)
            group["barcodes"] = np.array(barcodes, dtype="S")
            group["features/id"] = np.array([f"ENSG{i:011d}" for i in range(genes)], dtype="S")
            group["features/name"] = np.array(
                symbols or [f"GENE{i}" for i in range(genes)], dtype="S"
            )
            group["features/feature_type"] = np.array(
                types or ["Gene Expression"] * genes, dtype="S"
            )
            group["features/genome"] = np.array(genomes or ["GRCh38"] * genes, dtype="S")
        pd.DataFrame(
            {
                "barcode": barcodes if placed is None else placed,
                "in_tissue": 1 if in_tissue is None else in_tissue,
                "array_row": row,
                "array_col": col,
                "pxl_row_in_fullres": np.rint(xy[:, 1]).astype(int),
                "pxl_col_in_fullres": np.rint(xy[:, 0]).astype(int),
            }
        ).to_csv(spatial / "tissue_positions.csv", index=False)
        factors = {"tissue_hires_scalef": 0.25} if factors is None else factors
        (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
        Image.new("RGB", (560, 500), "white").save(spatial / "tissue_hires_image.png")
        return outs

    return make


@pytest.fixture
def noise_image(tmp_path):
    """A 300 x 200 PNG of noise, and its pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    return path, pixels
