# `make demo` and `make test` work on a fresh machine with Python ≥ 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint site format clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP)  ## Install into .venv, with the versions of constraints.txt

demo: $(STAMP)  ## Tag the example clips at two keep rates and draw what was kept
	$(BIN)/audioprune demo --out out/demo

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n 2

lint: $(STAMP)  ## ruff, mypy, and the contracts between the parts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: $(STAMP)  ## Build the documentation into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir out/site

format: $(STAMP)  ## Let ruff rewrite
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove .venv and outputs
	rm -rf $(VENV) out
