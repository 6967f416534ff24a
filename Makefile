# Every target sets up what it needs. `make help` lists them.
# PYTHON picks the interpreter (3.10 or newer); PIP_FLAGS= shows what pip does; ARGS goes to pytest, the demo or
# the benchmarks, as in `make test ARGS="tests/domain -x"`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_FLAGS ?= -qq
ARGS ?=

VENV_STAMP := .venv/.stamp
PROTO_STAMP := .venv-proto/.stamp

.PHONY: help venv demo test lint format bench bench-compare histories proto proto-check compat clean soak fuzz docker-check docs

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
	    printf '  make %-12s %s\n' "$$name" "$$what"; done

venv: $(VENV_STAMP) ## .venv with the package, all extras that tests need, and the development tools
	@echo "venv: .venv is up to date"

# pip is told nothing about where to look: its own configuration (indexes, --find-links, proxies) decides.
$(VENV_STAMP): pyproject.toml constraints.txt scripts/requirements-nodeps.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "weightsync needs Python 3.10 or newer; name one with make PYTHON=...")'
	@echo "venv: installing into .venv (a few minutes the first time)"
	@[ -x .venv/bin/pip ] || $(PYTHON) -m venv .venv
	@.venv/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[test,bench,dev]'
	@.venv/bin/pip install $(PIP_FLAGS) --no-deps --require-hashes -r scripts/requirements-nodeps.txt
	@touch $@

$(PROTO_STAMP): scripts/requirements-proto.txt
	@echo "proto: installing the generator into .venv-proto"
	@[ -x .venv-proto/bin/pip ] || $(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/pip install $(PIP_FLAGS) -r scripts/requirements-proto.txt
	@touch $@

demo: $(VENV_STAMP) ## show a trainer and explorers exchanging weights through a real server
	@.venv/bin/weightsync demo $(ARGS)

test: $(VENV_STAMP) ## run every test
	@.venv/bin/python -m pytest $(ARGS)

lint: $(VENV_STAMP) proto-check ## ruff, mypy --strict, buf lint, format and breaking, and the freshness of generated code
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/buf lint && echo "buf lint: clean"
	@.venv/bin/buf format --diff --exit-code && echo "buf format: clean"
	@scripts/buf_breaking.sh

format: $(VENV_STAMP) ## rewrite Python and proto files the way lint wants them
	@.venv/bin/ruff check --fix-only
	@.venv/bin/ruff format
	@.venv/bin/buf format --write

histories: $(VENV_STAMP) ## 10,000 random histories and 100,000 races on the real server (an hour)
	@WEIGHTSYNC_HISTORIES=10000 WEIGHTSYNC_RACES=100000 .venv/bin/python -m pytest tests/histories $(ARGS)

bench: $(VENV_STAMP) ## run the benchmarks
	@.venv/bin/python -m benchmarks $(ARGS)

bench-compare: $(VENV_STAMP) ## run them beside Arrow Flight and a Ray actor, which it installs
	@.venv/bin/pip install $(PIP_FLAGS) -c constraints.txt -e '.[compare]'
	@.venv/bin/python -m benchmarks --with flight,ray $(ARGS)

proto: $(VENV_STAMP) $(PROTO_STAMP) ## generate the code of the .proto files again
	@scripts/protos.sh write

proto-check: $(VENV_STAMP) $(PROTO_STAMP) ## fail where the generated code is not that of the .proto files
	@scripts/protos.sh check

compat: $(VENV_STAMP) ## use the wheel without torch: beside protobuf 5.29, 6.33 and 7.36, and as a server
	@PYTHON=$(PYTHON) scripts/compat.sh

clean: ## remove every environment, cache and build output
	rm -rf .venv .venv-proto .venv-compat-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

soak: $(VENV_STAMP) ## the long forms of the fault tests: cuts of a GiB, ten minutes of pauses, a thousand random sequences
	@WEIGHTSYNC_CUTS_MIB=1024 WEIGHTSYNC_PAUSES=600 WEIGHTSYNC_SEQUENCES=1000 .venv/bin/python -m pytest \
	    tests/faults/test_http_cuts.py tests/faults/test_lost_workers.py tests/upstream/test_synchronizer.py $(ARGS)

fuzz docker-check docs:
	@echo "make $@: not there yet" >&2; exit 1
