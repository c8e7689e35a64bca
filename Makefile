# Everything is set up inside the clone, in .venv; nothing but Python >= 3.11 and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread for each of a few processes: tests are many and small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-fast test-lowest docs lint format clean

help:  ## show these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than pyproject.toml when what it declares is installed.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/installed $(VENV)/installed-docs

$(VENV)/installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/installed

demo: $(VENV)/installed  ## install, then encode and decode the photographs of examples/images into demo/
	$(BIN)/stellar-hub demo --output demo

test: $(VENV)/installed-dev  ## install what tests need, then run all tests that need no GPU and no network
	$(PYTEST) -m "not gpu and not network"

test-lowest:  ## the suite with the oldest dependencies that are declared, in .venv-lowest
	bash .ci/lower_bounds

test-fast: $(VENV)/installed-dev  ## the same without the slow tests
	$(PYTEST) -m "not gpu and not network and not slow"

docs: $(VENV)/installed-docs  ## build the documentation site into site/ and check it
	$(BIN)/python .ci/docs/build_site.py
	$(BIN)/python .ci/docs/check_site.py

lint: $(VENV)/installed-dev  ## ruff, and the transformers linter on modeling/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/lint_modeling.py

format: $(VENV)/installed-dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build dist site .cache *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
