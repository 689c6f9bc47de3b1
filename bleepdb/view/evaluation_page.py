"""One HTML file of an evaluation: opens anywhere, asks nothing of any network, runs no script.

Its parts come from `evaluation_sections`; all text is escaped there, and the content security
policy names the one style sheet and pictures that are in the file.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

from bleepdb.files import whole_file
from bleepdb.view import evaluation_sections as parts
from bleepdb.view.evaluation_document import checked
from bleepdb.view.evaluation_figures import figures_of
from bleepdb.view.html_parts import element, raw

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bleepdb.view.html_parts import Html

TITLE: Final = "Held-out evaluation"
STYLE: Final = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: #fff; color: #1a1a1a;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ccc; }
p, li { max-width: 60rem; }
p.verdict { font-size: 1.1rem; border-left: 4px solid #0072B2; padding: .4rem .8rem;
  background: #f1f6fa; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .8rem 0; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; margin: .6rem 0; }
caption { text-align: left; color: #444; padding: .2rem 0; }
th, td { padding: .2rem .55rem; border-bottom: 1px solid #e2e2e2; text-align: left;
  vertical-align: top; max-width: 24rem; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #999; white-space: nowrap; }
tbody th { font-weight: normal; min-width: 9rem; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.n small, p.small { color: #555; }
td.n small { display: block; white-space: normal; min-width: 6.5rem; }
tr.ours th, tr.ours td { font-weight: 600; background: #f1f6fa; }
img { max-width: 100%; height: auto; }
figure { margin: .6rem 0; }
pre { overflow: auto; max-height: 26rem; background: #f6f6f6; padding: .7rem; font-size: .78rem; }
summary { cursor: pointer; color: #0059a0; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  div.wide { overflow: visible; }
  tr, figure { break-inside: avoid; }
}
"""


def page_of(
    document: Mapping[str, Any], figures: Mapping[str, tuple[str, bytes]] | None = None
) -> str:
    """Return the whole page.

    Parameters
    ----------
    document
        As evaluation.schema.json says; the same as a Python object may hold NaN for null.
    figures
        Pictures as `figures_of` gives them, those that are wanted; None draws all.

    Raises
    ------
    InputError
        If it is not an evaluation of this version.
    """
    drawn = figures_of(document) if figures is None else figures
    pictures = {key: _picture(title, png) for key, (title, png) in drawn.items()}
    checked(document)
    body = [
        element("h1", TITLE),
        *parts.overview(document),
        element("h2", "Methods"),
        *_there(pictures, "scores"),
        *parts.methods(document),
        *parts.comparisons(document),
        *parts.null_and_ceiling(document),
        element("h2", "Held-out sections"),
        *_there(pictures, "sections"),
        *parts.sections(document),
        *parts.folds(document),
        element("h2", "Genes"),
        *_there(pictures, "genes"),
        *parts.genes(document),
        element("h2", "Structure"),
        *_there(pictures, "structure"),
        *parts.structure(document),
        *parts.mixing(document, _there(pictures, "mixing")),
        *parts.notes(document),
        *parts.run_card(document),
    ]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    head = [
        raw('<meta charset="utf-8">'),
        raw(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        raw('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        raw('<meta name="referrer" content="no-referrer">'),
        element("title", TITLE),
        raw(f"<style>{STYLE}</style>"),
    ]
    whole = element("html", element("head", *head), element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Write the page; the file appears whole or not at all.

    Parameters
    ----------
    document
        As evaluation.schema.json says.
    path
        The HTML file.

    Raises
    ------
    InputError
        If it is not an evaluation of this version.
    """
    text = page_of(document)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _picture(title: str, png: bytes) -> Html:
    source = raw("data:image/png;base64," + base64.b64encode(png).decode())
    return element("figure", element("img", src=source, alt=f"{title}: the tables say the same"))


def _there(pictures: Mapping[str, Html], key: str) -> list[Html]:
    return [pictures[key]] if key in pictures else []
