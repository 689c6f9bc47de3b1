"""A face of its own for each file, emptied before each test; it takes orders to misbehave."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from bleepdb.atlas import Connection, ServerAtlas

REAL = os.environ.get("QDRANT_URL")


def _load(path, name):
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        found.loader.exec_module(module)
    return sys.modules[name]


HERE = Path(__file__)
LAB = _load(HERE.parents[1] / "atlas" / "lab.py", "bleepdb_tests_atlas_lab")
RUNNING = _load(HERE.with_name("running.py"), "bleepdb_tests_wire_running")


@pytest.fixture(scope="session")
def lab():
    return LAB


@pytest.fixture(scope="session")
def running():
    return RUNNING


@pytest.fixture(scope="module")
def _face():
    document = RUNNING.openapi_document()
    judged = [] if document is None else ["--openapi", str(document)]
    with RUNNING.Face(None, *judged) as made:
        yield made


@pytest.fixture
def face(_face):
    if REAL is not None:
        pytest.skip("needs a face that misbehaves on order; QDRANT_URL names a real server")
    _face.reset()
    yield _face
    if _face.process.poll() is None:
        violations = _face.state()["violations"]
        assert not violations, violations[:5]
    else:
        _face.start()


@pytest.fixture
def open_server(face):
    """Open the face as an atlas: `open_server(api_key=..., deadline_s=...)`."""
    opened = []

    def make(**settings):
        given = {"deadline_s": 20.0, "timeout_s": 5.0, **settings}
        made = ServerAtlas(face.url, Connection(**given))
        opened.append(made)
        return made

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def server(open_server):
    return open_server()


@pytest.fixture
def prepared(server, lab):
    """A collection with nothing live."""
    lab.prepare(server)
    return server
