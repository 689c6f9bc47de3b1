"""How the tests ask: by the command, as a person would, and by the function."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO

import pytest


@dataclass(frozen=True)
class Answer:
    """What the command gave back."""

    code: int
    out: str
    err: str


def run_command(*words: object) -> Answer:
    """Run `bleepdb inspect` in this process as the console script does."""
    from bleepdb.cli.main import run

    out, err = StringIO(), StringIO()
    before, code = sys.argv, 0
    sys.argv = ["bleepdb", "inspect", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            run()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.argv = before
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def command():
    """Run `bleepdb inspect PATH ...`."""
    return run_command


@pytest.fixture(scope="session")
def told():
    """Run `bleepdb inspect PATH --json`; return the document, which must hold its schema."""
    from bleepdb.contracts import faults

    def ask(path, *words):
        answer = run_command(path, "--json", *words)
        assert answer.code == 0, answer.err
        document = json.loads(answer.out)
        assert faults("inspection", document) == []
        return document

    return ask


@pytest.fixture(scope="session")
def refused():
    """Run `bleepdb inspect PATH`, which must end with exit code 2 and one clear line."""

    def ask(path):
        answer = run_command(path)
        assert answer.code == 2, (answer.code, answer.out, answer.err)
        assert answer.out == ""
        lines = answer.err.splitlines()
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("error:")
        return lines[0]

    return ask
