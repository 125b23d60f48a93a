# Everything a clone needs, from Python >= 3.11 and make alone. `make` lists the targets.

# The first Python here that is new enough and can make a virtual environment.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
JOBS ?= 2
SEEDS ?= 8
FIRST ?= 0
QUICK ?= $(addprefix tests/,spec cost wire compress sim draw client plan/quick plan/replan broker/test_state.py node/test_state.py)
ID ?=
FULL ?=
PAGES = README.md docs/*.md src/muster/model/embedded/tiny/README.md

# One thread per test process: two of them share two cores.
TEST_ENVIRONMENT = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup demo test quick chaos claims check lint types contracts pages format clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## Make .venv and install Muster with its development tools

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with the venv module found; install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Installing into $(VENV); torch is large, so the first time takes minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $(READY)

demo: $(READY)  ## One head and four mismatched workers on this machine; one of them is killed in mid-stream
	@$(BIN)/muster demo $(DEMO)

test: lint types $(READY)  ## What CI runs: lint, types, import contracts, generated pages, tests
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 $(TESTS)

quick: lint $(READY)  ## While working: lint, and the tests of records, costs, messages, simulator and state machines
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(QUICK)

chaos: $(READY)  ## Faults by the dozen on a live pool, from printed seeds: make chaos SEEDS=20 FIRST=0
	CHAOS_SEEDS=$(SEEDS) CHAOS_FIRST=$(FIRST) $(TEST_ENVIRONMENT) $(BIN)/python -m pytest tests/chaos -m 'chaos or not chaos' --durations=5

claims: $(READY)  ## What is claimed and whether it holds; ID=plan.1 tries one again, FULL=1 the whole of it
	@$(BIN)/python tools/claims.py $(ID) $(if $(FULL),--full); code=$$?; \
	$(BIN)/cog -r -P -I tools docs/claims.md >/dev/null || exit; exit $$code

check: lint types contracts pages  ## Everything that `make test` checks except the tests themselves

lint: $(READY)  ## ruff: style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted; run: make format"; exit 1; }

types: $(READY)  ## mypy --strict on src/
	@$(BIN)/mypy

contracts: $(READY)  ## The tower of imports
	@$(BIN)/lint-imports

pages: $(READY)  ## The generated parts of docs/ agree with the code
	@$(BIN)/cog --check -P -I tools $(PAGES)

format: $(READY)  ## Rewrite: ruff fixes and format, generated parts of docs/
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/cog -r -P -I tools $(PAGES)

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
