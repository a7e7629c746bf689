PYTHON ?= python3
BIN := .venv/bin
RUN_NEEDS := functions/requirements.txt local/requirements.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test lint types format clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.run ## serve the whole API at http://localhost:3000 (PORT=… for another port)
	@$(BIN)/python -m local

demo: .venv/.run ## upload 100,000 records, lose some, find the gap, compare the result
	@$(BIN)/python -m local.demo

test: .venv/.dev ## run every test
	@$(BIN)/python -m pytest

lint: .venv/.dev ## check style, formatting and the template
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@AWS_DEFAULT_REGION=us-east-1 SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint

types: .venv/.dev ## check types
	@$(BIN)/mypy

format: .venv/.dev ## put the code into shape
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

clean: ## remove all that make and its tools have made
	@rm -rf .venv .aws-sam .hypothesis .mypy_cache .pytest_cache .ruff_cache build
	@find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.13 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv

.venv/.run: $(RUN_NEEDS) | $(BIN)/python
	@echo "Installing what a local run needs into .venv (once) …"
	@$(PIP) install $(addprefix -r ,$(RUN_NEEDS))
	@touch $@

.venv/.dev: requirements.txt $(RUN_NEEDS) | $(BIN)/python
	@echo "Installing what a developer needs into .venv (once) …"
	@$(PIP) install -r requirements.txt
	@touch .venv/.run $@
