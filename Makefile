# Everything runs from .venv, which is made here; Python 3.11 or newer with venv is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# An environment variable, and not `-c`, so that it holds for the isolated build of the package too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test nightly lint bench clean

demo: $(VENV)/.installed
	rm -rf runs/demo
	$(BIN)/pyro-compress run digits-cnn/group-horseshoe --out runs/demo

# Two processes of one thread each: faster on two cores than one process of two threads.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# What is too long for every run: all methods on all Pyro programs, some 600 fits; and what holds of all methods with
# nothing recorded or compiled.
nightly: $(VENV)/.installed-for-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --nightly
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --programs-alone tests/conformance

# What training costs against plain training; libraries to compare with that are not there are named and left out.
bench: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --editable '.[train,peers]'
	$(BIN)/python -W ignore::FutureWarning -m benchmarks.training_cost --parts steps peers sizes shrinking whole
	$(BIN)/python -m benchmarks.ranks_speed lenet-5 lenet-300-100 --batch-sizes 128
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.memory

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.installed-for-tests: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@ $(VENV)/.installed
