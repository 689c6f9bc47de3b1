"""A slide against an atlas: neighbours, weights, and the imputed file."""

from bleepdb.querying.output import Imputed, Opened, open_imputed
from bleepdb.querying.settings import QUERY_METHODS, Query, QuerySettings
from bleepdb.querying.slide import check_space, check_unchanged, query_slide

__all__ = [
    "QUERY_METHODS",
    "Imputed",
    "Opened",
    "Query",
    "QuerySettings",
    "check_space",
    "check_unchanged",
    "open_imputed",
    "query_slide",
]
