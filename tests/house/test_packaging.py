"""The wheel holds the package and nothing else; imports go down; the command line starts light."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "bleepdb", "cli", "schemas"):
        subprocess.run(["cp", "-R", str(ROOT / name), str(copy)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(copy / "out"), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    return next((copy / "out").glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_only_bleepdb_lands_at_the_top_of_site_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"bleepdb", f"bleepdb-{PROJECT['project']['version']}.dist-info"}


def test_the_wheel_carries_every_module_and_schema_of_the_checkout(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {n for n in archive.namelist() if n.startswith("bleepdb/")}
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "bleepdb").rglob("*.py")}
    wanted |= {f"bleepdb/{p.relative_to(ROOT)}" for p in (ROOT / "cli").rglob("*.py")}
    wanted |= {
        f"bleepdb/{p.relative_to(ROOT)}" for p in (ROOT / "schemas").iterdir() if p.is_file()
    }
    assert wanted - packed == set()
    assert "bleepdb/py.typed" in packed


def test_the_list_of_packages_is_the_folders():
    folders = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "bleepdb").rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {
        "bleepdb.cli",
        "bleepdb.schemas",
    }


def test_imports_go_down_the_floors(unpacked):
    (unpacked / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [str(lint), "--config", "pyproject.toml", "--no-cache"],
        cwd=unpacked,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_room_stands_on_a_floor():
    """A module that the layers do not name would escape the contract."""
    layers = " ".join(PROJECT["tool"]["importlinter"]["contracts"][0]["layers"])
    named = set(layers.replace("|", " ").replace(" : ", " ").split())
    rooms = {p.stem for p in (ROOT / "bleepdb").glob("*.py")} - {"__init__"}
    rooms |= {p.name for p in (ROOT / "bleepdb").iterdir() if (p / "__init__.py").is_file()}
    assert {f"bleepdb.{r}" for r in rooms} - named == set()


HEAVY = ("torch", "timm", "open_clip", "qdrant_edge", "qdrant_client", "anndata", "pandas", "scipy")


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_command_line_loads_nothing_heavy():
    assert loaded_by("import bleepdb.cli.main") == set()


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import bleepdb; dir(bleepdb)") == set()


@pytest.mark.parametrize("room", ["atlas", "imputation"])
def test_atlas_and_imputation_load_no_torch(room):
    assert loaded_by(f"import bleepdb.{room}") & {"torch", "timm", "open_clip"} == set()


def test_training_and_encoders_load_no_qdrant():
    assert (
        loaded_by("import bleepdb.training, bleepdb.encoders")
        & {
            "qdrant_edge",
            "qdrant_client",
        }
        == set()
    )
