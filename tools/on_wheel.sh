#!/bin/sh
# Run import-linter or mypy on the unpacked wheel: neither sees bleepdb.cli and bleepdb.schemas
# through the editable installation's mapping.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/bleepdb" "$root/cli" "$root/schemas" "$work/"
cd "$work"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir wheel .
"$python" -m zipfile -e wheel/*.whl unpacked
cp "$root/pyproject.toml" unpacked/
cd unpacked
case "$1" in
  lint-imports) PYTHONPATH=. "$(dirname "$python")/lint-imports" --config pyproject.toml ;;
  mypy) "$python" -m mypy --config-file pyproject.toml bleepdb ;;
  *) echo "usage: PYTHON=... on_wheel.sh lint-imports|mypy" >&2; exit 2 ;;
esac
