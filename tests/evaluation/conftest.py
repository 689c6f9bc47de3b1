"""Made pairs: a smooth hidden state decides features and counts, so that images tell of genes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from bleepdb.encoders import FeatureSpec
from bleepdb.gene_sets import MARKERS
from bleepdb.panel import Panel
from bleepdb.tissue import TileGeometry
from bleepdb.training import PairedSection, Pairs

GENES = 70
EARLIER = ("mean profile", "image kNN", "ridge", "bleep")
"""Families that are fitted in no time."""
PANEL = Panel((*MARKERS[:6], *(f"G{i}" for i in range(GENES - 6))))
STATES = 3


def spec(levels):
    return FeatureSpec(
        backbone="timm:none",
        weights="random:0",
        weights_digest="0" * 64,
        levels=levels,
        geometry=TileGeometry((100.0,)),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def made_section(name, donor, seed, *, signal=1.0, side=9, width=24):
    """One section on a square grid of 100 µm."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(7)  # what features and genes have to do with the state
    to_genes = shared.normal(size=(STATES, GENES)) * (shared.random(GENES) < 0.7)
    level = shared.normal(1.0, 1.0, GENES)
    to_features = shared.normal(size=(STATES, width))
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * 100.0
    wave, phase = rng.uniform(0.004, 0.01, (2, STATES)), rng.uniform(0, 6, STATES)
    state = np.sin(xy @ wave + phase) + 0.2 * rng.normal(size=(len(xy), STATES))
    depth = rng.lognormal(0, 0.3, (len(xy), 1))
    counts = rng.poisson(depth * np.exp(level + 0.6 * signal * (state @ to_genes)))
    features = state @ to_features + rng.normal(size=(len(xy), width))
    return PairedSection(
        section=name,
        donor=donor,
        digest=f"{seed:064x}",
        features=features.astype(np.float32),
        positions_um=xy,
        counts=sp.csr_matrix(counts.astype(np.int64)),
        panel=PANEL,
        barcodes=np.array([f"{int(x / 100)}x{int(y / 100)}" for x, y in xy]),
        pitch_um=100.0,
    )


def make_pairs(donors, *, signal=1.0, levels="multilevel", seed=0):
    """Sections ``S0``, ``S1``, ... of the donors named."""
    width = 24 if levels == "multilevel" else 10
    sections = [
        made_section(f"S{i}", donor, seed + 10 * i + 1, signal=signal, width=width)
        for i, donor in enumerate(donors)
    ]
    return Pairs(tuple(sections), spec(levels))


@pytest.fixture(scope="session")
def paired():
    """The maker of pairs, and of the same spots on published features."""
    return make_pairs


@pytest.fixture(scope="session")
def three(paired):
    """Three sections of two donors, encoded twice."""
    donors = ("A", "A", "B")
    return paired(donors), paired(donors, levels="penultimate")


@pytest.fixture(scope="session")
def report(three):
    """A whole evaluation by section, with few shuffles and epochs."""
    from bleepdb.evaluation import Report, Settings, run

    settings = Settings(
        by="section", permutations=25, epochs=3, recipes=("linear",), methods=EARLIER
    )
    return Report.of(run(*three, settings), settings, *three)
