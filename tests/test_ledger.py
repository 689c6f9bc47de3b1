"""The ledger of outputs: each file as it was last written, whatever else stands in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bleepdb import ledger
from bleepdb.files import cache_dir


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))


def write(path, *, sections=("S1",), donors=("D1",)):
    ledger.record(path, atlas="a", collection="c", donors=donors, sections=sections)


def test_a_file_written_again_is_listed_once_and_as_it_is_now(tmp_path):
    write(tmp_path / "one.h5ad")
    write(tmp_path / "two.h5ad")
    write(tmp_path / "one.h5ad", sections=("S2", "S3", "S2"))
    found = ledger.outputs()
    assert [(o.path, o.sections) for o in found] == [
        (str(tmp_path / "two.h5ad"), ("S1",)),
        (str(tmp_path / "one.h5ad"), ("S2", "S3")),
    ]


def test_nobody_else_reads_it(tmp_path):
    write(tmp_path / "one.h5ad")
    mode = (cache_dir() / ledger.LEDGER_FILE).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_damaged_lines_are_passed_over_and_said(tmp_path, caplog):
    assert ledger.outputs() == []
    write(tmp_path / "one.h5ad")
    with (cache_dir() / ledger.LEDGER_FILE).open("ab") as file:
        file.write(b'{"path": "cut o\n[]\n\xff\n')
    write(tmp_path / "two.h5ad")
    assert len(ledger.outputs()) == 2
    assert "3 lines cannot be read" in caplog.text


def test_a_path_that_is_no_unicode_is_kept(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.h5ad")
    write(path)
    (found,) = ledger.outputs()
    assert Path(found.path) == path


def test_a_line_cut_off_by_a_full_disk_costs_no_other(tmp_path, monkeypatch, caplog):
    write(tmp_path / "one.h5ad")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: real(handle, data[:20]))
        write(tmp_path / "two.h5ad")
    assert "will not know of" in caplog.text
    write(tmp_path / "three.h5ad")
    assert [Path(o.path).name for o in ledger.outputs()] == ["one.h5ad", "three.h5ad"]


def test_a_cache_folder_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "file" / "cache"))
    assert ledger.outputs() == []
    write(tmp_path / "one.h5ad")
    assert "the list of outputs cannot be read" in caplog.text
    assert "will not know of" in caplog.text
