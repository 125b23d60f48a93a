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
ONLY ?=
FULL ?=
PAGES = README.md docs/*.md src/muster/model/embedded/tiny/README.md

SAY_READY = printf '\nReady. Next: make demo, to see a pool on this machine; or %s/muster serve tiny, to start one.\n' $(BIN)

# One thread per test process: two of them share two cores.
TEST_ENVIRONMENT = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup locked lock demo test quick chaos thorough claims check lint types contracts pages format clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## Make .venv and install Muster with its development tools

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with the venv module found; install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "1 of 2: making the virtual environment $(VENV)."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2 of 2: installing Muster and what it needs. PyTorch is large, so the first time takes minutes; pip says what it does."
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $(READY)
	@$(SAY_READY)

locked: pyproject.toml requirements.lock  ## As setup, but pip installs only what has the hashes of requirements.lock
	@echo "1 of 3: making the virtual environment $(VENV)."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "2 of 3: installing what Muster needs, by hash. PyTorch is large, so this takes minutes; pip says what it does."
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "3 of 3: installing Muster itself."
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
	@$(SAY_READY)

lock:  ## Write requirements.lock anew, after a change of constraints.txt; needs uv
	@sed '/^[^#]/,$$d' requirements.lock >requirements.lock.new
	@printf 'hatchling\neditables\n' | uv pip compile pyproject.toml - --extra dev -c constraints.txt --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet >>requirements.lock.new
	@mv requirements.lock.new requirements.lock

demo: $(READY)  ## One head and four mismatched workers on this machine; one of them is killed in mid-stream
	@$(BIN)/muster demo $(DEMO)

test: lint types $(READY)  ## What CI runs: lint, types, import contracts, generated pages, tests
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10 $(TESTS)

quick: lint $(READY)  ## While working: lint, and the tests of records, costs, messages, simulator and state machines
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(QUICK)

chaos: $(READY)  ## Faults by the dozen on a live pool, from printed seeds, and all other long tests: make chaos SEEDS=20 FIRST=0
	CHAOS_SEEDS=$(SEEDS) CHAOS_FIRST=$(FIRST) $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -m chaos --durations=5

thorough: $(READY)  ## Every property with a dozen times as many examples
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(JOBS) -m hypothesis --hypothesis-profile=thorough $(TESTS)

clients: $(READY)  ## Clients of others, each in an environment of its own, against a pool of four stages: make clients ONLY=ai_sdk
	@$(TEST_ENVIRONMENT) $(BIN)/python benchmarks/clients.py $(ONLY)

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
