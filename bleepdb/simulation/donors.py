"""Further donors: what differs from donor to donor, drawn within the range of the first three."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bleepdb.simulation.settings import Donor, SimulationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray


def made_donors(n: int, *, seed: int = 0) -> tuple[Donor, ...]:
    """Return `n` donors: the three of the default settings, then drawn ones.

    Depth, stain, glass, blur and noise of a drawn donor lie between the least and the greatest of
    the three. The same seed gives the same donors, whatever their number.

    Parameters
    ----------
    n
        How many.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        If `n` is below 1.
    """
    if n < 1:
        message = f"cannot make {n} donors"
        raise ValueError(message)
    known = SimulationSettings().donors
    rng = np.random.default_rng(seed)

    def between(values: list[tuple[float, ...]]) -> NDArray[np.float64]:
        low, high = np.min(values, axis=0), np.max(values, axis=0)
        return np.asarray(low + rng.random(np.shape(low)) * (high - low))

    made = list(known[:n])
    for number in range(len(known), n):
        name = f"donor-{chr(ord('a') + number)}" if number < 26 else f"donor-{number + 1}"
        depth, blur_um, noise = between([(np.log(d.depth), d.blur_um, d.noise) for d in known])
        made.append(
            Donor(
                name,
                float(np.exp(depth)),
                _three(between([d.haematoxylin for d in known])),
                _three(between([d.eosin for d in known])),
                _two(between([d.strength for d in known])),
                _three(np.round(between([d.glass for d in known]))),
                float(blur_um),
                float(noise),
            )
        )
    return tuple(made)


def _two(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
