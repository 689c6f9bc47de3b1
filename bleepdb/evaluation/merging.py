"""Documents of single folds put together: what one run of all of them would have said."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from bleepdb.contracts import faults
from bleepdb.errors import InputError
from bleepdb.evaluation.fold_result import FoldResult
from bleepdb.evaluation.report import FORMAT, VERSION, About, Report
from bleepdb.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ALIKE: Final = (
    "held_out", "ours", "recipes", "donors", "features", "methods", "seeds", "settings",
    "folds_planned",
)  # fmt: skip
"""What must be the same in all parts."""
TEXTS: Final = {"train", "test", "symbol", "gene_id", "genes", "chosen"}
"""Keys of a fold below which there is text."""
NUMBERS: Final = {int, float, type(None)}
LARGEST_BYTES: Final = 2**30


def merge(paths: Sequence[Path]) -> Report:
    """Merge documents that hold different folds of one evaluation.

    Parameters
    ----------
    paths
        Documents that ``bleepdb evaluate --fold`` wrote.

    Returns
    -------
    Report
        With the folds in the order in which one run has them. Its document is that of one run of
        the same folds, apart from the run card.

    Raises
    ------
    InputError
        With all that is wrong in one line: files that are no evaluation, parts of different
        evaluations, a fold that stands in two of them.
    """
    if not paths:
        raise InputError("nothing to merge", hint="name the documents of single folds")
    broken, documents = [], []
    for path in paths:
        try:
            documents.append(read_document(path))
        except InputError as error:
            broken.append(str(error))
    if broken:
        raise InputError(" | ".join(broken))
    first = documents[0]
    for path, document in zip(paths[1:], documents[1:], strict=True):
        other = [k for k in ALIKE if document[k] != first[k]]
        other += ["genes"] if _panel(document) != _panel(first) else []
        if other:
            broken.append(f"{path} is of another evaluation than {paths[0]} ({', '.join(other)})")
    found: dict[str, dict[str, Any]] = {}
    where: dict[str, Path] = {}
    for path, document in zip(paths, documents, strict=True):
        for fold in document["folds"]:
            name = fold["name"]
            if name in where:
                broken.append(f"fold {name} stands in {where[name]} and in {path}")
            found[name], where[name] = fold, path
    if broken:
        raise InputError(
            " | ".join(broken), hint="merge documents of one command that differ in --fold alone"
        )
    about = about_of(first)
    order = [n for n in about.planned if n in found]
    return Report(tuple(FoldResult.from_json(found[n], about.held_out) for n in order), about)


_GIVE: Final = "give what `bleepdb evaluate --json-out FILE` wrote"


def read_document(path: Path) -> dict[str, Any]:
    """Read the document of an evaluation and hold it against its schema.

    Raises
    ------
    InputError
        If it cannot be read, is of another format or version, or breaks the schema.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError("is too large to be an evaluation", where=path)
        document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError("no such file", where=path, hint=_GIVE) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read ({error})", where=path, hint=_GIVE) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError("is no document of an evaluation", where=path, hint=_GIVE)
    if document.get("version") != VERSION:
        raise InputError(
            f"is of version {document.get('version')}, and this bleepdb reads {VERSION}", where=path
        )
    wrong = faults("evaluation", document)
    if wrong:
        raise InputError(f"breaks the evaluation schema: {'; '.join(wrong[:3])}", where=path)
    wrong = _incomplete(document)
    if wrong:
        raise InputError(f"does not fit together: {'; '.join(wrong[:3])}", where=path)
    return document


def about_of(document: dict[str, Any]) -> About:
    """Return what the folds of a document have in common."""
    settings = document["settings"]
    return About(
        held_out=document["held_out"],
        why=settings["why_held_out"],
        recipes=tuple(document["recipes"]),
        donors=document["donors"],
        features=document["features"],
        methods=tuple(document["methods"]),
        seeds=tuple(document["seeds"]),
        permutations=settings["permutations"],
        epochs=settings["epochs"],
        planned=tuple(document["folds_planned"]),
        panel=Panel(*map(tuple, _panel(document))),
    )


def _refuse_constant(name: str) -> float:
    """Refuse what is no JSON, though Python writes it: NaN and the infinities."""
    message = f"{name} is no number"
    raise ValueError(message)


def _panel(document: dict[str, Any]) -> tuple[list[str], list[str]]:
    return document["genes"]["symbol"], document["genes"]["gene_id"]


def _incomplete(document: dict[str, Any]) -> list[str]:
    """List faults that no schema sees: methods that a fold lacks, lists of other lengths."""
    names = {m["name"] for m in document["methods"]}
    made = []
    for fold in document["folds"]:
        place = f"fold {fold['name']}"
        if fold["name"] not in document["folds_planned"]:
            made.append(f"{place} is not among those planned")
        keys = ("scores", "undefined", "samples", "rmse_hvg", "variance_ratio_hvg", "moran")
        made += [f"{place}.{k} is not of all methods" for k in keys if set(fold[k]) != names]
        genes = fold["per_gene"]
        if len({len(genes[k]) for k in ("symbol", "pcc", "noise_ceiling", "moran")}) != 1:
            made.append(f"{place}.per_gene has columns of different lengths")
        draws = document["settings"]["bootstrap_draws"]
        if any(len(v) != draws for one in fold["samples"].values() for v in one.values()):
            made.append(f"{place}.samples are not {draws} each")
        if any(s["section"] not in document["donors"] for s in fold["sections"]):
            made.append(f"{place} has a section without a donor")
        made += _lacking(fold, names, place)
    return made or _no_numbers(document["folds"], "folds") or _misshapen(document)


def _lacking(fold: dict[str, Any], names: set[str], place: str) -> list[str]:
    """List what is not of all methods, or not of all gene sets of a fold."""
    made = []
    sets = set(fold["set_sizes"])
    of_sets = {k: fold[k] for k in ("scores", "undefined", "samples", "by_seed")}
    of_sets |= {f"sections.{i}": s["scores"] for i, s in enumerate(fold["sections"])}
    for key, found in of_sets.items():
        if any(set(one) != sets for one in found.values()):
            made.append(f"{place}.{key} is not of all gene sets")
    if set(fold["ceiling"]) != sets or set(fold["null_samples"]) != set(fold["null_observed"]):
        made.append(f"{place} has a ceiling or a null that is not of its gene sets")
    of_methods = {f"sections.{i}": s["scores"] for i, s in enumerate(fold["sections"])}
    of_methods |= {"pseudobulk": fold["pseudobulk"]["imputed"]}
    if fold["structure"] is not None:
        of_methods |= {"structure": fold["structure"]["agreement"]}
    made += [f"{place}.{k} is not of all methods" for k, v in of_methods.items() if names - set(v)]
    return made


def _misshapen(document: dict[str, Any]) -> list[str]:
    """List figures that are null where there has to be a number, or not as many as there are."""
    made = []
    drawing = {m["name"] for m in document["methods"] if m["draws"]}
    seeds, shuffles = len(document["seeds"]), document["settings"]["permutations"]
    kept = set(document["settings"]["structure_of"])
    for fold in document["folds"]:
        place = f"fold {fold['name']}"
        figures = {"samples": [v for one in fold["samples"].values() for v in one.values()]}
        figures["by_seed"] = [v for one in fold["by_seed"].values() for v in one.values()]
        figures["null_samples"] = list(fold["null_samples"].values())
        made += [
            f"{place}.{key} holds what is no number"
            for key, found in figures.items()
            if not all(type(v) in (int, float) and isfinite(v) for one in found for v in one)
        ]
        if set(fold["by_seed"]) != drawing or any(len(v) != seeds for v in figures["by_seed"]):
            made.append(f"{place}.by_seed is not of {seeds} seeds and of what draws")
        if any(len(v) != shuffles for v in figures["null_samples"]):
            made.append(f"{place}.null_samples are not {shuffles} each")
        bulk, wide = fold["pseudobulk"], len(fold["pseudobulk"]["genes"])
        rows = len(fold["sections"])
        matrices = [(m, rows, wide) for m in (bulk["measured"], *bulk["imputed"].values())]
        if fold["structure"] is not None:
            found = fold["structure"]
            side = len(found["genes"])
            matrices += [(m, side, side) for m in (found["measured"], *found["imputed"].values())]
            if set(found["imputed"]) != kept:
                made.append(f"{place}.structure is not of what was kept")
        if any(len(m) != n or any(len(row) != w for row in m) for m, n, w in matrices):
            made.append(f"{place} has a matrix that is no matrix of its genes")
    return made


def _no_numbers(value: object, place: str) -> list[str]:
    """Name lists that mix numbers with something else: figures are numbers or null."""
    if isinstance(value, dict):
        figures = {k: v for k, v in value.items() if k not in TEXTS}
        return [t for k, v in figures.items() for t in _no_numbers(v, f"{place}.{k}")]
    if not isinstance(value, list):
        return []
    kinds = {type(v) for v in value}
    if kinds <= NUMBERS:
        return []
    if kinds <= {list, dict}:
        return [t for i, v in enumerate(value) for t in _no_numbers(v, f"{place}.{i}")]
    return [f"{place} holds what is no number"]
