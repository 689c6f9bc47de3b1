"""`bleepdb encoders`, and encoders by short name through the other commands."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bleepdb.encoders.forward import Feeder

pytestmark = pytest.mark.usefixtures("no_caches")


def refused(answer) -> str:
    """Require exit code 2 and exactly one error line; return it."""
    assert (answer.code, answer.out) == (2, "")
    lines = answer.err.strip().splitlines()
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def no_caches(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_the_table_says_licence_access_and_what_is_here(cli, no_caches):
    answer = cli("encoders")
    assert answer.code == 0, answer.err
    row = next(line for line in answer.out.splitlines() if " uni2-h " in line)
    assert [w in row for w in ("CC-BY-NC-ND-4.0", "gated", "no: to ask for", "1,536")] == [True] * 4
    kept = no_caches / "hub" / "models--MahmoodLab--UNI2-h" / "snapshots" / "a"
    kept.mkdir(parents=True)
    (kept / "pytorch_model.bin").write_bytes(b"x")
    row = next(line for line in cli("encoders").out.splitlines() if " uni2-h " in line)
    assert "yes: hub cache" in row


def test_the_json_is_the_table(cli):
    every = json.loads(cli("encoders", "--json").out)
    assert len(every) > 25
    lite0 = next(e for e in every if e["name"] == "efficientnet-lite0")
    assert lite0["tried"]
    assert {e["name"] for e in every if e["tried"]} == {"efficientnet-lite0", "colour"}
    one = json.loads(cli("encoders", "uni", "--json").out)
    assert one == next(e for e in every if e["name"] == "uni")
    assert one["encoder"].startswith("hf-hub:MahmoodLab/UNI?dynamic_img_size=true&")
    assert not one["here"]["usable"]


def test_one_is_shown_with_how_it_is_had(cli):
    for name in ("virchow2", "hf-hub:paige-ai/Virchow2"):
        answer = cli("encoders", name)
        assert answer.code == 0, answer.err
        assert "--encoder virchow2" in answer.out
        assert "https://huggingface.co/paige-ai/Virchow2" in answer.out
        assert "HF_TOKEN" in answer.out
    assert "pip install git+" in cli("encoders", "conch").out
    assert "not confirmed" in cli("encoders", "plip").out
    assert "uni2-h" in refused(cli("encoders", "uni2"))


def test_it_starts_without_torch():
    code = (
        "import sys; sys.argv = ['bleepdb', 'encoders'];"
        "import bleepdb.cli.main as m\n"
        "try: m.run()\n"
        "except SystemExit: pass\n"
        "print([x for x in ('torch', 'timm', 'open_clip', 'anndata') if x in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--encoder", "uni2"), "such as uni"),
        (("--encoder", "uni"), "the hub is out of reach; run `hf download MahmoodLab/UNI`"),
        (("--encoder", "phikon"), "the hub is out of reach; run `hf download owkin/phikon`"),
        (("--encoder", "musk"), "pip install fairscale"),
        (("--encoder", "uni", "--weights", "nowhere.pth"), "nowhere.pth: no such weights file"),
        (("--encoder", "timm:test_vit", "--weights", "random:0", "--tile-px", 64), "takes tiles"),
    ],
    ids=["unknown", "offline", "offline by us", "package", "file", "tile"],
)  # fmt: skip
def test_what_cannot_be_had_is_one_line(sections, tmp_path, cli, words, told):
    answer = cli("train", sections, "--out", tmp_path / "model", *words)
    assert told in refused(answer)
    assert not (tmp_path / "model").exists()


def test_a_second_recipe_takes_the_features_from_the_cache(sections, tmp_path, cli, monkeypatch):
    """And without --tile-px, tiles have the one size that the encoder takes."""
    fed = []
    feed = Feeder.feed

    def counted(self, tiles):
        fed.append(len(tiles))
        return feed(self, tiles)

    monkeypatch.setattr(Feeder, "feed", counted)
    encoder = ("--encoder", "timm:test_vit?img_size=64", "--weights", "random:0")
    answer = cli("train", sections, "--out", tmp_path / "linear", *encoder)
    assert answer.code == 0, answer.err
    card = json.loads((tmp_path / "linear" / "model.json").read_text())
    assert card["features"]["backbone"] == "timm:test_vit?img_size=64"
    assert card["features"]["geometry"]["tile_px"] == 64
    assert sum(fed) > 0
    fed.clear()
    answer = cli(
        "train", sections, "--out", tmp_path / "bleep", "--recipe", "bleep", "--set", "epochs=1",
        *encoder,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert fed == []
