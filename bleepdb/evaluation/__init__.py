"""Held-out scores beside baselines, and imputed files beside measured ones."""

from bleepdb.evaluation.compare import Comparison, compare
from bleepdb.evaluation.features import Features
from bleepdb.evaluation.fold_result import FoldResult
from bleepdb.evaluation.growth import GrowthSettings, grow, growth_folds
from bleepdb.evaluation.growth_report import GrowthReport
from bleepdb.evaluation.imputing import predict_with
from bleepdb.evaluation.known import known_ceiling
from bleepdb.evaluation.merging import merge as merge_documents
from bleepdb.evaluation.methods import BASELINES, OURS
from bleepdb.evaluation.protocol import run
from bleepdb.evaluation.report import SHOWN_SETS, Report
from bleepdb.evaluation.settings import Settings, folds_of
from bleepdb.evaluation.whole import check, evaluate

__all__ = [
    "BASELINES",
    "OURS",
    "SHOWN_SETS",
    "Comparison",
    "Features",
    "FoldResult",
    "GrowthReport",
    "GrowthSettings",
    "Report",
    "Settings",
    "check",
    "compare",
    "evaluate",
    "folds_of",
    "grow",
    "growth_folds",
    "known_ceiling",
    "merge_documents",
    "predict_with",
    "run",
]
