"""BLEEP as its own code runs it, with each of its leaks as a switch. None of this is in bleepdb.

What the published code (bowang-lab/BLEEP: preprocess.ipynb, BLEEP_main.py, BLEEP_inference.ipynb)
does with the section that it holds out:

- the 1,000 most variable genes of *each of the four* sections are chosen and united;
- Harmony corrects *all four* together, and predictions are scored against the corrected values;
- a random fifth of the *spots* of the training sections says which epoch is kept; their
  neighbours are trained on.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from bleepdb.encoders.towers import unit
from bleepdb.gene_sets import highly_variable
from bleepdb.imputation import effective_weights, nearest
from bleepdb.training.loss import bleep_loss
from bleepdb.training.recipes.bleep import Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bleepdb.training import Pairs

VARIABLE_GENES = 1000
BATCH, RATE, DECAY, DIMENSION, DROPOUT, K = 256, 1e-3, 1e-3, 256, 0.1, 50


@dataclass(frozen=True)
class Leaks:
    """Which of the three are let in."""

    variable_genes: bool = False
    harmony: bool = False
    best_epoch: bool = False


@dataclass(frozen=True)
class Published:
    """What one run gave.

    Attributes
    ----------
    genes
        (g,) positions in the panel of the pairs.
    values, truth
        (held-out spots, g) imputed, and what they are scored against.
    training
        (training spots, g) profiles that the heads saw.
    epoch
        The one that was kept, from 1.
    """

    genes: NDArray[np.int64]
    values: NDArray[np.float32]
    truth: NDArray[np.float32]
    training: NDArray[np.float32]
    epoch: int


def variable_genes(pairs: Pairs, names: Sequence[str]) -> NDArray[np.int64]:
    """Union over the named sections of their 1,000 most variable genes; positions, rising."""
    chosen = np.zeros(len(pairs.panel), dtype=bool)
    for number, name in enumerate(pairs.names):
        if name in names:
            chosen |= highly_variable(
                pairs.profiles[pairs.section_of_spot == number], VARIABLE_GENES
            )
    return np.flatnonzero(chosen)


def harmonised(profiles: NDArray[np.float32], batch: NDArray[np.int64]) -> NDArray[np.float32]:
    """Correct profiles (spots, genes) for their batch with Harmony, genes as its coordinates.

    Raises
    ------
    ImportError
        If harmonypy is not installed.
    """
    import harmonypy  # noqa: PLC0415 - optional: nothing else here needs it

    labels = pd.DataFrame({"dataset": batch.astype(str)})
    found = harmonypy.run_harmony(
        profiles.astype(np.float64), labels, ["dataset"], verbose=False
    ).Z_corr
    corrected = np.asarray(found, dtype=np.float32)
    return corrected if corrected.shape == profiles.shape else corrected.T  # before 2.0: turned


def run_published(
    pairs: Pairs, held_out: str, leaks: Leaks, *, epochs: int, seed: int
) -> Published:
    """Train on all sections but one and impute that one.

    Parameters
    ----------
    pairs
        All four sections on penultimate features of one scale.
    held_out
        The section that is imputed.
    leaks
        What may be learnt from it nevertheless.
    epochs, seed
        Of the training.
    """
    outside = pairs.section_of_spot == pairs.names.index(held_out)
    inside = [n for n in pairs.names if n != held_out]
    genes = variable_genes(pairs, pairs.names if leaks.variable_genes else inside)
    profiles = np.ascontiguousarray(pairs.profiles[:, genes])
    if leaks.harmony:
        profiles = harmonised(profiles, pairs.section_of_spot)
    images = torch.from_numpy(pairs.features)
    known = torch.from_numpy(profiles[~outside])
    heads, epoch = train(
        images[~outside], known, epochs=epochs, seed=seed, best_epoch=leaks.best_epoch
    )
    with torch.no_grad():
        queries = unit(heads[0](images[outside]).numpy())
        keys = unit(heads[1](known).numpy())
    W = effective_weights(*nearest(queries, keys, K), n_references=len(keys), method="average")
    values = np.asarray(W @ profiles[~outside], dtype=np.float32)
    return Published(genes, values, profiles[outside], profiles[~outside], epoch)


def train(
    images: torch.Tensor, profiles: torch.Tensor, *, epochs: int, seed: int, best_epoch: bool
) -> tuple[tuple[Head, Head], int]:
    """Train the two heads; return them in evaluation mode, and the epoch that was kept.

    With `best_epoch` a random fifth of the spots is not trained on, and the epoch of its least
    loss is kept; else all spots are trained on, and the last epoch is kept.
    """
    torch.set_num_threads(1)  # steps this small only wait for a second core
    torch.manual_seed(seed)
    order = torch.randperm(len(images))
    trained = order[: int(0.8 * len(order))] if best_epoch else order
    watched = order[len(trained) :]
    heads = (
        Head(images.shape[1], DIMENSION, DROPOUT),
        Head(profiles.shape[1], DIMENSION, DROPOUT),
    )
    weights = [p for head in heads for p in head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    batch = min(BATCH, len(trained))
    best, kept, epoch = float("inf"), heads, epochs
    for number in range(1, epochs + 1):
        for head in heads:
            head.train()
        shuffled = trained[torch.randperm(len(trained))]
        for start in range(0, len(shuffled) - batch + 1, batch):
            rows = shuffled[start : start + batch]
            loss = bleep_loss(heads[0](images[rows]), heads[1](profiles[rows]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for head in heads:
            head.eval()
        if best_epoch:
            # Their loop drops the last incomplete batch here too; where fewer than 256 spots are
            # watched the loss is then 0 and the first epoch "best". Here all batches count.
            with torch.no_grad():
                parts = watched.split(BATCH)
                seen = sum(
                    float(bleep_loss(heads[0](images[p]), heads[1](profiles[p]))) * len(p)
                    for p in parts
                )
            if seen < best:
                best, kept, epoch = seen, copy.deepcopy(heads), number
    return kept, epoch
