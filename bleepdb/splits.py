"""Which sections train and which test, and how far a score would move on other tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bleepdb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

HeldOut = Literal["section", "donor", "lists"]


@dataclass(frozen=True)
class Split:
    """One fold.

    Attributes
    ----------
    name
        What is held out, or what a list calls it.
    train, test
        Section names, in the order given.
    held_out
        ``"section"``, ``"donor"``, or ``"lists"`` where a person named both sides.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    held_out: HeldOut


def leave_one_section_out(donor_of: Mapping[str, str]) -> list[Split]:
    """Hold out each section once. Other sections of the same donor stay in training.

    Parameters
    ----------
    donor_of
        Section -> donor.

    Raises
    ------
    InputError
        If there are fewer than two sections.
    """
    if len(donor_of) < 2:
        raise InputError(
            f"leaving one section out needs at least 2 sections, not {len(donor_of)}",
            hint="add sections to the sheet",
        )
    return [
        Split(held, tuple(s for s in donor_of if s != held), (held,), "section")
        for held in donor_of
    ]


def leave_one_donor_out(donor_of: Mapping[str, str]) -> list[Split]:
    """Hold out all sections of each donor once; no donor stands on both sides.

    Parameters
    ----------
    donor_of
        Section -> donor.

    Raises
    ------
    InputError
        If there are fewer than two donors.
    """
    donors = list(dict.fromkeys(donor_of.values()))
    if len(donors) < 2:
        raise InputError(
            f"leaving one donor out needs at least 2 donors, not {len(donors)}",
            hint="add sections of other donors, or leave one section out",
        )
    return [
        Split(
            held,
            tuple(s for s, d in donor_of.items() if d != held),
            tuple(s for s, d in donor_of.items() if d == held),
            "donor",
        )
        for held in donors
    ]


def spatial_blocks(xy_um: NDArray[Any], *, block_um: float) -> NDArray[np.int64]:
    """Label places by the square block they stand in, counted from the lowest corner.

    Parameters
    ----------
    xy_um
        (n, 2) places in µm.
    block_um
        Edge of a block in µm.

    Returns
    -------
    numpy.ndarray
        (n,) int64 labels 0, 1, ... without gaps, in order of row and column.

    Raises
    ------
    ValueError
        If `block_um` is not positive.
    """
    if not block_um > 0:
        message = f"a block needs a positive edge, not {block_um}"
        raise ValueError(message)
    places = np.asarray(xy_um, dtype=np.float64).reshape(-1, 2)
    if not len(places):
        return np.zeros(0, dtype=np.int64)
    cell = np.floor((places - places.min(axis=0)) / block_um).astype(np.int64)
    _, labels = np.unique(cell[:, ::-1], axis=0, return_inverse=True)
    return np.asarray(labels.reshape(-1), dtype=np.int64)


def block_draws(blocks: NDArray[np.int64], *, n: int, seed: int) -> NDArray[np.float64]:
    """Draw bootstrap samples of whole blocks, as the number of times each place is drawn.

    Places that stand together are alike, so drawing single places would make an interval too
    narrow; a block is drawn with all its places.

    Parameters
    ----------
    blocks
        (places,) labels 0, 1, ... without gaps.
    n
        How many samples.
    seed
        Of the draws.

    Returns
    -------
    numpy.ndarray
        (n, places) float64 counts. As many blocks are drawn as there are.
    """
    there = int(blocks.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(there, np.full(there, 1.0 / max(there, 1)), size=n)
    return times[:, blocks].astype(np.float64)


def interval(
    samples: Sequence[float] | NDArray[np.float64], *, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of bootstrap samples; NaN samples are refused.

    Raises
    ------
    ValueError
        If a sample is NaN, or there is none.
    """
    values = np.asarray(samples, dtype=np.float64)
    if not values.size or np.isnan(values).any():
        message = "an interval needs samples without NaN"
        raise ValueError(message)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
