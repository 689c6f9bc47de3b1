"""Made pairs: spots on a grid whose features and counts share hidden factors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from bleepdb.encoders.spec import FeatureSpec
from bleepdb.panel import Panel
from bleepdb.tissue.geometry import TileGeometry
from bleepdb.training.pairs import PairedSection, Pairs

GENES, FEATURES = 40, 24


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_section(name, donor, seed, *, side=7, genes=GENES):
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99)
    to_features, to_genes = shared.normal(size=(4, FEATURES)), shared.normal(size=(4, genes))
    hidden = rng.normal(size=(side * side, 4))
    y, x = np.mgrid[0:side, 0:side]
    n = side * side
    return PairedSection(
        section=name,
        donor=donor,
        digest=f"{seed:064x}",
        features=(hidden @ to_features + rng.normal(size=(n, FEATURES))).astype(np.float32),
        positions_um=np.stack([x.ravel(), y.ravel()], axis=1) * 200.0,
        counts=sp.csr_matrix(rng.poisson(np.exp(0.5 * hidden @ to_genes + 1.0)).astype(np.int32)),
        panel=Panel(tuple(f"G{i}" for i in range(genes)), ("",) * genes),
        barcodes=np.array([f"{name}-{i}" for i in range(n)]),
        pitch_um=200.0,
    )


def made_pairs(*donors, levels="multilevel"):
    spec = FeatureSpec(
        "timm:tf_efficientnet_lite0", "random:0", "0" * 64, levels,
        TileGeometry((100.0,), 64), (0.5,) * 3, (0.5,) * 3,
    )  # fmt: skip
    return Pairs(tuple(made_section(f"s{i}", d, i + 1) for i, d in enumerate(donors)), spec)


@pytest.fixture
def pairs_of():
    """Make pairs with one section for each donor named, sections s0, s1 and so on."""
    return made_pairs
