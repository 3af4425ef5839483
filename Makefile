# Every target sets up what it needs by itself. `make help` lists them.
.DEFAULT_GOAL := help
PY := .venv/bin/python
# The tests' labs have fixed names: one run at a time on a machine, and what comes second says that it waits.
LOCK := /run/hopwall-test.lock
ALONE = flock -n $(LOCK) true || echo "==> the tests run elsewhere on this machine: waiting until they have ended"; flock -F $(LOCK)
.PHONY: help setup demo test test-deep test-faults test-fuzz lint fmt types bench bgp-report lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-11s %s\n", $$1, $$2}'

setup: ## install what is missing (Debian packages, .venv, locked Python packages)
	@bash tools/setup.sh

demo: ## three hosts on this machine: routes by BGP, ARP, isolation, both bookends, latency
	@bash tools/setup.sh --run
	@$(PY) -m hopwall_cli.demo

test: setup ## every test, on the real kernel
	@$(ALONE) $(PY) -m pytest -n 3 --dist loadfile

test-deep: setup ## the proof at length, and every property with examples that are new each time
	@$(PY) -m tests.proof
	@$(ALONE) $(PY) -m pytest -n 3 -m hypothesis --hypothesis-profile search

test-faults: setup ## everything that can break, broken at length: writes docs/reliability.md (30 minutes)
	@$(PY) -m tests.faults

test-fuzz: setup ## a million hostile inputs: REST, selectors, messages, settings, what tools print
	@bash tools/setup.sh fuzz
	@$(PY) -m tests.fuzz

lint: setup ## format, lint, types, import contracts, budgets
	@.venv/bin/ruff format --check . && .venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/hadolint services/Dockerfile

fmt: setup ## format and fix what can be fixed
	@.venv/bin/ruff check --fix-only -q . ; .venv/bin/ruff format .

bench: setup ## speed, as ratios against the bare tools in the same run
	@$(PY) -m tests.bench

bgp-report: setup ## BGP with other daemons and in every topology, written to docs/bgp-{interop,report}.md
	@$(PY) -m tests.interop
	@$(PY) -m tests.bench.bench_bgp --write

lock: ## pin all dependencies anew
	@bash tools/lock.sh

clean: ## remove what the targets made here
	@rm -rf .venv .setup .schemathesis .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
