"""Recipes by name: built in, from an installed package, or from a file of one's own.

A lab's own recipe is one file::

    from bleepdb.training.recipes.registry import Recipe

    RECIPE = Recipe("mine", MySettings, fit, "what it does, in one line")

and is run with ``bleepdb train samples.csv --recipe mine.py``. An installed package offers the
same object under an entry point of the group ``bleepdb.recipes``. Only what a person names in a
command or a call is run; a model card names a recipe too, and is never asked for code.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from bleepdb.encoders import Model
from bleepdb.errors import InputError
from bleepdb.files import digest
from bleepdb.training.recipes import average, bleep, kernel, linear
from bleepdb.training.recipes.settings import settings_from

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bleepdb.training.pairs import Pairs

GROUP: Final = "bleepdb.recipes"
OBJECT: Final = "RECIPE"
BUILT_IN: Final = "built in"
_WRITE: Final = f"define {OBJECT} = Recipe(name, settings, fit, about), as bleepdb's own files do"


class FitFunction(Protocol):
    """What fits a model to pairs."""

    def __call__(
        self,
        pairs: Pairs,
        *,
        hyper: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Model:
        """Fit on training pairs; what is not in `hyper` has the recipe's default."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A way from training pairs to a model.

    Parameters
    ----------
    name
        One word, in commands, tables and model cards.
    settings
        A dataclass of hyperparameters, each with a default.
    fit
        Fits a model to pairs.
    about
        One line for tables.
    draws
        Whether the seed matters.
    source
        Where the recipe comes from: built in, a file with its SHA-256, or a package with its
        version. Set when it is found.
    """

    name: str
    settings: type
    fit: FitFunction
    about: str
    draws: bool = False
    source: str = BUILT_IN

    def check(self, hyper: Mapping[str, Any] | None) -> None:
        """Refuse hyperparameters that it does not have or cannot use.

        Raises
        ------
        InputError
            Naming them.
        """
        settings_from(self.settings, hyper, self.name)

    def __call__(
        self,
        pairs: Pairs,
        *,
        hyper: Mapping[str, Any] | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Model:
        """Check hyperparameters, fit, and let the card say which recipe it was.

        Raises
        ------
        InputError
            If a hyperparameter is unknown or out of range, or what was fitted is no model.
        """
        self.check(hyper)
        made: object = self.fit(pairs, hyper=hyper, seed=seed, progress=progress)
        if not isinstance(made, Model):
            raise InputError(
                f"the recipe {self.name} gives {type(made).__name__}, not a Model",
                where=None if self.source == BUILT_IN else self.source,
                hint="return a bleepdb.encoders.Model from its fit",
            )
        if self.source == BUILT_IN:
            return made
        training = dict(made.training) | {"recipe_source": self.source}
        return replace(made, recipe=self.name, training=training)


RECIPES: Final[dict[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            linear.NAME,
            linear.LinearSettings,
            linear.fit,
            "closed-form towers, context, penalty by inner folds, softmax over images, low rank "
            "20, smoothing, readout",
        ),
        Recipe(
            kernel.NAME,
            kernel.KernelSettings,
            kernel.fit,
            "projection trained so that what is retrieved predicts; context, low rank 20, "
            "smoothing, readout",
            draws=True,
        ),
        Recipe(
            average.NAME,
            average.AverageSettings,
            average.fit,
            "linear and kernel in one space, half each; context, low rank 20, smoothing, readout",
            draws=True,
        ),
        Recipe(
            bleep.NAME,
            bleep.BleepSettings,
            bleep.fit,
            "heads of the published method on frozen features, last epoch, mean of 50",
            draws=True,
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """Return a recipe that is built in, offered by an installed package, or defined by a file.

    Parameters
    ----------
    name
        A name, or the path of a ``.py`` file, which is run.

    Raises
    ------
    InputError
        If there is none of that name, or what was found is no recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    if name.endswith(".py"):
        return _from_file(Path(name))
    offered = importlib.metadata.entry_points(group=GROUP)
    found = {point.value: point for point in offered if point.name == name}
    if not found:
        names = sorted({*RECIPES, *(point.name for point in offered)}, key=_built_in_first)
        raise InputError(
            f"no recipe {name!r}", hint=f"choose one of {', '.join(names)}, or name a .py file"
        )
    if len(found) > 1:
        raise InputError(
            f"the recipe {name!r} is offered by {' and '.join(sorted(found))}",
            hint="uninstall one of them",
        )
    return _from_package(next(iter(found.values())))


def _built_in_first(name: str) -> tuple[int, str]:
    known = list(RECIPES)
    return (known.index(name) if name in RECIPES else len(known), name)


def _from_file(path: Path) -> Recipe:
    """Run a file and return its recipe."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=path, hint="name a recipe or its file"
        ) from error
    mark = hashlib.sha256(text).hexdigest()
    module_name = f"bleepdb_recipe_{digest('recipe', str(path.resolve()), mark)[:16]}"
    if module_name not in sys.modules:
        _run(path, module_name)
    found = getattr(sys.modules[module_name], OBJECT, None)
    return replace(_checked(found, path), source=f"{path.name} (sha256 {mark})")


def _run(path: Path, module_name: str) -> None:
    """Run a file as a module, once for as long as it stays as it is."""
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # noqa: S101 - a .py file has a loader
    assert spec.loader is not None  # noqa: S101 - the same
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise InputError(
            f"cannot be run ({_line(error, path)})", where=path, hint="correct the recipe's file"
        ) from error


def _from_package(point: importlib.metadata.EntryPoint) -> Recipe:
    """Return the recipe of an entry point."""
    package = point.value if point.dist is None else f"{point.dist.name} {point.dist.version}"
    try:
        found = point.load()
    except Exception as error:
        raise InputError(
            f"the recipe {point.name} cannot be loaded ({_line(error)})",
            where=package,
            hint="install another version of the package",
        ) from error
    return replace(_checked(found, package), source=f"{package} ({point.value})")


def _line(error: BaseException, path: Path | None = None) -> str:
    """Return an error in one line, with the line of the file that it comes from."""
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if path is None or isinstance(error, SyntaxError):
        return told
    numbers = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path.absolute()):
            numbers.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"{told}, line {numbers[-1]}" if numbers else told


def _checked(found: object, where: Path | str) -> Recipe:
    """Refuse what is no whole recipe, and one that takes a name that is built in."""
    if not isinstance(found, Recipe):
        told = f"has no {OBJECT}" if found is None else f"has a {OBJECT} that is no Recipe"
        raise InputError(told, where=where, hint=_WRITE)
    fault = _fault(found)
    if fault is not None:
        raise InputError(f"{OBJECT} {fault}", where=where, hint=_WRITE)
    return found


def _fault(recipe: Recipe) -> str | None:
    """Tell what is wrong with a recipe, or None."""
    name: object = recipe.name  # a dataclass does not check what it is given
    about: object = recipe.about
    settings: object = recipe.settings
    if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
        return f"has no one-word name, but {name!r}"
    if name in RECIPES:
        return f"takes the name {name!r}, which is built in"
    if not isinstance(about, str) or not about.strip() or "\n" in about:
        return "says nothing about itself in one line"
    if not isinstance(settings, type) or not is_dataclass(settings):
        return "has settings that are no dataclass"
    try:
        settings()
    except Exception as error:  # noqa: BLE001 - the class is anyone's
        return f"has settings without usable defaults ({_line(error)})"
    if any(not f.init for f in fields(settings)):
        return "has settings that cannot be given"
    try:
        inspect.signature(recipe.fit).bind(None, hyper=None, seed=0, progress=None)
    except (TypeError, ValueError) as error:
        return f"has a fit that cannot be called as fit(pairs, hyper, seed, progress) ({error})"
    return None
