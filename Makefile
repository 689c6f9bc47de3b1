# bleepdb: every target does its own set-up; `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.bleepdb-installed
OUT    ?= demo_out
# A process a core, a file of tests at a time; one thread in each.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-server lint types bench clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"bleepdb needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}; run: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV) || { echo "cannot make a virtual environment: install the package python3-venv, or set PYTHON to a Python that has venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,imagenet]"
	@touch $(STAMP)

demo: $(STAMP) ## train, index, query and evaluate on tissue that the demo makes; results in demo_out/
	$(BIN)/bleepdb demo --out $(OUT)

test: $(STAMP) ## the default tests: offline, no GPU, no server
	$(PYTEST)

test-all: $(STAMP) ## the default tests and the slow ones
	$(PYTEST) -m "not gpu and not server and not network"

test-server: $(STAMP) ## the tests of the server atlas on a real Qdrant: QDRANT_URL, or one that Docker starts
	@PYTHON=$(BIN)/python sh tools/test_server.sh

lint: $(STAMP) ## ruff and the floors (import-linter, on the unpacked wheel)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHON=$(BIN)/python sh tools/on_wheel.sh lint-imports

types: $(STAMP) ## mypy, strict, on the unpacked wheel
	PYTHON=$(BIN)/python sh tools/on_wheel.sh mypy

bench: $(STAMP) ## figures: each benchmark beside its floor or a peer, in one run
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info $(OUT)
