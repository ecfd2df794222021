# make demo            compares diffgrad and its baselines on digits: 4 minutes of one core
# make quick           equations, mutants and messages, in about two minutes
# make test            everything that must pass before a change is joined
# make test-all        everything, as once a week
# make test PYTHON=python3.12   the same with another Python
# make test-floor      the package's tests with the lowest versions; Python 3.11 or 3.12
# make setup           the environment alone, in .venv
# make docs            the site, in docs/_build; a warning is an error
# make lint format     the style alone: checked, mended
# make dist            wheel and sdist, checked, installed and tested on their own
# make bench           times diffgrad beside others and the memory; installs PyTorch
# make gpu MINUTES=9   what is still unmeasured on a GPU, with PYTHON's own packages
# make compiled        what XLA makes of an update for an H200, without having one
# make fuzz MINUTES=9  random chains on random trees; SEED=1234 repeats a run
# make clean           removes the environments, the demo's runs, the site and dist

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
PYTEST := pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: setup demo quick test test-all test-floor lint format types pytest docs dist bench \
    gpu compiled fuzz clean

setup: $(VENV)/ready

demo: $(VENV)/ready
	$(BIN)/python examples/cifar.py --stages 1 1 1 --width 16 --batch-size 64 \
	    --learning-rate 0.003 --epochs 10 --checkpoint-every 10 --seeds 5 \
	    --optimizer adam adam-half diffgrad --out-dir runs/demo

quick: $(VENV)/ready
	FAST_COMPILATION=1 $(BIN)/$(PYTEST) -m 'quick and not slow' tests/test_*.py

test: lint types docs pytest

test-all: lint types docs $(VENV)/ready
	$(BIN)/$(PYTEST)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/ready
	$(BIN)/mypy

pytest: $(VENV)/ready
	FAST_COMPILATION=1 $(BIN)/$(PYTEST) -m 'not slow'

docs: $(VENV)/ready
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going \
	    --fresh-env -c docs . docs/_build

# The checkout is not on pytest's path: the doctests are those of the installed wheel.
dist: $(VENV)-dist/ready
	rm -rf dist
	$(VENV)-dist/bin/python -m build --quiet
	$(VENV)-dist/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet dist/*.whl
	cd dist && ../$(VENV)-wheel/bin/python -W error -c 'import diffgrad_optax'
	$(VENV)-wheel/bin/python -m pip install --quiet pytest
	$(VENV)-wheel/bin/pytest --quiet --override-ini pythonpath= --pyargs diffgrad_optax

test-floor: $(VENV)-floor/ready
	$(VENV)-floor/bin/$(PYTEST) -m 'not slow' tests/test_*.py diffgrad_optax

MINUTES ?= 9
DATA_DIR ?=

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.compare

# A machine with a GPU may have no network: nothing is installed.
gpu:
	$(PYTHON) -m benchmarks.gpu --minutes $(MINUTES) \
	    $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(if $(OUT_DIR),--out-dir $(OUT_DIR))

compiled: $(VENV)-cuda/ready
	$(VENV)-cuda/bin/python -m benchmarks.compiled

SEED ?=

fuzz: $(VENV)/ready
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

$(VENV)/bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

# Apart, since JAX with a compiler for GPUs and no GPU warns wherever it is imported.
$(VENV)-cuda/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-cuda
	$(VENV)-cuda/bin/python -m pip install --quiet --editable '.[compiled]'
	touch $@

$(VENV)-dist/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet build twine
	touch $@

$(VENV)-floor/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-floor
	$(VENV)-floor/bin/python -m pip install --quiet --editable '.[floor]'
	touch $@

# Only a finished installation leaves the file that says so.
$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + \
	    ": name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv runs/demo docs/_build dist
