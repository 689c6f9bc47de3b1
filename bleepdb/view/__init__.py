"""Pictures of results."""

from bleepdb.view.plots import measured_beside_imputed, score_curves

__all__ = ["measured_beside_imputed", "score_curves"]
