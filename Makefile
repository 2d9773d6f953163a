# One way to do each thing. `make` prints the targets. Everything that is made lives in .venv/ and .data/.
# Invariant: whatever a target needs is made by it (a fresh clone needs nothing but `make run` or `make test`).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup run test test-long test-version generator storm ledger chaos conformance applications bench bench-quick lint format lock clean
# Two targets that share the set-up never make it twice at once.
.NOTPARALLEL:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# What has been done to it: made, then the packages of running, then those of tests and tools.
MADE := $(VENV)/.made
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
SOURCES := app migrations harness tests bench
# Tests to run, e.g. make test TESTS=tests/unit
TESTS ?= tests
# Its options stand in pyproject.toml.
COMPILE := $(BIN)/pip-compile --quiet

# The packages of a lock file, and the stamp that says so. .made holds the pip to do it with.
define install
@echo "installing $<"
@umask 022 && eval "$$(cat $(MADE)) install --quiet --disable-pip-version-check --no-input $(1) --require-hashes -r $<"
@touch $@
endef

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUN) ## make .venv with what running needs (what every other target does first)

# Packages are added in place: a server that runs from .venv meanwhile keeps its files. The base Python's own pip does
# it where there is one, for making another takes seconds. The umask keeps a strict one of the caller from hiding the
# embedded database's programs from the user it runs as.
$(MADE):
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed, and no python3 is on the PATH" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or newer is needed; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Set PYTHON=…" >&2; exit 1; }
	@umask 022 && if "$(PYTHON)" -c 'import pip; assert int(pip.__version__.split(".")[0]) > 22' 2>/dev/null; \
		then "$(PYTHON)" -m venv --clear --without-pip $(VENV) && echo '"$(PYTHON)" -m pip --python $(BIN)/python' >$@.new; \
		else "$(PYTHON)" -m venv --clear $(VENV) && echo '$(BIN)/python -m pip' >$@.new; fi
	@mv $@.new $@

$(RUN): requirements-run.lock $(MADE)
	$(call install,--no-compile)

$(DEV): requirements-dev.lock $(RUN)
	$(call install)

run: setup ## serve on http://127.0.0.1:3000 with an embedded PostgreSQL (or DATABASE_URL)
	@exec $(BIN)/python -m app serve

# Most of a test's time is waiting: three at a time, each with a PostgreSQL of its own.
test: $(DEV) ## run all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile $(TESTS)

test-long: $(DEV) ## the tests that are too long for `make test`: a hundred crashes, a thousand snapshots and secrets, a long stall
	LONG=1 CRASH_ROUNDS=100 SNAPSHOTS=1000 STALL_SECONDS=300 $(BIN)/python -m pytest tests/faults/test_promotion.py \
		tests/faults/test_positions.py tests/e2e/test_snapshot.py tests/e2e/test_stall.py tests/sql/test_locks.py \
		tests/integration/test_rights_exact.py -o faulthandler_timeout=3600

generator: $(DEV) ## transactions at random over tables with triggers, replayed and compared: statements=20000
	HYPOTHESIS=search STATEMENTS=$(or $(statements),20000) $(BIN)/python -m pytest tests/sql/test_worlds.py -o faulthandler_timeout=3600

storm: $(DEV) ## 10,000 clients that come back at once, with few and with many positions
	STORM_CLIENTS=10000 $(BIN)/python -m pytest tests/e2e/test_storm.py

test-version: $(DEV) ## SQL, migrations and reading on another PostgreSQL: bin=/usr/lib/postgresql/15/bin
	POSTGRES_BIN=$(bin) $(BIN)/python -m pytest -n 2 --dist loadfile tests/migrations tests/sql tests/integration

ledger: $(DEV) ## the ledger test at its full length: 60 s of writers, reconnects and a judge
	LEDGER_SECONDS=60 $(BIN)/python -m pytest tests/e2e/test_ledger.py

chaos: $(DEV) ## faults at random under load, judged: minutes=3 seed=(any) every=6 (seconds) out=(a picture, SVG)
	$(BIN)/python -m tests.chaos minutes=$(minutes) seed=$(seed) every=$(every) out=$(out)

conformance: $(DEV) ## Autobahn's WebSocket cases against the web edge (needs a Python 2.7); cases="1.* 7.*" for some
	@set -f; $(BIN)/python -m tests.conformance.autobahn $(cases)

applications: $(DEV) ## Wagtail, django-oscar and procrastinate with every table watched, compared; names="wagtail" for some
	$(BIN)/python -m tests.applications $(names)

bench: $(DEV) ## measure everything side by side (18 minutes) and write docs/benchmarks.md; parts="fanout delay" for some
	$(BIN)/python -m bench $(parts)

bench-quick: $(DEV) ## the ratios alone (2 minutes); fails when one is beyond its bound
	$(BIN)/python -m bench quick

lint: $(DEV) ## ruff, mypy --strict and the floors of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard $(SOURCES))
	$(BIN)/lint-imports

format: $(DEV) ## put every file into the one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: $(DEV) ## take the newest versions into the lock files
	$(COMPILE) --upgrade --all-extras --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --constraint requirements-dev.lock --extra embedded --output-file requirements-run.lock pyproject.toml
	$(COMPILE) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(COMPILE) --upgrade --output-file tests/applications/requirements.lock tests/applications/requirements.in

clean: ## delete .venv and caches; the embedded database (.data) stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +
