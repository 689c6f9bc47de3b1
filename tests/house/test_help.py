"""Every command can be asked for help, and says what each of its options is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bleepdb.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands():
    found = {}
    for name, command in get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {(name, k): c for k, c in inner.items()} if inner else {(name,): command}
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_is_given_and_every_option_is_explained(words):
    answer = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    command = commands()[words]
    assert command.help
    for option in command.params:
        assert option.help, f"{' '.join(words)} {option.name}"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_stands_in_the_readme(words):
    assert f"`bleepdb {' '.join(words)}`" in README


@pytest.mark.parametrize("page", ["README.md", "docs/lab.md"])
def test_pages_name_no_command_or_option_that_is_not_there(page):
    known = commands()
    text = (ROOT / page).read_text()
    lines = re.findall(r"^ {4}(?:\.venv/bin/)?bleepdb +([^#\n]+)", text, re.MULTILINE)
    lines += re.findall(r"`(?:\.venv/bin/)?bleepdb ([a-z][^`]*)`", text)
    assert len(lines) > 10
    for line in lines:
        words = line.split()
        name = (words[0],) if (words[0],) in known else tuple(words[:2])
        assert name in known, line
        options = {o for p in known[name].params for o in p.opts}
        for option in re.findall(r"--[a-z-]+", line):
            assert option in options, line
