"""Examples run, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bleepdb.errors import SheetError
from bleepdb.tissue import read_sheet

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_whole_path_from_python(tmp_path):
    script = [sys.executable, str(EXAMPLES / "whole_path.py"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "donor-a-1: added" in done.stdout
    assert "ERBB2 = " in done.stdout
    assert (tmp_path / "imputed.h5ad").is_file()


def test_the_example_sheet_lacks_nothing_but_its_files():
    with pytest.raises(SheetError) as caught:
        read_sheet(EXAMPLES / "samples.csv")
    assert len(caught.value.faults) == 6
    assert all("does not exist" in fault for fault in caught.value.faults)
