"""The made-up sections, and the kinds of atlas that every question is put to.

The `server` kind is a real server where QDRANT_URL names one, else the wire face of `tests/wire`.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from pathlib import Path

import pytest

from bleepdb.atlas import Connection, EmbeddedAtlas, ExactAtlas, ServerAtlas


def _load(path, name):
    found = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


LAB = _load(Path(__file__).with_name("lab.py"), "bleepdb_tests_atlas_lab")
RUNNING = _load(Path(__file__).parents[1] / "wire" / "running.py", "bleepdb_tests_wire_running")


@pytest.fixture(scope="session")
def lab():
    return LAB


@pytest.fixture(scope="session")
def running():
    """How a wire face is started."""
    return RUNNING


KINDS = ["exact", "embedded", pytest.param("server", marks=pytest.mark.wire)]
REAL = os.environ.get("QDRANT_URL")
STORES = itertools.count()
QUICK = {"deadline_s": 20.0, "timeout_s": 10.0}


class Servers:
    """Where tests find a server that is theirs alone: the face gives each a store of its own."""

    def __init__(self):
        self._face = None
        self.emptied = False  # a real server, since the last look

    @property
    def face(self):
        if self._face is None:
            document = RUNNING.openapi_document()
            judged = [] if document is None else ["--openapi", str(document)]
            self._face = RUNNING.Face(None, *judged)
        return self._face

    def open(self):
        if REAL is None:
            return ServerAtlas(f"{self.face.url}/t{next(STORES)}", Connection(**QUICK))
        made = ServerAtlas(REAL)
        empty(made)
        self.emptied = True
        return made

    def check(self):
        """Require that every exchange so far was as the OpenAPI document says."""
        if self._face is not None:
            violations = self._face.state()["violations"]
            assert not violations, violations[:5]

    def stop(self):
        if self._face is not None:
            self._face.__exit__()


MADE = (LAB.COLLECTION, "bleepdb_breast_other", "bleepdb_lung_x")


def empty(atlas):
    """Drop what tests made; a server that holds anything else is not for tests."""
    others = set(atlas.collections()) - set(MADE)
    if others:
        pytest.exit(f"QDRANT_URL names a server that holds {sorted(others)}; give an empty one", 2)
    for name in MADE:
        atlas.drop(name)


@pytest.fixture(scope="session")
def servers():
    made = Servers()
    yield made
    made.stop()


def make(kind, folder, request):
    if kind == "server":
        return request.getfixturevalue("servers").open()
    return ExactAtlas() if kind == "exact" else EmbeddedAtlas(folder / "atlas", create=True)


@pytest.fixture(params=KINDS)
def atlas(request, tmp_path):
    """Each kind of atlas, new and empty."""
    with make(request.param, tmp_path, request) as made:
        yield made
    if request.param == "server":
        servers = request.getfixturevalue("servers")
        servers.check()
        if REAL is not None:
            servers.open().close()  # which empties it


@pytest.fixture(scope="module", params=KINDS)
def shared_atlas(request, tmp_path_factory):
    """Each kind of atlas, one for a whole file: for questions that change nothing."""
    with make(request.param, tmp_path_factory.mktemp(request.param), request) as made:
        yield made
    if request.param == "server":
        request.getfixturevalue("servers").check()


@pytest.fixture(autouse=True)
def _still_filled(request):
    """A real server is shared with tests that empty it: fill it again for those that only ask."""
    given = getattr(getattr(request.node, "callspec", None), "params", {})
    if REAL is None or given.get("shared_atlas") != "server" or given.get("asked") == "snapshot":
        return
    asked, servers = request.getfixturevalue("asked"), request.getfixturevalue("servers")
    if servers.emptied:
        request.module.fill(asked, LAB)
        servers.emptied = False


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
