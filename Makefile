# `make demo` and `make test` work on a fresh machine with Python ≥ 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Python compiles what it imports; compiling all of PyTorch and transformers beforehand takes a minute.
PIP := $(BIN)/python -m pip install --no-compile -c constraints.txt
CORE := $(VENV)/.installed-core
ALL := $(VENV)/.installed

.PHONY: help install demo test lint site format clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# What the main job needs, with the decoders of phones' recordings; pip shows how far it is.
$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[media]'
	@touch $@

# And all that tests, linters and the documentation need, into the same place.
$(ALL): $(CORE)
	$(PIP) -e '.[dev]'
	@touch $@

install: $(ALL)  ## Install everything into .venv, with the versions of constraints.txt

demo: $(CORE)  ## Tag the example clips at two keep rates and draw what was kept
	$(BIN)/audioprune demo --out out/demo

test: $(ALL)  ## Run the tests
	$(BIN)/python -m pytest -n 2

lint: $(ALL)  ## ruff, mypy, and the contracts between the parts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: $(ALL)  ## Build the documentation into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir out/site

format: $(ALL)  ## Let ruff rewrite
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove .venv and outputs
	rm -rf $(VENV) out
