"""Opening an atlas: what is one and what is not, who holds it, and what opening loads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from bleepdb.atlas import ExactAtlas, open_atlas
from bleepdb.errors import AtlasError, AtlasLockedError, EmptyAtlasError


def test_a_missing_folder_is_made_only_by_a_writer(tmp_path):
    with pytest.raises(EmptyAtlasError, match="bleepdb index"):
        open_atlas(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyAtlasError):
        open_atlas(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    with open_atlas(tmp_path / "deep" / "new", create=True) as atlas:
        assert atlas.collections() == []
    with open_atlas(tmp_path / "deep" / "new") as atlas:
        assert atlas.kind == "embedded"


@pytest.mark.parametrize("create", [False, True])
def test_a_foreign_folder_is_left_alone(tmp_path, create):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(AtlasError, match=r"no atlas .*thesis\.docx"):
        open_atlas(tmp_path, create=create)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_file_is_no_atlas(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(AtlasError, match="is a file"):
        open_atlas(tmp_path / "x", create=True)


def test_a_creation_that_was_killed_is_finished(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".bleepdb-atlas.json.00ff.part.json").write_text("{")
    with open_atlas(tmp_path, create=True) as atlas:
        assert atlas.collections() == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ('{"format": "bleepdb-atlas", "version": 2}', "upgrade"),
        ('{"format": "else", "version": 1}', "does not say"),
        ("{", "cannot be read"),
        ("[]", "does not say"),
    ],
)
def test_markers(folder, document, says):
    (folder / "bleepdb-atlas.json").write_text(document)
    with pytest.raises(AtlasError, match=says):
        open_atlas(folder)


@pytest.mark.parametrize(
    "location",
    [
        "https://key:secret@host/x", "http:/secret@host", "https://host/?api_key=secret",
        "https://host/#secret", "https://sec/ret@host", "https://host:secret", "https:secret@x",
        "s3://secret@bucket/x", "postgres://host/x?password=secret",
    ],
)  # fmt: skip
@pytest.mark.parametrize("create", [False, True])
def test_a_location_that_may_hold_a_secret_is_refused_and_not_repeated(location, create):
    with pytest.raises(AtlasError) as caught:
        open_atlas(location, create=create)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_a_location_of_unknown_kind_says_which_there_are():
    with pytest.raises(AtlasError, match=r"s3.*folder.*snapshot.*http.*memory:"):
        open_atlas("s3://bucket/x")


def test_memory_is_exact():
    with open_atlas("memory:") as atlas:
        assert isinstance(atlas, ExactAtlas)


# --- the lock ---------------------------------------------------------------------------------

HOLDER = """
import sys, time
from bleepdb.atlas import open_atlas
atlas = open_atlas(sys.argv[1], create=True)
print("held", flush=True)
sys.stdin.read()
"""


def hold(path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "held\n"
    return child


def test_another_process_is_named(folder):
    child = hold(folder)
    try:
        start = time.monotonic()
        with pytest.raises(AtlasLockedError) as caught:
            open_atlas(folder, lock_timeout=0.3)
        assert 0.3 <= time.monotonic() - start < 5
        for part in (f"process {child.pid}", os.uname().nodename, "since 20", "--lock-timeout"):
            assert part in str(caught.value)
    finally:
        child.communicate()
    with open_atlas(folder, lock_timeout=0):
        pass


def test_a_writer_waits_for_its_turn(folder):
    child = hold(folder)
    child.stdin.close()
    with child, open_atlas(folder, lock_timeout=30) as atlas:
        assert atlas.collections()


def test_a_killed_holder_holds_nothing(folder):
    child = hold(folder)
    child.kill()
    child.communicate()
    with open_atlas(folder, lock_timeout=0):
        pass


def test_this_very_process_is_named(folder):
    with open_atlas(folder), pytest.raises(AtlasLockedError, match="this very process"):
        open_atlas(folder, lock_timeout=0)


def test_a_forked_child_does_not_keep_the_lock(folder):
    atlas = open_atlas(folder)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
    child.start()
    try:
        atlas.close()
        open_atlas(folder, lock_timeout=0).close()
    finally:
        child.kill()
        child.join()


def test_a_lock_file_with_nonsense_is_no_obstacle(folder):
    (folder / ".lock").write_bytes(b"\xff{nonsense")
    with open_atlas(folder):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(folder):
    folder.chmod(0o500)
    (folder / ".lock").chmod(0o400)
    try:
        with pytest.raises(AtlasError, match="cannot be opened"):
            open_atlas(folder)
    finally:
        folder.chmod(0o700)


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(AtlasError):
        open_atlas(tmp_path / "x" / "atlas", create=True)


# --- importing --------------------------------------------------------------------------------


def test_the_exact_atlas_loads_no_engine():
    code = (
        "import sys; from bleepdb.atlas import ExactAtlas, open_atlas, publish_section, "
        "fetch_profiles; open_atlas('memory:'); "
        "print([m for m in sys.modules if 'qdrant' in m or m in ('torch', 'anndata')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names_are_all_there():
    from bleepdb import atlas

    assert sorted(atlas._HOMES) == sorted(set(atlas.__all__) - {"open_atlas", "refuse_location"})
    assert all(getattr(atlas, name) is not None for name in atlas.__all__)
    assert dir(atlas) == sorted(atlas.__all__)
    with pytest.raises(AttributeError):
        _ = atlas.no_such_name
