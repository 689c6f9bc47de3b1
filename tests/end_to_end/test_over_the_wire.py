"""The commands against a server (the wire face of tests/wire): what a lab does, and every fault."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest

KEY, READ_ONLY_KEY = "full-key-0f5b", "read-only-key-77a1"
SLIDE_MPP = 1.6  # as in conftest.py
WRITE = "PUT /collections/[^/]+/points"
ANY_WRITE = "(PUT|DELETE) .*|POST .*/delete"

pytestmark = [
    pytest.mark.wire,
    pytest.mark.skipif("QDRANT_URL" in os.environ, reason="needs the face's switches"),
]


def _running():
    path = Path(__file__).parents[1] / "wire" / "running.py"
    name = "bleepdb_tests_wire_running"
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="module")
def _face():
    document = _running().openapi_document()
    judged = [] if document is None else ["--openapi", str(document)]
    keys = ["--key", KEY, "--read-only-key", READ_ONLY_KEY]
    with _running().Face(None, *keys, *judged) as made:
        yield made


@pytest.fixture
def face(_face, monkeypatch):
    """An empty server with two keys; the environment holds the full one."""
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    _face.reset()
    yield _face
    if _face.process.poll() is None:
        assert _face.state()["violations"] == []
    else:
        _face.start()


def refused(answer) -> str:
    """Require exit code 2, exactly one error line, no traceback, no key; return the line."""
    assert answer.code == 2, (answer.code, answer.out, answer.err)
    assert "Traceback" not in answer.err + answer.out
    for key in (KEY, READ_ONLY_KEY, "wrong-key-1234"):
        assert key not in answer.err + answer.out
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, answer.err
    return lines[0]


@dataclass(frozen=True)
class Words:
    """Command lines of this lab."""

    lab: object

    def index(self, url, *more, donor="donor-a"):
        others = [d for d in ("donor-a", "donor-b", "donor-c") if d != donor]
        left_out = [w for d in others for w in ("--exclude-donor", d)]
        model = ("--model", self.lab.model)
        return ("index", self.lab.sheet, *model, "--atlas", url, *left_out, *more)

    def query(self, url, out, *more):
        return (
            "query", self.lab.slide, "--atlas", url, "--tissue", "breast", "--spots",
            self.lab.spots, "--slide-mpp", SLIDE_MPP, "--genes", "all", "--out", out, *more,
        )  # fmt: skip


@pytest.fixture
def words(lab):
    return Words(lab)


def test_what_a_lab_does(face, cli, lab, words, tmp_path, monkeypatch):
    both = ("--exclude-donor", "donor-c", "--field", "stain")
    model = ("--model", lab.model)
    answer = cli("index", lab.sheet, *model, "--atlas", face.url, *both)
    assert answer.code == 0, answer.err
    again = cli("index", lab.sheet, *model, "--atlas", face.url, *both, "--json")
    assert set(re.findall(r'"status": "(\w+)"', again.out)) == {"unchanged"}

    # A colleague has the URL and a read-only key, in a file, and nothing else.
    key = tmp_path / "key.txt"
    key.write_text(READ_ONLY_KEY + "\n")
    monkeypatch.delenv("QDRANT_API_KEY")
    out = tmp_path / "imputed.h5ad"
    answer = cli(*words.query(face.url, out, "--neighbour-sd", "--api-key", key))
    assert answer.code == 0, answer.err
    here, there = anndata.read_h5ad(out), anndata.read_h5ad(lab.imputed)
    np.testing.assert_array_equal(here.X, there.X)
    for name in ("bleepdb_neighbors", "bleepdb_weights"):
        np.testing.assert_array_equal(here.obsm[name], there.obsm[name])
    assert face.url in str(here.uns["bleepdb"])
    assert READ_ONLY_KEY not in str(here.uns)
    assert str(out.read_bytes()).count(READ_ONLY_KEY) == 0

    # The file names the server; the key is read from a variable.
    monkeypatch.setenv("LAB_KEY", READ_ONLY_KEY)
    place = ("--tile", here.obs_names[0], "--gene", here.var_names[0])
    answer = cli("explain", out, *place, "--api-key", "env:LAB_KEY", "--json")
    assert answer.code == 0, answer.err
    monkeypatch.setenv("QDRANT_API_KEY", READ_ONLY_KEY)
    assert cli("explain", out, *place, "--json").out == answer.out
    answer = cli("atlas", "list", "--atlas", face.url)
    assert answer.code == 0, answer.err
    assert "bleepdb_breast" in answer.out


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_down_at_the_start(face, cli, words, tmp_path, monkeypatch):
    monkeypatch.setenv("BLEEPDB_TIMEOUT", "1")
    for command in (
        words.index(closed_port()),
        words.query(closed_port(), tmp_path / "x.h5ad"),
        ("atlas", "list", "--atlas", closed_port()),
    ):
        assert "cannot be reached" in refused(cli(*command))
    assert not (tmp_path / "x.h5ad").exists()


FAULTS = {
    "slow": ({"kind": "slow", "seconds": 3}, ("--timeout", 1), "no answer in time"),
    "busy": ({"kind": "status", "code": 429, "retry_after": "3600"}, (), "wait 3600 s"),
    "broken": ({"kind": "status", "code": 500, "says": "disk"}, (), "answered 500.*disk"),
    "cut off": ({"kind": "cut"}, ("--timeout", 1), "the connection broke"),
    "no answer": ({"kind": "drop"}, ("--timeout", 1), "the connection broke"),
}


@pytest.mark.parametrize(
    ("fault", "after"), [*((f, n) for f in FAULTS for n in (0, 4)), ("no answer", 15)]
)
def test_faults_while_indexing_and_a_rerun_completes(face, cli, words, fault, after):
    wish, more, says = FAULTS[fault]
    face.set(faults=[{"on": ANY_WRITE, "after": after, "times": 999, **wish}])
    line = refused(cli(*words.index(face.url, *more)))
    assert re.search(says, line), line
    assert face.url in line
    face.set(faults=[])
    completes(face, cli, words)


def completes(face, cli, words):
    """Require that a rerun ends well, with every spot of the section, once."""
    from bleepdb.atlas import Connection, open_atlas

    answer = cli(*words.index(face.url))
    assert answer.code == 0, answer.err
    with open_atlas(face.url, connection=Connection(api_key=KEY)) as atlas:
        (name,) = atlas.collections()
        manifest = atlas.read_manifest(name)
        assert [s.donor for s in manifest.live] == ["donor-a"] * len(manifest.live)
        assert manifest.live
        assert atlas.facet(name, "rev") == {s.revision: s.spots for s in manifest.live}
        assert sum(e.what.startswith("added") for e in manifest.log) == len(manifest.live)


def test_killed_in_the_middle_and_a_rerun_completes(face, cli, words):
    face.set(faults=[{"kind": "slow", "seconds": 0.3, "on": ANY_WRITE, "times": 999}])

    def kill():
        while sum(n for what, n in face.state()["asked"].items() if "PUT" in what) < 6:
            time.sleep(0.05)
        face.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    line = refused(cli(*words.index(face.url, "--timeout", 1)))
    killer.join()
    assert "cannot be reached" in line
    face.start()
    completes(face, cli, words)


def test_wrong_key(face, cli, words, tmp_path, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "wrong-key-1234")
    for command in (
        words.index(face.url),
        words.query(face.url, tmp_path / "x.h5ad"),
        ("atlas", "list", "--atlas", face.url),
    ):
        assert "refuses the API key" in refused(cli(*command))
    monkeypatch.delenv("QDRANT_API_KEY")
    assert "wants an API key" in refused(cli(*words.index(face.url)))
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    completes(face, cli, words)


def test_a_read_only_key_on_a_write(face, cli, words, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", READ_ONLY_KEY)
    assert "may not create a collection" in refused(cli(*words.index(face.url)))
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    completes(face, cli, words)
    monkeypatch.setenv("QDRANT_API_KEY", READ_ONLY_KEY)
    # Where the collection is there, it is refused before a tile is encoded.
    monkeypatch.setattr("bleepdb.indexing.extract", None)
    line = refused(cli(*words.index(face.url, donor="donor-b")))
    assert "the API key may not" in line
    assert "use one that may write" in line


def test_too_old(face, cli, words):
    face.set(version="1.15.4")
    line = refused(cli(*words.index(face.url)))
    assert "1.15.4, too old" in line
    assert "1.16" in line
    face.set(version="1.19.0")
    completes(face, cli, words)


def the_collection(lab):
    from bleepdb.encoders import load_model
    from bleepdb.names import alias_name, collection_name

    return collection_name("breast", load_model(lab.model).space_id), alias_name("breast")


def test_a_wrong_dimension(face, cli, lab, words):
    from bleepdb.atlas import CollectionSpec, Connection, open_atlas

    name, alias = the_collection(lab)
    with open_atlas(face.url, connection=Connection(api_key=KEY)) as atlas:
        atlas.ensure(CollectionSpec(name, alias, {"image": 3, "expression": 3}, ("rev",)))
        line = refused(cli(*words.index(face.url)))
        assert re.search("the collection has vectors .*3.* not", line), line
        assert "index with the model that made it" in line
        atlas.drop(name)
    completes(face, cli, words)


def test_the_space_of_another_model(face, cli, lab, words, sections, tmp_path):
    completes(face, cli, words)
    other = tmp_path / "other"
    trained = cli("train", sections, "--out", other, "--exclude-donor", "donor-a", "--tile-px", 64)
    assert trained.code == 0, trained.err
    out = tmp_path / "x.h5ad"
    line = refused(cli(*words.query(face.url, out, "--model", other)))
    assert "space" in line
    assert not out.exists()
    answer = cli(*words.query(face.url, out))
    assert answer.code == 0, answer.err


def test_no_key_where_none_belongs(face, cli, words, tmp_path, monkeypatch):
    line = refused(cli(*words.index(face.url, "--api-key", KEY)))
    assert "a key itself is not given here" in line
    line = refused(cli(*words.index(face.url, "--api-key", "env:NO_SUCH_NAME")))
    assert "NO_SUCH_NAME" in line
    line = refused(cli(*words.index(face.url.replace("://", f"://me:{KEY}@"))))
    assert "user information" in line
    assert "in the clear" in refused(cli(*words.index("http://192.0.2.1:6333")))
    assert face.state()["asked"] == {}


def test_a_file_of_a_stranger_gets_no_key(face, cli, lab, monkeypatch, tmp_path):
    import h5py

    copy = tmp_path / "strange.h5ad"
    copy.write_bytes(lab.imputed.read_bytes())
    with h5py.File(copy, "r+") as file:
        card = file["uns/bleepdb/run_card"]
        text = card[()].decode()
        assert str(lab.atlas) in text
        card[()] = text.replace(str(lab.atlas), "https://collector.invalid:6333")
    place = ("--tile", anndata.read_h5ad(lab.imputed).obs_names[0])
    gene = ("--gene", anndata.read_h5ad(lab.imputed).var_names[0])
    answer = cli("explain", copy, *place, *gene, "--timeout", 1)
    assert answer.code == 2
    assert KEY not in answer.err
    assert "QDRANT_API_KEY is not sent to https://collector.invalid:6333" in answer.err
