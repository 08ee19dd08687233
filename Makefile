# Two commands do everything: `make bench` trains and compares, `make test` checks and tests.
# While a change is made, `make quick` answers in a minute; `make test-all` leaves nothing out.
# Both make .venv on the first call and after every change of pyproject.toml.
#
#   PYTHON=python3.12 make test     another interpreter for .venv
#   JOBS=8 make test                more test processes
#   ARGS="..." make bench           options of `zoo bench`, see `zoo bench --help`

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help bench quick test test-all check format docs clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bench: $(INSTALLED) ## Train the default line-up on digits; table, plots and results go to results/digits
	$(BIN)/zoo bench $(ARGS)
	@echo "Digits tell few nets apart. The comparison on 60,000 photographs: docs/study.md"

quick: check ## Check, then run the tests of layers, results and one net a family
	$(BIN)/python -m pytest -n $(JOBS) --tier quick

test: check ## Check, then run the tests: every kind of check, on one net of each structure
	$(BIN)/python -m pytest -n $(JOBS)

test-all: check ## Check, then run every test on every net
	$(BIN)/python -m pytest -n $(JOBS) --tier all

check: $(INSTALLED) ## Formatting, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/ty check --python $(VENV)

format: $(INSTALLED) ## Rewrite the files as `check` wants them, and docs/models.md from the registry
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python docs/catalogue.py

docs: $(INSTALLED_DOCS) ## Build the documentation into site/
	$(BIN)/python docs/site.py
	$(BIN)/zensical build --clean

clean: ## Remove the environment and everything built; results/ stays
	rm -rf $(VENV) build dist site .cache .pytest_cache .ruff_cache .hypothesis
	find zoo tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# uv is quicker where it is there; it does not read pip's configuration, so pip has the last word.
define install
	@if command -v uv >/dev/null 2>&1 && uv pip install --python $(BIN)/python -e ".[$(EXTRAS)]"; then :; \
	else $(BIN)/python -m pip install --disable-pip-version-check -e ".[$(EXTRAS)]"; fi
endef

$(INSTALLED): EXTRAS := bench,test
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version). PyTorch is large: the first time takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(install)
	@touch $@

$(INSTALLED_DOCS): EXTRAS := docs
$(INSTALLED_DOCS): $(INSTALLED)
	@echo "Adding the documentation tools to $(VENV)."
	$(install)
	@touch $@
