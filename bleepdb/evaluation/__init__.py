"""Held-out scores beside baselines, and imputed files beside measured ones."""

from bleepdb.evaluation.compare import Comparison, compare
from bleepdb.evaluation.growth import GrowthSettings, grow, growth_folds
from bleepdb.evaluation.growth_report import GrowthReport
from bleepdb.evaluation.imputing import predict_with
from bleepdb.evaluation.known import known_ceiling
from bleepdb.evaluation.methods import BASELINES, OURS
from bleepdb.evaluation.protocol import FoldResult, Settings, folds_of, run
from bleepdb.evaluation.report import SHOWN_SETS, Report

__all__ = [
    "BASELINES",
    "OURS",
    "SHOWN_SETS",
    "Comparison",
    "FoldResult",
    "GrowthReport",
    "GrowthSettings",
    "Report",
    "Settings",
    "compare",
    "folds_of",
    "grow",
    "growth_folds",
    "known_ceiling",
    "predict_with",
    "run",
]
