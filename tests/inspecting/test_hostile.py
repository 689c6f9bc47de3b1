"""What is broken, foreign or made to harm ends in one clear line, soon and in bounded memory."""

from __future__ import annotations

import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import zlib

import anndata as ad
import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image


def test_a_path_that_is_not_there(tmp_path, refused):
    assert "no such file or folder" in refused(tmp_path / "nothing.svs")


@pytest.mark.parametrize("name", ["empty.svs", "empty.h5ad", "empty.tsv", "empty"])
def test_a_zero_byte_file(tmp_path, refused, name):
    path = tmp_path / name
    path.touch()
    assert "0 bytes" in refused(path)


def test_text_with_the_name_of_a_slide(tmp_path, refused):
    path = tmp_path / "notes.svs"
    path.write_text("these are my notes\n" * 100)
    said = refused(path)
    assert "text" in said
    assert "OpenSlide" in said
    assert "PIL" in said


def test_bytes_of_no_known_kind_say_how_they_begin(tmp_path, refused):
    path = tmp_path / "blob.bin"
    path.write_bytes(bytes(range(1, 200)) * 50)
    said = refused(path)
    assert "01 02 03 04" in said
    assert "OpenSlide" in said


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_svs_is_told_as_broken_off(real_data, tmp_path, command, share):
    whole = (real_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    answer = command(path)
    assert "Traceback" not in answer.err
    if answer.code == 2:
        assert len(answer.err.splitlines()) == 1
    else:
        assert "breaks off" in answer.out
        assert "bleepdb query" not in answer.out


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_truncated_image_is_told_as_broken_off(tmp_path, told, ending):
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{ending}"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    assert not any("breaks off" in m["what"] for m in told(path)["missing"])
    path.write_bytes(whole[: len(whole) // 2])
    found = told(path)
    assert any("breaks off" in m["what"] or "decoded" in m["what"] for m in found["missing"])
    assert found["next"] is None


def test_a_tiff_whose_tiles_lie_behind_its_end(tmp_path, told):
    path = tmp_path / "cut.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as writer:  # the directory stands before the pixels
        writer.write(pixels, tile=(256, 256), photometric="rgb")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 100_000])
    found = told(path)
    assert any("1 of 4 pieces" in m["what"] for m in found["missing"])
    assert found["next"] is None


def test_a_truncated_h5ad(tmp_path, refused):
    path = tmp_path / "cut.h5ad"
    ad.AnnData(np.ones((50, 40), np.float32)).write_h5ad(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused(path)


def zip_bomb(path, gib):
    """An AnnData-like file whose X declares so many GiB of zeros and stores next to nothing."""
    with h5py.File(path, "w") as handle:
        for group in ("obs", "var", "obsm"):
            handle.create_group(group)
        rows = gib * 2**30 // 4000
        handle.create_dataset("X", (rows, 1000), "f4", chunks=(1000, 1000), compression="gzip")
        handle["obsm"].create_dataset(
            "spatial", (rows, 2), "f8", chunks=(100_000, 2), compression="gzip"
        )


@pytest.mark.parametrize("gib", [1, 64])
def test_a_zip_bomb_is_not_unpacked(tmp_path, gib):
    path = tmp_path / "bomb.h5ad"
    zip_bomb(path, gib)
    assert path.stat().st_size < 2**20
    assert_small(path)


def test_one_huge_chunk_of_zeros_is_not_unpacked(tmp_path):
    path = tmp_path / "chunk.h5ad"
    with h5py.File(path, "w") as handle:
        for group in ("obs", "var", "obsm"):
            handle.create_group(group)
        zeros = np.zeros((2**26,), np.float32)  # 256 MiB in one chunk
        x = handle.create_group("X")
        x.attrs["encoding-type"] = "csr_matrix"
        x.create_dataset("data", data=zeros, chunks=zeros.shape, compression="gzip")
    del zeros
    assert_small(path)


def png_bomb(path, side):
    """A PNG that declares a square of `side` pixels and holds a few bytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [40_000, 1_000_000])
def test_a_png_bomb_is_told_by_its_header(tmp_path, told, side):
    path = tmp_path / "bomb.png"
    png_bomb(path, side)
    found = told(path)
    assert found["kind"] == "image"
    assert found["facts"]["size px"] == [side, side]
    assert found["next"] is None
    assert_small(path)


def test_a_gzip_bomb_of_text_is_not_unpacked(tmp_path):
    import gzip

    path = tmp_path / "bomb.tsv.gz"
    with gzip.open(path, "wb", compresslevel=9) as handle:
        for _ in range(1500):
            handle.write(b"1\t" * 2**19)  # 1.5 GiB in one line
    assert_small(path)


def assert_small(path, megabytes=1200, seconds=60):
    """Require that a fresh process tells a path, or refuses it, within bounds of memory."""

    def limit():
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 2**20, megabytes * 2**20))

    done = subprocess.run(
        [sys.executable, "-m", "bleepdb.cli.main", "inspect", str(path)],
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=limit,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode in {0, 2}, done.stderr
    assert "Traceback" not in done.stderr
    assert "memory" not in done.stderr


def test_an_external_link_is_refused(tmp_path, refused):
    path = tmp_path / "link.h5ad"
    with h5py.File(path, "w") as handle:
        handle.create_group("obs")
        handle.create_group("var")
        handle["X"] = h5py.ExternalLink("/etc/passwd", "/")
    assert "external link" in refused(path)


def test_a_loop_of_links(tmp_path, refused, told):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    assert "cannot be reached" in refused(one)
    found = told(tmp_path)
    assert {e["kind"] for e in found["entries"]} == {"unknown"}


def test_a_folder_that_holds_itself(tmp_path, told):
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "self").symlink_to(inner)
    assert told(inner)["kind"] == "folder"
    assert told(inner / "self" / "self")["kind"] == "folder"


def test_a_link_to_nothing(tmp_path, refused):
    path = tmp_path / "gone"
    path.symlink_to(tmp_path / "nothing")
    assert "link" in refused(path)


def test_a_pipe_is_not_waited_for(tmp_path, refused, told):
    path = tmp_path / "pipe.svs"
    os.mkfifo(path)
    assert "a named pipe" in refused(path)
    found = told(tmp_path)
    assert found["entries"] == [{"name": "pipe.svs", "kind": "unknown", "state": found_state(path)}]


def found_state(path):
    return "a named pipe, no file or folder"


def test_a_socket_and_a_device(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        assert "a socket" in refused(tmp_path / "s")
    assert "a device" in refused("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read(tmp_path, refused):
    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")
    path.chmod(0)
    assert "permission" in refused(path).lower()
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    assert "permission" in refused(folder).lower()


def test_what_may_not_be_read_is_told_as_such(tmp_path, refused, monkeypatch):
    from pathlib import Path

    path = tmp_path / "secret.csv"
    path.write_text("a,b\n1,2\n")

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refused(path)


@pytest.mark.parametrize(
    "name",
    [
        "[bold red]x.csv",
        "[link=http:evil]x.csv",
        "\x1b[2Jclear.csv",
        "two\nlines.csv",
        "\u202egnp.csv",
        os.fsdecode(b"bytes-\xff\xfe.csv"),
        "-rf.csv",
        "$(touch x).csv",
    ],
)
def test_names_are_shown_and_command_nothing(tmp_path, command, told, name):
    path = tmp_path / name
    path.write_text("x_px,y_px\n1,2\n")
    answer = command(path)
    assert answer.code == 0, answer.err
    assert "\x1b[2J" not in answer.out
    assert "\u202e" not in answer.out
    if name.startswith("[bold"):
        assert "[bold red]x.csv" in answer.out
    found = told(path)
    assert found["kind"] == "spots"
    listed = told(tmp_path)
    assert len(listed["entries"]) == 1
    assert "\x1b[2J" not in command(tmp_path).out


def test_markup_and_commands_in_cells_are_shown_as_text(tmp_path, command):
    path = tmp_path / "table.csv"
    path.write_text("[red]a[/],\x1b[2J,[/],b\n1,2,3,4\n")
    answer = command(path)
    assert answer.code == 0
    assert "[red]a[/]" in answer.out
    assert "\x1b" not in answer.out


def test_a_pickle_is_never_opened(tmp_path, told):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Harm()))
    assert "pickle" in told(path)["title"]
    assert not (tmp_path / "harmed").exists()


def test_json_nested_without_end(tmp_path, command):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    answer = command(path)
    assert answer.code in {0, 2}
    assert "Traceback" not in answer.err


def test_a_safetensors_header_that_lies(tmp_path, refused):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}" * 100)
    assert "safetensors" in refused(path)


def test_a_folder_of_many_files_is_counted_and_a_part_of_it_looked_at(tmp_path, command, told):
    for number in range(500):
        (tmp_path / f"list-{number:04}.txt").write_text("A\nB\n")
    found = told(tmp_path)
    assert len(found["entries"]) + found["further"] == 500
    assert len(command(tmp_path).out.splitlines()) <= 45


def test_looking_changes_nothing(tmp_path, command):
    made = tmp_path / "things"
    made.mkdir()
    (made / "a.csv").write_text("x_px,y_px\n1,2\n")
    Image.new("RGB", (300, 200), "white").save(made / "b.png")
    zip_bomb(made / "c.h5ad", 1)
    before = snapshot(made)
    for path in (made, *made.iterdir()):
        command(path)
    assert snapshot(made) == before


def snapshot(folder):
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_size, p.read_bytes() if p.is_file() else b"")
        for p in (folder, *folder.rglob("*"))
    }
