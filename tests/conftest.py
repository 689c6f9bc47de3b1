"""What all tests share: the real material, where it is in reach, and a cache of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run: a failure that is seen once is seen again.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests never read or fill the user's cache."""
    folder = tmp_path_factory.mktemp("bleepdb_cache")
    before = os.environ.get("BLEEPDB_CACHE")
    os.environ["BLEEPDB_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["BLEEPDB_CACHE"]
    else:
        os.environ["BLEEPDB_CACHE"] = before


def real_material() -> Path | None:
    """Folder of the real sections and slides: BLEEPDB_TEST_DATA, then ../shared/data."""
    named = os.environ.get("BLEEPDB_TEST_DATA")
    for folder in ([Path(named)] if named else []) + [ROOT.parent / "shared" / "data"]:
        if folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real material; tests that ask for it skip where it is not in reach."""
    folder = real_material()
    if folder is None:
        pytest.skip("real sections not in reach (BLEEPDB_TEST_DATA unset, no ../shared/data)")
    return folder


@pytest.fixture(scope="session")
def her2st(real_data) -> Path:
    """The her2st sections C2..C5."""
    folder = real_data / "her2st"
    if not (folder / "C2.tsv.gz").is_file():
        pytest.skip(f"her2st sections not in {real_data}")
    return folder
