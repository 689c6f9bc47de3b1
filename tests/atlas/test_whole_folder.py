"""Folders that appear whole: what a killed writer left goes, what another is writing stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bleepdb.atlas.whole_folder import new_folder
from bleepdb.errors import AtlasError

WRITER = """
import sys
from pathlib import Path
from bleepdb.atlas.whole_folder import new_folder
with new_folder(Path(sys.argv[1])) as part:
    (part / "spots").write_text("of somebody")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def writer(path):
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "writing\n"
    return child


def test_it_takes_its_name_whole_and_holds_nothing_else(tmp_path):
    with new_folder(tmp_path / "made") as part:
        (part / "spots").write_text("x")
        assert not (tmp_path / "made").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["spots"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(AtlasError), new_folder(tmp_path / "made") as part:
        (part / "spots" / "x").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_goes_with_the_next_one(tmp_path):
    child = writer(tmp_path / "made")
    child.kill()
    child.communicate()
    (left,) = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert (left / "spots").is_file()
    with new_folder(tmp_path / "other"):
        pass
    assert left.exists(), "it is of another name"
    with new_folder(tmp_path / "made"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "other"]


def test_what_another_is_writing_is_left_alone(tmp_path):
    child = writer(tmp_path / "made")
    (busy,) = [p for p in tmp_path.iterdir() if p.is_dir()]
    with new_folder(tmp_path / "made"):
        assert (busy / "spots").is_file()
    assert (busy / "spots").is_file()
    child.kill()
    child.communicate()
