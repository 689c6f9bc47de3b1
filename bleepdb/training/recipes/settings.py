"""Hyperparameters as people give them, checked before anything is fitted."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bleepdb.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

Settings = TypeVar("Settings")
MAX_CONTEXT: Final = 10.0  # as the schema of the model card
MAX_DEPTH_POWER: Final = 2.0  # the same


def settings_from(kind: type[Settings], hyper: Mapping[str, Any] | None, recipe: str) -> Settings:
    """Return the settings of a recipe with some of them given.

    Parameters
    ----------
    kind
        The recipe's dataclass of settings, all of them with a default.
    hyper
        Those that differ from their default; lists stand for tuples, as in JSON.
    recipe
        Its name, for messages.

    Raises
    ------
    InputError
        If a name is unknown, or a value has another type or lies out of range.
    """
    types = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type] # a dataclass
    given = dict(hyper or {})
    for name, value in given.items():
        if name not in types:
            raise InputError(
                f"the recipe {recipe} has no hyperparameter {name!r}",
                hint=f"it has {', '.join(sorted(types))}",
            )
        if not _is(value, types[name]):
            raise InputError(
                f"{name} of the recipe {recipe} is {types[name]}, not {value!r}",
                hint="see the defaults in the card of a trained model",
            )
        if isinstance(value, list):
            given[name] = tuple(value)
    return kind(**given)


def as_json(settings: DataclassInstance) -> dict[str, Any]:
    """Return settings as the card keeps them: tuples as lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def _is(value: object, declared: str) -> bool:
    """Tell whether a value is of a declared type: numbers, bools, text, tuples of numbers, None."""
    if value is None:
        return declared.endswith("None")
    of = declared.removesuffix(" | None")
    if of.startswith("tuple"):
        right = not of.endswith("...]") and of.count("float")
        numbers = isinstance(value, (list, tuple)) and all(_is(v, "float") for v in value)
        return numbers and (not right or len(value) == right)  # type: ignore[arg-type] # a sequence
    if of == "str":
        return isinstance(value, str)
    if of == "bool" or isinstance(value, bool):
        return of == "bool" and isinstance(value, bool)
    if of == "int":
        return isinstance(value, int)
    return isinstance(value, (int, float)) and math.isfinite(value)


def require(*, where: str, **holds: bool) -> None:
    """Refuse settings out of range.

    Parameters
    ----------
    where
        The recipe.
    **holds
        For each setting, whether its value can be used.

    Raises
    ------
    InputError
        That names those that cannot.
    """
    wrong = [name for name, fine in holds.items() if not fine]
    if wrong:
        raise InputError(
            f"out of range for the recipe {where}: {', '.join(wrong)}",
            hint="see the defaults in the card of a trained model",
        )
