# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer: each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CHECKED := requirements/constraints.txt pyproject.toml fmicl_core/__init__.py
TESTS ?= tests
WORKERS ?= 2
# Pictures need the notebook's own matplotlib backend, and a progress bar without a widget is meant.
SITE := env -u MPLBACKEND OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 PYTHONWARNINGS="ignore:IProgress not found" \
  $(BIN)/python -m mkdocs

.PHONY: help demo test test-all lint docs docs-serve test-site bench bench-peers test-peers release-check clean
help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "fmicl needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python requirements/demo.txt $(CHECKED)
	@echo "Installing into $(VENV); this takes some minutes the first time."
	$(PIP) install --quiet -r requirements/demo.txt
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.test: $(VENV)/.demo requirements/test.txt requirements/triton.txt
	$(PIP) install --quiet -r requirements/test.txt
	$(PIP) install --quiet --no-deps --upgrade --target $(VENV)/triton -r requirements/triton.txt
	@touch $@

demo: $(VENV)/.demo  ## train InfoNCE, KL-MICL and JS-MICL on digits, print a table, draw pictures
	$(BIN)/fmicl demo

test: $(VENV)/.test  ## run the test suite, except what is marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(TESTS)

test-all: $(VENV)/.test  ## run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

lint: $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test  ## build the site into site/, strictly: every tutorial runs, no link is broken
	$(SITE) build

docs-serve: $(VENV)/.test  ## show the site while it is written; without running the tutorials
	EXECUTE=false $(SITE) serve --no-strict

test-site: docs  ## open the site in headless Chromium (/usr/bin/chromium, or CHROMIUM=PATH)
	SITE=site $(BIN)/python -m pytest tests/site

bench: $(VENV)/.test  ## time and memory of the loss on this machine, beside its baselines
	$(BIN)/python -m benchmarks

bench-peers: $(VENV)-peers/.done  ## the same beside other libraries' losses, in an environment of its own
	$(VENV)-peers/bin/python -m benchmarks.peers

test-peers: $(VENV)-peers/.done  ## the examples of docs/coming-from.md against the originals
	PEERS=all OMP_NUM_THREADS=1 $(VENV)-peers/bin/python -m pytest tests/peers

$(VENV)-peers/.done: requirements/peers.txt $(CHECKED)
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	$(VENV)-peers/bin/python -m pip install --quiet --no-deps open_clip_torch==3.3.0 solo-learn==1.0.2
	$(VENV)-peers/bin/python -m pip install --quiet --no-build-isolation --no-deps -e .
	@touch $@

release-check: $(VENV)-release/.done  ## build a release and check it in clean environments; QUICK=1: in one
	PYTHONPATH=tools $(VENV)-release/bin/python -m release $(if $(QUICK),--quick) $(RELEASE)

$(VENV)-release/.done: requirements/release.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)-release
	$(VENV)-release/bin/python -m pip --disable-pip-version-check install --quiet --upgrade -r $<
	@touch $@

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-peers $(VENV)-release .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist site
