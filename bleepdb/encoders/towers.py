"""Towers: the small heads that take features or profiles into the shared space, in plain NumPy.

They are evaluated without torch, so that the same weights give the same embeddings everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import erf

from bleepdb.errors import ModelError
from bleepdb.places import adjacency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

AFFINE, PROJECTION, JOINED = "affine", "projection", "joined"
MOST_PARTS = 64
SUM_TOLERANCE = 1e-4
LAYER_NORM_EPSILON = 1e-5  # torch's default


@dataclass(frozen=True)
class Context:
    """Adjacent places as a part of what the image tower sees.

    The features are followed by `weight` times their mean over the places in a ring around, so
    that their width doubles. The ring is in µm: at another stride the mean is taken over other
    places of the same tissue.

    Parameters
    ----------
    inner_um, outer_um
        Radii of the ring.
    weight
        Of the mean beside the place's own features, which weigh 1.
    """

    inner_um: float
    outer_um: float
    weight: float

    def append(self, features: Array, positions_um: NDArray[np.float64]) -> Array:
        """Return (n, 2 F) float32: own features, then the weighted mean of adjacent places.

        A place that stands alone takes its own features for the mean.
        """
        ring = adjacency(positions_um, inner_um=self.inner_um, outer_um=self.outer_um)
        around = np.asarray(ring @ features, dtype=np.float32)
        alone = np.diff(ring.indptr) == 0
        around[alone] = features[alone]
        return np.concatenate([features, np.float32(self.weight) * around], axis=1)

    def to_json(self) -> dict[str, float]:
        """Return the JSON object that the card keeps."""
        return {"inner_um": self.inner_um, "outer_um": self.outer_um, "weight": self.weight}


@dataclass(frozen=True)
class Affine:
    """``(x - mean) matrix``; an unknown value (NaN) counts as the mean.

    Parameters
    ----------
    mean
        (inputs,) float32.
    matrix
        (inputs, dimension) float32.
    """

    mean: Array
    matrix: Array
    kind = AFFINE

    @property
    def inputs(self) -> int:
        """Width of what it takes."""
        return int(self.matrix.shape[0])

    @property
    def dimension(self) -> int:
        """Width of what it gives."""
        return int(self.matrix.shape[1])

    def __call__(self, x: Array) -> Array:
        """Take (n, inputs) to (n, dimension) float32, not normalised."""
        centred = np.nan_to_num(x - self.mean, nan=0.0)
        return np.asarray(centred @ self.matrix, dtype=np.float32)

    def tensors(self) -> dict[str, Array]:
        """Return its weights by name."""
        return {"mean": self.mean, "matrix": self.matrix}


@dataclass(frozen=True)
class Projection:
    """BLEEP's projection head on standardised inputs, as it is after training (no dropout).

    With ``z = x W1' + b1`` it gives ``LayerNorm(GELU(z) W2' + b2 + z)``. An unknown value (NaN)
    counts as the mean.

    Parameters
    ----------
    columns
        (used,) int64, which inputs are used; for profiles the highly variable genes.
    mean, scale
        (used,) float32: x = (input - mean) scale. For inputs taken as they are: 0 and 1.
    fill
        (used,) float32, what stands for an unknown input.
    w1, b1, w2, b2
        Weights of the two linear layers, (dimension, used), (dimension,), (dimension, dimension),
        (dimension,).
    gain, shift
        (dimension,) of the layer norm.
    inputs
        Width of what it takes.
    """

    columns: NDArray[np.int64]
    mean: Array
    scale: Array
    fill: Array
    w1: Array
    b1: Array
    w2: Array
    b2: Array
    gain: Array
    shift: Array
    inputs: int
    kind = PROJECTION

    @property
    def dimension(self) -> int:
        """Width of what it gives."""
        return int(self.w1.shape[0])

    def __call__(self, x: Array) -> Array:
        """Take (n, inputs) to (n, dimension) float32, not normalised."""
        used = x[:, self.columns]
        used = (np.where(np.isnan(used), self.fill, used) - self.mean) * self.scale
        z = used @ self.w1.T + self.b1
        gelu = 0.5 * z * (1.0 + erf(z / np.float32(np.sqrt(2.0))))
        y = gelu @ self.w2.T + self.b2 + z
        centred = y - y.mean(axis=1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
        return np.asarray(centred / spread * self.gain + self.shift, dtype=np.float32)

    def tensors(self) -> dict[str, Any]:
        """Return its weights by name."""
        return {
            "columns": self.columns, "mean": self.mean, "scale": self.scale, "fill": self.fill,
            "w1": self.w1, "b1": self.b1, "w2": self.w2, "b2": self.b2,
            "gain": self.gain, "shift": self.shift,
            "inputs": np.array([self.inputs], dtype=np.int64),
        }  # fmt: skip


@dataclass(frozen=True)
class Joined:
    """Several towers in one space, so that one search over one vector asks all of them.

    Each part's vector is scaled to unit length and times its weight, and they stand side by side.
    With squared weights of sum 1 the whole has unit length, and the dot product of two of them is
    the mean of the parts' cosines, each weighing its squared weight. See `weights_of`.

    Parameters
    ----------
    parts
        Towers that take the same inputs.
    weights
        (parts,) float32, positive.
    """

    parts: tuple[Affine | Projection, ...]
    weights: Array
    kind = JOINED

    @property
    def inputs(self) -> int:
        """Width of what it takes."""
        return self.parts[0].inputs

    @property
    def dimension(self) -> int:
        """Width of what it gives."""
        return sum(part.dimension for part in self.parts)

    def __call__(self, x: Array) -> Array:
        """Take (n, inputs) to (n, dimension) float32, of unit length."""
        return side_by_side([part(x) for part in self.parts], self.weights)

    def tensors(self) -> dict[str, Any]:
        """Return its weights by name: ``NUMBER.KIND.NAME`` for those of a part."""
        found: dict[str, Any] = {"weights": self.weights}
        for number, part in enumerate(self.parts):
            found |= {f"{number}.{part.kind}.{k}": v for k, v in part.tensors().items()}
        return found


def side_by_side(vectors: Sequence[Array], weights: NDArray[Any]) -> Array:
    """Scale rows of each part to unit length times its weight, and join them, (n, sum) float32."""
    scaled = [np.float32(w) * unit(v) for v, w in zip(vectors, weights, strict=True)]
    return np.concatenate(scaled, axis=1)


def weights_of(
    shares: Sequence[float], temperatures: Sequence[float]
) -> tuple[NDArray[np.float32], float]:
    """Return the weights of joined parts, and the temperature of their common softmax.

    With them ``exp(dot / temperature)`` is ``exp(sum of share * cosine / own temperature)``: the
    product of the parts' own softmaxes, each to the power of its share.

    Parameters
    ----------
    shares
        Positive, one a part.
    temperatures
        Of each part's own softmax.
    """
    parts = np.asarray(shares, dtype=np.float64) / np.asarray(temperatures, dtype=np.float64)
    return np.sqrt(parts / parts.sum()).astype(np.float32), float(1.0 / parts.sum())


Tower = Affine | Projection | Joined


def tower_from(kind: str, tensors: Mapping[str, NDArray[Any]]) -> Tower:
    """Return the tower of a kind from its tensors.

    Raises
    ------
    ModelError
        If tensors are missing, misshapen or not finite.
    """
    try:
        if kind == AFFINE:
            affine = Affine(tensors["mean"], tensors["matrix"])
            fits = affine.matrix.ndim == 2 and affine.mean.shape == (affine.inputs,)
            made: Tower = affine
        elif kind == PROJECTION:
            rest = {k: v for k, v in tensors.items() if k != "inputs"}
            head = Projection(**rest, inputs=int(tensors["inputs"][0]))
            d, used = head.w1.shape
            fits = head.w2.shape == (d, d) and all(
                t.shape == (used,) for t in (head.columns, head.mean, head.scale, head.fill)
            )
            fits &= all(t.shape == (d,) for t in (head.b1, head.b2, head.gain, head.shift))
            fits &= head.columns.dtype.kind == "i"
            fits &= bool((head.columns >= 0).all() and (head.columns < head.inputs).all())
            made = head
        elif kind == JOINED:
            joined = _joined(tensors)
            weights = joined.weights
            fits = weights.shape == (len(joined.parts),) and bool((weights > 0).all())
            fits &= bool(abs(float((weights.astype(np.float64) ** 2).sum()) - 1) < SUM_TOLERANCE)
            fits &= all(part.inputs == joined.inputs for part in joined.parts)
            made = joined
        else:
            raise ModelError(f"knows no tower of the kind {kind!r}", hint="use a newer bleepdb")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"a {kind} tower lacks tensors ({error})", hint="train it again"
        ) from error
    if not fits or not all(np.isfinite(t).all() for t in tensors.values()):
        raise ModelError(f"the tensors of a {kind} tower do not fit", hint="train it again")
    return made


def _joined(tensors: Mapping[str, NDArray[Any]]) -> Joined:
    """Put the parts of a joined tower together from the names of their tensors."""
    parts: dict[int, dict[str, NDArray[Any]]] = {}
    kinds: dict[int, str] = {}
    for name, tensor in tensors.items():
        if name == "weights":
            continue
        number, kind, rest = name.split(".")
        if kind not in {AFFINE, PROJECTION} or kinds.setdefault(int(number), kind) != kind:
            message = f"a part {name!r}"
            raise ValueError(message)
        parts.setdefault(int(number), {})[rest] = tensor
    if sorted(parts) != list(range(len(parts))) or not 1 <= len(parts) <= MOST_PARTS:
        message = f"parts {sorted(parts)}"
        raise ValueError(message)
    made = tuple(tower_from(kinds[i], parts[i]) for i in range(len(parts)))
    return Joined(tuple(p for p in made if not isinstance(p, Joined)), tensors["weights"])


def unit(vectors: Array) -> Array:
    """Scale rows to unit length, (n, d) float32; a row of zeros becomes the first axis.

    A profile equal to the training mean has no direction; the stores need one of unit length.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    made = np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
    made[lengths[:, 0] == 0, 0] = 1.0
    return made
