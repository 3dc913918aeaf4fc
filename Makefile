# Each target works alone on a fresh clone, with python3 and make.

PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 10
ARGS ?=

BIN := $(VENV)/bin

# The extras of setup.cfg that a target needs.
EXTRAS_demo := samples,plots,progress
EXTRAS_lint := dev,test
EXTRAS_docs := docs
EXTRAS_test := test

# What `make test-fast` runs: the golden numbers, identities and contracts, each
# file in seconds. The other files run whole fits and experiments.
FAST := blurring codes conv_choose conv_winograd corruptions device_packing \
  docs features floors golden images layers methods metrics noise operators \
  optimizers package page pictures pixels plots resampling schedules schema skip \
  weights

# What tests compile is kept for the next run of them, until `make clean`.
export DIPJAX_TEST_CACHE ?= $(CURDIR)/.jax_cache

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses=8 --dist=worksteal

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-fast lint docs dist device-day clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-demo  ## Denoise a photograph in minutes, into runs/demo (replaced each time).
	rm -rf runs/demo
	$(BIN)/python -m experiments.denoise \
	  --config=configs/req2.py:quick,fast --workdir=runs/demo

test: $(VENV)/.installed-test  ## Run all tests, and list the slowest.
	$(PYTEST) --durations=25

test-fast: $(VENV)/.installed-test  ## Run the golden, identity and contract tests, in under 90 s on two cores.
	$(PYTEST) $(FAST:%=tests/%_test.py)

lint: $(VENV)/.installed-lint  ## Check the format, the rules and the types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-docs  ## Build the pages into build/docs/index.html; a warning is an error.
	$(BIN)/python -m sphinx -W --keep-going -n -q docs build/docs

dist: $(VENV)/.installed-test  ## Build the wheel and the source archive into dist.
	rm -rf build dist *.egg-info
	$(BIN)/python -c "from setuptools import build_meta as build; \
	  build.build_sdist('dist'); build.build_wheel('dist')" >/dev/null
	rm -rf build *.egg-info
	@ls dist

# It runs in $(PYTHON) as it is: the jax of a device is for the user to choose.
device-day:  ## Measure this machine's GPU or TPU for MINUTES=10, into runs/device-day.
	$(PYTHON) -m benchmarks.device_day --out runs/device-day \
	  --minutes $(MINUTES) $(ARGS)

clean:  ## Remove .venv, runs/demo and all caches; other runs stay.
	rm -rf .venv runs/demo build dist *.egg-info
	rm -rf .jax_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so that an interrupted install leaves none.
$(VENV)/.installed-%: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dipjax needs Python 3.11 or newer; $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing dipjax[$(EXTRAS_$*)] into $(VENV), a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@
