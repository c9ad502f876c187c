# rayplane: `make demo` and `make test` do all their own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.rayplane-set-up
PYTEST := $(BIN)/python -m pytest
export RAYPLANE_TOOLS_QUIET ?=

.PHONY: help setup tools demo down test check test-full bench lock format clean soak

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Make the virtual environment from the hashed lock

$(STAMP): requirements.lock pyproject.toml
	@echo "set-up: virtual environment in $(VENV), from requirements.lock"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; $(PYTHON) is $$($(PYTHON) --version). Install it, or run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing. Install it with: sudo apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
	@echo "set-up: done"

tools: $(STAMP)  ## Find or fetch prometheus and postgres, without root
	@deploy/tools/fetch

demo: setup  ## Run the main job end to end and leave the platform up
	@deploy/tools/fetch prometheus || echo "demo: goes on without Prometheus"
	@mkdir -p .rayplane
	@$(BIN)/rayplane up
	@$(BIN)/rayplane quickstart

down:  ## Stop the platform of this folder
	@$(BIN)/rayplane down

check: setup  ## Lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy platform/rayplane jobs serving features
	$(BIN)/lint-imports

test: setup tools check  ## Everything but the full data
	$(PYTEST) -m "not full and not kubernetes and not browser"

test-full: setup tools  ## The tests on the full data
	$(PYTEST) -m full

bench: setup  ## Print every figure as JSON
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

lock:  ## Resolve the dependencies anew
	$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --all-extras --no-emit-index-url --no-emit-find-links --no-header --no-emit-package rayplane pyproject.toml -o requirements.lock

format: setup  ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:  ## Remove what was built; the platform must be down
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
