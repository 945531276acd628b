# `make run` starts everything; `make test` tests everything. Both install what they need.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# What your agents import; optional. `make install` and the image install it if it is there.
AGENTS_NEED := $(wildcard requirements-agents.txt)

# What is tested and measured is what is deployed: the service runs among nothing but requirements.txt.
export SERVICE_BIN := $(CURDIR)/.venv-service/bin

.DEFAULT_GOAL := help
.PHONY: help install run check test chromium javascript chaos faults bench bench-full lint format

help:
	@echo "make run      an embedded store, the API on PORT (default 8000) and a worker, until Ctrl-C; loads what you edit"
	@echo "make check    are all agents and pipelines valid? Draws each pipeline"
	@echo "make test     the whole suite; ARGS='-k cancel' for a part of it"
	@echo "make chaos    a minute of a service whose parts are broken at random; ARGS='--seconds 600 --seed 7'"
	@echo "make faults   the long measure of what is broken on purpose; before a release"
	@echo "make bench    the figures of docs/performance.md, shorter; ARGS='--only drain'; bench-full writes them there"
	@echo "make lint     style, types, import rules and words"
	@echo "make install  what 'run' needs, into .venv"

install: .venv/installed

run: .venv/installed
	@exec $(BIN)/python -m tools.run

check: .venv/installed
	@$(BIN)/python -m app.catalog check

test: .venv/installed-dev .venv-service/installed chromium javascript
	@$(BIN)/python -m pytest -n 4 $(ARGS)  # two cores: half of the time a test waits

# Some tests open pages in a real browser. Where none can be installed, they are skipped.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { echo "Installing Chromium for the tests in a browser, once."; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "Chromium cannot be installed here, so the tests in a browser are skipped. As root: apt-get install chromium"

# Some tests run the JavaScript of docs/. Where there is no npm, they are skipped.
javascript:
	@test -d tests/javascript/node_modules \
		|| npm install --silent --no-package-lock --no-audit --no-fund --prefix tests/javascript \
		|| echo "npm cannot install here, so tests of JavaScript are skipped. As root: apt-get install nodejs npm"

chaos: .venv/installed-dev .venv-service/installed
	@$(BIN)/python -m tests.chaos $(or $(ARGS),--seconds 60)

faults: .venv/installed-dev .venv-service/installed
	@$(BIN)/python -m tests.chaos --seconds 600
	@LONG_FAULTS=1 $(BIN)/python -m pytest --timeout 1800 tests/faults/test_flood.py  # alone: it looks at the time
	@LONG_FAULTS=1 $(BIN)/python -m pytest --timeout 1800 tests/hostile/test_any_request.py tests/http/test_description.py
	@LONG_FAULTS=1 EXAMPLES=2000 $(BIN)/python -m pytest -n 2 --timeout 1800 --ignore tests/faults/test_flood.py \
		tests/faults tests/properties tests/worker/test_cancel.py tests/http/test_honest_answers.py

lint: .venv/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.words

format: .venv/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python is missing: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python requirements.txt $(AGENTS_NEED)
	@echo "Installing requirements.txt $(AGENTS_NEED) into .venv, once; this may take a minute."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt $(AGENTS_NEED:%=-r %)
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-otel.txt
	@echo "Installing requirements-dev.txt into .venv, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Celery, which one baseline is made of, lives in an environment of its own.
.venv-bench/installed: .venv/bin/python requirements-bench.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@

.venv-service/installed: .venv/bin/python requirements.txt
	@$(PYTHON) -m venv .venv-service
	@.venv-service/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

bench: .venv-service/installed .venv-bench/installed
	@.venv-service/bin/python -m bench $(ARGS)

bench-full: .venv-service/installed .venv-bench/installed
	@.venv-service/bin/python -m bench --full $(ARGS)
