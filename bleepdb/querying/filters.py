"""Conditions on reference spots: which of them a query may search.

A condition names a filterable field and values: ``stage=II`` searches spots of stage II alone,
``donor!=P3`` leaves a donor's spots out, ``stage=II|III`` allows several values, and conditions
are joined by commas. A value with a comma, ``|`` or blanks at its ends stands in double quotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bleepdb import names
from bleepdb.errors import EmptyAtlasError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bleepdb.atlas import Atlas, Pinned, Where
    from bleepdb.querying.settings import QuerySettings

_VALUE: Final = r'"[^"]*"|[^",|]+'
_CONDITION: Final = re.compile(
    rf"\s*(?P<field>[A-Za-z][A-Za-z0-9_-]*)\s*(?P<sign>!=|=)"
    rf"(?P<values>(?:{_VALUE})(?:\|(?:{_VALUE}))*)\s*(?:,|$)"
)
_SHOWN: Final = 12  # values that an error lists


@dataclass(frozen=True)
class Condition:
    """What one field of a reference spot must be, or must not be.

    Attributes
    ----------
    field
        A field that the collection can filter.
    values
        Text that it may have; any of them matches.
    negated
        Whether spots that match are left out.
    """

    field: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        quoted = (f'"{v}"' if re.search(r"[,|]|^\s|\s$", v) else v for v in self.values)
        return f"{self.field}{'!=' if self.negated else '='}{'|'.join(quoted)}"


def parse_conditions(text: str) -> tuple[Condition, ...]:
    """Read conditions such as ``donor!=P3,stage=II|III``.

    Raises
    ------
    InputError
        It shows where the text stops making sense.
    """
    made: list[Condition] = []
    at = 0
    while at < len(text) or not made:
        found = _CONDITION.match(text, at)
        if found is None:
            raise InputError(
                f"{text!r:.120} is no condition from {text[at:]!r:.40} on",
                hint="write --where field=value, field!=value or field=A|B, joined by commas; "
                'values with commas or | in double quotes: stage="II, b"',
            )
        values = re.findall(_VALUE, found["values"])
        plain = tuple(v[1:-1] if v.startswith('"') else v.strip() for v in values)
        made.append(Condition(found["field"], plain, found["sign"] == "!="))
        at = found.end()
    return tuple(made)


def conditions_of(settings: QuerySettings) -> tuple[Condition, ...]:
    """Return all conditions of a query: its exclusions, and what `where` adds."""
    excluded = (
        Condition(field, values, negated=True)
        for field, values in (
            (names.DONOR, settings.exclude_donors),
            (names.SECTION, settings.exclude_sections),
        )
        if values
    )
    return (*excluded, *settings.where)


def admits(conditions: Iterable[Condition], spot: Mapping[str, str]) -> bool:
    """Tell whether spots with these fields can be searched, as far as the fields tell."""
    return all((spot[c.field] in c.values) != c.negated for c in conditions if c.field in spot)


def where_of(pinned: Pinned, settings: QuerySettings) -> Where:
    """Return the filter of a query's search: live spots that meet its conditions."""
    where = pinned.where
    for condition in conditions_of(settings):
        one = {condition.field: list(condition.values)}
        where = where.also(must_not=one) if condition.negated else where.also(must=one)
    return where


def refuse_unknown(atlas: Atlas, pinned: Pinned, conditions: Iterable[Condition]) -> None:
    """Refuse fields and values that no live spot has.

    A slip in a name must not pass: ``donor!=`` somebody who is not there would let a donor answer
    for himself.

    Raises
    ------
    InputError
        It lists the values that are there.
    AtlasError
        If the field cannot be filtered; it lists those that can.
    """
    for condition in conditions:
        known = atlas.facet(pinned.collection, condition.field, pinned.where)
        unknown = [value for value in condition.values if value not in known]
        if unknown:
            there = ", ".join(list(known)[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
            raise InputError(
                f"no spot with {condition.field} {unknown[0]!r:.80}",
                where=f"{atlas.location}/{pinned.collection}",
                hint=f"there is {there}" if known else "no spot has this field",
            )


def refuse_empty(
    atlas: Atlas, pinned: Pinned, where: Where, conditions: Iterable[Condition]
) -> None:
    """Refuse conditions that leave nothing to search.

    Raises
    ------
    EmptyAtlasError
        It repeats them.
    """
    asked = list(conditions)
    if asked and not atlas.count(pinned.collection, where):
        raise nothing_left(asked, f"{atlas.location}/{pinned.collection}")


def nothing_left(conditions: Iterable[Condition], place: str) -> EmptyAtlasError:
    """Return what is raised where conditions leave no spot of a collection to search."""
    return EmptyAtlasError(
        f"nothing is left to search with {', '.join(map(str, conditions))}",
        where=place,
        hint="ask for less, or index more sections",
    )
