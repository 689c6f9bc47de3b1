"""What the package exports exists, and says what it is."""

from __future__ import annotations

import bleepdb


def test_every_public_name_resolves_and_is_documented():
    for name in bleepdb.__all__:
        value = getattr(bleepdb, name)
        assert isinstance(value, str) or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    import pytest

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        bleepdb.nothing  # noqa: B018


def test_the_version_is_the_one_of_the_project():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert bleepdb.__version__ == project["project"]["version"]
    log = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    assert f"## {bleepdb.__version__}" in log


def test_files_of_the_repository_name_no_host_and_no_path_of_a_machine():
    import re
    from pathlib import Path

    root = Path(__file__).parents[2]
    for name in ("constraints.txt", "Makefile", "pyproject.toml", ".ci/run", "docker-compose.yml"):
        text = (root / name).read_text()
        assert not re.search(r"--(extra-)?index-url|find-links|file://|/root/|/work/", text), name


def test_compose_needs_a_key_and_listens_on_loopback():
    from pathlib import Path

    import yaml

    document = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())
    services = document["services"]
    assert [n for n, s in services.items() if "profiles" not in s] == ["qdrant"]
    assert len([s for s in services.values() if s.get("profiles") == ["cluster"]]) == 3
    for service in services.values():
        assert service["image"].startswith("qdrant/qdrant:v1.")
        assert service["environment"]["QDRANT__SERVICE__API_KEY"].startswith("${QDRANT_API_KEY:?")
        assert service["volumes"]
        assert service["healthcheck"]["test"]
        assert all(p.startswith("${QDRANT_BIND:-127.0.0.1}:") for p in service["ports"])
