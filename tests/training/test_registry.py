"""The registry: recipes that are built in, of a file, and of a package; faults end in one line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import textwrap

import pytest

from bleepdb.encoders import load_model, save_model
from bleepdb.errors import InputError
from bleepdb.training import RECIPES, Recipe, check_recipe, fit, recipe_named

SMALL = {"axes": 8, "components": 4, "low_rank": 2, "k": 10, "alpha": 30.0}
HEAD = """
from __future__ import annotations
from dataclasses import dataclass
from bleepdb.training.recipes import linear
from bleepdb.training.recipes.registry import Recipe

@dataclass(frozen=True)
class Settings:
    alpha: float = 7.0
    name: str = "plain"

def fit(pairs, *, hyper=None, seed=0, progress=None):
    return linear.fit(pairs, hyper={"alpha": 7.0, "axes": 8} | dict(hyper or {}), seed=seed)
"""
WHOLE = HEAD + 'RECIPE = Recipe("stiff", Settings, fit, "linear with a penalty of 7")\n'


def written(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_the_built_in_recipes_say_what_they_are_in_one_line():
    assert next(iter(RECIPES)) == "linear"
    for name, recipe in RECIPES.items():
        assert recipe_named(name) is recipe
        assert recipe.name == name
        assert 10 < len(recipe.about) < 140
        assert "\n" not in recipe.about
        recipe.check(None)


def test_whether_a_recipe_draws_is_true(pairs_of):
    pairs = pairs_of("a", "b")
    for name, recipe in RECIPES.items():
        hyper = {"epochs": 1} if hasattr(recipe.settings(), "epochs") else None
        spaces = {fit(pairs, name, hyper=hyper, seed=seed).space_id for seed in (1, 2)}
        assert len(spaces) == (2 if recipe.draws else 1), name


def test_an_unknown_recipe_is_refused_with_those_that_are(pairs_of):
    with pytest.raises(InputError, match=r"no recipe 'cubic'; choose one of linear, .*, or name"):
        fit(pairs_of("a"), "cubic")


def test_a_recipe_of_ones_own_is_one_file(pairs_of, tmp_path):
    path = written(tmp_path, WHOLE)
    pairs = pairs_of("a", "b")
    check_recipe(str(path), {"alpha": 5.0})
    model = fit(pairs, str(path), seed=3)
    assert model.space_id == fit(pairs, "linear", hyper={"alpha": 7.0, "axes": 8}).space_id
    assert model.recipe == "stiff"
    mark = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.training["recipe_source"] == f"mine.py (sha256 {mark})"
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model", check_here=False)
    assert (again.recipe, again.training) == ("stiff", model.training)
    with pytest.raises(InputError, match="the recipe stiff has no hyperparameter 'beta'; it has"):
        check_recipe(str(path), {"beta": 5.0})
    with pytest.raises(InputError, match="name of the recipe stiff is str, not 5"):
        check_recipe(str(path), {"name": 5})


def test_a_file_that_was_changed_is_run_again(tmp_path):
    path = written(tmp_path, WHOLE)
    assert recipe_named(str(path)).settings is recipe_named(str(path)).settings
    assert recipe_named(str(path)).name == "stiff"
    written(tmp_path, WHOLE.replace('"stiff"', '"stiffer"'))
    assert recipe_named(str(path)).name == "stiffer"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def broken(:\n", r"cannot be run \(SyntaxError: .*line 1\)"),
        ("x = 1\nx / 0\n", r"cannot be run \(ZeroDivisionError: division by zero, line 2\)"),
        ("import no_such_package\n", r"cannot be run \(ModuleNotFoundError: .*line 1\)"),
        ("raise SystemExit('bye\\nbye')\n", r"cannot be run \(SystemExit: bye bye, line 1\)"),
        ("\x00\x01", r"cannot be run \((SyntaxError|ValueError): .*null bytes"),
        ("", "has no RECIPE; define RECIPE = Recipe"),
        ("RECIPE = 'linear'\n", "has a RECIPE that is no Recipe"),
        (HEAD + "RECIPE = Recipe('stiff', Settings, fit)\n", "TypeError: .*'about', line 14"),
        (HEAD + "RECIPE = Recipe('linear', Settings, fit, 'x')\n", "'linear', which is built in"),
        (HEAD + "RECIPE = Recipe('two words', Settings, fit, 'x')\n", "no one-word name"),
        (HEAD + "RECIPE = Recipe('../up', Settings, fit, 'x')\n", "no one-word name"),
        (HEAD + "RECIPE = Recipe(5, Settings, fit, 'x')\n", "no one-word name, but 5"),
        (HEAD + "RECIPE = Recipe('stiff', Settings, fit, ' ')\n", "nothing about itself"),
        (HEAD + "RECIPE = Recipe('stiff', Settings, fit, 'a\\nb')\n", "nothing about itself"),
        (HEAD + "RECIPE = Recipe('stiff', dict, fit, 'x')\n", "settings that are no dataclass"),
        (HEAD + "RECIPE = Recipe('stiff', Settings(), fit, 'x')\n", "that are no dataclass"),
        (
            HEAD + "@dataclass\nclass S:\n  a: int\nRECIPE = Recipe('stiff', S, fit, 'x')\n",
            "settings without usable defaults .*'a'",
        ),
        (HEAD + "RECIPE = Recipe('stiff', Settings, 5, 'x')\n", "fit that cannot be called"),
        (HEAD + "RECIPE = Recipe('stiff', Settings, len, 'x')\n", "fit that cannot be called"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_whole_recipe_ends_in_one_line(tmp_path, text, told):
    path = written(tmp_path, text)
    before = set(sys.modules)
    with pytest.raises(InputError, match=told) as caught:
        check_recipe(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    if "cannot be run" in told:
        assert not {n for n in set(sys.modules) - before if n.startswith("bleepdb_recipe")}


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.py").mkdir()
    for name in ("missing.py", "folder.py"):
        with pytest.raises(InputError, match=f"{name}: cannot be read .*name a recipe"):
            recipe_named(str(tmp_path / name))


def test_a_fit_that_gives_no_model_is_told_so(pairs_of, tmp_path):
    path = written(tmp_path, WHOLE + "\nRECIPE = Recipe('odd', Settings, lambda p, **k: 5, 'x')\n")
    with pytest.raises(InputError, match=r"mine.py .*the recipe odd gives int, not a Model"):
        fit(pairs_of("a"), str(path))


class Offered:
    """A package as importlib.metadata tells of it."""

    def __init__(self, *points):
        self.points = points

    def __call__(self, *, group):
        return importlib.metadata.EntryPoints(p for p in self.points if p.group == group)


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Install a package with a recipe, and entry points into it."""
    written(tmp_path, WHOLE, "lab_recipes.py")
    monkeypatch.syspath_prepend(tmp_path)

    def install(**points):
        made = [importlib.metadata.EntryPoint(n, v, "bleepdb.recipes") for n, v in points.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", Offered(*made))

    yield install
    sys.modules.pop("lab_recipes", None)


def test_a_package_offers_a_recipe_by_an_entry_point(offer, pairs_of):
    offer(stiff="lab_recipes:RECIPE", other="nowhere:RECIPE")
    model = fit(pairs_of("a", "b"), "stiff")
    assert model.recipe == "stiff"
    assert "lab_recipes:RECIPE" in model.training["recipe_source"]
    with pytest.raises(InputError, match=r"choose one of linear, .*bleep.*, other, stiff, or name"):
        recipe_named("cubic")


def test_what_a_package_offers_is_checked_like_a_file(offer):
    offer(stiff="lab_recipes:fit", gone="lab_recipes:NOTHING", away="no_such_module:RECIPE")
    with pytest.raises(InputError, match=r"lab_recipes:fit: has a RECIPE that is no Recipe"):
        recipe_named("stiff")
    with pytest.raises(InputError, match=r"recipe gone cannot be loaded .AttributeError"):
        recipe_named("gone")
    with pytest.raises(InputError, match=r"recipe away cannot be loaded .ModuleNotFoundError"):
        recipe_named("away")


def test_two_packages_with_one_name_are_refused(monkeypatch):
    points = [
        importlib.metadata.EntryPoint("twice", value, "bleepdb.recipes")
        for value in ("one:RECIPE", "two:RECIPE")
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", Offered(*points))
    with pytest.raises(InputError, match="offered by one:RECIPE and two:RECIPE"):
        recipe_named("twice")


def test_a_built_in_name_is_never_taken_from_a_package(offer):
    offer(linear="lab_recipes:RECIPE")
    assert recipe_named("linear").source == "built in"


def test_a_recipe_can_be_made_and_called_without_the_registry(pairs_of):
    recipe = Recipe("own", RECIPES["linear"].settings, RECIPES["linear"].fit, "one's own")
    assert recipe(pairs_of("a", "b"), hyper=SMALL).hyper["alpha"] == 30.0
    with pytest.raises(InputError, match="out of range for the recipe linear: k"):
        recipe(pairs_of("a"), hyper={"k": 0})


def test_a_relative_path_is_found_and_its_fault_has_a_line(tmp_path, monkeypatch):
    written(tmp_path, WHOLE)
    written(tmp_path, "\n\nx = y\n", "wrong.py")
    monkeypatch.chdir(tmp_path)
    assert recipe_named("mine.py").name == "stiff"
    with pytest.raises(InputError, match=r"wrong.py: cannot be run \(NameError: .*line 3\)"):
        recipe_named("wrong.py")
