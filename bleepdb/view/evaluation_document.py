"""Reading the JSON document of an evaluation for a page or a picture: nothing in it is trusted.

Names come from sheets and panels, so any text may stand in them; numbers may be missing.
"""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from bleepdb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "bleepdb-evaluation"
VERSION: Final = 2
HEADLINE: Final = ("HEG", "MG", "HVG", "SVG")  # shown in pictures where the document has them
MOST_HEADLINES: Final = 4
TRIMMED: Final = " without MT/RP"
NEEDED: Final = (
    "held_out", "ours", "donors", "methods", "gene_sets", "results", "comparisons", "summary",
    "folds", "genes",
)  # fmt: skip
REPLACED: Final = "\ufffd"
TURNING: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def checked(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the document if it is an evaluation that can be drawn.

    Raises
    ------
    InputError
        If it is something else, of another version, or lacks what every evaluation has.
    """
    if document.get("format") != FORMAT:
        raise InputError("not the document of an evaluation", hint="give what --json-out wrote")
    if document.get("version") != VERSION:
        raise InputError(
            f"an evaluation of version {plain(document.get('version'), 20)}, not {VERSION}",
            hint="evaluate again with this release",
        )
    missing = [key for key in NEEDED if key not in document]
    if missing or not document["methods"] or not document["folds"]:
        what = ", ".join(missing) or "methods or folds"
        raise InputError(f"an evaluation without {what}", hint="give what --json-out wrote")
    return document


def plain(value: object, most: int = 10_000) -> str:
    """Return text that can be shown: no control characters, no lone surrogates, not too long.

    A sign that turns the order of what follows (U+202E and its like) is replaced too.
    """
    text = str(value)
    if len(text) > most:
        text = text[: max(most - 1, 0)] + "…"
    return "".join(
        " "
        if c in "\t\r\n"
        else REPLACED
        if unicodedata.category(c) in {"Cc", "Cs"} or c in TURNING
        else c
        for c in text
    )


def number(value: object) -> float:
    """Return a number as float; NaN for what is missing, not finite or not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def gene_numbers(document: Mapping[str, Any], key: str) -> list[float]:
    """Return one list of ``genes``, as long as there are symbols: NaN for what is missing."""
    genes = document["genes"]
    values = list(genes.get(key) or ())[: len(genes["symbol"])]
    return [number(v) for v in values] + [math.nan] * (len(genes["symbol"]) - len(values))


def method_names(document: Mapping[str, Any]) -> list[str]:
    """Return the methods in the order of tables."""
    return [m["name"] for m in document["methods"]]


def sets_of(document: Mapping[str, Any], *, trimmed: bool = False) -> list[str]:
    """Return the gene sets as chosen, or those less mitochondrial and ribosomal genes."""
    return [s for s in document["gene_sets"] if s.endswith(TRIMMED) == trimmed]


def headline_sets(document: Mapping[str, Any]) -> list[str]:
    """Return the few gene sets that pictures show."""
    there = sets_of(document)
    chosen: list[str] = [s for s in HEADLINE if s in there]
    return (chosen or there or [str(s) for s in document["gene_sets"]])[:MOST_HEADLINES]


def result(document: Mapping[str, Any], method: str, gene_set: str, key: str) -> float:
    """Return one number of ``results``, NaN where it is missing."""
    return number(document["results"].get(method, {}).get(gene_set, {}).get(key))


def rivals(document: Mapping[str, Any], most: int = 4) -> list[str]:
    """Return ours and the best method of each other family, the highest first."""
    sets = headline_sets(document)

    def level(name: str) -> float:
        found = [result(document, name, s, "mean") for s in sets]
        return sum(0.0 if math.isnan(v) else v for v in found)

    best: dict[str, str] = {}
    for method in document["methods"]:
        name, family = method["name"], method["family"]
        if name != document["ours"] and (family not in best or level(name) > level(best[family])):
            best[family] = name
    return [document["ours"], *sorted(best.values(), key=level, reverse=True)[:most]]


def compared(document: Mapping[str, Any], most: int = 4) -> list[str]:
    """Return the method that is called ours and those it is compared with."""
    others = [name for name in document["comparisons"] if name in document["results"]]
    return [document["ours"], *others][: most + 1]
