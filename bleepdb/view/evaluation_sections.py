"""The parts of an evaluation's page, each from the document alone."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from bleepdb.view.evaluation_document import (
    compared,
    gene_numbers,
    headline_sets,
    number,
    plain,
    result,
    sets_of,
)
from bleepdb.view.html_parts import cell, element, escaped, figure_of, folded, raw, table, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bleepdb.view.html_parts import Html

    Document = Mapping[str, Any]

SHOWN_GENES: Final = 25
READS: Final = {
    "none": "no image", "colour": "colour", "published": "published", "ours": "ours",
}  # fmt: skip
HELD: Final = {
    "donor": "all sections of one donor at a time",
    "section": "one section at a time",
    "lists": "the sections that lists named",
}


def _interval(low: object, high: object, *, signed: bool = False) -> str:
    if math.isnan(number(low)) or math.isnan(number(high)):
        return ""
    return f"{figure_of(low, signed=signed)} to {figure_of(high, signed=signed)}"


def _joined(names: Sequence[object], most: int = 40) -> str:
    text = ", ".join(plain(n) for n in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def overview(document: Document) -> list[Html]:
    """Say what was held out, the plain sentence, and the few figures that matter."""
    donors, folds = document["donors"], document["folds"]
    planned = document.get("folds_planned") or [f["name"] for f in folds]
    held = HELD.get(document["held_out"], plain(document["held_out"]))
    why = document.get("settings", {}).get("why_held_out")
    count = len(set(donors.values()))
    facts = [
        ("Held out", held + (f" ({plain(why)})" if why else "")),
        ("Sections", f"{len(donors)} of {count} donor{'s' if count != 1 else ''}"),
        ("Folds", f"{len(folds)} of {len(planned)}" if len(planned) > len(folds) else len(folds)),
        ("Ours", document["ours"]),
        ("Seeds", _joined(document.get("seeds", []))),
        ("Intervals", document.get("interval_label", "")),
    ]
    for name in headline_sets(document):
        mean, low, high = (
            result(document, document["ours"], name, k) for k in ("mean", "low", "high")
        )
        between = _interval(low, high)
        shown = figure_of(mean) + (f" ({between})" if between else "")
        facts.append((f"{plain(name)}, mean correlation", shown))
    listed = [x for term, value in facts for x in (element("dt", term), element("dd", value))]
    made = [element("p", document["summary"], class_="verdict"), element("dl", *listed)]
    if len(planned) > len(folds):
        missing = [n for n in planned if n not in {f["name"] for f in folds}]
        made.append(element("p", f"Folds that are not in here: {_joined(missing)}."))
    return made


def methods(document: Document) -> list[Html]:
    """List all methods on all gene sets, with intervals."""
    made = [_methods(document, sets_of(document), "Mean correlation per gene over held-out spots")]
    trimmed = sets_of(document, trimmed=True)
    if trimmed:
        what = "The same without mitochondrial genes and ribosomal proteins"
        made.append(folded(what, _methods(document, trimmed, what)))
    about = [(m["name"], [words(m["about"])], False) for m in document["methods"]]
    made.append(folded("What each method does", table("Methods", ["method", "about"], about)))
    return made


def _methods(document: Document, sets: Sequence[str], caption: str) -> Html:
    rows = []
    for method in document["methods"]:
        name = method["name"]
        cells = [
            words(READS.get(method["features"], method["features"])),
            words("yes" if method["post"] else "no"),
        ]
        cells += [_score(document, name, s) for s in sets]
        rows.append((name, cells, name == document["ours"]))
    label = document.get("interval_label", "")
    return table(
        f"{caption}; below each its interval ({plain(label)}). ± is the standard deviation over "
        "seeds; undefined genes count as 0.",
        ["method", "features", "post-processing", *sets],
        rows,
    )


def _score(document: Document, method: str, gene_set: str) -> Html:
    mean, low, high, sd, undefined = (
        result(document, method, gene_set, k)
        for k in ("mean", "low", "high", "sd_over_seeds", "undefined")
    )
    small = _interval(low, high)
    if not math.isnan(sd):
        small += f" ± {figure_of(sd)}"
    if undefined > 0:
        small += f" ({undefined:,.0f} undefined)"
    return cell(figure_of(mean), small.strip())


def comparisons(document: Document) -> list[Html]:
    """Put ours beside each method that it is compared with, and say what to make of it."""
    sets, folds = sets_of(document), len(document["folds"])
    rows = []
    for other, found in document["comparisons"].items():
        cells = []
        for one in (found.get(s, {}) for s in sets):
            about = [
                "" if math.isnan(number(one.get("ratio"))) else f"{number(one['ratio']):.2f}×",
                _interval(one.get("low"), one.get("high"), signed=True),
                f"{figure_of(one.get('folds_above'), 0)} of {folds} folds",
            ]
            small = f"{', '.join(x for x in about if x)}: {_verdict(document, other, one)}"
            cells.append(cell(figure_of(one.get("difference"), signed=True), small))
        rows.append((other, cells, False))
    caption = (
        f"{plain(document['ours'])} less each other method, paired; below it the ratio, the "
        "interval of the difference, and in how many folds it is above"
    )
    if not rows:
        return []
    return [element("h2", "Comparisons"), table(caption, ["beside", *sets], rows)]


def _verdict(document: Document, other: str, one: Mapping[str, Any]) -> str:
    low, high = number(one.get("low")), number(one.get("high"))
    if math.isnan(low) or math.isnan(high):
        return "not known"
    if low > 0:
        return "above"
    family = {m["name"]: m["family"] for m in document["methods"]}.get(other)
    enough = "; a ridge is enough" if family == "ridge" else ""
    return ("below" if high < 0 else "not told apart") + enough


def null_and_ceiling(document: Document) -> list[Html]:
    """Tell what chance gives and what counting noise allows."""
    null, ceiling = document.get("null") or {}, document.get("ceiling") or {}
    known = document.get("known_ceiling") or {}
    rows = []
    for name in sets_of(document):
        one = null.get(name, {})
        p = number(one.get("p_value"))
        cells = [cell(figure_of(one.get(k))) for k in ("observed", "mean", "p99")]
        cells += [cell("–" if math.isnan(p) else f"{p:.2g}"), cell(figure_of(ceiling.get(name)))]
        cells += [cell(figure_of(known.get(name)))] if known else []
        rows.append((name, cells, False))
    head = ["gene set", "observed", "shuffled, mean", "shuffled, 99th percentile", "p"]
    head += ["noise ceiling", *(["what the truth allows"] if known else [])]
    caption = (
        "The linear recipe on the true pairs beside pairs shuffled within sections, and what a "
        "perfect prediction could reach on these counts"
    )
    return [element("h2", "Chance and ceiling"), table(caption, head, rows)]


def sections(document: Document) -> list[Html]:
    """List the scores of every held-out section."""
    rows = [(f, s) for f in document["folds"] for s in f["sections"]]

    def of(method: str) -> Html:
        sets = sets_of(document)
        made = []
        for _, one in rows:
            found = one["scores"].get(method, {})
            cells = [words(one["donor"]), cell(f"{number(one['spots']):,.0f}")]
            cells += [cell(figure_of(found.get(s))) for s in sets]
            made.append((one["section"], cells, False))
        return table(plain(method), ["section", "donor", "spots", *sets], made)

    ours, *others = compared(document, most=len(document["comparisons"]))
    more = [of(name) for name in others]
    return [of(ours), *([folded("The compared methods", *more)] if more else [])]


def folds(document: Document) -> list[Html]:
    """List what each fold trained on, held out and chose."""
    rows = []
    for fold in document["folds"]:
        chosen = _joined([f"{k}={_short(v)}" for k, v in fold["chosen"].items()])
        rows.append((fold["name"], [
            words(_joined(fold["test"])), words(_joined(fold["train"])),
            words("yes" if fold["in_training_donor"] else "no"),
            cell(f"{number(fold['genes']):,.0f}"), words(chosen),
        ], False))  # fmt: skip
    head = ["fold", "held out", "trained on", "its donor in training", "genes", "chosen"]
    return [folded("Folds", table("Folds", head, rows))]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "–"
    return plain(value if isinstance(value, str) else json.dumps(value, default=str), 120)


def genes(document: Document) -> list[Html]:
    """Count the genes that can be predicted, and list the best and worst."""
    found = document["genes"]
    pcc = gene_numbers(document, "pcc")
    scored = [i for i, r in enumerate(pcc) if not math.isnan(r)]
    good = sum(v > 0.5 for v in gene_numbers(document, "predictable"))
    text = (
        f"{good:,} of {len(scored):,} genes with a score are predictable; {len(pcc):,} genes are "
        "shared by all sections. The model card and every imputed file can carry these flags."
    )
    order = sorted(scored, key=lambda i: -pcc[i])
    best = order[:SHOWN_GENES]
    worst = [i for i in order[::-1] if i not in set(best)][:SHOWN_GENES]
    made = [element("p", text)]
    for caption, which in ((f"Best {len(best)}", best), (f"Worst {len(worst)}", worst)):
        if which:
            made.append(_genes(caption, found, which))
    return made


def _genes(caption: str, found: Mapping[str, Any], which: Sequence[int]) -> Html:
    def at(key: str, i: int) -> object:
        values = found.get(key, [])
        return values[i] if i < len(values) else None

    rows = []
    for i in which:
        r, top = number(at("pcc", i)), number(at("noise_ceiling", i))
        share = r / top if top > 0 else math.nan
        rows.append((plain(at("symbol", i)), [
            words(at("gene_id", i) or "–"), cell(figure_of(r)), cell(figure_of(top)),
            cell(figure_of(share, 2)), cell(figure_of(at("moran", i))),
            words("yes" if number(at("predictable", i)) > 0.5 else "no"),
        ], False))  # fmt: skip
    head = ["gene", "id", "correlation", "noise ceiling", "share of it", "Moran's I, measured"]
    return table(caption, [*head, "predictable"], rows)


def structure(document: Document) -> list[Html]:
    """Tell what a correlation per gene does not say, by method."""
    found = document.get("structure") or {}
    agreement = found.get("agreement") or {}
    moran = document.get("moran") or {}
    rows = []
    for method in document["methods"]:
        name = method["name"]
        space = moran.get(name, {})
        rows.append((name, [
            cell(figure_of(agreement.get(name))),
            *(cell(figure_of(space.get(k))) for k in ("measured", "imputed", "agreement")),
            *(cell(figure_of((document.get(k) or {}).get(name)))
              for k in ("pseudobulk", "rmse_hvg", "variance_ratio_hvg")),
        ], name == document["ours"]))  # fmt: skip
    head = [
        "method", "gene-gene agreement", "Moran's I, measured", "imputed", "agreement over genes",
        "pseudobulk", "RMSE", "variance ratio",
    ]  # fmt: skip
    caption = (
        "Correlation of the two matrices over pairs of genes; Moran's I, RMSE and variance ratio "
        "over HVG. Pseudobulk is the correlation of section means over held-out sections, each "
        "less the mean of what its fold was trained on"
    )
    return [table(caption, head, rows)]


def mixing(document: Document, picture: Sequence[Html]) -> list[Html]:
    """Tell which donors answered."""
    held = [f for f in document["folds"] if f.get("mixing")]
    if not any(len(f["mixing"]["expected"]) > 1 for f in held):
        return []
    rows = []
    for fold in held:
        found = fold["mixing"]
        shares = [
            f"{plain(d)} {figure_of(v, 2)} ({figure_of(found['expected'].get(d), 2)})"
            for d, v in found["share"].items()
        ]
        rows.append((fold["name"], [
            cell(figure_of(found.get("effective_donors"), 2)),
            cell(figure_of(found.get("expected_effective_donors"), 2)), words(_joined(shares)),
        ], False))  # fmt: skip
    head = ["held out", "effective donors", "if even", "share of weight (of references)"]
    caption = "Donors that take part in an answer, and the share of each"
    return [element("h2", "Donors among the neighbours"), *picture, table(caption, head, rows)]


def notes(document: Document) -> list[Html]:
    """Say what a reader has to know."""
    listed = [element("li", n) for n in document.get("notes", [])]
    return [element("h2", "Notes"), element("ul", *listed)] if listed else []


def run_card(document: Document) -> list[Html]:
    """Show what it was made with."""
    shown = []
    for title, key in (
        ("Run card", "run_card"),
        ("Features", "features"),
        ("Settings", "settings"),
    ):
        if document.get(key):
            text = json.dumps(document[key], indent=1, ensure_ascii=False, default=str)
            lines = "\n".join(escaped(line) for line in text.split("\n"))
            shown.append(folded(title, element("pre", raw(lines))))
    return [element("h2", "How it was run"), *shown]
