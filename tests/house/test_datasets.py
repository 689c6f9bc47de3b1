"""Public sections: taken where they lie, fetched where they do not, refused where they differ."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading

import pytest

from bleepdb import datasets
from bleepdb.errors import InputError


@pytest.fixture
def nothing_near(monkeypatch, tmp_path):
    """No material in reach, and an empty cache."""
    monkeypatch.delenv("BLEEPDB_TEST_DATA", raising=False)
    monkeypatch.setenv("BLEEPDB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def server(tmp_path):
    """A server on loopback that holds what a test puts into its folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler_class = type(
        "Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}
    )
    handler = functools.partial(handler_class, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def test_material_in_reach_is_taken(monkeypatch, her2st):
    monkeypatch.setenv("BLEEPDB_TEST_DATA", str(her2st.parent))
    assert datasets.her2st_folder() == her2st


def test_where_nothing_is_in_reach_one_line_says_so(nothing_near, server):
    with pytest.raises(InputError, match="not in reach") as caught:
        datasets.her2st_folder(url=server[0])
    assert "\n" not in str(caught.value)
    assert "BLEEPDB_TEST_DATA" in str(caught.value)


def test_the_sections_are_fetched_and_checked(nothing_near, server, her2st):
    url, folder = server
    for file in datasets.HER2ST_FILES:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(her2st / file.name, folder / file.path)
    kept = datasets.her2st_folder(url=url)
    assert sorted(p.name for p in kept.iterdir()) == sorted(f.name for f in datasets.HER2ST_FILES)


def test_a_file_that_differs_is_refused_and_not_kept(nothing_near, server, tmp_path):
    url, folder = server
    for file in datasets.HER2ST_FILES:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(b"something else")
    with pytest.raises(InputError, match="SHA-256"):
        datasets.her2st_folder(url=url)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_the_sheet_names_the_four_sections(tmp_path, her2st):
    from bleepdb.tissue import read_sheet

    sheet = tmp_path / "samples.csv"
    sheet.write_text(datasets.her2st_sheet(her2st))
    rows = read_sheet(sheet)
    assert [r.section for r in rows] == ["C2", "C3", "C4", "C5"]
    assert {r.donor for r in rows} == {"C"}
