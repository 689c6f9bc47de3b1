"""Pieces of HTML whose text is always escaped: the one place that writes tags."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from bleepdb.view.evaluation_document import number, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

VOID = frozenset({"img", "br"})


class Html(str):
    """Text that is HTML already. Any other str is escaped where it is put into an element."""

    __slots__ = ()


def raw(text: str) -> Html:
    """Take text as HTML: only for what this package wrote itself."""
    return Html(text)


def escaped(value: object) -> str:
    """Return HTML as it is, and anything else as text that stands in HTML or an attribute."""
    return str(value) if isinstance(value, Html) else html.escape(plain(value), quote=True)


def element(tag: str, *children: object, **attributes: str) -> Html:
    """Return an element; ``class_`` stands for class. Children that are not `Html` are text."""
    written = "".join(f' {k.rstrip("_")}="{escaped(v)}"' for k, v in attributes.items())
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{''.join(escaped(c) for c in children)}</{tag}>")


def figure_of(value: object, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number as text; a dash for what is missing."""
    found = number(value)
    if math.isnan(found):
        return "–"
    text = f"{found:+.{digits}f}" if signed else f"{found:.{digits}f}"
    return text.replace("-", "\u2212")


def cell(text: object, small: str = "") -> Html:
    """Return a number's cell, with a smaller line below."""
    return element("td", text, *([element("small", small)] if small else []), class_="n")


def words(text: object) -> Html:
    """Return a cell of text."""
    return element("td", text)


def table(
    caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[Html], bool]]
) -> Html:
    """Return a table that may be wider than the page.

    Parameters
    ----------
    caption
        What it shows.
    head
        Of each column, the first that of the rows.
    rows
        Name, cells, and whether the row is marked.
    """
    top = element("tr", *(element("th", name, scope="col") for name in head))
    body = [
        element(
            "tr", element("th", name, scope="row"), *cells, **({"class_": "ours"} if marked else {})
        )
        for name, cells, marked in rows
    ]
    inner = element(
        "table", element("caption", caption), element("thead", top), element("tbody", *body)
    )
    return element("div", inner, class_="wide")


def folded(title: str, *children: object) -> Html:
    """Return what is shown when its title is clicked; no script is needed."""
    return element("details", element("summary", title), *children)
