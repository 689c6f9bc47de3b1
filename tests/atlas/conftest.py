"""The made-up sections, and the two kinds of atlas that every question is put to."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from bleepdb.atlas import EmbeddedAtlas, ExactAtlas


def _lab():
    path = Path(__file__).with_name("lab.py")
    found = importlib.util.spec_from_file_location("bleepdb_tests_atlas_lab", path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


LAB = _lab()


@pytest.fixture(scope="session")
def lab():
    return LAB


@pytest.fixture(params=["exact", "embedded"])
def atlas(request, tmp_path):
    """Each kind of atlas, new and empty. A server joins here when there is one."""
    made = ExactAtlas() if request.param == "exact" else EmbeddedAtlas(tmp_path / "a", create=True)
    with made:
        yield made


@pytest.fixture
def embedded(tmp_path):
    with EmbeddedAtlas(tmp_path / "atlas", create=True) as made:
        yield made
