"""The ledger of outputs: each file as it was last written, whatever else stands in it."""

from __future__ import annotations

import stat

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
