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


KINDS = ["exact", "embedded"]  # a server joins here when there is one


def make(kind, folder):
    return ExactAtlas() if kind == "exact" else EmbeddedAtlas(folder / "atlas", create=True)


@pytest.fixture(params=KINDS)
def atlas(request, tmp_path):
    """Each kind of atlas, new and empty."""
    with make(request.param, tmp_path) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def shared_atlas(request, tmp_path_factory):
    """Each kind of atlas, one for a whole file: for questions that change nothing."""
    with make(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture
def embedded(tmp_path):
    with EmbeddedAtlas(tmp_path / "atlas", create=True) as made:
        yield made


@pytest.fixture
def folder(tmp_path, lab):
    """A closed atlas of two sections."""
    path = tmp_path / "atlas"
    with EmbeddedAtlas(path, create=True) as atlas:
        lab.prepare(atlas)
        lab.publish(atlas, "S1", spots=60, donor="D1")
        lab.publish(atlas, "S2", spots=50, donor="D2")
    return path
