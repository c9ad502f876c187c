# rayplane. `make demo` and `make test` do all their own set-up in this folder; `make` says what else there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PYTHON ?=
unexport PYTHONDONTWRITEBYTECODE  # without bytecode each of the many processes would compile the platform anew
BIN := .venv/bin
STAMP := .venv/.set-up
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup tools kubernetes-tools kubernetes-image demo down check test test-faults test-full test-kubernetes bench lock format clean

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## Make .venv from the hashed lock (PYTHON=... chooses the interpreter)

$(STAMP): requirements.lock pyproject.toml deploy/tools/setup
	@deploy/tools/setup

tools:  ## Find or fetch prometheus and alertmanager, without root
	@deploy/tools/fetch

kubernetes-tools:  ## Build a Kubernetes control plane, a node's parts and KubeRay's operator from Go modules; once
	@tests/kubernetes/tools/build

kubernetes-image: setup kubernetes-tools
	@test -n "$$KUBECONFIG" || $(BIN)/python -m tests.kubernetes.bed image

demo: setup  ## Run the main job end to end and leave the platform up
	@deploy/tools/fetch prometheus || echo "demo: goes on without what is missing"
	@mkdir -m 700 -p .rayplane
	@$(BIN)/rayplane up
	@$(BIN)/rayplane quickstart

down: setup  ## Stop the platform of this folder
	@$(BIN)/rayplane down

check: setup  ## Lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy platform/rayplane jobs serving features tests/kubernetes tests/third_party benchmarks
	$(BIN)/lint-imports --no-cache

test: setup check  ## The gates, and every test but those of faults, the full data, Kubernetes and a browser
	@deploy/tools/fetch prometheus || echo "test: goes on; tests of what is missing are skipped (in CI: fail)"
	$(PYTEST) -n 3 --dist loadscope --no-loadscope-reorder -m "not faults and not full and not kubernetes and not browser"

test-faults: setup  ## Processes killed under way
	@deploy/tools/fetch prometheus || echo "test: goes on; tests of what is missing are skipped (in CI: fail)"
	$(PYTEST) -m faults

test-full: setup  ## The tests on the full data
	@deploy/tools/fetch prometheus || echo "test: goes on; tests of what is missing are skipped (in CI: fail)"
	$(PYTEST) -m full

test-kubernetes: setup kubernetes-tools kubernetes-image  ## On a real API server, the real operator and, as root, a real node
	$(PYTEST) -n 2 --dist loadscope --no-loadscope-reorder -m kubernetes tests/kubernetes

bench: setup  ## Measure every figure; each script prints JSON
	@shopt -s nullglob; failed=; for script in benchmarks/*.py; do \
		name=$${script%.py}; echo "bench: $$script" >&2; $(BIN)/python -m "$${name//\//.}" || failed="$$failed $$script"; done; \
	test -z "$$failed" || { echo "bench: not measured:$$failed" >&2; exit 1; }

lock: setup  ## Resolve the dependencies anew (UPGRADE=--upgrade for newer ones)
	$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --all-extras \
		--no-header --no-emit-index-url --no-emit-find-links --no-emit-package rayplane $(UPGRADE) pyproject.toml -o requirements.lock

format: setup  ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:  ## Remove what was built and the caches of the checkers; the platform must be down
	@for pid in .rayplane/processes/*.json; do test ! -e "$$pid" || { echo "clean: the platform is up; run 'make down' first" >&2; exit 1; }; done
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
