PYTHON ?= python3
CLIENT_PYTHON ?= python3.10
BIN := .venv/bin
RUN_NEEDS := functions/requirements.txt local/requirements.txt
CHECKOV := build/checkov
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Images for servers set it. Every process would then compile all that it imports, again and again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run demo test test-all test-client test-web test-packages proof test-seaweedfs stack stack-down test-stack sam-local test-sam-local bench lint types format clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.run ## serve the whole API at http://localhost:3000 (PORT=… for another port)
	@$(BIN)/python -m local

demo: .venv/.run ## upload 100,000 records, lose some, find the gap, compare the result
	@$(BIN)/python -m local.demo

test: .venv/.dev ## run the usual tests, in less than three minutes (OPTIONS=… for pytest)
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not alone" $(OPTIONS) tests/unit tests/integration

test-all: .venv/.dev ## run these, the slow ones and the client's
	@$(BIN)/python -m pytest $(OPTIONS)

proof: .venv/.dev ## every order of calls, every crash, hostile requests, bytes at random, killed processes (PROOF_SCALE=… for more)
	@$(BIN)/python -m pytest -o faulthandler_timeout=0 $(OPTIONS) tests/proof
	@$(BIN)/python -m pytest -o faulthandler_timeout=0 $(OPTIONS) tests/load tests/hostile
	@$(BIN)/python -m tests.fuzz

test-web: .venv/.dev ## run the tests of the page, in Chromium
	@$(BIN)/python -m pytest tests/web

# The tests left out import the service, which needs a later Python.
test-client: .venv/.dev ## run the client's tests on another Python (CLIENT_PYTHON=python3.10)
	@$(CLIENT_PYTHON) -m venv --clear build/client
	@build/client/bin/python -m pip --disable-pip-version-check --quiet install -r client/tests/requirements.txt -e 'client[aws,schema]'
	@SERVICE_PYTHON=$(abspath $(BIN)/python) build/client/bin/python -m pytest -m "not alone and not slow" \
		--ignore client/tests/test_client_names.py --ignore client/tests/test_client_schemas.py client/tests

test-packages: .venv/.dev ## build, check, install and try the packages
	@$(BIN)/python -m pytest tests/packages

test-seaweedfs: .venv/.dev ## run the protocol's tests, and large merges, on the S3 of SeaweedFS
	@S3=seaweedfs $(BIN)/python -m pytest tests/integration/test_protocol.py tests/integration/test_merges.py tests/integration/test_cleanup.py

stack: .venv/.dev ## deploy the stack to an emulated AWS on this machine, with IAM enforced
	@$(BIN)/python -m local.ministack up

stack-down: .venv/.dev ## delete that stack
	@$(BIN)/python -m local.ministack down

test-stack: stack ## run the protocol's tests against that stack
	@STACK=build/stack/stack.json $(BIN)/python -m pytest tests/integration/test_protocol.py tests/integration/test_cleanup.py tests/deployed

sam-local: .venv/.dev ## serve the API from containers of Lambda's runtime, with SAM (needs Docker)
	@$(BIN)/python -m local.sam_local

test-sam-local: .venv/.dev ## run the protocol's tests against those containers
	@$(BIN)/python -m local.sam_local test

bench: .venv/.dev ## measure speed, memory and cost beside other ways to upload (needs npm)
	@$(BIN)/python -m benchmarks

lint: .venv/.dev $(CHECKOV)/.done ## check style, formatting and the template
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PYTHONPATH=functions $(BIN)/lint-imports
	@$(BIN)/cfn-lint template.yaml examples/*.yaml
	@AWS_DEFAULT_REGION=us-east-1 SAM_CLI_TELEMETRY=0 $(BIN)/sam validate --lint
	@$(CHECKOV)/bin/checkov -f template.yaml --framework cloudformation --compact --quiet --skip-download

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

.venv/.run: $(RUN_NEEDS) client/pyproject.toml | $(BIN)/python
	@echo "Installing what a local run needs into .venv (once) …"
	@$(PIP) install $(addprefix -r ,$(RUN_NEEDS)) -e 'client[aws,schema]'
	@touch $@

# On its own: it pins another boto3 than the SAM CLI.
$(CHECKOV)/.done: Makefile | $(BIN)/python
	@echo "Installing checkov into $(CHECKOV) (once) …"
	@$(BIN)/python -m venv --clear $(CHECKOV)
	@$(CHECKOV)/bin/pip --disable-pip-version-check --quiet install checkov==3.3.30
	@touch $@

.venv/.dev: requirements.txt $(RUN_NEEDS) client/pyproject.toml | $(BIN)/python
	@echo "Installing what a developer needs into .venv (once) …"
	@$(PIP) install -r requirements.txt -e 'client[aws,schema]'
	@touch .venv/.run $@
