"""The score that a simulator's truth allows: the best that any method could expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bleepdb.errors import InputError
from bleepdb.metrics import mean_score
from bleepdb.simulation import ceiling, read_truth

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bleepdb.evaluation.fold_result import FoldResult
    from bleepdb.training import Pairs


def known_ceiling(
    fold: FoldResult, held_out: Pairs, truths: Mapping[str, Path]
) -> dict[str, float]:
    """Return the mean PCC of the true rates with the drawn counts, per gene set.

    Parameters
    ----------
    fold
        Whose gene sets are asked for.
    held_out
        The held-out sections.
    truths
        Section -> its truth file.

    Returns
    -------
    dict
        Gene set -> mean over its genes, a gene without a score counted as 0, and over the
        held-out sections, as for methods.

    Raises
    ------
    InputError
        If a truth lacks a spot or gene of its section.
    """
    found: dict[str, list[float]] = {name: [] for name, w in fold.members.items() if len(w)}
    for section in held_out.sections:
        truth = read_truth(truths[section.section])
        row = {name: i for i, name in enumerate(truth.barcodes)}
        column = {name: i for i, name in enumerate(truth.symbols)}
        missing = [b for b in section.barcodes.tolist() if b not in row]
        if missing or not set(section.panel.symbols) <= set(column):
            raise InputError(
                f"is not the truth of section {section.section}", where=truths[section.section]
            )
        spots = [row[b] for b in section.barcodes.tolist()]
        here = [column[s] for s in section.panel.symbols]
        there = section.panel.find(fold.genes.symbols)
        best = ceiling(truth.rates[spots][:, here][:, there], section.counts[:, there])
        for name, scores in found.items():
            scores.append(mean_score(best[fold.members[name]])[0])
    return {name: float(np.mean(scores)) for name, scores in found.items()}
