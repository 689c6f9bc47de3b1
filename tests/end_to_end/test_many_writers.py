"""Several `bleepdb index` at once: into one server, into one folder, and who must wait is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bleepdb.atlas import open_atlas

CONSOLE = Path(sys.executable).parent / "bleepdb"
HEAD = "section,donor,tissue,species,expression,image,mpp\n"


@pytest.fixture(scope="module")
def sheets(sections, tmp_path_factory):
    """One sheet a section."""
    folder = tmp_path_factory.mktemp("sheets")
    made = []
    for donor in ("donor-a", "donor-b", "donor-c"):
        source = sections.parent / f"{donor}-1"
        made.append(folder / f"{donor}.csv")
        made[-1].write_text(f"{HEAD}{donor},{donor},breast,human,{source}.h5ad,{source}.jpg,1.6\n")
    return made


def start(sheet, lab, location, *more):
    words = [CONSOLE, "index", sheet, "--model", lab.model, "--atlas", location, "--json", *more]
    return subprocess.Popen(
        [str(w) for w in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def index_all(sheets, lab, location, *more):
    writers = [start(sheet, lab, location, *more) for sheet in sheets]
    for writer in writers:
        out, errors = writer.communicate()
        assert writer.returncode == 0, errors
        assert [e["status"] for e in json.loads(out)] == ["added"]


def check(cli, location):
    (listed,) = json.loads(cli("atlas", "list", "--atlas", location, "--json").out)
    assert [s["section"] for s in listed["live"]] == ["donor-a", "donor-b", "donor-c"]
    answer = cli("atlas", "verify", "--atlas", location)
    assert answer.code == 0, answer.out + answer.err
    with open_atlas(location) as atlas:
        manifest = atlas.read_manifest(listed["collection"])
        assert atlas.count(listed["collection"]) == manifest.spots
        assert (manifest.staging, manifest.condemned) == ((), ())


def test_three_processes_fill_one_server(lab, sheets, tmp_path, cli, running):
    with running.Face(tmp_path / "face") as face:
        index_all(sheets, lab, face.url)
        check(cli, face.url)


def test_three_processes_fill_one_folder_in_turn(lab, sheets, tmp_path, cli):
    index_all(sheets, lab, tmp_path / "atlas", "--lock-timeout", 240)
    check(cli, tmp_path / "atlas")


def test_who_must_wait_is_told_for_whom(lab, sheets, tmp_path):
    with open_atlas(tmp_path / "atlas", create=True):
        late = start(sheets[0], lab, tmp_path / "atlas", "--lock-timeout", 0.2)
        _, errors = late.communicate()
    assert late.returncode == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert f"is in use by process {os.getpid()}" in line
    assert "--lock-timeout" in line
    assert "Traceback" not in errors
