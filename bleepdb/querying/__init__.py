"""A slide against an atlas: neighbours, weights, and the imputed file."""

from bleepdb.querying.filters import Condition, parse_conditions
from bleepdb.querying.output import Imputed, Opened, open_imputed
from bleepdb.querying.run import check_space, check_unchanged, write_current
from bleepdb.querying.settings import QUERY_METHODS, Query, QuerySettings
from bleepdb.querying.slide import query_slide

__all__ = [
    "QUERY_METHODS",
    "Condition",
    "Imputed",
    "Opened",
    "Query",
    "QuerySettings",
    "check_space",
    "check_unchanged",
    "open_imputed",
    "parse_conditions",
    "query_slide",
    "write_current",
]
