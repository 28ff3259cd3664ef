# Every target makes .venv on its own: a machine needs Python 3.11 or later, make and a package index.

# The first of these that is new enough makes the environment: `make test PYTHON=/opt/python3.12/bin/python`.
PYTHON ?= python3.11 python3
BIN := .venv/bin

.PHONY: demo test test-slow lint docs bench clean

demo: .venv/installed
	$(BIN)/vfl demo

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow" --durations=10

test-slow: lint
	$(BIN)/python -m pytest -n 2 --durations=10

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-dev
	$(BIN)/python docs/generate.py

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.quality --he paillier
	$(BIN)/python -m benchmarks.quality --he ckks
	$(BIN)/python -m benchmarks.leakage

clean:
	rm -rf .venv build dist vfl.egg-info .coverage .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: installed once, and again when the dependencies change.
.venv/installed: setup.cfg
	@$(make_venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: setup.cfg
	@$(make_venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/installed $@

define make_venv
for python in $(PYTHON); do \
    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
        exec "$$python" -m venv .venv; \
    fi; \
done; \
echo "none of these is Python 3.11 or later: $(PYTHON); name one with PYTHON=..." >&2; exit 1
endef
