"""Transformations of SpatialData elements, as affine maps of the plane.

Source: the NGFF transformations that SpatialData writes into an element's metadata; those between
an element and a named coordinate system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

GLOBAL: Final = "global"
PLANE: Final = ("x", "y")
DEEPEST: Final = 16


def to_systems(documents: Any, where: Path) -> dict[str, NDArray[np.float64]]:  # noqa: ANN401 - JSON
    """Read ``coordinateTransformations``: one 3 x 3 matrix on (x, y, 1) a coordinate system.

    Raises
    ------
    SectionError
        If one is of a kind that is not known, or is not in the plane.
    """
    if not isinstance(documents, list):
        raise SectionError("no coordinateTransformations", where=where, hint="write it again")
    found: dict[str, NDArray[np.float64]] = {}
    for document in documents:
        try:
            name = str(document["output"]["name"])
            axes = _axes(document["input"])
            matrix, out = _matrix(document, axes, 0)
            found[name] = _in_plane(matrix, axes, out)
        except (KeyError, TypeError, ValueError, IndexError, np.linalg.LinAlgError) as error:
            raise SectionError(
                f"a transformation that is not read ({error})",
                where=where,
                hint="write the element with an affine transformation",
            ) from error
    return found


def shared_system(*maps: dict[str, NDArray[np.float64]]) -> str | None:
    """Return a coordinate system that all have: ``global`` first, else the first by name."""
    common = sorted(set.intersection(*(set(m) for m in maps)))
    return GLOBAL if GLOBAL in common else next(iter(common), None)


def apply(matrix: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map (n, 2) points by a 3 x 3 matrix."""
    return np.asarray(xy @ matrix[:2, :2].T + matrix[:2, 2])


def _axes(system: dict[str, Any]) -> list[str]:
    return [str(axis["name"]) for axis in system["axes"]]


def _matrix(
    document: dict[str, Any], axes: Sequence[str], depth: int
) -> tuple[NDArray[np.float64], list[str]]:
    """Homogeneous matrix from the input axes to the output axes, and the latter's names."""
    if depth > DEEPEST:
        message = "nested without end"
        raise ValueError(message)
    kind = document["type"]
    n = len(axes)
    own = _axes(document["input"]) if "input" in document else list(axes)
    # A step names its axes in an order of its own.
    order = [*(list(axes).index(a) for a in own), n]
    if len(own) != n:
        message = f"axes {', '.join(own)} after {', '.join(axes)}"
        raise ValueError(message)
    made: NDArray[np.float64] = np.eye(n + 1)
    out = list(own)
    if kind == "scale":
        made[range(n), range(n)] = _finite(document["scale"], (n,))
    elif kind == "translation":
        made[:n, n] = _finite(document["translation"], (n,))
    elif kind == "rotation":
        made[:n, :n] = _finite(document["rotation"], (n, n))
    elif kind == "affine":
        out = _axes(document["output"]) if "output" in document else out
        made = np.zeros((len(out) + 1, n + 1))
        made[: len(out)] = _finite(document["affine"], (len(out), n + 1))
        made[-1, -1] = 1
    elif kind == "mapAxis":
        named = document["mapAxis"]
        out = _axes(document["output"]) if "output" in document else [str(o) for o in named]
        made = np.zeros((len(out) + 1, n + 1))
        for i, name in enumerate(out):
            made[i, own.index(named[name])] = 1
        made[-1, -1] = 1
    elif kind == "sequence":
        for step in document["transformations"]:
            one, out = _matrix(step, out, depth + 1)
            made = one @ made
    elif kind != "identity":
        message = f"kind {str(kind)[:40]!r}"
        raise ValueError(message)
    return made @ np.eye(n + 1)[order], out


def _finite(values: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:  # noqa: ANN401 - JSON
    made = np.asarray(values, dtype=np.float64)
    if made.shape != shape or not np.isfinite(made).all():
        message = f"numbers of shape {made.shape} where {shape} are needed"
        raise ValueError(message)
    return made


def _in_plane(
    matrix: NDArray[np.float64], axes: Sequence[str], out: Sequence[str]
) -> NDArray[np.float64]:
    rows = [list(out).index(a) for a in PLANE]
    columns = [list(axes).index(a) for a in PLANE]
    made = np.eye(3)
    made[:2, :2] = matrix[np.ix_(rows, columns)]
    made[:2, 2] = matrix[rows, -1]
    if abs(np.linalg.det(made)) < 1e-12:
        message = "it flattens the plane"
        raise ValueError(message)
    return made
