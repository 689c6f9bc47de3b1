"""A small lab: made sections of three donors, a model of two, an atlas, one imputed slide.

Everything goes through the command line, in this process, as a person would type it.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

TRAINING = ("donor-a", "donor-b")
HELD_OUT = "donor-c"
SMALL = ("--tile-px", 64)  # the made slides are coarse, and small tiles are encoded quickly


@dataclass(frozen=True)
class Answer:
    """What a command gave back."""

    code: int
    out: str
    err: str


def bleepdb(*words: object) -> Answer:
    """Run a command as the console script does."""
    from bleepdb.cli.main import run

    out, err = StringIO(), StringIO()
    before = sys.argv
    sys.argv = ["bleepdb", *map(str, words)]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            # The consoles of rich look up sys.stdout and sys.stderr whenever they write.
            run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = before
    return Answer(code, out.getvalue(), err.getvalue())


def refused(answer: Answer) -> str:
    """Require exit code 2 and exactly one error line; return it."""
    assert answer.code == 2, (answer.code, answer.out, answer.err)
    assert "Traceback" not in answer.err
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, answer.err
    return lines[0]


@dataclass(frozen=True)
class Lab:
    """Where things are."""

    folder: Path
    sheet: Path
    model: Path
    atlas: Path
    slide: Path
    spots: Path
    imputed: Path


@pytest.fixture(scope="session")
def cli():
    """Run a command as the console script does: `cli("query", ...)`."""
    return bleepdb


@pytest.fixture(scope="session")
def sections(tmp_path_factory) -> Path:
    """The sample sheet of made sections, three donors."""
    from bleepdb.simulation import SimulationSettings, simulate, write

    folder = tmp_path_factory.mktemp("sections")
    return write(simulate(SimulationSettings.tiny(), seed=1), folder)


@pytest.fixture(scope="session")
def lab(sections, tmp_path_factory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    model, atlas, imputed = folder / "model", folder / "atlas", folder / "imputed.h5ad"
    for words in (
        ("train", sections, "--out", model, "--exclude-donor", HELD_OUT, *SMALL),
        ("index", sections, "--model", model, "--atlas", atlas, "--exclude-donor", HELD_OUT,
         "--field", "stain"),
        ("query", sections.parent / f"{HELD_OUT}-1.jpg", "--atlas", atlas, "--tissue", "breast",
         "--slide-mpp", SLIDE_MPP, "--spots", sections.parent / f"{HELD_OUT}-1.h5ad",
         "--genes", "all", "--neighbour-sd", "--out", imputed),
    ):  # fmt: skip
        answer = bleepdb(*words)
        assert answer.code == 0, answer.err
    return Lab(
        folder,
        sections,
        model,
        atlas,
        sections.parent / f"{HELD_OUT}-1.jpg",
        sections.parent / f"{HELD_OUT}-1.h5ad",
        imputed,
    )


SLIDE_MPP = 1.6


@pytest.fixture(scope="session")
def running():
    """How a wire face is started (`tests/wire`)."""
    path = Path(__file__).parents[1] / "wire" / "running.py"
    found = importlib.util.spec_from_file_location("bleepdb_tests_wire_running", path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module
