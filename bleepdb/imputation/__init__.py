"""Neighbours and measured profiles to imputed values, with the evidence (NumPy and SciPy)."""

from bleepdb.imputation.aggregate import Aggregator, Imputed
from bleepdb.imputation.evidence import Evidence, explain
from bleepdb.imputation.neighbours import nearest
from bleepdb.imputation.references import Group, LowRank, mappable, only_measured
from bleepdb.imputation.smoothing import mixing, smooth
from bleepdb.imputation.uncertainty import (
    effective_donors,
    effective_neighbours,
    spots_by_donor,
    top_similarity,
)
from bleepdb.imputation.weights import METHODS, depth_weights, effective_weights, local_weights

__all__ = [
    "METHODS",
    "Aggregator",
    "Evidence",
    "Group",
    "Imputed",
    "LowRank",
    "depth_weights",
    "effective_donors",
    "effective_neighbours",
    "effective_weights",
    "explain",
    "local_weights",
    "mappable",
    "mixing",
    "nearest",
    "only_measured",
    "smooth",
    "spots_by_donor",
    "top_similarity",
]
