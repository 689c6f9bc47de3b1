"""Settings of the process: before torch, and never over what a person has set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SHOWN = """
import os, sys
{before}
from bleepdb.encoders.runtime import tune_process
applied = tune_process()
assert "torch" not in sys.modules or {torch}
print(len(applied), os.environ.get("OMP_WAIT_POLICY"))
print(any("malloc" in a for a in applied))
"""


def shown(before="", *, torch=False, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in {"OMP_WAIT_POLICY", "GLIBC_TUNABLES"}}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN.format(before=before, torch=torch)],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_they_are_applied_where_nothing_is_set():
    applied, omp, malloc = shown()
    assert omp == "passive"
    assert int(applied) == 1 + (malloc == "True")
    assert malloc == str(platform.libc_ver()[0] == "glibc")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_a_person_has_set_stands():
    assert shown(OMP_WAIT_POLICY="active")[1] == "active"
    assert shown(MALLOC_TRIM_THRESHOLD_="4096")[2] == "False"
    assert shown(GLIBC_TUNABLES="glibc.malloc.arena_max=2")[2] == "False"
    assert shown(BLEEPDB_KEEP_ENVIRONMENT="1") == ["0", "None", "False"]


def test_nothing_happens_once_torch_is_there():
    fake = "import types; sys.modules['torch'] = types.ModuleType('torch')"
    assert shown(fake, torch=True) == ["0", "None", "False"]
